"""Which slices of a series an ear volume holds."""
import numpy as np


def even(available: int, wanted: int) -> np.ndarray:
    """(wanted,) float places spread over slices 0 to available - 1, ends included; some repeat where there are too few."""
    if wanted == 1:
        return np.array([(available - 1) / 2])
    return np.linspace(0, available - 1, wanted)


def block(available: int, wanted: int, score: np.ndarray) -> np.ndarray:
    """(wanted,) neighbouring places whose `score` (available,) adds up to most; `even` where there are too few."""
    if available <= wanted:
        return even(available, wanted)
    sums = np.convolve(score, np.ones(wanted), mode="valid")
    best = np.flatnonzero(sums >= sums.max() - 1e-9)
    return float(best[len(best) // 2]) + np.arange(wanted)       # of equals the middle one: no air at all means the middle
