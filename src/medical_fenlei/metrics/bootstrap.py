"""Confidence intervals that resample patients.

The two ears of a patient are not independent observations, so the bootstrap draws patients, with replacement. A resample is a
vector of weights (how often each patient was drawn): nothing is copied, a patient drawn twice counts twice, and all measures
are computed on the same resamples.

Percentile intervals reach their nominal coverage only from about 300 patients; with 20 or 40 they are too narrow. The standard
error of the resamples is accurate with fewer patients. The interval is therefore Student's t around the estimate with the
standard error of the resamples, on the logit scale for measures between 0 and 1, which keeps it within these bounds.
docs/benchmarks.md has the measured coverage (tools/check_intervals.py).
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, logit, stdtrit

from medical_fenlei.set_sizes import TO_MEASURE, TO_MEASURE_A_CLASS

Measures = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Weights (R, N) to named measures (R,), NaN where undefined."""
Scale = Literal["logit", "log", "identity", "percentile"]
"""How an interval is built. `logit`: symmetric on the logit, for measures between 0 and 1. `log`: symmetric on the logarithm,
for ratios; on the ratio itself if resamples reach 0. `identity`: symmetric on the measure itself, for measures without bounds.
`percentile`: percentiles of the resamples, for measures with a positive bias, whose intervals may miss the true value."""

SEED = 42
"""Seed of the resampling: the same predictions give the same intervals."""
N_RESAMPLES = 2000
"""Resamples of an interval, where no other number is asked for."""
SCALES: Mapping[str, Scale] = {
    "calibration_slope": "log", "calibration_intercept": "identity", "calibration_error": "percentile"}
"""The measures whose scale is not `logit`."""
ENOUGH_PATIENTS, ENOUGH_OF_A_CLASS = TO_MEASURE, TO_MEASURE_A_CLASS
"""Patients, and patients with an ear of the rarest class, from which the intervals are reliable."""
UNRELIABLE = "unreliable"
"""First word of the part of a note that doubts the coverage of an interval."""
AT_95_PERCENT, ENOUGH_AT_95_PERCENT = ("sensitivity_at_95_specificity", "specificity_at_95_sensitivity"), 40
"""Measures at a threshold that 5 % of one class determine, and the patients with an ear of the rarest class from which
these are more than one or two patients."""
BIASED = "chance only raises this measure: the interval is the spread of the estimate and need not contain the true value"
CHUNK = 400_000
"""Weights held at a time (resamples × ears), which fit the processor's cache."""


class Interval(NamedTuple):
    """A measure with its confidence interval."""

    estimate: float
    low: float
    high: float
    reason: str = ""
    """Why the interval is NaN or does not have its nominal coverage."""

    support: int | None = None
    """Patients of the smallest group of ears that the measure needs, such as the positive ears for a sensitivity; None where
    they were not counted."""


class Intervals(NamedTuple):
    """The intervals of several measures on the same ears."""

    values: dict[str, Interval]
    patients: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PatientBootstrap:
    """N ears whose patients are resampled, for intervals of any measure of these ears.

    Raises ValueError if the arrays differ in length.
    """

    patient: np.ndarray
    """Patient key of each ear (N,)."""

    observations: np.ndarray
    """What was observed of each ear (N, ...): label, scores. Patients are ordered by it, so that neither the keys nor the order
    of the ears changes a resample."""

    classes: np.ndarray | None = None
    """Class of each ear (N,). The number of patients with an ear of the rarest class decides whether a warning is due, and is
    the support of a measure whose groups are not given."""

    n_resamples: int = N_RESAMPLES
    seed: int = SEED
    level: float = 0.95
    """Nominal coverage."""

    def __post_init__(self) -> None:
        if len(self.patient) != len(self.observations):
            raise ValueError(f"lengths differ: {len(self.patient)} patients, {len(self.observations)} ears")

    def intervals(
        self, measures: Measures, *, scales: Mapping[str, Scale] = SCALES,
        groups: Mapping[str, Sequence[np.ndarray]] | None = None,
    ) -> Intervals:
        """Return every measure with its interval; resamples in which a measure is undefined are left out.

        scales: of the measures whose scale is not `logit`. groups: the groups of ears (each bool (N,)) that a measure needs,
        such as the predicted positive ears for a PPV; without an entry they are the classes. The number of patients with an ear
        of the smallest group is the support of the measure. A measure that is 0 or 1 has an exact interval (Clopper 1934), with
        each patient of its support counted as one observation.
        """
        groups = groups or {}
        estimates = {name: float(value[0]) for name, value in measures(np.ones((1, len(self.patient)))).items()}
        parts = self._resampled(measures)
        values = {}
        for name, estimate in estimates.items():
            resampled = np.concatenate([part[name] for part in parts]) if parts else np.empty(0)
            support = min(map(self._patients_with, groups[name]), default=0) if name in groups else self._rarest
            found = self._interval(estimate, resampled, scales.get(name, "logit"), support)
            doubt = _doubt(name, support, counted=name in groups) if np.isfinite(found.low) else ""
            values[name] = found._replace(support=support, reason="; ".join(filter(None, (found.reason, doubt))))
        return Intervals(values, self._patients, self._warnings())

    @cached_property
    def _numbered(self) -> tuple[int, np.ndarray]:
        return canonical_patients(np.asarray(self.patient), np.asarray(self.observations, np.float64))

    @property
    def _patients(self) -> int:
        return self._numbered[0]

    @cached_property
    def _rarest(self) -> int:
        """Number of patients with an ear of the rarest class: all without classes, none with a single class."""
        if self.classes is None:
            return self._patients
        occurring = np.unique(self.classes)
        return min(self._patients_with(self.classes == c) for c in occurring) if len(occurring) > 1 else 0

    def _patients_with(self, ears: np.ndarray) -> int:
        """Number of patients to whom these ears (bool (N,)) belong."""
        return len(np.unique(self._numbered[1][ears]))

    def _resampled(self, measures: Measures) -> list[dict[str, np.ndarray]]:
        """The measures of all resamples, in chunks; none with fewer than two patients."""
        number, of_ear = self._numbered
        rng, left, parts = np.random.default_rng(self.seed), self.n_resamples, []
        while number > 1 and left > 0:
            rows = min(left, max(1, CHUNK // len(of_ear)))
            parts.append(measures(rng.multinomial(number, np.full(number, 1 / number), size=rows)[:, of_ear]))
            left -= rows
        return parts

    def _warnings(self) -> tuple[str, ...]:
        if self._patients >= ENOUGH_PATIENTS and (self.classes is None or self._rarest >= ENOUGH_OF_A_CLASS):
            return ()
        rarest = "" if self.classes is None else f", {self._rarest} with the rarest class (at least {ENOUGH_OF_A_CLASS} needed)"
        return (f"the intervals are unreliable: {self._patients} patients (at least {ENOUGH_PATIENTS} needed){rarest}",)

    def _interval(self, estimate: float, resampled: np.ndarray, scale: Scale, support: int) -> Interval:
        """The interval of one measure. support: number of patients behind it, for the exact interval at 0 or 1."""
        defined, tail = resampled[~np.isnan(resampled)], (1 - self.level) / 2
        if reason := _why_none(estimate, resampled, scale):
            return Interval(estimate, np.nan, np.nan, reason)
        if scale == "percentile":
            low, high = np.quantile(defined, [tail, 1 - tail])
            return Interval(estimate, float(low), float(high), BIASED)
        left_out = len(resampled) - len(defined)
        reason = f"undefined in {left_out} of {len(resampled)} resamples" if left_out else ""
        if np.ptp(defined) <= 1e-9 * abs(estimate) and (scale != "logit" or 0 < estimate < 1):
            constant = "no interval: it is the same in every resample"
            low, high = (np.nan, np.nan) if scale == "log" else (estimate, estimate)
            return Interval(estimate, low, high, "; ".join(filter(None, (reason, constant))))
        quantile = float(stdtrit(self._patients - 1, 1 - tail)) * np.sqrt(self._patients / (self._patients - 1))
        if scale == "log" and estimate > 0 and np.quantile(defined, tail / 2) > 0:
            reach = quantile * np.log(defined[defined > 0]).std(ddof=1)
            return Interval(estimate, float(estimate * np.exp(-reach)), float(estimate * np.exp(reach)), reason)
        reach = quantile * float(defined.std(ddof=1))
        if scale != "logit":
            return Interval(estimate, estimate - reach, estimate + reach, reason)
        if not 0 < estimate < 1:
            bound = float(tail ** (1 / max(support, 1)))
            low, high = (bound, 1.0) if estimate == 1 else (0.0, 1 - bound)
            return Interval(estimate, low, high, f"at its limit: exact interval of {support} patients")
        at, reach = logit(estimate), reach / (estimate * (1 - estimate))         # delta method: the slope of the logit
        return Interval(estimate, float(expit(at - reach)), float(expit(at + reach)), reason)


def _doubt(name: str, support: int, *, counted: bool) -> str:
    """Why the interval of a measure may not have its nominal coverage. counted: the support is that of the measure itself."""
    if name in AT_95_PERCENT and support < ENOUGH_AT_95_PERCENT:
        return f"{UNRELIABLE}: the threshold rests on about {max(1, round(support / 20))} of {support} patients"
    return f"{UNRELIABLE}: it rests on {support} patients" if counted and support < ENOUGH_OF_A_CLASS else ""


def _why_none(estimate: float, resampled: np.ndarray, scale: Scale) -> str:
    """Why a measure has no interval; empty if it has one."""
    if np.isnan(estimate):
        separated = ", or the classes are perfectly separated" if scale in ("log", "identity") else ""
        return f"undefined: no ears of a class or a decision that it needs{separated}"
    if not len(resampled):
        return "no interval: it takes two patients"
    if len(resampled) < 2:
        return "no interval: it takes two resamples"
    return "no interval: undefined in every resample" if (~np.isnan(resampled)).sum() < 2 else ""


def canonical_patients(patient: np.ndarray, observations: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of patients and each ear's patient number (N,), numbered in the order of their ears' observations.

    patient (N,): keys; observations (N, ...).
    """
    if not len(patient):
        return 0, np.zeros(0, np.int64)
    keys, of_ear = np.unique(patient, return_inverse=True)
    ears: list[list[tuple[float, ...]]] = [[] for _ in keys]
    for person, ear in zip(of_ear.tolist(), observations.reshape(len(observations), -1).tolist(), strict=True):
        ears[person].append(tuple(ear))
    order = sorted(range(len(keys)), key=lambda person: sorted(ears[person]))
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys))
    return len(keys), rank[of_ear]
