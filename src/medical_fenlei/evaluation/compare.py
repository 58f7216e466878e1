"""Compare two networks on the same ears: is their difference more than chance?"""
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.bootstrap import Interval
from medical_fenlei.metrics.delong import auroc_difference
from medical_fenlei.metrics.predictions import differences_of, measures_of
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
    other measures from the standard error of the resampled difference. Raises UserError if the tables share no ear, belong to
    another task, or disagree about the label or the patient of an ear.
    """
    first, second = _common_ears(one, other)
    _refuse_disagreement(first, second, task)
    intervals = differences_of(first, second, task, n_resamples=n_resamples)
    estimates = [_estimates(frame, task) for frame in (first, second)]
    rows = {name: {"metric": name, "one": estimates[0][name], "other": estimates[1][name], **_tested(i, intervals.patients)}
            for name, i in intervals.values.items()}
    known = [frame[frame.y_true != OUTSIDE] for frame in (first, second)]
    if task.binary and known[0].y_true.nunique() == 2:
        rows["auroc"] |= _tested_by_variance(*known)
    return Comparison(
        table=tables.COMPARISON.frame(list(rows.values())), ears=len(known[0]), patients=intervals.patients,
        left_out=len(one) + len(other) - 2 * len(first), warnings=intervals.warnings)


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


def _estimates(predictions: pd.DataFrame, task: Task) -> dict[str, float]:
    """Every measure of these predictions."""
    measured = measures_of(predictions, task)(np.ones((1, len(predictions))))
    return {name: float(value[0]) for name, value in measured.items()}


def _tested(difference: Interval, patients: int) -> dict[str, object]:
    """Columns of `tables.COMPARISON` about a difference; p from Student's t, NaN where the interval has no width."""
    half_width, p = (difference.high - difference.low) / 2, np.nan
    if half_width > 0:
        standard_error = half_width / student.ppf(0.975, patients - 1)
        p = 2 * student.sf(abs(difference.estimate) / standard_error, patients - 1)
    return {"difference": difference.estimate, "low": difference.low, "high": difference.high, "p": p,
            "note": difference.reason}


def _tested_by_variance(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, object]:
    """Columns of `tables.COMPARISON` that replace those of the resampled AUROC."""
    try:
        found = auroc_difference(first.y_true.to_numpy(), first.y_prob.to_numpy(), second.y_prob.to_numpy(),
                                 first.patient_key.to_numpy())
    except ValueError as error:                                  # fewer than two patients with an ear of a class
        return {"p": np.nan, "note": str(error)}
    return {"low": found.difference.low, "high": found.difference.high, "p": found.p, "note": "by its variance over patients"}
