"""From a series to its ear volumes: which slices, which square, which way round."""
from dataclasses import dataclass
from typing import Any

import numpy as np

from medical_fenlei.dicom.pixels import AIR
from medical_fenlei.dicom.volume import Series
from medical_fenlei.ears import sampling
from medical_fenlei.ears.localize import COARSE_MM, Localization, locate
from medical_fenlei.ears.resample import Axis, resample
from medical_fenlei.ears.spec import EarSpec
from medical_fenlei.vocabulary import SIDES, Side

LOCATE_SLICES = 16
"""So many slices, spread over the series, show where the ears are."""

BONE_HU = (200.0, 1000.0)
"""From no bone to bone, on a ramp, so that a partly filled voxel counts in part."""

AERATED_HU = -300
"""Below this a voxel near the ear is air: cells are small, so most of their voxels hold some wall."""


@dataclass(frozen=True)
class EarVolume:
    """One ear: int16 HU (K, H, W), slice 0 lowest, rows front to back, column 0 on the lateral side; and its facts."""

    volume: np.ndarray
    facts: dict[str, Any]


class _Slices:
    """Decoded slices, each once, as long as this lives."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._kept: dict[int, np.ndarray] = {}

    def __getitem__(self, k: int) -> np.ndarray:
        if k not in self._kept:
            self._kept[k] = self._series.slice(k)
        return self._kept[k]

    def nearest(self, places: np.ndarray) -> list[int]:
        return np.clip(np.rint(places), 0, self._series.shape[0] - 1).astype(int).tolist()


def prepare_ears(series: Series, spec: EarSpec, sides: tuple[Side, ...] = SIDES) -> dict[Side, EarVolume]:
    """Cut the ears of one series; a slice that both need is decoded once. Raises Rejected where a slice cannot be read."""
    slices = _Slices(series)
    available = series.shape[0]
    spread = sampling.even(available, min(LOCATE_SLICES, available))
    if spec.sampling == "even":                                  # look at slices that are decoded anyway
        wanted = sampling.even(available, spec.num_slices)
        spread = wanted[:: max(1, len(wanted) // LOCATE_SLICES)]
    looked_at = slices.nearest(spread)
    found = _locate([slices[k] for k in looked_at], series.affine)
    return {side: _cut(series, slices, spec, side, found, looked_at) for side in sides}


def _locate(images: list[np.ndarray], affine: np.ndarray) -> Localization:
    """The ears, from a coarse map of the mean share of bone."""
    spacing = np.linalg.norm(affine[:3, 1:3], axis=0)
    height, width = images[0].shape
    axes = [Axis(0, n, max(2, round(n * s / COARSE_MM))) for n, s in zip((height, width), spacing, strict=True)]
    coarse = np.stack([resample(image, *axes) for image in images]).astype(np.float32)
    low, high = BONE_HU
    bone = np.clip((coarse - low) / (high - low), 0, 1).mean(axis=0)
    shrink = np.array([height / axes[0].count, width / axes[1].count])
    coarse_affine = affine.copy()
    coarse_affine[:3, 1:3] *= shrink
    coarse_affine[:3, 3] += affine[:3, 1:3] @ ((shrink - 1) / 2)
    coarse_affine[:3, 3] += affine[:3, 0] * (0.5 * (len(images) - 1))       # any height will do: x and y are what is sought
    return locate(bone, coarse_affine)


def _cut(series: Series, slices: _Slices, spec: EarSpec, side: Side, found: Localization, looked_at: list[int]) -> EarVolume:
    rows, columns = (_square if spec.extent == "crop" else _half)(series, spec, side, found)
    places = _places(series, slices, spec, rows, columns, looked_at)
    used = slices.nearest(places)
    volume = np.stack([resample(slices[k], rows, columns) for k in used])
    affine = _affine(series.affine, places, rows, columns)

    inside = [(axis.centres() > -0.5) & (axis.centres() < n - 0.5)
              for axis, n in zip((rows, columns), series.shape[1:], strict=True)]
    padded = ~np.broadcast_to(np.outer(*inside), volume.shape)
    beyond = _beyond_plane(affine, volume.shape, side, found)
    volume[beyond] = AIR                                         # nothing of the other half, however the head is turned
    facts = {
        "affine_lps": affine.tolist(), "slice_files": [series.headers[k].path.name for k in used],
        "localization": found.facts(side), "padded_share": round(float((padded | beyond).mean()), 4),
    }
    return EarVolume(volume, facts)


def _square(series: Series, spec: EarSpec, side: Side, found: Localization) -> tuple[Axis, Axis]:
    """Rows and columns of the square around the ear, moved sideways where it would pass the midsagittal plane."""
    spacing = np.linalg.norm(series.affine[:3, 1:3], axis=0)
    edge = np.full(2, float(spec.crop_size)) if spec.crop_mm is None else spec.crop_mm / spacing
    centre_xy = found.ears[side].copy()
    reach = found.lateral(np.array([*centre_xy, found.point[2]]), side) - edge[1] * spacing[1] / 2
    if reach < 0:
        centre_xy -= found.normal[:2] * side.sign * reach
    middle = np.linalg.solve(series.affine[:2, 1:3], centre_xy - series.affine[:2, :1] @ [(series.shape[0] - 1) / 2]
                             - series.affine[:2, 3])
    start = middle - (edge - 1) / 2
    if spec.crop_mm is None:
        start = np.rint(start)                                   # the scan's own pixels: nothing to interpolate at equal size
    mirrored = side is Side.LEFT                                 # columns run to the left, column 0 has to be lateral
    return (Axis(start[0], edge[0], spec.image_size), Axis(start[1], edge[1], spec.image_size, mirrored))


def _half(series: Series, spec: EarSpec, side: Side, found: Localization) -> tuple[Axis, Axis]:
    """All rows, and the columns from the scan's lateral edge to where the plane is farthest from it: nothing is cropped."""
    height, width = series.shape[1:]
    ends = np.array([[(series.shape[0] - 1) / 2, row, 0.0, 1.0] for row in (-0.5, height - 0.5)])
    across = found.normal @ series.affine[:3, 2]                 # mm from the plane that one column adds
    plane = np.clip((found.point - ends @ series.affine[:3].T) @ found.normal / across, -0.5, width - 0.5)
    rows = Axis(0, height, spec.image_size)
    if side is Side.RIGHT:
        return rows, Axis(0, max(1.0, float(plane.max()) + 0.5), spec.image_size)
    edge = max(1.0, width - 0.5 - float(plane.min()))
    return rows, Axis(width - edge, edge, spec.image_size, mirrored=True)


def _places(series: Series, slices: _Slices, spec: EarSpec, rows: Axis, columns: Axis, looked_at: list[int]) -> np.ndarray:
    """(K,) which slices, in source slices."""
    available = series.shape[0]
    if spec.sampling == "even" or available <= spec.num_slices:
        return sampling.even(available, spec.num_slices)
    air = [_air_in_bone(slices[k], rows, columns) for k in looked_at]
    return sampling.block(available, spec.num_slices, np.interp(np.arange(available), looked_at, air))


def _air_in_bone(image: np.ndarray, rows: Axis, columns: Axis) -> float:
    """Share of the square that is air inside the head: between tissue on both sides in its row and in its column."""
    square = resample(image, Axis(rows.start, rows.edge, 64), Axis(columns.start, columns.edge, 64))
    tissue = square > AERATED_HU
    enclosed = np.ones_like(tissue)
    for axis in (0, 1):
        for view in (tissue, np.flip(tissue, axis)):
            before = np.logical_or.accumulate(view, axis=axis)
            enclosed &= before if view is tissue else np.flip(before, axis)
    return float((enclosed & ~tissue).mean())


def _affine(source: np.ndarray, places: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """(4, 4): (k, row, column, 1) of the cut volume to LPS mm."""
    def line(values: np.ndarray) -> tuple[float, float]:
        return float(values[0]), float(values[-1] - values[0]) / max(1, len(values) - 1)

    first, step = np.array([line(places), line(rows.centres()), line(columns.centres())]).T
    if len(places) == 1:
        step[0] = 1.0
    into = np.eye(4)
    into[:3, :3] = np.diag(step)
    into[:3, 3] = first
    return source @ into


def _beyond_plane(affine: np.ndarray, shape: tuple[int, ...], side: Side, found: Localization) -> np.ndarray:
    """bool (K, H, W): voxels whose centre lies on the other side of the midsagittal plane."""
    across = found.normal @ affine[:3] * side.sign               # mm from the plane grow evenly along each index
    k, row, column = (np.arange(n, dtype=np.float32) * np.float32(step) for n, step in zip(shape, across, strict=False))
    start = np.float32(across[3] - found.point @ found.normal * side.sign)
    beyond: np.ndarray = k[:, None, None] + (row[:, None] + column + start) < 0
    return beyond
