"""Where the voxels of a series lie in the patient (LPS, mm), from positions and orientations; refuses rather than guesses.

Slices at irregular positions are brought onto a regular grid or refused, and the geometry notes what was done. A gap of up to
MAX_GAP_MM is bridged by interpolation between the slices beside it. At a larger gap the series is cut, and its tallest part is
used. Slices that are displaced sideways, or that share a position, are refused.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.rounded_positions import read_through_rounding
from medical_fenlei.errors import Rejected
from medical_fenlei.spatial import Affine

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference between the direction cosines of two slices of a series: 0.06 degrees, the rounding of text headers."""

PIXEL_SPACING_TOLERANCE = 0.01
"""Largest difference between two in-plane spacings of a series, mm."""

POSITION_TOLERANCE = 0.1
"""Largest deviation of a slice from its position on the regular grid, share of the slice spacing: scanners round positions."""

MIN_SPACING_MM = 0.05
"""Slices closer than this share a position."""

MAX_GAP_MM = 2.0
"""Slices up to this far apart are interpolated between; walls and ossicles of the middle ear are some 1 to 5 mm in size."""

SCAN_MM = 10.0
"""Slices that cover this much z without a gap are a scan of their own, whatever lies beyond them."""

TILT_DEG = 0.5
"""Gantry tilt from which on it is noted."""


class Interpolation(NamedTuple):
    """A slice position between two of the given slices, by their numbers."""

    below: int
    above: int
    weight: float
    """Weight of the upper slice, 0 to 1."""


@dataclass(frozen=True)
class Geometry:
    """A regular stack of slices."""

    order: tuple[int, ...]
    """Number of the given slice that is the k-th, or nearest to it; k = 0 is the lowest (most inferior)."""

    affine: Affine
    """Voxel index (k, row, column) to LPS mm. A tilted gantry shows as a shear."""

    shape: tuple[int, int, int]
    """(K, rows, columns)."""

    between: tuple[Interpolation, ...] | None = None
    """For each k its position between the given slices, where these are irregular; None where they are regular."""

    notes: tuple[str, ...] = ()
    """What was found and done: reason code, colon, detail."""

    @property
    def slice_spacing(self) -> float:
        """Distance between slices along their normal, mm."""
        return self.affine.slice_spacing

    @property
    def tilt_deg(self) -> float:
        """Gantry tilt: degrees between the normal of the slices and the line of their positions."""
        return float(np.degrees(np.arccos(np.clip(self.slice_spacing / np.linalg.norm(self.affine.step(0)), -1, 1))))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """Regular slice positions along a line, before their rows and columns are considered."""

    order: tuple[int, ...]
    step: np.ndarray
    """(3,) mm from one slice to the next."""

    origin: np.ndarray
    """(3,) mm, position of the lowest slice."""

    between: tuple[Interpolation, ...] | None = None
    notes: tuple[str, ...] = ()


def stack(headers: Sequence[Header]) -> Geometry:
    """Return the geometry of the slices of one series, given in any order.

    Raises Rejected: empty_series, mixed_orientation, mixed_size, duplicate_positions, irregular_positions, displaced_slices.
    """
    if len(headers) < 2:
        raise Rejected("empty_series", f"got {len(headers)} images, expected at least 2")
    first = headers[0]
    orientation = np.array([h.row_cosines + h.column_cosines for h in headers])
    if np.abs(orientation - orientation[0]).max() > ORIENTATION_TOLERANCE:
        raise Rejected("mixed_orientation", "slices of one series point in different directions")
    spacing = np.array([h.pixel_spacing for h in headers])
    if len({(h.rows, h.columns) for h in headers}) > 1 or np.abs(spacing - spacing[0]).max() > PIXEL_SPACING_TOLERANCE:
        raise Rejected("mixed_size", "slices of one series differ in size or pixel spacing")

    position = np.array([h.position for h in headers])
    upward = first.normal if first.normal[2] >= 0 else -first.normal
    along = position @ upward
    order = np.argsort(along, kind="stable")
    gaps = np.diff(along[order])
    if gaps.min() < MIN_SPACING_MM:
        raise Rejected("duplicate_positions", f"{int((gaps < MIN_SPACING_MM).sum()) + 1} slices share a position: several "
                       "scans under one SeriesInstanceUID that neither acquisition, time, number nor field of view tells apart")
    line = _regular(order, position, along) or _made_regular(order, position, along)
    row_step = np.array(first.column_cosines) * first.pixel_spacing[0]
    column_step = np.array(first.row_cosines) * first.pixel_spacing[1]
    geometry = Geometry(line.order, Affine.from_steps([line.step, row_step, column_step], line.origin),
                        (len(line.order), first.rows, first.columns), line.between, line.notes)
    if geometry.tilt_deg > TILT_DEG:
        geometry = replace(geometry, notes=(*geometry.notes, f"gantry_tilt: {geometry.tilt_deg:.1f} degrees"))
    return geometry


def _regular(order: np.ndarray, position: np.ndarray, along: np.ndarray) -> _Line | None:
    """Return the line of the slices in this order, or None where they are irregular.

    position (N, 3), along (N,): of all given slices, mm.
    """
    origin, end = position[order[0]], position[order[-1]]
    step = (end - origin) / (len(order) - 1)
    grid = origin + np.arange(len(order))[:, None] * step
    deviation = np.linalg.norm(position[order] - grid, axis=1).max()
    if deviation > POSITION_TOLERANCE * (along[order[-1]] - along[order[0]]) / (len(order) - 1):
        return None
    return _Line(order=tuple(order.tolist()), step=step, origin=origin)


def _rounded(order: np.ndarray, position: np.ndarray, along: np.ndarray) -> _Line | None:
    """Return the line of slices in this order whose positions were rounded, or None if there is none.

    Slices stay as they are; missing ones are interpolated between those beside them.
    """
    found = read_through_rounding(position[order], along[order])
    if found is None:
        return None
    count = int(found.number[-1]) + 1
    spacing = float(along[order[-1]] - along[order[0]]) / (count - 1)
    notes = () if found.is_exact else (
        f"rounded_positions: read as a slice spacing of {spacing:.3f} mm rounded to {found.quantum:g} mm",)
    if count == len(order):
        return _Line(order=tuple(order.tolist()), step=found.step, origin=found.origin, notes=notes)
    upper = np.clip(np.searchsorted(found.number, np.arange(count)), 1, len(order) - 1)
    between = []
    for k, n in enumerate(upper.tolist()):
        low, high = found.number[n - 1:n + 1]
        between.append(Interpolation(int(order[n - 1]), int(order[n]), round(float((k - low) / (high - low)), 4)))
    gaps = np.diff(along[order])
    notes = (f"resampled: steps of {gaps.min():.2f} to {gaps.max():.2f} mm; {len(order)} slices onto {count} places "
             f"{spacing:.3f} mm apart", *notes)
    return _Line(order=tuple(pair.above if pair.weight > 0.5 else pair.below for pair in between),
                 step=found.step, origin=found.origin, between=tuple(between), notes=notes)


def _made_regular(order: np.ndarray, position: np.ndarray, along: np.ndarray) -> _Line:
    """Return the line of the tallest part without a large gap, interpolated at its median spacing where it is irregular."""
    gaps = np.diff(along[order])
    widest = max(MAX_GAP_MM, (1 + POSITION_TOLERANCE) * _usual_spacing(gaps))
    runs = np.split(order, np.flatnonzero(gaps > widest) + 1)
    run = max(runs, key=lambda part: along[part[-1]] - along[part[0]])
    notes: tuple[str, ...] = ()
    if len(run) < len(order):
        notes = (f"cut_at_hole: {gaps.max():.2f} mm without a slice; {len(run)} of {len(order)} slices used",)
    if len(run) < 2:
        raise Rejected("irregular_positions", f"got slices {gaps.min():.3f} to {gaps.max():.3f} mm apart, expected at most "
                       f"{widest:.3f} mm")
    if found := _regular(run, position, along) or _rounded(run, position, along):
        return replace(found, notes=(*notes, *found.notes))
    gaps = np.diff(along[run])
    spacing = float(np.median(gaps))
    height = along[run[-1]] - along[run[0]]
    direction = (position[run[-1]] - position[run[0]]) / height
    sideways = position[run] - position[run[0]] - (along[run] - along[run[0]])[:, None] * direction
    if (aside := np.linalg.norm(sideways, axis=1).max()) > POSITION_TOLERANCE * spacing:
        raise Rejected("displaced_slices", f"got slices up to {aside:.2f} mm aside of the line of the others, expected at most "
                       f"{POSITION_TOLERANCE * spacing:.2f} mm")
    count = round(height / spacing) + 1
    heights = np.linspace(0, height, count)
    upper = np.clip(np.searchsorted(along[run] - along[run[0]], heights), 1, len(run) - 1)
    low, high = ((along[run] - along[run[0]])[i] for i in (upper - 1, upper))
    weights = np.clip((heights - low) / (high - low), 0, 1)
    between = tuple(Interpolation(int(run[n - 1]), int(run[n]), round(float(weight), 4))
                    for n, weight in zip(upper, weights, strict=True))
    notes += (f"resampled: steps of {gaps.min():.2f} to {gaps.max():.2f} mm; {len(run)} slices onto {count} places "
              f"{height / (count - 1):.3f} mm apart",)
    return _Line(order=tuple(pair.above if pair.weight > 0.5 else pair.below for pair in between),
                 step=direction * height / (count - 1), origin=position[run[0]], between=between, notes=notes)


def _usual_spacing(gaps: np.ndarray) -> float:
    """Return the median gap between slices, of those below MAX_GAP_MM where these alone make a scan."""
    thin = gaps[gaps <= MAX_GAP_MM]
    return float(np.median(thin if thin.sum() >= SCAN_MM else gaps))


@dataclass(frozen=True)
class InPlane:
    """How to turn the stored rows and columns so that rows run to the back (+y) and columns to the patient's left (+x)."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return a view of an image (…, rows, columns) in the canonical order."""
        if self.transpose:
            image = image.swapaxes(-1, -2)
        return image[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def canonical(geometry: Geometry) -> tuple[Geometry, InPlane]:
    """Return the geometry of the same voxels in the canonical order, and how to turn a slice into it.

    In the canonical order k runs up, rows to the back and columns to the patient's left. Raises Rejected (not_axial) where rows
    and columns do not lie near x and y.
    """
    affine, (count, rows, columns) = geometry.affine, geometry.shape
    transpose = bool(abs(affine.step(2)[0]) < abs(affine.step(1)[0]))
    if transpose:
        affine, rows, columns = affine.permuted((0, 2, 1)), columns, rows
    row_step, column_step = affine.step(1), affine.step(2)
    if abs(column_step[0]) < abs(column_step[1:]).max() or abs(row_step[1]) < abs(row_step[[0, 2]]).max():
        raise Rejected("not_axial", "rows and columns do not lie near the axial plane")
    turn = InPlane(transpose, bool(row_step[1] < 0), bool(column_step[0] < 0))
    if turn.flip_rows:
        affine = affine.flipped(1, rows)
    if turn.flip_columns:
        affine = affine.flipped(2, columns)
    return replace(geometry, affine=affine, shape=(count, rows, columns)), turn
