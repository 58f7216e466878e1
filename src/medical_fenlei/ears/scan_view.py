"""Show where an ear was cut from its scan: one slice, and in it the outline of the volume and the midsagittal plane.

Positions in a scan are voxel indices (k, row, column) in its canonical order.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medical_fenlei.dicom.volume import Series, inside, open_series
from medical_fenlei.spatial import Affine, corners


@dataclass(frozen=True)
class ScanView:
    """The slice of a scan nearest to the centres of its ears."""

    image: np.ndarray
    """int16 HU (rows, columns), rows to the back, columns to the patient's left."""

    k: int
    affine: Affine
    """Voxel index (k, row, column) of the scan to LPS mm."""

    @property
    def aspect(self) -> float:
        """Height of a pixel divided by its width."""
        _, down, across = self.affine.spacing
        return float(down / across)


def view_series(series: Series, centres: Sequence[np.ndarray]) -> ScanView:
    """Return the slice of a series nearest to these centres of ears, each (3,) LPS mm.

    Raises Rejected where the slice cannot be read.
    """
    k = int(np.clip(np.rint(np.mean(series.affine.inverse.apply(centres)[:, 0])), 0, series.shape[0] - 1))
    return ScanView(series.slice(k), k, series.affine)


def open_view(dicom_base: Path, series_relpath: str, centres: Sequence[np.ndarray]) -> ScanView:
    """Open a series and return its slice nearest to these centres of ears, each (3,) LPS mm.

    Raises Rejected where the series, or that slice of it, cannot be read.
    """
    return view_series(open_series(inside(dicom_base, series_relpath)), centres)


def box_corners(volume: Affine, shape: tuple[int, int, int], scan: Affine) -> np.ndarray:
    """Return the corners of an ear volume in its scan, at the outer edges of its voxels: (2, 2, 2, 3), low and high per axis.

    volume, scan: voxel index to LPS mm; shape: of the volume.
    """
    ends = corners((-0.5, -0.5, -0.5), np.array(shape) - 0.5)
    return scan.inverse.apply(volume.apply(ends)).reshape(2, 2, 2, 3)


def outline(box: np.ndarray, k: float) -> np.ndarray:
    """Return the polygon in which slice k, or else the nearest slice that does, cuts a box: (P, 2) rows and columns.

    box (2, 2, 2, 3): as `box_corners` returns it.
    """
    low, high = box[..., 0].min(), box[..., 0].max()
    k = float(np.clip(k, low + 1e-6 * (high - low), high - 1e-6 * (high - low)))
    cuts = []
    for axis in range(3):
        starts, ends = (np.take(box, end, axis).reshape(4, 3) for end in (0, 1))
        for start, end in zip(starts, ends, strict=True):
            if (start[0] - k) * (end[0] - k) < 0:
                cuts.append(start + (k - start[0]) / (end[0] - start[0]) * (end - start))
    points = np.array(cuts)[:, 1:]
    around = points - points.mean(axis=0)                        # the section of a box is convex: sort by angle
    return points[np.argsort(np.arctan2(around[:, 0], around[:, 1]))]


def plane_line(point: np.ndarray, normal: np.ndarray, view: ScanView) -> np.ndarray:
    """Return (row, column) where a plane crosses the first and the last row of a slice: (2, 2).

    point, normal (3,): of the plane, LPS mm.
    """
    rows = np.array([-0.5, len(view.image) - 0.5])
    per_k, per_row, per_column, start = view.affine.plane_distance(point, normal)
    return np.column_stack([rows, -(start + per_k * view.k + per_row * rows) / per_column])
