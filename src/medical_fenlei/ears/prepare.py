"""From a series to its ear volumes: find the ears, choose slices, and resample the voxels."""
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.plausible_hu import AIR_BELOW, BONE_ABOVE, SOME, lost_rows
from medical_fenlei.dicom.volume import Series
from medical_fenlei.ears import sampling
from medical_fenlei.ears.head_check import MIN_SKULL, doubt_about_body_part
from medical_fenlei.ears.landmarks import GRID_MM
from medical_fenlei.ears.localize import Localization, locate
from medical_fenlei.ears.resample import Axis, SliceResampler, resample, resample_rotated, round_to_hu
from medical_fenlei.ears.sampling_grid import FieldOfView, SamplingGrid
from medical_fenlei.errors import Rejected
from medical_fenlei.spatial import Affine, corners
from medical_fenlei.vocabulary import AIR, SIDES, Side

COARSE_MM, COARSE_LONG_MM = 3.0, 8.0
"""Distance between the slices in which the ears are sought, and in a long scan the distance at first."""

LONG_MM, AROUND_MM = 90.0, 28.0
"""z-coverage of a long scan, and how far around the ears its second search reaches: temporal bones are some 50 mm high."""

AERATED_HU = -300
"""HU below which a voxel near the ear is air: cells are small, so most of their voxels hold some wall."""

ROTATED_AT_ONCE = 8
"""Slices of a rotated volume resampled at once; more would hold more of the scan as floats."""

EAR_MM = 12.0
"""An ear whose centre lies farther than this beyond the scan is not in it: hardly a wall of the cavity would be seen."""


@dataclass(frozen=True)
class EarVolume:
    """One ear, cut from its scan."""

    volume: np.ndarray
    """int16 HU (K, H, W): slice 0 lowest, rows from front to back, column 0 lateral on both sides."""

    facts: dict[str, Any]
    """Its affine, slices, notes and location, as the JSON of a cache holds them."""

    @property
    def affine(self) -> Affine:
        """Voxel index (k, row, column) to LPS mm."""
        return Affine.from_list(self.facts["affine_lps"])


class _Slices:
    """The slices of a series, each decoded once."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._decoded: dict[int, np.ndarray] = {}

    def __getitem__(self, k: int) -> np.ndarray:
        if k not in self._decoded:
            self._decoded[k] = self._series.slice(k)
        return self._decoded[k]

    def refuse_lost_pixels(self) -> None:
        """Raise Rejected (bad_pixels) if a slice lacks rows of the head that the slices below and above it show."""
        decoded = sorted(self._decoded)
        lost = {k: rows for k, rows in zip(decoded, lost_rows([self._decoded[k] for k in decoded]), strict=True) if rows}
        if lost:
            first, others = min(lost), len(lost) - 1
            more = f" (and {others} more slices likewise)" if others else ""
            name = self._series.headers[first].path.name
            raise Rejected("bad_pixels", f"{name}: {lost[first]} rows in the middle of the slice hold one value, where slices "
                                         f"below and above show the head{more}: pixels were lost")

    def nearest(self, positions: np.ndarray) -> list[int]:
        return np.clip(np.rint(positions), 0, self._series.shape[0] - 1).astype(int).tolist()


def prepare_ears(series: Series, spec: EarSpec, sides: Iterable[Side] = SIDES) -> dict[Side, EarVolume]:
    """Cut the ears of these sides that the series holds; a slice that both need is decoded once.

    Raises Rejected where a slice cannot be read or has lost pixels, where the values are no HU of a head (implausible_hu), and
    where there is no skull around the ears (not_a_head).
    """
    slices = _Slices(series)
    found, searched = _find(series, slices, spec)
    refuse_other_than_head(found)
    ears = {side: _cut(series, slices, spec, side, found, searched) for side in sides if _holds(series, found, side)}
    slices.refuse_lost_pixels()
    return ears


def localize_ears(series: Series) -> Localization:
    """Find the ears of a series. Raises Rejected as `prepare_ears` does."""
    found, _ = _find(series, _Slices(series), EarSpec(sampling="roi"))
    refuse_other_than_head(found)
    return found


def _holds(series: Series, found: Localization, side: Side) -> bool:
    """Return whether the scan reaches an ear."""
    if side not in found.ears:
        return False
    centre = series.affine.inverse.apply(found.ears[side].centre)
    beyond = np.maximum(-0.5 - centre, centre - (np.array(series.shape) - 0.5)) * series.affine.spacing
    return bool(beyond.max() < EAR_MM)


def _find(series: Series, slices: _Slices, spec: EarSpec) -> tuple[Localization, list[int]]:
    """Find the ears; also return the slices in which they were sought."""
    spacing, available = float(series.affine.spacing[0]), series.shape[0]
    used = sorted(set(slices.nearest(sampling.even(available, spec.num_slices).centres()))) if spec.sampling == "even" else []

    def spread(gap_mm: float) -> list[int]:
        """Choose slices about this far apart, among those decoded anyway where these suffice; all where there are few."""
        choice, apart = list(range(available)), spacing
        if len(used) > 1 and (wide := (used[-1] - used[0]) / (len(used) - 1) * spacing) <= gap_mm:
            choice, apart = used, wide
        return choice[:: max(1, min(int(gap_mm / apart), (len(choice) - 1) // 3))]

    if (available - 1) * spacing <= LONG_MM:
        searched = spread(COARSE_MM)
        return _locate(series, slices, searched), searched
    first = _locate(series, slices, spread(COARSE_LONG_MM))
    centres = [series.affine.inverse.apply(ear.centre)[0] for ear in first.ears.values()]
    low, high = (int(np.clip(end, 0, available - 1)) for end in
                 (min(centres) - AROUND_MM / spacing, np.ceil(max(centres) + AROUND_MM / spacing)))
    searched = list(range(low, high + 1, max(1, int(COARSE_MM / spacing))))
    return (_locate(series, slices, searched) if len(searched) > 4 else first), searched


def _locate(series: Series, slices: _Slices, searched: list[int]) -> Localization:
    """Find the ears in a coarse copy of these slices."""
    even = (Axis.over(0, n, max(2, round(n * s / GRID_MM)))
            for n, s in zip(series.shape[1:], series.affine.spacing[1:], strict=True))
    rows, columns = (replace(axis, reach=max(1.0, 0.6 * axis.step)) for axis in even)    # sharp enough for localization
    coarse = SliceResampler(rows, columns, series.shape[1:])
    hu = round_to_hu(np.stack([coarse(slices[k]) for k in searched]))
    refuse_other_than_hu(hu)
    gap = (searched[-1] - searched[0]) / (len(searched) - 1) if len(searched) > 1 else 1.0
    to_scan = Affine.from_steps(np.diag([gap, rows.step, columns.step]), [searched[0], rows.first, columns.first])
    return locate(hu, series.affine @ to_scan)


def refuse_other_than_hu(hu: np.ndarray) -> None:
    """Raise Rejected (implausible_hu) where a scan shows no air or no bone: wrong rescaling, empty or damaged pixels."""
    low, high = np.quantile(hu, [SOME, 1 - SOME])
    if low > AIR_BELOW or high < BONE_ABOVE:
        raise Rejected("implausible_hu", f"got {low:.0f} to {high:.0f} HU, expected air below {AIR_BELOW} and bone above "
                                         f"{BONE_ABOVE}: check RescaleIntercept, RescaleSlope and the pixels")


def refuse_other_than_head(found: Localization) -> None:
    """Raise Rejected (not_a_head) where hardly any row beside the ears shows the skull of a head."""
    if found.skull < MIN_SKULL:
        raise Rejected("not_a_head", f"the skull lies below the skin as in a head in {found.skull:.0%} of the rows beside the "
                                     f"ears, expected at least {MIN_SKULL:.0%}: is this another part of the body?")


def _cut(series: Series, slices: _Slices, spec: EarSpec, side: Side, found: Localization, searched: list[int]) -> EarVolume:
    view = FieldOfView(series.affine, series.shape, spec, side, found)
    along = _slice_axis(series, slices, spec, view, searched)
    grid = view.sampling_grid(along.first, along.step)
    thickness = (spec.target_spacing or 0.0) / view.slice_mm()   # in slices of the scan
    volume = (_resample_parallel if grid.is_axis_parallel else _resample_rotated)(series, slices, grid, thickness)
    affine = series.affine @ grid.to_scan
    missing = _missing(grid, series, affine, side, found)
    if missing.any():
        volume[missing] = AIR                                    # nothing of the other half, however the head is rotated
    nearest = [series.headers[k] for k in slices.nearest(along.centres())]
    facts = {
        "affine_lps": affine.to_list(), "slice_files": [header.path.name for header in nearest],
        "slice_images": [header.instance for header in nearest],
        "slice_z_mm": [round(header.position[2], 2) for header in nearest],
        "geometry_notes": list(series.geometry.notes), "localization": found.facts(side),
        "scan_doubts": [*found.doubts, *doubt_about_body_part(series.headers[0].body_part)],
        "padded_share": round(float(missing.mean()), 4),
    }
    return EarVolume(volume, facts)


def _slice_axis(series: Series, slices: _Slices, spec: EarSpec, view: FieldOfView, searched: list[int]) -> Axis:
    """Choose the slices of a volume, counted in those of the scan."""
    available, slice_mm = series.shape[0], view.slice_mm()
    fixed = spec.target_spacing / slice_mm if spec.target_spacing else None
    if spec.sampling == "roi":
        return sampling.centred(view.centre_in_scan[0], fixed or spec.roi_mm / spec.num_slices / slice_mm, spec.num_slices)
    if spec.sampling == "even" or (fixed is None and available <= spec.num_slices):
        return sampling.even(available, spec.num_slices)
    to_scan, size = view.sampling_grid(0.0, 1.0).to_scan, spec.image_size
    rows, columns = (Axis.over(float(first + 0.5 - abs(step) / 2 + min(0.0, step * (size - 1))), abs(step) * size, 64)
                     for first, step in zip(to_scan.origin[1:], np.diagonal(to_scan.linear)[1:], strict=True))
    air = [_air_in_bone(slices[k], rows, columns) for k in searched]
    air_by_slice = np.interp(np.arange(available), searched, air, left=0, right=0)
    return sampling.block(air_by_slice, spec.num_slices, fixed or 1.0, holding=view.centre_in_scan[0])


def _air_in_bone(image: np.ndarray, rows: Axis, columns: Axis) -> float:
    """Return the share of the square that is air inside the head: between tissue on both sides in its row and its column."""
    tissue = resample(image, rows, columns) > AERATED_HU
    enclosed = np.ones_like(tissue)
    for axis in (0, 1):
        for view in (tissue, np.flip(tissue, axis)):
            before = np.logical_or.accumulate(view, axis=axis)
            enclosed &= before if view is tissue else np.flip(before, axis)
    return float((enclosed & ~tissue).mean())


def _resample_parallel(series: Series, slices: _Slices, grid: SamplingGrid, thickness: float) -> np.ndarray:
    """Resample a volume whose axes are those of the scan, to int16 HU.

    Along the slices: the nearest one; between two where the volume is finer than the scan; a mean where `thickness` spans
    several.
    """
    along, row, column = (Axis(float(first), float(step), count) for first, step, count in
                          zip(grid.to_scan.origin, np.diagonal(grid.to_scan.linear), grid.shape, strict=True))
    along = replace(along, reach=max(1.0, thickness))
    in_plane = SliceResampler(row, column, series.shape[1:])
    volume = np.empty(grid.shape, np.int16)
    if thickness <= 1 and along.step >= 1:
        for i, k in enumerate(slices.nearest(along.centres())):
            volume[i] = round_to_hu(in_plane(slices[k]))
        return volume
    weights = along.weights(series.shape[0])
    resampled: dict[int, np.ndarray] = {}
    for i in range(along.count):
        line = slice(*weights.indptr[i:i + 2].tolist())
        resampled = {k: resampled[k] if k in resampled else in_plane(slices[k]) for k in weights.indices[line].tolist()}
        mean = sum((w * image for w, image in zip(weights.data[line], resampled.values(), strict=True)),
                   np.zeros(grid.shape[1:], np.float32))
        volume[i] = round_to_hu(mean)
    return volume


def _resample_rotated(series: Series, slices: _Slices, grid: SamplingGrid, thickness: float) -> np.ndarray:
    """Resample a volume that lies rotated in the scan, to int16 HU: trilinear, from the part of the scan that it crosses."""
    reach = np.array([max(1.0, thickness), *np.maximum(1.0, np.abs(grid.to_scan.linear[1:, 1:]).max(axis=1))])
    volume = np.empty(grid.shape, np.int16)
    for first in range(0, len(volume), ROTATED_AT_ONCE):
        part = volume[first:first + ROTATED_AT_ONCE]
        to_scan = grid.to_scan.cropped([first, 0, 0])
        ends = to_scan.apply(corners((0, 0, 0), np.array(part.shape) - 1))
        low = np.clip(np.floor(ends.min(axis=0) - reach), 0, np.array(series.shape) - 1).astype(int)
        high = np.clip(np.ceil(ends.max(axis=0) + reach) + 1, low + 1, series.shape).astype(int)
        block = np.stack([slices[k][low[1]:high[1], low[2]:high[2]] for k in range(low[0], high[0])])
        part[...] = round_to_hu(resample_rotated(block, to_scan.translated(-low), part.shape, reach))
    return volume


def _missing(grid: SamplingGrid, series: Series, affine: Affine, side: Side, found: Localization) -> np.ndarray:
    """Return which voxels have their centre beyond the scan or the midsagittal plane, bool (K, H, W), or (1, 1, 1) for all."""
    plane = found.plane
    within = [affine.plane_distance(plane.point, plane.normal * side.sign)]
    for line, length in zip(grid.to_scan.matrix[:3], series.shape, strict=True):
        within += [np.add(line, [0, 0, 0, 0.5]), np.subtract([0, 0, 0, length - 0.5], line)]
    index = [np.arange(n, dtype=np.float32).reshape(np.roll([n, 1, 1], axis)) for axis, n in enumerate(grid.shape)]
    missing = np.zeros((1, 1, 1), bool)
    for line in within:                                          # a voxel is inside where all these functions are positive
        k, row, column = (np.float32(step) * i for step, i in zip(line[:3], index, strict=True))
        start = np.float32(line[3])
        if k.min() + row.min() + column.min() + start < 0:
            missing = missing | (k + (row + column + start) < 0)
    return missing
