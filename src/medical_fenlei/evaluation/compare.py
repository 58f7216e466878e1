"""Two networks on the same ears: what each measures, and whether the difference is more than chance."""
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.delong import auroc_difference
from medical_fenlei.metrics.predictions import differences_of, measures_of
from medical_fenlei.tasks import OUTSIDE, Task


@dataclass(frozen=True)
class Comparison:
    table: pd.DataFrame
    """`tables.COMPARISON`."""

    ears: int
    patients: int
    left_out: int
    """Ears that only one of them has."""

    warnings: tuple[str, ...]


def compare(one: pd.DataFrame, other: pd.DataFrame, task: Task, *, draws: int) -> Comparison:
    """one, other: `tables.PREDICTIONS` of the task; the difference is the second minus the first.

    p is two-sided: of the AUROC of a binary task from its variance over patients, of other measures from the spread of the
    resampled difference. Raises UserError if they share no ear, or say different labels or patients of one.
    """
    names, facts = ["exam_id", "side"], ["label_code", "patient_key"]
    both = one[names].merge(other[names], on=names)
    if both.empty:
        raise UserError("--predictions: the two files have no ear in common")
    pair = [both.merge(frame, on=names, how="left") for frame in (one, other)]
    differs = (pair[0][facts] != pair[1][facts]).any(axis=1)
    if differs.any():
        raise UserError(f"--predictions: the two files say different labels or patients of {int(differs.sum())} ears (exam "
                        f"{both.exam_id[differs].iloc[0]}, say); evaluate both with one manifest")
    for frame, path in zip(pair, ("first", "second"), strict=True):
        if not (frame.y_true == task.targets(frame.label_code.to_numpy())).all():
            raise UserError(f"--label-task {task.name}: the {path} file is of another task")
    found = differences_of(pair[0], pair[1], task, draws=draws)
    one_row = np.ones((1, len(both)))
    values = [{name: float(v[0]) for name, v in measures_of(frame, task)(one_row).items()} for frame in pair]
    rows = []
    for name, i in found.values.items():
        reach, p = (i.high - i.low) / 2, np.nan
        if reach > 0:
            unit = reach / student.ppf(0.975, found.patients - 1)
            p = 2 * student.sf(abs(i.estimate) / unit, found.patients - 1)
        rows.append({"metric": name, "one": values[0][name], "other": values[1][name], "difference": i.estimate, "low": i.low,
                     "high": i.high, "p": p, "note": i.reason})
    known = [frame[frame.y_true != OUTSIDE] for frame in pair]
    if task.binary and known[0].y_true.nunique() == 2:
        exact = _by_delong(*known)
        rows = [{**row, **exact} if row["metric"] == "auroc" else row for row in rows]
    only_one = len(one) + len(other) - 2 * len(both)
    return Comparison(tables.COMPARISON.frame(rows), len(known[0]), found.patients, only_one, found.warnings)


def _by_delong(one: pd.DataFrame, other: pd.DataFrame) -> dict[str, object]:
    try:
        found = auroc_difference(one.y_true.to_numpy(), one.y_prob.to_numpy(), other.y_prob.to_numpy(),
                                 one.patient_key.to_numpy())
    except ValueError as error:                                  # too few patients of a class
        return {"p": np.nan, "note": str(error)}
    return {"low": found.difference.low, "high": found.difference.high, "p": found.p, "note": "by its variance over patients"}
