"""Where voxels lie in the patient: affine maps between voxel indices and millimetres.

Conventions of the whole package: the axes of a volume are (k, row, column). Patient coordinates are LPS in mm: +x to the
patient's left, +y to the back, +z to the head. Integer indices are the centres of voxels, so an axis of n voxels reaches from
-0.5 to n - 0.5.
"""
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

SINGULAR = 1e-9
"""The map counts as singular if its |determinant| is at most this share of the product of the lengths of its three steps."""


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map of points, most often from voxel index (k, row, column) to patient position (LPS, mm).

    Points are arrays (…, 3). Maps compose with `@` from right to left, as their matrices do.

    >>> scan = Affine.from_steps([[0, 0, 0.5], [0, 0.4, 0], [0.4, 0, 0]], origin=[-50, -80, 20])
    >>> scan.apply([10, 0, 5])                                   # slice 10, row 0, column 5: x, y, z in mm
    array([-48., -80.,  25.])
    >>> scan.inverse.apply([-48, -80, 25])
    array([10.,  0.,  5.])
    >>> scan.spacing                                             # mm between slices, rows, columns
    array([0.5, 0.4, 0.4])
    >>> scan.cropped([10, 0, 5]).origin                          # where the part that begins at this voxel lies
    array([-48., -80.,  25.])
    """

    matrix: np.ndarray
    """(4, 4) float64, read-only: takes (k, row, column, 1) to (x, y, z, 1)."""

    __array_ufunc__ = None                                       # an array on either side of `@` is a TypeError

    def __post_init__(self) -> None:
        """Raise ValueError unless the matrix is 4 × 4, finite, affine and invertible."""
        matrix = np.array(self.matrix, np.float64, order="C")
        if matrix.shape != (4, 4):
            raise ValueError(f"affine: got shape {matrix.shape}, expected (4, 4)")
        if not np.isfinite(matrix).all():
            raise ValueError(f"affine: got {matrix.tolist()}, expected finite numbers")
        if matrix[3].tolist() != [0, 0, 0, 1]:
            raise ValueError(f"affine: got last row {matrix[3].tolist()}, expected [0, 0, 0, 1]")
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if not abs(np.linalg.det(matrix[:3, :3])) > SINGULAR * lengths.prod():
            raise ValueError(f"affine: got steps {matrix[:3, :3].T.tolist()}, expected three that are linearly independent")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_steps(cls, steps: ArrayLike, origin: ArrayLike) -> "Affine":
        """The map with these displacements in mm per step of k, row and column (3 vectors), and voxel (0, 0, 0) at `origin`."""
        matrix = np.eye(4)
        matrix[:3] = np.column_stack([*np.asarray(steps, np.float64), np.asarray(origin, np.float64)])
        return cls(matrix)

    @classmethod
    def centred(cls, steps: ArrayLike, shape: Sequence[int], centre: ArrayLike) -> "Affine":
        """The map with these steps (as for `from_steps`) of a volume of `shape` whose middle lies at `centre`, mm."""
        linear = np.stack([*np.asarray(steps, np.float64)], axis=1)
        return cls.from_steps(linear.T, np.asarray(centre) - linear @ middle(shape))

    @classmethod
    def from_list(cls, rows: Sequence[Sequence[float]]) -> "Affine":
        """The map whose matrix a file holds as four rows of four numbers (`affine_lps`). Raises ValueError."""
        return cls(np.array(rows, np.float64))

    def to_list(self) -> list[list[float]]:
        """The matrix as four rows of four numbers, as JSON files hold it."""
        rows: list[list[float]] = self.matrix.tolist()
        return rows

    def __eq__(self, other: object) -> bool:
        """Whether both maps have the same matrix, to the bit."""
        return isinstance(other, Affine) and np.array_equal(self.matrix, other.matrix)

    __hash__ = None  # type: ignore[assignment]

    @property
    def linear(self) -> np.ndarray:
        """(3, 3): takes a displacement in index steps to one in mm; its columns are the steps along k, row and column."""
        return self.matrix[:3, :3]

    @property
    def origin(self) -> np.ndarray:
        """(3,) mm: the centre of voxel (0, 0, 0)."""
        return self.matrix[:3, 3]

    @property
    def spacing(self) -> np.ndarray:
        """(3,) mm: length of one step along k, row and column."""
        return np.linalg.norm(self.linear, axis=0)

    @property
    def slice_spacing(self) -> float:
        """Distance between neighboring slices along their normal, mm; less than `spacing[0]` where the gantry is tilted."""
        normal = np.cross(self.linear[:, 2], self.linear[:, 1])
        return float(abs(self.linear[:, 0] @ normal) / np.linalg.norm(normal))

    def step(self, axis: int) -> np.ndarray:
        """(3,) mm: displacement per step along an axis, 0 for k, 1 for rows, 2 for columns."""
        return self.linear[:, axis]

    def direction(self, axis: int) -> np.ndarray:
        """(3,): unit vector in which the index along an axis grows."""
        direction: np.ndarray = self.step(axis) / np.linalg.norm(self.step(axis))
        return direction

    def apply(self, points: ArrayLike) -> np.ndarray:
        """Map points (…, 3), here voxel indices to mm; `inverse.apply` maps mm to voxel indices."""
        points = np.asarray(points, np.float64)
        homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1)
        mapped: np.ndarray = (homogeneous @ self.matrix.T)[..., :3]
        return mapped

    def apply_to_vectors(self, vectors: ArrayLike) -> np.ndarray:
        """Map displacements (…, 3), which have a length and a direction but no position."""
        mapped: np.ndarray = np.asarray(vectors, np.float64) @ self.linear.T
        return mapped

    @cached_property
    def inverse(self) -> "Affine":
        """The map back, here from mm to voxel index."""
        return Affine(np.linalg.inv(self.matrix))

    @cached_property
    def linear_inverse(self) -> np.ndarray:
        """(3, 3): takes a displacement in mm to one in index steps.

        Equal to `inverse.linear` but for the last bits, on which the search for the ears, and so cached volumes, depend.
        """
        return np.linalg.inv(self.linear)

    def __matmul__(self, first: "Affine") -> "Affine":
        """The map that applies `first` and then this one."""
        if not isinstance(first, Affine):
            return NotImplemented
        return Affine(self.matrix @ first.matrix)

    def centre(self, shape: Sequence[int]) -> np.ndarray:
        """(3,) mm: the middle of a volume of this shape (K, rows, columns)."""
        return self.apply(middle(shape))

    def slice_centre(self, k: float, shape: Sequence[int]) -> np.ndarray:
        """(3,) mm: the middle of slice k of a volume of this shape (K, rows, columns)."""
        return self.apply([k, *middle(shape)[1:]])

    def plane_distance(self, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """The distance from a plane as a linear function of the voxel index.

        point, normal (3,): of the plane, mm; the normal is a unit vector. Returns (4,), whose product with
        (k, row, column, 1) is the distance of that voxel in mm, positive on the side to which the normal points.
        """
        return np.append(normal @ self.linear, normal @ (self.origin - point))

    def cropped(self, start: ArrayLike) -> "Affine":
        """The map of the part of the volume that begins at voxel `start` (3,), which may be fractional."""
        return Affine.from_steps(self.linear.T, self.linear @ np.asarray(start, np.float64) + self.origin)

    def translated(self, offset: ArrayLike) -> "Affine":
        """The map to points moved by `offset` (3,)."""
        return Affine.from_steps(self.linear.T, self.origin + np.asarray(offset, np.float64))

    def flipped(self, axis: int, length: int) -> "Affine":
        """The map of the same voxels counted backwards along an axis of `length` voxels."""
        steps = self.linear.T.copy()
        steps[axis] *= -1
        return Affine.from_steps(steps, self.origin + (length - 1) * self.step(axis))

    def permuted(self, axes: Sequence[int]) -> "Affine":
        """The map of the same voxels with their axes in another order, as in `np.transpose`."""
        return Affine.from_steps(self.linear.T[list(axes)], self.origin)


def middle(shape: Sequence[int]) -> np.ndarray:
    """(3,): voxel index of the middle of a volume of this shape; between two voxels along axes of even length."""
    return (np.array(shape) - 1) / 2


def corners(low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray) -> np.ndarray:
    """(8, 3): the corners of the box between two points (3,), the last coordinate changing fastest."""
    return np.array(list(itertools.product(*zip(low, high, strict=True))), np.float64)
