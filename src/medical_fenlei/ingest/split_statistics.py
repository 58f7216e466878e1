"""How the classes are distributed over the sets of a split."""
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei.ingest.splits import Sets
from medical_fenlei.set_sizes import SetSize
from medical_fenlei.tasks import find_task
from medical_fenlei.vocabulary import DIAGNOSES, SIDES, plural


def ears_per_code(exams: pd.DataFrame) -> dict[int, int]:
    """Return the number of labelled ears of each code. exams: rows of `tables.INDEX` or `tables.SPLIT`."""
    return {code: int(sum((exams[f"{side}_code"] == code).sum() for side in SIDES)) for code in DIAGNOSES}


def sets_with_too_few(splits: Mapping[int, Sets], least: int) -> list[str]:
    """Return where a class that occurs has fewer ears than `least`, as "code 4: 0 ears in 1pct train".

    Sets that are empty, since they were not asked for, do not count.
    """
    largest = splits[max(splits)]
    named = {name: exams for name, exams in largest.items() if name != "train" and len(exams)}
    named |= {f"{pct}pct train": sets["train"] for pct, sets in splits.items()}
    whole = ears_per_code(pd.concat(list(largest.values())))
    return [
        f"code {code}: {plural(number, 'ear')} in {name}"
        for name, exams in named.items() for code, number in ears_per_code(exams).items() if whole[code] and number < least
    ]


def small_sets(sets: Mapping[str, pd.DataFrame], patients: Mapping[str, str] | None) -> dict[str, str]:
    """Return a warning for each set that is too small to tell normal from abnormal ears, by the set's name.

    patients: patient by exam id, or None to count exams. Sets that are empty, since they were not asked for, do not count.
    """
    warnings = {}
    for name, exams in sets.items():
        ears = pd.concat([pd.DataFrame({"patient_key": exams.exam_id if patients is None else exams.exam_id.map(patients),
                                        "label_code": exams[f"{side}_code"]}) for side in SIDES])
        unit = "exam" if patients is None else "patient"
        if len(exams) and (warning := SetSize.of(ears, find_task("normal_vs_abnormal")).warning(name, unit)):
            warnings[name] = warning
    return warnings


def largest_deviation(sets: Mapping[str, pd.DataFrame]) -> dict[str, Any] | None:
    """Return the largest difference of a class's share among the ears of a set, between any two sets.

    points: the difference in percentage points; code: the class; sets: the set with the largest share, and the one with the
    smallest. None if fewer than two sets have ears.
    """
    ears = {name: np.array(list(ears_per_code(exams).values())) for name, exams in sets.items()}
    names = [name for name, numbers in ears.items() if numbers.any()]
    if len(names) < 2:
        return None
    shares = np.array([100 * ears[name] / ears[name].sum() for name in names])           # (sets, classes)
    worst = int(np.ptp(shares, axis=0).argmax())
    between = [names[shares[:, worst].argmax()], names[shares[:, worst].argmin()]]
    return {"points": round(float(np.ptp(shares[:, worst])), 3), "code": list(DIAGNOSES)[worst], "sets": between}


def set_statistics(sets: Mapping[str, pd.DataFrame], patients: Mapping[str, str] | None) -> dict[str, dict[str, Any]]:
    """Return the number of exams, of patients (if known) and of labelled ears of each class, for each set."""
    return {
        name: {
            "exams": len(exams),
            **({"patients": int(exams.exam_id.map(patients).nunique())} if patients is not None else {}),
            "code": {str(code): number for code, number in ears_per_code(exams).items()},
        }
        for name, exams in sets.items()
    }
