"""Regular slice positions that an export has rounded, for example to 0.1 mm at a slice spacing of 0.33 mm.

Rounded positions lie within half a quantum of a straight line. Whether such a line exists is decided exactly (`_narrowest`), so
that a missing slice or a changing spacing is still found: it would have to stay within the rounding over the whole stack.
"""
from dataclasses import dataclass

import numpy as np

QUANTA_MM = (0.5, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01)
"""Roundings that are looked for, coarsest first. Finer ones are below what `geometry` tolerates anyway."""

MAX_QUANTUM = 0.5
"""Coarsest rounding, share of the slice spacing; beyond it, a stack with a missing slice could be a rounded regular one."""

SLACK = 0.02
"""What a position may lie beyond half a quantum, share of the slice spacing: scanners also vary a little."""

MAX_MISSING = 0.1
"""Largest share of missing slices; beyond it, two spacings in turn would pass for one spacing with holes."""

_LONGEST_GAP = np.array([3.2, 1.8, 1.4])
"""Gaps below these multiples of the median may be regular ones; the longer ones miss a slice. The first that fits counts."""

_TEXT_MM = 2e-4
"""Accuracy with which a rounded coordinate is a multiple of its quantum, mm."""


@dataclass(frozen=True, kw_only=True)
class RoundedLine:
    """A regular line of slices, read through the rounding of its positions."""

    quantum: float
    """Rounding of the positions along the line, mm."""

    number: np.ndarray
    """(N,): number of each given slice on the line, from 0; a number that is absent is a missing slice."""

    origin: np.ndarray
    """(3,) mm: fitted position of slice 0."""

    step: np.ndarray
    """(3,) mm from one slice to the next, fitted over all slices."""

    is_exact: bool
    """Whether the positions lie on the line as they are, and nothing needs to be explained by rounding."""


def read_through_rounding(position: np.ndarray, along: np.ndarray) -> RoundedLine | None:
    """Return the regular line of which these positions are the rounded ones, or None if there is none.

    position (N, 3), along (N,): mm, in the order of the slices, `along` increasing.
    """
    gaps = np.diff(along)
    if len(gaps) < 2:
        return None
    tried = set()
    for longest in _LONGEST_GAP * np.median(gaps):
        spacing = float(gaps[gaps < longest].mean())             # rounding cancels in the mean, and not in the median
        number = np.concatenate([[0], np.cumsum(np.maximum(1, np.rint(gaps / spacing)))])
        few_missing = number[-1] + 1 <= (1 + MAX_MISSING) * len(number) + 1
        if few_missing and number[-1] not in tried and (found := _fitted(position, number)):
            return found
        tried.add(number[-1])
    return None


def _fitted(position: np.ndarray, number: np.ndarray) -> RoundedLine | None:
    """Return the line through positions with these slice numbers, or None where rounding alone does not explain them."""
    centred = number - number.mean()
    step = centred @ position / (centred @ centred)
    spacing = float(np.linalg.norm(step))
    quanta = [_quantum(values, MAX_QUANTUM * spacing) for values in position.T]
    quantum_along = quanta[int(np.abs(step).argmax())]
    beyond = [_narrowest(values, number) for values in position.T]
    if not quantum_along or any(one > quantum / 2 + SLACK * spacing for one, quantum in zip(beyond, quanta, strict=True)):
        return None
    return RoundedLine(quantum=quantum_along, number=number.astype(int), origin=position.mean(axis=0) - number.mean() * step,
                       step=step, is_exact=max(beyond) < SLACK * spacing)


def _quantum(values: np.ndarray, largest: float) -> float:
    """Return the coarsest quantum up to `largest` of which all values are multiples; 0 if there is none or they do not vary."""
    if np.ptp(values) < _TEXT_MM:
        return 0.0
    return next((quantum for quantum in QUANTA_MM if quantum < largest + _TEXT_MM
                 and np.abs(values - np.rint(values / quantum) * quantum).max() < _TEXT_MM), 0.0)


def _narrowest(values: np.ndarray, number: np.ndarray) -> float:
    """Return half the width of the narrowest band around a straight line that holds all values, mm (Chebyshev's line).

    The width is a convex function of the slope, so that the interval of slopes can be narrowed down by thirds.
    """
    def width(slope: float) -> float:
        return float(np.ptp(values - slope * number))

    middle = (values[-1] - values[0]) / number[-1]
    low, high = (middle + sign * 2 * width(middle) / number[-1] for sign in (-1, 1))
    for _ in range(60):
        third = (high - low) / 3
        if width(low + third) < width(high - third):
            high -= third
        else:
            low += third
    return width((low + high) / 2) / 2
