"""From a series to its ear volumes: which slices, which square, which way round."""
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.pixels import AIR
from medical_fenlei.dicom.volume import Series
from medical_fenlei.ears import sampling
from medical_fenlei.ears.localize import GRID_MM, Localization, locate
from medical_fenlei.ears.resample import Axis, Plane, resample, resample_turned, to_hu
from medical_fenlei.ears.sampling_grid import Box, Lattice
from medical_fenlei.errors import Rejected
from medical_fenlei.vocabulary import SIDES, Side

LOOK_MM, LOOK_LONG_MM = 3.0, 8.0
"""Slices so far apart show where the ears are; in a long scan, first where to look."""

LONG_MM, AROUND_MM = 90.0, 28.0
"""What is long, and how far around the ears the second look goes: temporal bones are some 50 mm high."""

AERATED_HU = -300
"""Below this a voxel near the ear is air: cells are small, so most of their voxels hold some wall."""

AIR_BELOW, BONE_ABOVE, SOME = -300, 300, 0.001
"""HU that a scan of a temporal bone has some of, and a share of its voxels that is some."""

TURNED_AT_ONCE = 8
"""Slices of a turned volume: more would hold more of the scan as floats."""

EAR_MM = 12.0
"""An ear whose centre lies farther than this beyond the scan is not in it: hardly a wall of the cavity would be seen."""


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


def prepare_ears(series: Series, spec: EarSpec, sides: Iterable[Side] = SIDES) -> dict[Side, EarVolume]:
    """Cut those of these ears that the series holds; a slice that both need is decoded once.

    Raises Rejected where a slice cannot be read, or the values are no HU of a head (implausible_hu).
    """
    slices = _Slices(series)
    found, looked_at = _find(series, slices, spec)
    return {side: _cut(series, slices, spec, side, found, looked_at) for side in sides if _holds(series, found, side)}


def find_ears(series: Series) -> Localization:
    """Where the ears of a series are. Raises Rejected where a slice cannot be read."""
    return _find(series, _Slices(series), EarSpec(sampling="roi"))[0]


def _holds(series: Series, found: Localization, side: Side) -> bool:
    if side not in found.ears:
        return False
    place = np.linalg.solve(series.affine, np.append(found.ears[side].centre, 1))[:3]
    beyond = np.maximum(-0.5 - place, place - (np.array(series.shape) - 0.5)) * np.linalg.norm(series.affine[:3, :3], axis=0)
    return bool(beyond.max() < EAR_MM)


def _find(series: Series, slices: _Slices, spec: EarSpec) -> tuple[Localization, list[int]]:
    """The ears, and which slices were looked at to find them."""
    step, available = float(np.linalg.norm(series.affine[:3, 0])), series.shape[0]
    used = sorted(set(slices.nearest(sampling.even(available, spec.num_slices).centres()))) if spec.sampling == "even" else []

    def spread(gap_mm: float) -> list[int]:
        """Slices about so far apart: of those that are decoded anyway where they do. Of a few slices all."""
        there, apart = list(range(available)), step
        if len(used) > 1 and (wide := (used[-1] - used[0]) / (len(used) - 1) * step) <= gap_mm:
            there, apart = used, wide
        return there[:: max(1, min(int(gap_mm / apart), (len(there) - 1) // 3))]

    if (available - 1) * step <= LONG_MM:
        looked_at = spread(LOOK_MM)
        return _locate(series, slices, looked_at), looked_at
    first = _locate(series, slices, spread(LOOK_LONG_MM))
    heights = [np.linalg.solve(series.affine, np.append(ear.centre, 1))[0] for ear in first.ears.values()]
    low, high = (int(np.clip(end, 0, available - 1)) for end in
                 (min(heights) - AROUND_MM / step, np.ceil(max(heights) + AROUND_MM / step)))
    looked_at = list(range(low, high + 1, max(1, int(LOOK_MM / step))))
    return (_locate(series, slices, looked_at) if len(looked_at) > 4 else first), looked_at


def _locate(series: Series, slices: _Slices, looked_at: list[int]) -> Localization:
    """The ears, from a coarse copy of these slices."""
    spacing = np.linalg.norm(series.affine[:3, 1:3], axis=0)
    even = (Axis.over(0, n, max(2, round(n * s / GRID_MM))) for n, s in zip(series.shape[1:], spacing, strict=True))
    rows, columns = (replace(axis, reach=max(1.0, 0.6 * axis.step)) for axis in even)    # coarse enough to look at
    coarse = Plane(rows, columns, series.shape[1:])
    hu = to_hu(np.stack([coarse(slices[k]) for k in looked_at]))
    refuse_other_than_hu(hu)
    gap = (looked_at[-1] - looked_at[0]) / (len(looked_at) - 1) if len(looked_at) > 1 else 1.0
    to_scan = np.array([[gap, 0, 0, looked_at[0]], [0, rows.step, 0, rows.first], [0, 0, columns.step, columns.first]])
    return locate(hu, series.affine @ np.vstack([to_scan, [0, 0, 0, 1]]))


def refuse_other_than_hu(hu: np.ndarray) -> None:
    """Raises Rejected (implausible_hu) where a scan shows no air or no bone: wrong rescaling, empty or damaged pixels."""
    low, high = np.quantile(hu, [SOME, 1 - SOME])
    if low > AIR_BELOW or high < BONE_ABOVE:
        raise Rejected("implausible_hu", f"got {low:.0f} to {high:.0f} HU, expected air below {AIR_BELOW} and bone above "
                                         f"{BONE_ABOVE}: look at RescaleIntercept, RescaleSlope and the pixels")


def _cut(series: Series, slices: _Slices, spec: EarSpec, side: Side, found: Localization, looked_at: list[int]) -> EarVolume:
    box = Box(series.affine, series.shape, spec, side, found)
    along = _along(series, slices, spec, box, looked_at)
    lattice = box.lattice(along.first, along.step)
    thick = (spec.target_spacing or 0.0) / box.slice_mm()        # in slices
    volume = (_straight if lattice.straight else _turned)(series, slices, lattice, thick)
    affine = lattice.affine(series.affine)
    missing = _missing(lattice, series, affine, side, found)
    if missing.any():
        volume[missing] = AIR                                    # nothing of the other half, however the head is turned
    facts = {
        "affine_lps": affine.tolist(), "slice_files": [series.headers[k].path.name for k in slices.nearest(along.centres())],
        "geometry_notes": list(series.geometry.notes), "localization": found.facts(side),
        "padded_share": round(float(missing.mean()), 4),
    }
    return EarVolume(volume, facts)


def _along(series: Series, slices: _Slices, spec: EarSpec, box: Box, looked_at: list[int]) -> Axis:
    """Which slices, in those of the scan."""
    available, slice_mm = series.shape[0], box.slice_mm()
    fixed = spec.target_spacing / slice_mm if spec.target_spacing else None
    if spec.sampling == "roi":
        return sampling.centred(box.centre_in_scan[0], fixed or spec.roi_mm / spec.num_slices / slice_mm, spec.num_slices)
    if spec.sampling == "even" or (fixed is None and available <= spec.num_slices):
        return sampling.even(available, spec.num_slices)
    straight = box.lattice(0.0, 1.0).to_scan
    rows, columns = (Axis.over(float(line[3] + 0.5 - abs(step) / 2 + min(0.0, step * (spec.image_size - 1))),
                               abs(step) * spec.image_size, 64)
                     for line, step in ((straight[1], straight[1, 1]), (straight[2], straight[2, 2])))
    air = [_air_in_bone(slices[k], rows, columns) for k in looked_at]
    air_by_slice = np.interp(np.arange(available), looked_at, air, left=0, right=0)
    return sampling.block(air_by_slice, spec.num_slices, fixed or 1.0, holding=box.centre_in_scan[0])


def _air_in_bone(image: np.ndarray, rows: Axis, columns: Axis) -> float:
    """Share of the square that is air inside the head: between tissue on both sides in its row and in its column."""
    tissue = resample(image, rows, columns) > AERATED_HU
    enclosed = np.ones_like(tissue)
    for axis in (0, 1):
        for view in (tissue, np.flip(tissue, axis)):
            before = np.logical_or.accumulate(view, axis=axis)
            enclosed &= before if view is tissue else np.flip(before, axis)
    return float((enclosed & ~tissue).mean())


def _straight(series: Series, slices: _Slices, lattice: Lattice, thick: float) -> np.ndarray:
    """int16 HU where the volume's axes are those of the scan.

    Along the slices: the nearest one; between two where the volume is finer than the scan; a mean where `thick` spans several.
    """
    row, column = (Axis(float(lattice.to_scan[i, 3]), float(lattice.to_scan[i, i]), lattice.shape[i]) for i in (1, 2))
    along = Axis(float(lattice.to_scan[0, 3]), float(lattice.to_scan[0, 0]), lattice.shape[0], reach=max(1.0, thick))
    cut = Plane(row, column, series.shape[1:])
    volume = np.empty(lattice.shape, np.int16)
    if thick <= 1 and along.step >= 1:
        for i, k in enumerate(slices.nearest(along.centres())):
            volume[i] = to_hu(cut(slices[k]))
        return volume
    weights = along.weights(series.shape[0])
    planes: dict[int, np.ndarray] = {}
    for i in range(along.count):
        line = slice(*weights.indptr[i:i + 2].tolist())
        planes = {k: planes[k] if k in planes else cut(slices[k]) for k in weights.indices[line].tolist()}
        mean = sum((w * plane for w, plane in zip(weights.data[line], planes.values(), strict=True)),
                   np.zeros(lattice.shape[1:], np.float32))
        volume[i] = to_hu(mean)
    return volume


def _turned(series: Series, slices: _Slices, lattice: Lattice, thick: float) -> np.ndarray:
    """int16 HU where the volume lies turned in the scan: trilinear, from the part of the scan that it crosses."""
    reach = np.array([max(1.0, thick), *np.maximum(1.0, np.abs(lattice.to_scan[1:, 1:3]).max(axis=1))])
    volume = np.empty(lattice.shape, np.int16)
    for first in range(0, len(volume), TURNED_AT_ONCE):
        part = volume[first:first + TURNED_AT_ONCE]
        to_scan = lattice.to_scan + np.outer(lattice.to_scan[:, 0] * first, [0, 0, 0, 1])
        corners = np.stack(np.meshgrid(*([0, n - 1] for n in part.shape), indexing="ij"), -1).reshape(-1, 3)
        ends = corners @ to_scan[:, :3].T + to_scan[:, 3]
        low = np.clip(np.floor(ends.min(axis=0) - reach), 0, np.array(series.shape) - 1).astype(int)
        high = np.clip(np.ceil(ends.max(axis=0) + reach) + 1, low + 1, series.shape).astype(int)
        block = np.stack([slices[k][low[1]:high[1], low[2]:high[2]] for k in range(low[0], high[0])])
        to_scan[:, 3] -= low
        part[...] = to_hu(resample_turned(block, to_scan, part.shape, reach))
    return volume


def _missing(lattice: Lattice, series: Series, affine: np.ndarray, side: Side, found: Localization) -> np.ndarray:
    """bool (K, H, W), or (1, 1, 1) for all: voxels whose centre lies beyond the scan or beyond the midsagittal plane."""
    normal = found.plane.normal * side.sign
    own_side = np.append(normal @ affine[:3, :3], normal @ (affine[:3, 3] - found.plane.point))     # mm from the plane
    within = [own_side]
    for line, length in zip(lattice.to_scan, series.shape, strict=True):
        within += [np.add(line, [0, 0, 0, 0.5]), np.subtract([0, 0, 0, length - 0.5], line)]
    index = [np.arange(n, dtype=np.float32).reshape(np.roll([n, 1, 1], axis)) for axis, n in enumerate(lattice.shape)]
    missing = np.zeros((1, 1, 1), bool)
    for line in within:                                          # a voxel is there where all of these grow above 0
        k, row, column = (np.float32(step) * i for step, i in zip(line[:3], index, strict=True))
        start = np.float32(line[3])
        if k.min() + row.min() + column.min() + start < 0:
            missing = missing | (k + (row + column + start) < 0)
    return missing
