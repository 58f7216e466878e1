"""Which slices of a series an ear volume holds: places in the series' own slices, evenly spaced."""
import numpy as np

from medical_fenlei.ears.resample import Axis


def even(available: int, wanted: int) -> Axis:
    """Spread over slices 0 to available - 1, ends included."""
    if wanted == 1:
        return Axis((available - 1) / 2, 1.0, 1)
    return Axis(0.0, (available - 1) / (wanted - 1), wanted)


def centred(middle: float, step: float, wanted: int) -> Axis:
    """`step` slices apart around the place `middle`."""
    return Axis(middle - step * (wanted - 1) / 2, step, wanted)


def block(score: np.ndarray, wanted: int, step: float = 1.0, *, holding: float | None = None) -> Axis:
    """`step` slices apart, where `score` (available,) adds up to most; in the middle where the block is as long as the series.

    holding: a place that the block has to hold.
    """
    available, length = len(score), max(1, round(wanted * step))
    if available <= length:
        return centred((available - 1) / 2, step, wanted)
    sums = np.convolve(score, np.ones(length), mode="valid")
    if holding is not None:
        away = np.abs(np.arange(len(sums)) + (length - 1) / 2 - holding)
        sums = np.where(away <= max((length - 1) / 2, away.min()), sums, -np.inf)
    best = np.flatnonzero(sums >= sums.max() - 1e-9)
    first = float(best[len(best) // 2])                          # of equals the middle one: no air at all means the middle
    return centred(first + (length - 1) / 2, step, wanted)
