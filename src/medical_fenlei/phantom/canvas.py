"""Painting shapes in HU on a grid: signed distances in mm, soft edges, each shape only inside its own bounding box."""
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Point = tuple[float, float, float]
Place = tuple[slice, slice, slice]

PIECE = 150_000
"""Voxels worked on at once: larger boxes are painted in slabs that stay in the processor's cache."""

AIR = -1000.0


@dataclass(frozen=True)
class Shape:
    """A solid: its bounding box (mm) and the signed distance to its surface (mm, negative inside) at points x, y, z."""

    low: Array
    high: Array
    distance: Callable[[Array, Array, Array], Array]


def vector(values: Sequence[float]) -> Array:
    return np.array(values, np.float32)


def ellipsoid(centre: Point, radii: Point, turn_deg: float = 0.0, tilt_deg: float = 0.0) -> Shape:
    """Semi-axes `radii` along x, y, z, then turned by `tilt_deg` about y (z towards x) and by `turn_deg` about z."""
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
    """All points within `radius` of a line from `start` to `end`; the radius changes evenly to `end_radius`."""
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
    """A torus: a tube of radius `tube` around a circle of `radius` in the plane with this normal."""
    c, n = vector(centre), vector(normal) / np.float32(np.linalg.norm(normal))

    def distance(x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - c[0], y - c[1], z - c[2]
        height = x * n[0] + y * n[1] + z * n[2]
        flat = np.sqrt(np.maximum(x * x + y * y + z * z - height * height, 0)) - np.float32(radius)
        return np.sqrt(flat * flat + height * height) - np.float32(tube)

    reach = radius + tube
    return Shape(np.array(centre) - reach, np.array(centre) + reach, distance)


def polyline(points: list[Point], radius: float) -> list[Shape]:
    return [capsule(a, b, radius) for a, b in itertools.pairwise(points)]


def union(*shapes: Shape) -> Shape:
    def distance(x: Array, y: Array, z: Array) -> Array:
        nearest = shapes[0].distance(x, y, z)
        for shape in shapes[1:]:
            np.minimum(nearest, shape.distance(x, y, z), out=nearest)
        return nearest

    return Shape(np.min([s.low for s in shapes], axis=0), np.max([s.high for s in shapes], axis=0), distance)


class Canvas:
    """float32 HU (K, H, W), all air at first, and the frame in which shapes are given.

    to_frame (4, 4): voxel (k, row, column, 1) to mm in the frame; edge_mm: width of a soft edge, about a voxel.
    """

    def __init__(self, shape: tuple[int, int, int], to_frame: Array, edge_mm: float) -> None:
        self.hu = np.full(shape, AIR, np.float32)
        self.lesion = np.zeros(shape, np.uint8)
        self.edge_mm = edge_mm
        self._to_frame = to_frame

    def in_frame(self, frame_to_new: Array) -> "Canvas":
        """The same voxels in another frame; frame_to_new (4, 4) takes mm in this frame to mm in the new one."""
        view = object.__new__(Canvas)
        view.__dict__.update(self.__dict__)
        view._to_frame = frame_to_new @ self._to_frame
        return view

    def pieces(self, low: Array, high: Array, pad: float = 1.5) -> Iterator[tuple[Place, Array, Array, Array]]:
        """The voxels in the box low to high (mm), in slabs: where they are, and x, y, z float32 mm of each."""
        low, high = np.asarray(low) - pad, np.asarray(high) + pad
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), [1.0], indexing="ij"), -1).reshape(-1, 4)
        voxels = corners @ np.linalg.inv(self._to_frame).T[:, :3]
        first = np.maximum(np.floor(voxels.min(0)).astype(int), 0)
        stop = np.minimum(np.ceil(voxels.max(0)).astype(int) + 1, self.hu.shape)
        if (stop <= first).any():
            return
        rows, columns = np.arange(first[1], stop[1]), np.arange(first[2], stop[2])
        m = self._to_frame
        plane = [(m[i, 1] * rows[:, None] + m[i, 2] * columns + m[i, 3]).astype(np.float32) for i in range(3)]
        slab = max(1, PIECE // (len(rows) * len(columns)))
        for k in range(first[0], stop[0], slab):
            ks = np.arange(k, min(k + slab, stop[0]))
            at = (slice(ks[0], ks[-1] + 1), slice(first[1], stop[1]), slice(first[2], stop[2]))
            x, y, z = (plane[i] + (m[i, 0] * ks).astype(np.float32)[:, None, None] for i in range(3))
            yield at, x, y, z

    def cover(self, distance: Array) -> Array:
        """Share of each voxel inside a surface at signed `distance` (mm): 1 inside, 0 outside, a ramp one edge wide."""
        share = np.float32(0.5) - distance * np.float32(1 / self.edge_mm)
        return np.clip(share, 0, 1, out=share)

    def paint(self, shape: Shape, hu: float, opacity: float = 1.0) -> None:
        """Fill a shape with `hu`. `opacity` below 1 stands for a sheet thinner than a voxel."""
        for at, x, y, z in self.pieces(shape.low, shape.high):
            share = self.cover(shape.distance(x, y, z))
            if opacity != 1.0:
                share *= np.float32(opacity)
            self.blend(at, share, hu)

    def blend(self, at: Place, share: Array, hu: float | np.float32 | Array) -> None:
        """hu where share is 1, what was there where it is 0."""
        there = self.hu[at]
        there += share * (np.float32(hu) if isinstance(hu, float | int) else hu) - share * there

    def mark(self, shape: Shape, label: int) -> None:
        """Set a bit of the lesion mask inside a shape."""
        for at, x, y, z in self.pieces(shape.low, shape.high):
            self.lesion[at] |= np.uint8(label) * (shape.distance(x, y, z) < 0)
