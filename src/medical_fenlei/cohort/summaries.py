"""Tables that describe groups of labelled ears: scans and ages by exam, people by patient, diagnoses by ear."""
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.cohort.groupings import Grouping, first_exam_per_patient
from medical_fenlei.vocabulary import DIAGNOSES

SCAN_NUMBERS = ("n_instances", "slice_thickness_mm", "slice_increment_mm", "pixel_spacing_mm", "kvp")
"""Numeric parameters of a scan."""
SCAN_NAMES = ("manufacturer", "model", "kernel", "transfer_syntax")
"""Categorical parameters of a scan."""


def scan_numbers(groupings: Sequence[Grouping]) -> pd.DataFrame:
    """Return `tables.QA_SCAN_NUMBERS`: quantiles of each numeric parameter over the exams of each group."""
    rows = []
    for by, group, ears in _groups(groupings):
        exams = ears.drop_duplicates("exam_id")
        for name in SCAN_NUMBERS:
            rows.append({"by": by, "group": group, "parameter": name, **_quantiles(exams[name])})
    return tables.QA_SCAN_NUMBERS.frame(rows)


def scan_names(groupings: Sequence[Grouping]) -> pd.DataFrame:
    """Return `tables.QA_SCAN_NAMES`: exams of each group by manufacturer, model, kernel and transfer syntax."""
    rows = []
    for by, group, ears in _groups(groupings):
        exams = ears.drop_duplicates("exam_id")
        for name in SCAN_NAMES:
            for value, number in exams[name].value_counts().items():
                rows.append({"by": by, "group": group, "parameter": name, "value": value, "exams": number,
                             "share": number / len(exams)})
    return tables.QA_SCAN_NAMES.frame(rows)


def count_classes(ears: pd.DataFrame, groupings: Sequence[Grouping]) -> pd.DataFrame:
    """Return `tables.QA_CLASSES`: ears and patients of each code, by group, side, manufacturer, kernel and thickness."""
    rows = []
    for by, value, own in _parts(ears, groupings):
        for code, diagnosis in DIAGNOSES.items():
            of_code = own[own.label_code == code]
            rows.append({"by": by, "value": value, "label_code": code, "diagnosis": diagnosis.key, "ears": len(of_code),
                         "patients": of_code.patient_key.nunique(), "share": len(of_code) / len(own) if len(own) else np.nan})
    return tables.QA_CLASSES.frame(rows)


def age_and_sex(groupings: Sequence[Grouping]) -> pd.DataFrame:
    """Return `tables.QA_PEOPLE`: age and sex in each group. A patient counts once, with the first exam."""
    rows = []
    for by, group, ears in _groups(groupings):
        patients = first_exam_per_patient(ears)
        sexes = {f"sex_{name or 'unknown'}": int((patients.sex == name).sum()) for name in ("F", "M", "O", "")}
        ages = {f"age_{name}": value for name, value in _quantiles(patients.age_years).items() if name != "exams"}
        rows.append({"by": by, "group": group, "exams": ears.exam_id.nunique(), "patients": len(patients), **sexes, **ages})
    return tables.QA_PEOPLE.frame(rows)


def missing_values(ears: pd.DataFrame) -> pd.DataFrame:
    """Return `tables.QA_MISSING`: labelled ears without a value, for each column that may be empty."""
    rows = []
    for name, kind in {**tables.MANIFEST.columns, **tables.SUBGROUP_FACTS}.items():
        if kind in ("text", "float", "count", "mm", "age") and not name.startswith("task_"):
            missing = int((ears[name].isna() | (ears[name].astype("str") == "")).sum())
            rows.append({"column": name, "ears": len(ears), "missing": missing, "share": missing / max(len(ears), 1)})
    return tables.QA_MISSING.frame(rows)


def _groups(groupings: Sequence[Grouping]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (grouping, group, ears) of every group."""
    for grouping in groupings:
        for group, ears in grouping.groups.items():
            yield grouping.name, group, ears


def _parts(ears: pd.DataFrame, groupings: Sequence[Grouping]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (column or grouping, value or group, ears) of all ears, every group, and every value of some columns."""
    yield "all", "all", ears
    for grouping in groupings:
        for group, own in {**grouping.nested, **grouping.groups}.items():
            yield grouping.name, group, own
    for by in ("side", "manufacturer", "kernel", "thickness"):
        for value, own in ears.groupby(by, sort=True):
            yield by, str(value), own


def _quantiles(values: pd.Series) -> dict[str, float]:
    known = values.astype("float64").dropna().to_numpy()
    quantiles = np.quantile(known, (0, 0.1, 0.5, 0.9, 1)) if len(known) else np.full(5, np.nan)
    return {"exams": len(values), "missing": len(values) - len(known),
            **dict(zip(("min", "p10", "median", "p90", "max"), map(float, quantiles), strict=True))}
