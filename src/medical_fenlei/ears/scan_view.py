"""An ear's place in the scan it was cut from: one slice, in it the outline of the volume, the midsagittal plane, the centres.

Places in the scan are (k, row, column) in its canonical order, whole numbers at the centres of voxels.
"""
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medical_fenlei.dicom.volume import inside, open_series


@dataclass(frozen=True)
class ScanView:
    """The slice of a scan that lies nearest to the ears' centres."""

    image: np.ndarray
    """int16 HU (rows, columns), rows to the back, columns to the patient's left."""

    k: int
    affine: np.ndarray
    """(4, 4): (k, row, column, 1) to LPS mm."""

    @property
    def aspect(self) -> float:
        """Height of a pixel divided by its width."""
        down, across = np.linalg.norm(self.affine[:3, 1:3], axis=0)
        return float(down / across)


def open_view(dicom_base: Path, series_relpath: str, centres: Sequence[np.ndarray]) -> ScanView:
    """The slice of a series nearest to these centres of ears, each (3,) LPS mm.

    Raises Rejected where the series, or that slice of it, cannot be read.
    """
    series = open_series(inside(dicom_base, series_relpath))
    heights = [place(centre, series.affine)[0] for centre in centres]
    k = int(np.clip(np.rint(np.mean(heights)), 0, series.shape[0] - 1))
    return ScanView(series.slice(k), k, series.affine)


def place(points: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(…, 3) LPS mm to (…, 3) (k, row, column) of the scan whose affine is given."""
    return (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T


def box_corners(volume_affine: np.ndarray, shape: tuple[int, int, int], scan_affine: np.ndarray) -> np.ndarray:
    """(2, 2, 2, 3): places in the scan of a volume's corners, the outer edges of its voxels, low and high along each axis."""
    ends = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in shape))))
    return place(ends @ volume_affine[:3, :3].T + volume_affine[:3, 3], scan_affine).reshape(2, 2, 2, 3)


def outline(corners: np.ndarray, k: float) -> np.ndarray:
    """(P, 2) rows and columns of the polygon in which slice k cuts a box; of the nearest slice that does, where k does not."""
    low, high = corners[..., 0].min(), corners[..., 0].max()
    k = float(np.clip(k, low + 1e-6 * (high - low), high - 1e-6 * (high - low)))
    cuts = []
    for axis in range(3):
        starts, ends = (np.take(corners, end, axis).reshape(4, 3) for end in (0, 1))
        for start, end in zip(starts, ends, strict=True):
            if (start[0] - k) * (end[0] - k) < 0:
                cuts.append(start + (k - start[0]) / (end[0] - start[0]) * (end - start))
    points = np.array(cuts)[:, 1:]
    around = points - points.mean(axis=0)                        # a box is convex: by angle is around
    return points[np.argsort(np.arctan2(around[:, 0], around[:, 1]))]


def plane_line(point: np.ndarray, normal: np.ndarray, view: ScanView) -> np.ndarray:
    """(2, 2) row and column of where a plane, given by a point and a normal in LPS mm, crosses the first and the last row."""
    rows = np.array([-0.5, len(view.image) - 0.5])
    per_row, per_column = normal @ view.affine[:3, 1], normal @ view.affine[:3, 2]
    start = normal @ (view.affine[:3, 0] * view.k + view.affine[:3, 3] - point)
    return np.column_stack([rows, -(start + per_row * rows) / per_column])
