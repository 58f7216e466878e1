"""Where the voxels of a series are in the patient: LPS, mm. From positions and orientations alone; refuses rather than guesses.

Axes of a volume are (k, row, column). Its affine takes (k, row, column, 1) to (x, y, z, 1).

Slices that do not lie regularly are made to, or refused, and what was done is said: a hole of up to MAX_HOLE is bridged between
the slices beside it; at a larger one the scan is cut, and its tallest part is taken; slices that stand aside of the others, or
share a place, are refused.
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from medical_fenlei.dicom.header import Header
from medical_fenlei.errors import Rejected

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference between the direction cosines of two slices of a series: 0.06 degrees, the rounding of text headers."""

SPACING_TOLERANCE = 0.01
"""Largest difference between two in-plane spacings of a series, mm."""

STEP_TOLERANCE = 0.1
"""Largest deviation of a slice from its place on the regular grid, share of the step: scanners round positions."""

MIN_STEP = 0.05
"""Slices closer than this are the same place, mm."""

MAX_HOLE = 2.0
"""Between slices this far apart, mm, what lies there is taken to be between them; the middle ear's walls and ossicles are some
1 to 5 mm in size."""

THIN_MM = 10.0
"""Slices without a hole that reach so high are a scan of their own, whatever lies beyond them."""

TILT_DEG = 0.5
"""A gantry that leans by less stands upright."""


class Between(NamedTuple):
    """A place between two of the given slices."""

    below: int
    above: int
    share: float
    """Of the upper one, 0 to 1."""


@dataclass(frozen=True)
class Geometry:
    """A regular stack of slices."""

    order: tuple[int, ...]
    """Which of the given slices is the k-th, or nearest to it; k = 0 lowest (inferior)."""

    affine: np.ndarray
    """(4, 4): takes (k, row, column, 1) to LPS mm. A tilted gantry shows as a shear."""

    shape: tuple[int, int, int]
    """(K, rows, columns)."""

    between: tuple[Between, ...] | None = None
    """For each k, where the given slices do not lie regularly; None where they do."""

    notes: tuple[str, ...] = ()
    """What was found and done: reason code, colon, detail."""

    @property
    def step(self) -> float:
        """Between slices along their normal, mm."""
        axes = self.affine[:3, :3]
        normal = np.cross(axes[:, 2], axes[:, 1])
        return float(abs(axes[:, 0] @ normal) / np.linalg.norm(normal))

    @property
    def tilt(self) -> float:
        """Degrees between the slices' normal and the line of their positions: of the gantry."""
        return float(np.degrees(np.arccos(np.clip(self.step / np.linalg.norm(self.affine[:3, 0]), -1, 1))))


def stack(headers: Sequence[Header]) -> Geometry:
    """The geometry of the slices of one series, in whatever order they come.

    Raises Rejected: empty_series, mixed_orientation, mixed_size, duplicate_positions, displaced_slices.
    """
    if len(headers) < 2:
        raise Rejected("empty_series", f"got {len(headers)} images, expected at least 2")
    first = headers[0]
    orientation = np.array([h.row_cosines + h.column_cosines for h in headers])
    if np.abs(orientation - orientation[0]).max() > ORIENTATION_TOLERANCE:
        raise Rejected("mixed_orientation", "slices of one series point in different directions")
    spacing = np.array([h.pixel_spacing for h in headers])
    if len({(h.rows, h.columns) for h in headers}) > 1 or np.abs(spacing - spacing[0]).max() > SPACING_TOLERANCE:
        raise Rejected("mixed_size", "slices of one series differ in size or pixel spacing")

    position = np.array([h.position for h in headers])
    upward = first.normal if first.normal[2] >= 0 else -first.normal
    along = position @ upward
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    if steps.min() < MIN_STEP:
        raise Rejected("duplicate_positions", f"{int((steps < MIN_STEP).sum()) + 1} slices share a position")
    geometry = _regular(order, position, along) or _made_regular(order, position, along)
    affine = geometry.affine
    affine[:3, 1] = np.array(first.column_cosines) * first.pixel_spacing[0]
    affine[:3, 2] = np.array(first.row_cosines) * first.pixel_spacing[1]
    geometry = replace(geometry, shape=(len(geometry.order), first.rows, first.columns))
    if geometry.tilt > TILT_DEG:
        geometry = replace(geometry, notes=(*geometry.notes, f"gantry_tilt: {geometry.tilt:.1f} degrees"))
    return geometry


def _regular(order: np.ndarray, position: np.ndarray, along: np.ndarray) -> Geometry | None:
    """Of slices in this order if they lie regularly. position (N, 3), along (N,): of all, mm. Its shape is left open."""
    origin, end = position[order[0]], position[order[-1]]
    per_slice = (end - origin) / (len(order) - 1)
    grid = origin + np.arange(len(order))[:, None] * per_slice
    off = np.linalg.norm(position[order] - grid, axis=1).max()
    if off > STEP_TOLERANCE * (along[order[-1]] - along[order[0]]) / (len(order) - 1):
        return None
    return Geometry(tuple(order.tolist()), _affine(per_slice, origin), (0, 0, 0))


def _made_regular(order: np.ndarray, position: np.ndarray, along: np.ndarray) -> Geometry:
    """Of the tallest part without a large hole: as it is where it is regular, else on a grid of its usual step."""
    steps = np.diff(along[order])
    runs = np.split(order, np.flatnonzero(steps > max(MAX_HOLE, (1 + STEP_TOLERANCE) * _usual(steps))) + 1)
    run = max(runs, key=lambda part: along[part[-1]] - along[part[0]])
    notes: tuple[str, ...] = ()
    if len(run) < len(order):
        notes = (f"cut_at_hole: {steps.max():.2f} mm without a slice; {len(run)} of {len(order)} slices used",)
    if len(run) < 2:
        raise Rejected("irregular_positions", f"steps {steps.min():.3f} to {steps.max():.3f} mm: hardly two slices go together")
    if found := _regular(run, position, along):
        return replace(found, notes=notes)
    steps = np.diff(along[run])
    step = float(np.median(steps))
    height = along[run[-1]] - along[run[0]]
    line = (position[run[-1]] - position[run[0]]) / height
    beside = position[run] - position[run[0]] - (along[run] - along[run[0]])[:, None] * line
    if (aside := np.linalg.norm(beside, axis=1).max()) > STEP_TOLERANCE * step:
        raise Rejected("displaced_slices", f"slices stand aside of the line of the others, by up to {aside:.2f} mm")
    count = round(height / step) + 1
    places = np.linspace(0, height, count)
    upper = np.clip(np.searchsorted(along[run] - along[run[0]], places), 1, len(run) - 1)
    low, high = ((along[run] - along[run[0]])[i] for i in (upper - 1, upper))
    share = np.clip((places - low) / (high - low), 0, 1)
    between = tuple(Between(int(run[n - 1]), int(run[n]), round(float(part), 4)) for n, part in zip(upper, share, strict=True))
    notes += (f"resampled: steps of {steps.min():.2f} to {steps.max():.2f} mm; {len(run)} slices onto {count} places "
              f"{height / (count - 1):.3f} mm apart",)
    nearest = tuple(place.above if place.share > 0.5 else place.below for place in between)
    return Geometry(nearest, _affine(line * height / (count - 1), position[run[0]]), (0, 0, 0), between, notes)


def _usual(steps: np.ndarray) -> float:
    """The median; of those that are no holes, where they alone make a scan."""
    thin = steps[steps <= MAX_HOLE]
    return float(np.median(thin if thin.sum() >= THIN_MM else steps))


def _affine(per_slice: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 3] = per_slice, origin
    return affine


@dataclass(frozen=True)
class InPlane:
    """How the stored rows and columns are turned so that rows run to the back (+y) and columns to the left (+x)."""

    transpose: bool
    flip_rows: bool
    flip_columns: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A view of (…, rows, columns) in the canonical order."""
        if self.transpose:
            image = image.swapaxes(-1, -2)
        return image[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


def canonical(geometry: Geometry) -> tuple[Geometry, InPlane]:
    """The same voxels with k running up, rows to the back and columns to the patient's left, and how to turn a slice so.

    Raises Rejected (not_axial) where rows and columns do not lie near x and y.
    """
    k_axis, row_axis, column_axis = geometry.affine[:3, :3].T
    transpose = abs(column_axis[0]) < abs(row_axis[0])
    if transpose:
        row_axis, column_axis = column_axis, row_axis
    rows, columns = geometry.shape[1:][:: -1 if transpose else 1]
    if abs(column_axis[0]) < abs(column_axis[1:]).max() or abs(row_axis[1]) < abs(row_axis[[0, 2]]).max():
        raise Rejected("not_axial", "rows and columns do not lie near the axial plane")
    turn = InPlane(transpose, bool(row_axis[1] < 0), bool(column_axis[0] < 0))
    origin = geometry.affine[:3, 3]
    if turn.flip_rows:
        origin, row_axis = origin + (rows - 1) * row_axis, -row_axis
    if turn.flip_columns:
        origin, column_axis = origin + (columns - 1) * column_axis, -column_axis
    affine = np.eye(4)
    affine[:3] = np.column_stack([k_axis, row_axis, column_axis, origin])
    return replace(geometry, affine=affine, shape=(geometry.shape[0], rows, columns)), turn
