"""Where the voxels of a series are in the patient: LPS, mm. From positions and orientations alone; refuses rather than guesses.

Axes of a volume are (k, row, column). Its affine takes (k, row, column, 1) to (x, y, z, 1).
"""
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Geometry:
    """A regular stack of slices."""

    order: tuple[int, ...]
    """Which of the given slices is the k-th, k = 0 lowest (inferior)."""

    affine: np.ndarray
    """(4, 4): takes (k, row, column, 1) to LPS mm. A tilted gantry shows as a shear."""

    shape: tuple[int, int, int]
    """(K, rows, columns)."""

    @property
    def step(self) -> float:
        """Between slices along their normal, mm."""
        axes = self.affine[:3, :3]
        normal = np.cross(axes[:, 2], axes[:, 1])
        return float(abs(axes[:, 0] @ normal) / np.linalg.norm(normal))


def stack(headers: Sequence[Header]) -> Geometry:
    """The geometry of the slices of one series, in whatever order they come.

    Raises Rejected: empty_series, mixed_orientation, mixed_size, duplicate_positions, irregular_positions.
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
    origin, end = position[order[0]], position[order[-1]]
    per_slice = (end - origin) / (len(headers) - 1)
    grid = origin + np.arange(len(headers))[:, None] * per_slice
    off = np.linalg.norm(position[order] - grid, axis=1).max()
    step = float(per_slice @ upward)
    if off > STEP_TOLERANCE * step:
        raise Rejected("irregular_positions", f"steps {steps.min():.3f} to {steps.max():.3f} mm; missing or displaced slices")

    affine = np.eye(4)
    affine[:3, 0] = per_slice
    affine[:3, 1] = np.array(first.column_cosines) * first.pixel_spacing[0]
    affine[:3, 2] = np.array(first.row_cosines) * first.pixel_spacing[1]
    affine[:3, 3] = origin
    return Geometry(tuple(order.tolist()), affine, (len(headers), first.rows, first.columns))


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
    return Geometry(geometry.order, affine, (geometry.shape[0], rows, columns)), turn
