"""Which slices of a series an ear volume holds: evenly spaced positions, counted in the slices of the series."""
import numpy as np

from medical_fenlei.ears.resample import Axis


def even(available: int, wanted: int) -> Axis:
    """Spread `wanted` slices over the whole series, slice 0 to slice available - 1."""
    if wanted == 1:
        return Axis((available - 1) / 2, 1.0, 1)
    return Axis(0.0, (available - 1) / (wanted - 1), wanted)


def centred(middle: float, step: float, wanted: int) -> Axis:
    """Place `wanted` slices around the position `middle`, `step` slices of the series apart."""
    return Axis(middle - step * (wanted - 1) / 2, step, wanted)


def block(score: np.ndarray, wanted: int, step: float = 1.0, *, holding: float | None = None) -> Axis:
    """Place `wanted` slices, `step` apart, where `score` (available,) has its largest sum.

    Where the block is as long as the series it lies in the middle. holding: a position that the block must contain.
    """
    available, length = len(score), max(1, round(wanted * step))
    if available <= length:
        return centred((available - 1) / 2, step, wanted)
    sums = np.convolve(score, np.ones(length), mode="valid")
    if holding is not None:
        away = np.abs(np.arange(len(sums)) + (length - 1) / 2 - holding)
        sums = np.where(away <= max((length - 1) / 2, away.min()), sums, -np.inf)
    best = np.flatnonzero(sums >= sums.max() - 1e-9)
    first = float(best[len(best) // 2])                          # the middle one of equals: without any air, the middle
    return centred(first + (length - 1) / 2, step, wanted)
