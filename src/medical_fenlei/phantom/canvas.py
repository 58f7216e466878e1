"""A canvas for shapes in HU on a voxel grid: signed distances in mm, soft edges, painted inside each shape's bounding box."""
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medical_fenlei.spatial import Affine, corners
from medical_fenlei.vocabulary import Structure

Array = np.ndarray
Point = tuple[float, float, float]
Slab = tuple[slice, slice, slice]
"""A block of whole or partial slices (k, row, column)."""

SLAB_VOXELS = 150_000
"""Voxels painted at a time, which fit the processor's cache."""

AIR = -1000.0
"""HU of air."""


@dataclass(frozen=True)
class Shape:
    """A solid: its bounding box (mm) and the signed distance to its surface (mm, negative inside) at points x, y, z."""

    low: Array
    high: Array
    distance: Callable[[Array, Array, Array], Array]


def vector(values: Sequence[float]) -> Array:
    """Return the values as float32."""
    return np.array(values, np.float32)


def ellipsoid(centre: Point, radii: Point, turn_deg: float = 0.0, tilt_deg: float = 0.0) -> Shape:
    """An ellipsoid with semi-axes `radii` along x, y, z, tilted by `tilt_deg` about y (z towards x), turned by `turn_deg` about
    z."""
    c, r = vector(centre), vector(radii)
    cos, sin = np.float32(np.cos(np.deg2rad(turn_deg))), np.float32(np.sin(np.deg2rad(turn_deg)))
    cost, sint = np.float32(np.cos(np.deg2rad(tilt_deg))), np.float32(np.sin(np.deg2rad(tilt_deg)))

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - c[0], y - c[1], z - c[2]
        if turn_deg:
            x, y = cos * x + sin * y, cos * y - sin * x
        if tilt_deg:
            x, z = cost * x - sint * z, cost * z + sint * x
        x, y, z = x / r[0], y / r[1], z / r[2]
        inside = np.sqrt(x * x + y * y + z * z) + np.float32(1e-6)
        x, y, z = x / r[0], y / r[1], z / r[2]
        return inside * (inside - 1) / (np.sqrt(x * x + y * y + z * z) + np.float32(1e-6))

    reach = np.array(radii, float)
    if turn_deg or tilt_deg:
        reach[:] = reach.max()
    return Shape(np.array(centre) - reach, np.array(centre) + reach, distance)


def capsule(start: Point, end: Point, radius: float, end_radius: float | None = None) -> Shape:
    """All points within `radius` of the segment from `start` to `end`; the radius changes linearly to `end_radius`."""
    a, along = vector(start), vector(end) - vector(start)
    last = radius if end_radius is None else end_radius
    length2, growth = float(along @ along) or 1.0, np.float32(last - radius)
    unit = (along / np.float32(length2)).astype(np.float32)

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - a[0], y - a[1], z - a[2]
        t = np.clip(x * unit[0] + y * unit[1] + z * unit[2], 0, 1)
        x, y, z = x - t * along[0], y - t * along[1], z - t * along[2]
        return np.sqrt(x * x + y * y + z * z) - (np.float32(radius) + t * growth)

    ends = np.array([start, end], float)
    return Shape(ends.min(0) - max(radius, last), ends.max(0) + max(radius, last), distance)


def ring(centre: Point, normal: Point, radius: float, tube: float) -> Shape:
    """A torus: a tube of radius `tube` around a circle of this radius in the plane with this normal."""
    c, n = vector(centre), vector(normal) / np.float32(np.linalg.norm(normal))

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - c[0], y - c[1], z - c[2]
        height = x * n[0] + y * n[1] + z * n[2]
        flat = np.sqrt(np.maximum(x * x + y * y + z * z - height * height, 0)) - np.float32(radius)
        return np.sqrt(flat * flat + height * height) - np.float32(tube)

    reach = radius + tube
    return Shape(np.array(centre) - reach, np.array(centre) + reach, distance)


def polyline(points: list[Point], radius: float) -> list[Shape]:
    """Return a capsule of this radius for each segment of a polyline."""
    return [capsule(a, b, radius) for a, b in itertools.pairwise(points)]


def union(*shapes: Shape) -> Shape:
    """Return the union of shapes."""
    def distance(x: Array, y: Array, z: Array) -> Array:
        nearest = shapes[0].distance(x, y, z)
        for shape in shapes[1:]:
            np.minimum(nearest, shape.distance(x, y, z), out=nearest)
        return nearest

    return Shape(np.min([s.low for s in shapes], axis=0), np.max([s.high for s in shapes], axis=0), distance)


class Canvas:
    """A float32 volume in HU (K, H, W), filled with air, and the frame in which shapes are given.

    to_frame: from voxel index to mm in the frame; edge_mm: width of a soft edge, about one voxel; structures: whether to note
    which `Structure` each voxel belongs to.
    """

    def __init__(self, shape: tuple[int, int, int], to_frame: Affine, edge_mm: float, *, structures: bool = False) -> None:
        self.hu = np.full(shape, AIR, np.float32)
        self.lesion = np.zeros(shape, np.uint8)
        self.structures = np.zeros(shape, np.uint8) if structures else None
        self.edge_mm = edge_mm
        self._to_frame = to_frame

    def in_frame(self, frame_to_new: Affine) -> "Canvas":
        """Return a view of the same voxels in another frame; frame_to_new: from mm in this frame to mm in the new one."""
        view = object.__new__(Canvas)
        view.__dict__.update(self.__dict__)
        view._to_frame = frame_to_new @ self._to_frame
        return view

    def slabs(self, low: Array, high: Array, pad: float = 1.5) -> Iterator[tuple[Slab, Array, Array, Array]]:
        """Yield the voxels of the box from low to high (mm) in slabs, each with float32 x, y, z (mm) of its voxels."""
        low, high = np.asarray(low) - pad, np.asarray(high) + pad
        voxels = self._to_frame.inverse.apply(corners(low, high))
        first = np.maximum(np.floor(voxels.min(0)).astype(int), 0)
        stop = np.minimum(np.ceil(voxels.max(0)).astype(int) + 1, self.hu.shape)
        if (stop <= first).any():
            return
        rows, columns = np.arange(first[1], stop[1]), np.arange(first[2], stop[2])
        m = self._to_frame.matrix
        plane = [(m[i, 1] * rows[:, None] + m[i, 2] * columns + m[i, 3]).astype(np.float32) for i in range(3)]
        slab = max(1, SLAB_VOXELS // (len(rows) * len(columns)))
        for k in range(first[0], stop[0], slab):
            ks = np.arange(k, min(k + slab, stop[0]))
            at = (slice(ks[0], ks[-1] + 1), slice(first[1], stop[1]), slice(first[2], stop[2]))
            x, y, z = (plane[i] + (m[i, 0] * ks).astype(np.float32)[:, None, None] for i in range(3))
            yield at, x, y, z

    def coverage(self, distance: Array) -> Array:
        """Return the share of each voxel inside a surface at signed `distance` (mm), a ramp one soft edge wide."""
        share = np.float32(0.5) - distance * np.float32(1 / self.edge_mm)
        return np.clip(share, 0, 1, out=share)

    def paint(self, shape: Shape, hu: float, opacity: float = 1.0, *, structure: Structure | None = None) -> None:
        """Fill a shape with `hu`; an opacity below 1 stands for a sheet thinner than a voxel.

        structure: what its voxels belong to from now on; None: to what they belonged before.
        """
        for at, x, y, z in self.slabs(shape.low, shape.high):
            share = self.coverage(shape.distance(x, y, z))
            self.assign(at, share, structure)
            if opacity != 1.0:
                share *= np.float32(opacity)
            self.blend(at, share, hu)

    def assign(self, at: Slab, share: Array, structure: Structure | None) -> None:
        """Note that the voxels of a slab of which a structure covers at least half belong to it; for None nothing changes."""
        if self.structures is not None and structure is not None:
            self.structures[at][share >= 0.5] = structure

    def blend(self, at: Slab, share: Array, hu: float | np.float32 | Array) -> None:
        """Mix `hu` into a slab: `hu` where the share is 1, unchanged where it is 0."""
        before = self.hu[at]
        before += share * (np.float32(hu) if isinstance(hu, float | int) else hu) - share * before

    def mark(self, shape: Shape, label: int) -> None:
        """Set the bits `label` of the lesion mask inside a shape."""
        for at, x, y, z in self.slabs(shape.low, shape.high):
            self.lesion[at] |= np.uint8(label) * (shape.distance(x, y, z) < 0)
