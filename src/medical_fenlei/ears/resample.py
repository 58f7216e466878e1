"""Sampling a scan on another lattice: crop, padding, antialiasing and mirror in one matrix an axis; or turned, trilinear."""
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage, sparse

from medical_fenlei.dicom.pixels import AIR


@dataclass(frozen=True)
class Axis:
    """`count` places along one axis of an image, evenly spaced, in its pixels: the centre of pixel 0 is 0."""

    first: float
    step: float
    """Negative where the output runs backwards."""

    count: int
    reach: float | None = None
    """Half the base of the triangle over which each place is a mean, pixels; by default one step, at least one pixel."""

    @classmethod
    def over(cls, start: float, edge: float, count: int, mirrored: bool = False) -> "Axis":
        """`count` places that evenly cover `edge` pixels, from the outer edge of pixel `start` on."""
        step = edge / count
        first = start - 0.5 + step / 2
        return cls(first + step * (count - 1), -step, count) if mirrored else cls(first, step, count)

    def centres(self) -> np.ndarray:
        """(count,) where each place lies, in pixels."""
        return self.first + self.step * np.arange(self.count)

    def inside(self, length: int) -> np.ndarray:
        """bool (count,): which places lie on an image of this length."""
        return (self.centres() > -0.5) & (self.centres() < length - 0.5)

    def weights(self, length: int) -> sparse.csr_array:
        """Of an image's pixels in each place: sparse (count, length) float32.

        A triangle: linear interpolation when enlarging, an antialiased mean when shrinking, the pixel itself where nothing
        changes. A row sums to less than 1 where it looks beyond the image's `length`.
        """
        reach = max(1.0, abs(self.step)) if self.reach is None else self.reach
        centres = self.centres()[:, None]
        places = np.ceil(centres - reach) + np.arange(int(2 * reach) + 1)
        weight = np.maximum(0, 1 - np.abs(places - centres) / reach)
        weight /= weight.sum(axis=1, keepdims=True)
        seen = (weight > 0) & (places >= 0) & (places < length)
        row, _ = np.nonzero(seen)
        return sparse.csr_array((weight[seen].astype(np.float32), (row, places[seen].astype(int))), shape=(self.count, length))


@dataclass(frozen=True)
class Plane:
    """Sampling slices of one size on the same rows and columns: the weights are worked out once."""

    rows: Axis
    columns: Axis
    shape: tuple[int, int]
    """Of the slices, pixels."""

    @cached_property
    def _weights(self) -> tuple[slice, slice, sparse.csr_array, sparse.csr_array]:
        down, across = self.rows.weights(self.shape[0]), self.columns.weights(self.shape[1])
        part = tuple(slice(int(m.indices.min()), int(m.indices.max()) + 1) if m.nnz else slice(0, 0) for m in (down, across))
        return part[0], part[1], down[:, part[0]], across[:, part[1]]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """float32 HU above AIR (rows.count, columns.count) of HU (H, W); what lies beyond the image is 0."""
        rows, columns, down, across = self._weights
        above_air = image[rows, columns].astype(np.float32)
        above_air -= AIR
        sampled: np.ndarray = (across @ (down @ above_air).T).T
        return sampled


def to_hu(above_air: np.ndarray) -> np.ndarray:
    """int16 HU of float32 HU above AIR, which is changed."""
    above_air += AIR
    return np.rint(above_air, out=above_air).astype(np.int16)


def resample(image: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """int16 HU (rows.count, columns.count) from int16 HU (H, W); what lies beyond the image is AIR."""
    height, width = image.shape
    return to_hu(Plane(rows, columns, (height, width))(image))


def resample_turned(block: np.ndarray, to_block: np.ndarray, shape: tuple[int, int, int], reach: np.ndarray) -> np.ndarray:
    """float32 HU above AIR of `shape` on any lattice, by trilinear interpolation.

    block (k, row, column): HU; to_block (3, 4): (k, row, column, 1) of the output to places in the block; reach (3,): along
    each axis of the block, smooth over so many of its voxels first, where more than 1. Beyond the block it is 0.
    """
    above_air = block.astype(np.float32) - AIR
    for axis, width in enumerate(reach):
        half = np.sqrt(max(0.0, float(width) ** 2 - 1))          # linear interpolation smooths by the rest
        if half > 1:
            places = np.arange(-int(half), int(half) + 1)
            kernel = 1 - np.abs(places) / half
            above_air = ndimage.convolve1d(above_air, kernel / kernel.sum(), axis=axis, mode="constant")
    return ndimage.affine_transform(above_air, to_block[:, :3], to_block[:, 3], shape, order=1, mode="grid-constant")
