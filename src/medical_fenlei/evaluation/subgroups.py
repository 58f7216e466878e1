"""The same figures for parts of a set: does a network do as well for every scanner, age and side?"""
import itertools

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cohort.groups import labelled_ears
from medical_fenlei.metrics.predictions import intervals_of
from medical_fenlei.tasks import Task
from medical_fenlei.vocabulary import vendor

SHOWN = {True: ("auroc", "sensitivity", "specificity"), False: ("auroc", "macro_recall", "accuracy")}
"""Measures of a subgroup, of binary tasks and of others."""
AGES = (0, 18, 40, 60, np.inf)
"""Bounds between age bands, years."""
MOST, FEWEST = 6, 10
"""Values of a name that stand by themselves, and the ears that each takes; the others are one group."""
ALL, OTHER, UNKNOWN = "all", "other", "unknown"


def parts_of(manifest: pd.DataFrame) -> pd.DataFrame:
    """exam_id, side, and of each labelled ear the value of every way to part them (text): side, maker, kernel, thickness, age,
    sex, whether the dates agree."""
    ears = labelled_ears(manifest)
    names = [f"{low} to {high - 1:.0f} years" if np.isfinite(high) else f"from {low} years"
             for low, high in itertools.pairwise(AGES)]
    age = pd.cut(ears.age_years.astype("float64"), AGES, right=False, labels=names).astype("object")
    return pd.DataFrame({
        "exam_id": ears.exam_id, "side": ears.side, "ear": ears.side, "maker": ears.manufacturer.map(vendor),
        "kernel": ears.kernel, "slice thickness": ears.thickness, "age": age.where(age.notna(), ""), "sex": ears.sex,
        "dates": np.where(ears.date_match, "sheet and folder agree", "sheet and folder differ"),
    }).replace("", UNKNOWN)


def subgroups_of(predictions: pd.DataFrame, manifest: pd.DataFrame, task: Task, *, draws: int) -> pd.DataFrame:
    """`tables.SUBGROUPS`: everyone first, then a row a way to part them, value and measure. Ways with one value are left
    out."""
    known = predictions.merge(parts_of(manifest), on=["exam_id", "side"], how="left", validate="one_to_one")
    rows = _rows(known, task, ALL, ALL, draws)
    for by in ("ear", "maker", "kernel", "slice thickness", "age", "sex", "dates"):
        values = known[by].fillna(UNKNOWN)
        counts = values.value_counts()
        alone = counts[counts >= FEWEST].index[:MOST]
        values = values.where(values.isin(alone), OTHER)
        if values.nunique() > 1:
            for value in sorted(values.unique(), key=lambda value: (value in (OTHER, UNKNOWN), value)):
                rows += _rows(known[values == value], task, by, value, draws)
    return tables.SUBGROUPS.frame(rows)


def _rows(ears: pd.DataFrame, task: Task, by: str, value: str, draws: int) -> list[dict[str, object]]:
    found = intervals_of(ears, task, draws=draws)
    positive = int((ears.y_true == 1).sum()) if task.binary else pd.NA
    return [{"by": by, "value": value, "ears": len(ears), "patients": found.patients, "positive": positive, "metric": name,
             "estimate": i.estimate, "low": i.low, "high": i.high, "note": "; ".join(filter(None, (i.reason, *found.warnings)))}
            for name, i in found.values.items() if name in SHOWN[task.binary]]
