"""Intervals that respect patients.

Two ears of one patient are not two independent observations, so patients are what is drawn. A draw is a vector of weights
(how often each patient was drawn): nothing is copied, a patient drawn twice counts twice, and every number comes from the
same draws.

Percentiles of the draws hold what they promise only from some 300 patients on; of 20 or 40 they are too narrow. What the draws
do tell well is a number's spread. So an interval is that of Student's t around the estimate with the spread of the draws, on
the scale of the logit for numbers between 0 and 1, where it cannot leave them. docs/benchmarks.md has its coverage
(tools/check_intervals.py).
"""
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

Measures = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights (R, N) to named numbers (R,), NaN where undefined."""

ENOUGH_PATIENTS, ENOUGH_OF_A_CLASS = 50, 20
FEW = f"fewer than {ENOUGH_PATIENTS} patients, or than {ENOUGH_OF_A_CLASS} with an ear of one class: do not rely on the 95 %"
UNBOUNDED = ("calibration_slope", "calibration_intercept")
"""Numbers that may be below 0 or above 1."""
RATIOS = ("calibration_slope",)
"""Of these, numbers that are compared by their ratio to 1: their spread is that of the logarithm, if it has one."""
ONE_SIDED = ("calibration_error",)
"""Numbers that chance can only raise: no interval around them holds the truth, so the draws' own spread is given."""
TWENTIETHS, ENOUGH_FOR_A_TWENTIETH = ("sensitivity_at_95_specificity", "specificity_at_95_sensitivity"), 40
"""Numbers at a threshold that a twentieth of one class sets, and how many patients with an ear of the rarest class it takes for
that to be more than one or two of them."""
RAISED = "chance only raises it: the interval says how the estimate would vary, not where the truth is"
CHUNK = 400_000
"""Weights held at a time (draws × ears): they stay in the processor's cache."""


class Interval(NamedTuple):
    estimate: float
    low: float
    high: float
    reason: str = ""
    """Why it is NaN, or why it does not promise its level."""


class Intervals(NamedTuple):
    """Of all numbers, with what their reader has to know."""

    values: dict[str, Interval]
    patients: int
    warnings: tuple[str, ...]


def patient_intervals(
    measures: Measures, patient: np.ndarray, content: np.ndarray, *, seed: int, draws: int = 2000, level: float = 0.95,
    classes: np.ndarray | None = None, unbounded: Collection[str] = UNBOUNDED,
    ratios: Collection[str] = RATIOS, shares_of: Mapping[str, np.ndarray] | None = None, one_sided: Collection[str] = ONE_SIDED,
) -> Intervals:
    """An interval of every number, patients drawn with replacement.

    patient: (N,), equal for ears of one person. content: (N, ...), what is known of each ear (label, score): patients are put
    in order by it, so neither the value of a key nor the order of the ears changes a draw. classes: (N,), of each ear; how many
    patients have an ear of the rarest one decides whether a warning is due, and how wide the interval of a number at a limit
    is (Clopper 1934, exact, every patient of that class counted as one observation). unbounded: names of the numbers that are
    not between 0 and 1; ratios: of these, whose interval is one of the logarithm where no draw is negative; shares_of: bool
    (N,), by the name of a number which ears it is a share of (of a PPV those that are called positive): of fewer than
    ENOUGH_OF_A_CLASS patients it is warned, and at a limit they count, not those of the rarest class; one_sided: numbers that
    chance can only raise. Draws in which a number is undefined are left out. At most CHUNK weights are held at a time.
    """
    patient, content = np.asarray(patient), np.asarray(content, np.float64)
    if len(patient) != len(content):
        raise ValueError(f"lengths differ: {len(patient)} patients, {len(content)} ears")
    estimate = {name: float(value[0]) for name, value in measures(np.ones((1, len(patient)))).items()}
    number, of_ear = canonical_patients(patient, content)
    rarest = number
    if classes is not None:
        there = np.unique(classes)
        rarest = min(len(np.unique(of_ear[classes == c])) for c in there) if len(there) > 1 else 0
    rng = np.random.default_rng(seed)
    parts = []
    while number > 1 and draws > 0:
        rows = min(draws, max(1, CHUNK // len(patient)))
        parts.append(measures(rng.multinomial(number, np.full(number, 1 / number), size=rows)[:, of_ear]))
        draws -= rows
    values = {}
    for name, value in estimate.items():
        drawn = np.concatenate([p[name] for p in parts]) if parts else np.empty(0)
        kind = "share" if name not in unbounded else "ratio" if name in ratios else "plain"
        kind = "one_sided" if name in one_sided else kind
        of = rarest if name not in (shares_of or {}) else len(np.unique(of_ear[(shares_of or {})[name]]))
        values[name] = _interval(value, drawn, level, kind, number, of)
        few_of = ""
        if name in (shares_of or {}) and of < ENOUGH_OF_A_CLASS:
            few_of = f"a share of {of} patients: do not rely on the 95 %"
        elif name in TWENTIETHS and rarest < ENOUGH_FOR_A_TWENTIETH:
            few_of = f"of a twentieth of {rarest} patients: do not rely on the 95 %"
        if few_of and np.isfinite(values[name].low):
            values[name] = values[name]._replace(reason="; ".join(filter(None, (values[name].reason, few_of))))
    few = number < ENOUGH_PATIENTS or (classes is not None and rarest < ENOUGH_OF_A_CLASS)
    said = f"{FEW}; there are {number}" + (f", {rarest} with the rarest class" if classes is not None else "")
    return Intervals(values, number, (said,) if few else ())


def _interval(estimate: float, drawn: np.ndarray, level: float, kind: str, patients: int, rarest: int) -> Interval:
    if np.isnan(estimate):
        return Interval(estimate, np.nan, np.nan, "undefined: a class or a decision that it needs has no ears"
                        + (", or the classes are told apart without a mistake" if kind in ("ratio", "plain") else ""))
    defined = drawn[~np.isnan(drawn)]
    if len(defined) < 2:
        return Interval(estimate, np.nan, np.nan, "no interval: it takes two patients" if not len(drawn) else
                        "no interval: it takes two draws" if len(drawn) < 2 else "no interval: undefined in every draw")
    left_out = len(drawn) - len(defined)
    reason = f"undefined in {left_out} of {len(drawn)} draws" if left_out else ""
    tail = (1 - level) / 2
    if kind == "one_sided":
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Interval(estimate, float(low), float(high), RAISED)
    if np.ptp(defined) <= 1e-9 * abs(estimate) and (kind != "share" or 0 < estimate < 1):
        constant = "no interval: it is the same in every draw"
        low, high = (np.nan, np.nan) if kind == "ratio" else (estimate, estimate)
        return Interval(estimate, low, high, "; ".join(filter(None, (reason, constant))))
    scale = float(student.ppf(1 - tail, patients - 1)) * np.sqrt(patients / (patients - 1))
    if kind == "ratio" and estimate > 0 and np.quantile(defined, tail / 2) > 0:
        reach = scale * np.log(defined[defined > 0]).std(ddof=1)
        return Interval(estimate, float(estimate * np.exp(-reach)), float(estimate * np.exp(reach)), reason)
    reach = scale * float(defined.std(ddof=1))
    if kind in ("ratio", "plain"):
        return Interval(estimate, estimate - reach, estimate + reach, reason)
    if not 0 < estimate < 1:
        edge = float(tail ** (1 / max(rarest, 1)))
        low, high = (edge, 1.0) if estimate == 1 else (0.0, 1 - edge)
        return Interval(estimate, low, high, f"at its limit: exact interval of {rarest} patients")
    at, reach = logit(estimate), reach / (estimate * (1 - estimate))         # the logit's slope
    return Interval(estimate, float(expit(at - reach)), float(expit(at + reach)), reason)


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
