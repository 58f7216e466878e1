"""Compare two networks on the same ears: is their difference more than chance?"""
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.bootstrap import UNRELIABLE, Interval
from medical_fenlei.metrics.delong import auroc_difference
from medical_fenlei.metrics.predictions import differences_of, intervals_of
from medical_fenlei.metrics.support import lack_of_support
from medical_fenlei.tasks import OUTSIDE, Task

EAR = ["exam_id", "side"]
"""Columns that identify an ear."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The measures of two networks and their differences, on the ears that both predicted."""

    table: pd.DataFrame
    """One row per measure, a `tables.COMPARISON`."""

    ears: int
    """Ears within the task."""

    patients: int
    """Patients of these ears."""

    left_out: int
    """Ears that only one of the networks predicted."""

    warnings: tuple[str, ...]
    """Reasons to distrust the intervals."""


def compare(one: pd.DataFrame, other: pd.DataFrame, task: Task, *, n_resamples: int) -> Comparison:
    """Compare two `tables.PREDICTIONS` of a task; a difference is the second minus the first.

    The p value is two-sided. For the AUROC of a binary task it comes from the variance over patients (`metrics/delong.py`), for
    other measures from the standard error of the resampled difference. Measures that rest on too few patients have none. Raises
    UserError if the tables share no ear, belong to another task, or disagree about the label or the patient of an ear.
    """
    first, second = _common_ears(one, other)
    _refuse_disagreement(first, second, task)
    intervals = differences_of(first, second, task, n_resamples=n_resamples)
    each = {column: intervals_of(frame, task, n_resamples=n_resamples).values
            for column, frame in (("first", first), ("second", second))}
    rows = {name: {"metric": name, "support": i.support, **_tested(name, i, intervals.patients),
                   **{key: value for column, values in each.items() for key, value in _ends(column, values[name]).items()}}
            for name, i in intervals.values.items()}
    known = [frame[frame.y_true != OUTSIDE] for frame in (first, second)]
    if task.binary and not lack_of_support("auroc", intervals.values["auroc"]):
        rows["auroc"] |= _tested_by_variance(*known, note=str(rows["auroc"]["note"]))
    return Comparison(
        table=tables.COMPARISON.frame(list(rows.values())), ears=len(known[0]), patients=intervals.patients,
        left_out=len(one) + len(other) - 2 * len(first), warnings=intervals.warnings)


def p_value(p: float) -> str:
    """Return a p value in four decimals, `< 0.0001` where they would all be 0, a dash for NaN."""
    return "–" if np.isnan(p) else "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _common_ears(one: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both tables for their common ears, in the same order."""
    common = one[EAR].merge(other[EAR], on=EAR)
    if common.empty:
        raise UserError("--predictions: the two files have no ear in common")
    return common.merge(one, on=EAR, how="left"), common.merge(other, on=EAR, how="left")


def _refuse_disagreement(first: pd.DataFrame, second: pd.DataFrame, task: Task) -> None:
    """Raise UserError if the tables disagree about a label or a patient, or belong to another task."""
    facts = ["label_code", "patient_key"]
    differs = (first[facts] != second[facts]).any(axis=1)
    if differs.any():
        raise UserError(f"--predictions: the two files have different labels or patients for {int(differs.sum())} ears (for "
                        f"example exam {first.exam_id[differs].iloc[0]}); evaluate both with one manifest")
    for frame, ordinal in ((first, "first"), (second, "second")):
        if not (frame.y_true == task.targets(frame.label_code.to_numpy())).all():
            raise UserError(f"--label-task {task.name}: the {ordinal} file belongs to another task")


def _ends(column: str, interval: Interval) -> dict[str, float]:
    """Columns of `tables.COMPARISON` about a measure of one network."""
    return {column: interval.estimate, f"{column}_low": interval.low, f"{column}_high": interval.high}


def _tested(name: str, difference: Interval, patients: int) -> dict[str, object]:
    """Columns of `tables.COMPARISON` about a difference; p from Student's t, NaN without support or where nothing varies.

    Where nothing varies there is no interval either (the note says so): an interval without width would look certain.
    """
    half_width, p, lack = (difference.high - difference.low) / 2, np.nan, lack_of_support(name, difference)
    low, high = (difference.low, difference.high) if half_width > 0 else (np.nan, np.nan)
    if half_width > 0 and not lack:
        standard_error = half_width / student.ppf(0.975, patients - 1)
        p = 2 * student.sf(abs(difference.estimate) / standard_error, patients - 1)
    return {"difference": difference.estimate, "low": low, "high": high, "p": p,
            "note": f"not tested: {lack}" if lack else difference.reason}


def _tested_by_variance(first: pd.DataFrame, second: pd.DataFrame, *, note: str) -> dict[str, object]:
    """Columns of `tables.COMPARISON` that replace those of the resampled AUROC: none where the variance is 0.

    note: that of the resampled AUROC, of which stays what calls it unreliable.
    """
    found = auroc_difference(first.y_true.to_numpy(), first.y_prob.to_numpy(), second.y_prob.to_numpy(),
                             first.patient_key.to_numpy())
    if np.isnan(found.p):
        return {}
    doubt = [part for part in note.split("; ") if part.startswith(UNRELIABLE)]
    return {"low": found.difference.low, "high": found.difference.high, "p": found.p,
            "note": "; ".join(["by its variance over patients", *doubt])}
