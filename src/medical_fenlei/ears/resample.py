"""Cutting a square out of a slice at another size: crop, padding, antialiasing and mirror in one matrix an axis."""
from dataclasses import dataclass

import numpy as np

from medical_fenlei.dicom.pixels import AIR


@dataclass(frozen=True)
class Axis:
    """`count` output pixels that evenly cover `edge` source pixels, from the outer edge of source pixel `start` on."""

    start: float
    edge: float
    count: int
    mirrored: bool = False

    def centres(self) -> np.ndarray:
        """(count,) where each output pixel's centre lies, in source pixels."""
        centres = self.start - 0.5 + (np.arange(self.count) + 0.5) * self.edge / self.count
        return centres[::-1] if self.mirrored else centres

    def weights(self, length: int) -> tuple[slice, np.ndarray]:
        """The source pixels that matter and their weights (count, pixels) float32.

        A triangle of one output pixel's width, at least one source pixel's: linear interpolation when enlarging, an
        antialiased mean when shrinking, the pixel itself where nothing changes. A row sums to less than 1 where it looks
        beyond the source's `length`.
        """
        reach = max(1.0, self.edge / self.count)
        centres = self.centres()
        first, last = int(np.floor(centres.min() - reach)), int(np.ceil(centres.max() + reach))
        places = np.arange(first, last + 1)
        weight = np.maximum(0, 1 - np.abs(places - centres[:, None]) / reach)
        weight /= weight.sum(axis=1, keepdims=True)
        inside = (places >= 0) & (places < length) & (weight > 0).any(axis=0)
        used = places[inside]
        span = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
        return span, weight[:, (places >= span.start) & (places < span.stop)].astype(np.float32)


def resample(image: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """int16 HU (rows.count, columns.count) from int16 HU (H, W); what lies beyond the image is AIR."""
    down, down_weight = rows.weights(image.shape[0])
    across, across_weight = columns.weights(image.shape[1])
    above_air = image[down, across].astype(np.float32) - AIR
    return np.rint(down_weight @ above_air @ across_weight.T + AIR).astype(np.int16)
