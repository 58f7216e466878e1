"""Does the network do as well for every scanner, age and side? The measures of parts of a set."""
import itertools

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cohort.groupings import labelled_ears
from medical_fenlei.metrics.predictions import intervals_of
from medical_fenlei.tasks import Task
from medical_fenlei.vocabulary import vendor

BINARY_MEASURES = ("auroc", "sensitivity", "specificity")
"""Measures of a subgroup for a binary task."""
MULTICLASS_MEASURES = ("auroc", "macro_recall", "accuracy")
"""Measures of a subgroup for a task with several classes."""
AGES = (0, 18, 40, 60, np.inf)
"""Bounds between age bands, years."""
FEWEST = 10
"""Fewest ears of a subgroup; smaller ones are put together, and named."""
MOST = 6
"""Most values of a criterion with a subgroup of their own; the others are put together, and named."""
NAMED = 3
"""Most values that a subgroup of several names."""
RARE = f"fewer than {FEWEST} ears", "less frequent"
"""What the name of a subgroup of several rare values begins with: all of them rare, or some only beyond MOST."""
ALL, UNKNOWN = "all", "unknown"
CRITERIA = ("ear", "maker", "kernel", "slice thickness", "age", "sex", "dates")
"""What subgroups are formed by."""


def criteria_of(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return exam_id, side and the value (text) of each of CRITERIA for each labelled ear."""
    ears = labelled_ears(manifest)
    bands = [f"{low} to {high - 1:.0f} years" if np.isfinite(high) else f"from {low} years"
             for low, high in itertools.pairwise(AGES)]
    age = pd.cut(ears.age_years.astype("float64"), AGES, right=False, labels=bands).astype("object")
    return pd.DataFrame({
        "exam_id": ears.exam_id, "side": ears.side, "ear": ears.side, "maker": ears.manufacturer.map(vendor),
        "kernel": ears.kernel, "slice thickness": ears.thickness, "age": age.where(age.notna(), ""), "sex": ears.sex,
        "dates": np.where(ears.date_match, "sheet and folder agree", "sheet and folder differ"),
    }).replace("", UNKNOWN)


def subgroups_of(predictions: pd.DataFrame, manifest: pd.DataFrame, task: Task, *, n_resamples: int) -> pd.DataFrame:
    """Return a `tables.SUBGROUPS`: the whole set, then one row per subgroup and measure.

    A criterion with a single value forms no subgroups. predictions: `tables.PREDICTIONS` of the ears within the task.
    """
    ears = predictions.merge(criteria_of(manifest), on=["exam_id", "side"], how="left", validate="one_to_one")
    rows = _rows(ears, task, ALL, ALL, n_resamples)
    for criterion in CRITERIA:
        values = _common_values(ears[criterion])
        if values.nunique() > 1:
            for value in sorted(values.unique(), key=lambda value: (value == UNKNOWN or value.startswith(RARE), value)):
                rows += _rows(ears[values == value], task, criterion, value, n_resamples)
    return tables.SUBGROUPS.frame(rows)


def _common_values(values: pd.Series) -> pd.Series:
    """The values with the rare ones, most frequent first, replaced by one text that names them."""
    values = values.fillna(UNKNOWN)
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    common = counts[counts >= FEWEST].index[:MOST]
    rare = counts.drop(common)
    named = ", ".join(map(str, rare.index[:NAMED])) + (f" and {len(rare) - NAMED} more" if len(rare) > NAMED else "")
    what = RARE[0] if (rare < FEWEST).all() else RARE[1]
    return values.where(values.isin(common), f"{what}: {named}")


def _rows(ears: pd.DataFrame, task: Task, by: str, value: str, n_resamples: int) -> list[dict[str, object]]:
    """The rows of `tables.SUBGROUPS` about these ears."""
    intervals = intervals_of(ears, task, n_resamples=n_resamples)
    about = {"by": by, "value": value, "ears": len(ears), "patients": intervals.patients,
             "positive": int((ears.y_true == 1).sum()) if task.binary else pd.NA}
    measures = BINARY_MEASURES if task.binary else MULTICLASS_MEASURES
    return [{**about, "metric": name, "estimate": i.estimate, "low": i.low, "high": i.high, "support": i.support,
             "note": "; ".join(filter(None, (i.reason, *intervals.warnings)))}
            for name, i in intervals.values.items() if name in measures]
