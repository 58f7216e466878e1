"""Resample a scan on another grid: along its own axes with one matrix per axis, or rotated, by trilinear interpolation."""
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage, sparse

from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import AIR


@dataclass(frozen=True)
class Axis:
    """`count` evenly spaced sample positions along one axis of an image, in pixels; the centre of pixel 0 is 0."""

    first: float
    step: float
    """Distance between samples in pixels, negative where the output runs backwards."""

    count: int
    reach: float | None = None
    """Half the base of the triangle that weights the pixels of a sample, in pixels (default: one step, at least one pixel)."""

    @classmethod
    def over(cls, start: float, edge: float, count: int, mirrored: bool = False) -> "Axis":
        """Return `count` samples that evenly cover `edge` pixels, from the outer edge of pixel `start` on."""
        step = edge / count
        first = start - 0.5 + step / 2
        return cls(first + step * (count - 1), -step, count) if mirrored else cls(first, step, count)

    def centres(self) -> np.ndarray:
        """Return the position (count,) of each sample, in pixels."""
        return self.first + self.step * np.arange(self.count)

    def inside(self, length: int) -> np.ndarray:
        """Return which samples lie on an image of this length, bool (count,)."""
        return (self.centres() > -0.5) & (self.centres() < length - 0.5)

    def weights(self, length: int) -> sparse.csr_array:
        """Return the weight of each pixel of an image in each sample, sparse (count, length) float32.

        A triangle: linear interpolation when enlarging, an antialiased mean when shrinking, the pixel itself where nothing
        changes. A row sums to less than 1 where it reaches beyond the image.
        """
        reach = max(1.0, abs(self.step)) if self.reach is None else self.reach
        centres = self.centres()[:, None]
        pixels = np.ceil(centres - reach) + np.arange(int(2 * reach) + 1)
        weight = np.maximum(0, 1 - np.abs(pixels - centres) / reach)
        weight /= weight.sum(axis=1, keepdims=True)
        seen = (weight > 0) & (pixels >= 0) & (pixels < length)
        row, _ = np.nonzero(seen)
        return sparse.csr_array((weight[seen].astype(np.float32), (row, pixels[seen].astype(int))), shape=(self.count, length))


@dataclass(frozen=True)
class SliceResampler:
    """Resamples slices of one size on the same rows and columns; the weights are computed once."""

    rows: Axis
    columns: Axis
    shape: tuple[int, int]
    """(rows, columns) of the slices, pixels."""

    @cached_property
    def _weights(self) -> tuple[slice, slice, sparse.csr_array, sparse.csr_array]:
        down, across = self.rows.weights(self.shape[0]), self.columns.weights(self.shape[1])
        part = tuple(slice(int(m.indices.min()), int(m.indices.max()) + 1) if m.nnz else slice(0, 0) for m in (down, across))
        return part[0], part[1], down[:, part[0]], across[:, part[1]]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Resample HU (H, W) to float32 HU above AIR (rows.count, columns.count); beyond the image it is 0."""
        rows, columns, down, across = self._weights
        used = self._above_air[:, :across.shape[1]]
        used[...] = image[rows, columns]                         # converted apart from subtracting, which takes less time
        used -= np.float32(AIR)
        sampled: np.ndarray = (across @ (down @ self._above_air).T[:across.shape[1]]).T
        return sampled

    @cached_property
    def _above_air(self) -> np.ndarray:
        """Memory for the part of a slice that is used: fetching it anew for each takes as long as the work itself.

        Its rows are of odd length, with an unused column where need be: transposing rows of 512 takes ten times as long, since
        the numbers of a column then share a few places of the cache.
        """
        rows, columns, *_ = self._weights
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start | 1), np.float32)


def round_to_hu(above_air: np.ndarray) -> np.ndarray:
    """Convert float32 HU above AIR to int16 HU, rounded; `above_air` is overwritten."""
    above_air += AIR
    return np.rint(above_air, out=above_air).astype(np.int16)


def resample(image: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """Resample int16 HU (H, W) to int16 HU (rows.count, columns.count); beyond the image it is AIR."""
    height, width = image.shape
    return round_to_hu(SliceResampler(rows, columns, (height, width))(image))


def resample_rotated(block: np.ndarray, to_block: Affine, shape: tuple[int, int, int], reach: np.ndarray) -> np.ndarray:
    """Resample HU on any grid by trilinear interpolation, to float32 HU above AIR of `shape`; beyond the block it is 0.

    block (k, row, column): HU; to_block: index of the output to index of the block; reach (3,): half the base, in voxels along
    each axis of the block, of the triangle with which it is smoothed (1: not at all).
    """
    above_air = block.astype(np.float32) - AIR
    for axis, width in enumerate(reach):
        half = np.sqrt(max(0.0, float(width) ** 2 - 1))          # linear interpolation smooths by the rest
        if half > 1:
            offsets = np.arange(-int(half), int(half) + 1)
            kernel = 1 - np.abs(offsets) / half
            above_air = ndimage.convolve1d(above_air, kernel / kernel.sum(), axis=axis, mode="constant")
    return ndimage.affine_transform(above_air, to_block.linear, to_block.origin, shape, order=1, mode="grid-constant")
