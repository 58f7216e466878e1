"""Intervals that respect patients.

Two ears of one patient are not two independent observations, so patients are what is drawn. A draw is a vector of weights
(how often each patient was drawn): nothing is copied, a patient drawn twice counts twice, and every number comes from the
same draws.
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Measures = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights (R, N) to named numbers (R,), NaN where undefined."""

ENOUGH_PATIENTS = 100
TOO_FEW = f"percentile intervals are too narrow below about {ENOUGH_PATIENTS} patients"
CHUNK = 400_000
"""Weights held at a time (draws × ears): they stay in the processor's cache."""


class Interval(NamedTuple):
    estimate: float
    low: float
    high: float
    reason: str = ""
    """Why it is NaN, or how many draws were left out."""


class Intervals(NamedTuple):
    """Of all numbers, with what their reader has to know."""

    values: dict[str, Interval]
    patients: int
    warnings: tuple[str, ...]


def patient_intervals(
    measures: Measures, patient: np.ndarray, content: np.ndarray, *, seed: int, draws: int = 2000, level: float = 0.95
) -> Intervals:
    """Percentile intervals (Efron 1979) of every number when patients are drawn with replacement.

    patient: (N,), equal for ears of one person. content: (N, ...), what is known of each ear (label, score): patients are put
    in order by it, so neither the value of a key nor the order of the ears changes a draw. Draws in which a number is undefined
    are left out of its interval. At most CHUNK weights are held at a time.
    """
    patient, content = np.asarray(patient), np.asarray(content, np.float64)
    if len(patient) != len(content):
        raise ValueError(f"lengths differ: {len(patient)} patients, {len(content)} ears")
    estimate = {name: float(value[0]) for name, value in measures(np.ones((1, len(patient)))).items()}
    number, of_ear = canonical_patients(patient, content)
    rng = np.random.default_rng(seed)
    parts = []
    while number > 1 and draws > 0:
        rows = min(draws, max(1, CHUNK // len(patient)))
        parts.append(measures(rng.multinomial(number, np.full(number, 1 / number), size=rows)[:, of_ear]))
        draws -= rows
    values = {name: _interval(value, np.concatenate([p[name] for p in parts]) if parts else np.empty(0), level)
              for name, value in estimate.items()}
    return Intervals(values, number, (f"{TOO_FEW}: there are {number}",) if number < ENOUGH_PATIENTS else ())


def _interval(estimate: float, drawn: np.ndarray, level: float) -> Interval:
    if np.isnan(estimate):
        return Interval(estimate, np.nan, np.nan, "undefined: a class that it needs has no ears")
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(estimate, np.nan, np.nan, "no interval: it takes two patients" if not len(drawn) else
                        "no interval: undefined in every draw")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    left_out = len(drawn) - len(defined)
    return Interval(estimate, float(low), float(high), f"undefined in {left_out} of {len(drawn)} draws" if left_out else "")


def canonical_patients(patient: np.ndarray, content: np.ndarray) -> tuple[int, np.ndarray]:
    """How many patients there are, and the number of each ear's patient (N,), in the order of what their ears hold."""
    if not len(patient):
        return 0, np.zeros(0, np.int64)
    keys, of_ear = np.unique(patient, return_inverse=True)
    held: list[list[tuple[float, ...]]] = [[] for _ in keys]
    for person, ear in zip(of_ear.tolist(), content.reshape(len(content), -1).tolist(), strict=True):
        held[person].append(tuple(ear))
    order = sorted(range(len(keys)), key=lambda person: sorted(held[person]))
    place = np.empty(len(keys), np.int64)
    place[order] = np.arange(len(keys))
    return len(keys), place[of_ear]
