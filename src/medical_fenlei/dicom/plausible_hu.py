"""Whether the values of a slice can be Hounsfield units of a head: where its air and its soft tissue lie, and how smooth it is.

Limits are wide: sharp kernels have a noise of 100 to 200 HU, and a field of view of one ear holds little air.
"""
from collections.abc import Sequence

import numpy as np

AIR_BELOW, BONE_ABOVE, SOME = -300, 300, 0.001
"""HU of air and bone that a scan of the head shows even if its pixels are averaged, and the share of them that it shows."""

AIR_REACHES = -600
"""HU of air in single pixels, which the noise only lowers."""

SOFT_HU, LEAST_PEAK = (-150, 200), 0.4
"""HU of soft tissue, and the height of its peak at least, as a share of the highest peak above air."""

_PEAK_BINS = np.arange(-700, 1350, 50)
"""Limits of the histogram in which peaks are sought, HU: above air and its edges, below the densest bone."""

CENTRE_HU = (-500, 900)
"""Range of the median in the middle of a slice: brain and skull base, or the aerated or dense bone around an ear."""

IN_SCALE, MOST = (-1600, 5000), 0.95
"""Range of HU from air, with its noise, to metal, and the share of the pixels that lies in it at least."""

GRAIN = 0.85
"""Difference between neighboring pixels, as a share of that between any two: 1 in noise, below 0.5 in the noisiest image."""

ENCLOSED_HU = (-900, 3000)
"""HU that occur inside of the head; padding with one of them cannot be told from a measurement."""

_APART = 64
"""Distance of the columns that are read first to find rows of a single value."""

_SAMPLE = 256
"""Rows and columns that are looked at, at most."""


def implausible(hu: np.ndarray) -> str:
    """Return why a slice cannot show HU of a head, or "" if it can.

    hu: int16, any shape: the pixels that are no padding.
    """
    if not hu.size or hu.min() == hu.max():
        return f"all pixels are {hu.flat[0]} HU" if hu.size else "all pixels are padding"
    low, high = np.quantile(hu, [SOME, 1 - SOME])
    if low > AIR_REACHES or high < BONE_ABOVE:
        return f"got {low:.0f} to {high:.0f} HU, expected air below {AIR_REACHES} and bone above {BONE_ABOVE}"
    values, counts = np.unique(hu, return_counts=True)
    counts[counts.argmax()] = 0                                  # one value may be padding that the header does not declare
    within = counts[(values >= IN_SCALE[0]) & (values <= IN_SCALE[1])].sum() / max(1, counts.sum())
    if within < MOST:
        return f"got {1 - within:.0%} of the pixels beyond {IN_SCALE[0]} to {IN_SCALE[1]} HU, where neither air nor bone lies"
    peak, ratio = _soft_peak(hu)
    if ratio < LEAST_PEAK:
        return f"got the most pixels above air near {peak:.0f} HU, expected soft tissue at {SOFT_HU[0]} to {SOFT_HU[1]} HU"
    return ""


def _soft_peak(hu: np.ndarray) -> tuple[float, float]:
    """Return the HU of the highest peak above air, and the height of that of soft tissue as a share of it."""
    counts, _ = np.histogram(hu, _PEAK_BINS)
    smooth = np.convolve(counts, np.ones(3), mode="valid")
    centres = (_PEAK_BINS[1:-2] + _PEAK_BINS[2:-1]) / 2
    soft = smooth[(centres >= SOFT_HU[0]) & (centres <= SOFT_HU[1])].max()
    return float(centres[smooth.argmax()]), float(soft / max(1.0, smooth.max()))


def implausible_middle(hu: np.ndarray, padded: np.ndarray) -> str:
    """Return why the middle of a slice cannot be soft tissue and bone, or "" if it can.

    hu: int16 (rows, columns); padded: bool, likewise. A middle that is mostly padding is not judged.
    """
    known = _middle(hu)[~_middle(padded)]
    median = float(np.median(known)) if 2 * known.size > _middle(hu).size else 0.0
    if CENTRE_HU[0] <= median <= CENTRE_HU[1]:
        return ""
    return f"got a median of {median:.0f} HU in the middle of the slice, expected {CENTRE_HU[0]} to {CENTRE_HU[1]}"


def is_noise(hu: np.ndarray) -> bool:
    """Return whether neighboring pixels differ as much as any two: noise, or bytes in the wrong order."""
    values = np.clip(hu, *IN_SCALE).astype(np.float32)
    apart = np.roll(values, (values.shape[0] // 2, values.shape[1] // 2), (0, 1))
    return bool(np.abs(np.diff(values, axis=1)).mean() > GRAIN * np.abs(values - apart).mean() > 0)


def lost_rows(slices: Sequence[np.ndarray]) -> list[int]:
    """Return how many rows each slice lacks in its middle half: of a single value, between slices that show the head there.

    slices: int16 HU (rows, columns), lowest first. A row is compared with those of the nearest slices where it is not blank, so
    that air above a head, or around it, is no loss.
    """
    blank = np.array([_are_blank(hu) for hu in slices])
    if not blank.any():
        return [0] * len(slices)
    solid = np.array([_show_head(hu) for hu in slices])
    between = np.ones(blank.shape, bool)
    for order in (1, -1):
        nearest = np.zeros(blank.shape[1], bool)
        for own, whole, shown in zip(blank[::order], solid[::order], between[::order], strict=True):
            shown &= nearest
            nearest = np.where(own, nearest, whole)
    counts: list[int] = (blank & between).sum(axis=1).tolist()
    return counts


def _show_head(hu: np.ndarray) -> np.ndarray:
    """Return which rows in the middle half of a slice mostly show the head, bool (rows,)."""
    middle = _middle(hu)
    shown: np.ndarray = 2 * (middle > AIR_BELOW).sum(axis=1) > middle.shape[1]
    return shown


def blank_rows(hu: np.ndarray) -> int:
    """Return how many rows in the middle half of a slice hold a single value, as no row through a head does."""
    return int(_are_blank(hu).sum())


def _are_blank(hu: np.ndarray) -> np.ndarray:
    """Return which rows in the middle half of a slice hold a single value, bool (rows,)."""
    rows = hu[hu.shape[0] // 4: -(hu.shape[0] // 4) or None]
    few = rows[:, ::_APART]                                      # where these differ, the others need not be read
    blank: np.ndarray = few.min(axis=1) == few.max(axis=1)
    blank[blank] = rows[blank].min(axis=1) == rows[blank].max(axis=1)
    return blank


def is_padding_inside(padded: np.ndarray, low: float, high: float) -> bool:
    """Return whether padding occurs in the middle of a slice with a value that the head also has.

    padded: bool (rows, columns); low, high: range of the padding, HU.
    """
    return high > ENCLOSED_HU[0] and low < ENCLOSED_HU[1] and bool(_middle(padded).any())


def thinned(hu: np.ndarray) -> np.ndarray:
    """Return every n-th row and column of a slice, enough of them to judge its values."""
    return hu[::max(1, hu.shape[0] // _SAMPLE), ::max(1, hu.shape[1] // _SAMPLE)]


def _middle(image: np.ndarray) -> np.ndarray:
    rows, columns = (n // 4 for n in image.shape)
    return image[rows: -rows or None, columns: -columns or None]
