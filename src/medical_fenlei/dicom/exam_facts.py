"""Facts about an exam from the header of one of its images: age and sex of the patient, tube voltage, study."""
import datetime
import math
import re
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.elements import value_of

OLDEST = 90
"""Stands for 90 years or more: ages beyond 89 may only be reported so (45 CFR 164.514(b)(2)(i)(C), HIPAA's safe harbor)."""
PLAUSIBLE = 120
"""Age in years beyond which it is taken for a mistake."""

SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M", "O": "O"}
"""Sex by its value in DICOM (PS3.3 C.7.1.1) and in some exports."""

_AGE, _UNITS = re.compile(r"(\d{1,3})([DWMY])"), {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}
"""Age strings (value representation AS, DICOM PS3.5 6.2), and the number of each unit in a year."""
_DATE = re.compile(r"(\d{4})([-./]?)(\d{2})\2(\d{2})")
_DAYS = ("StudyDate", "SeriesDate", "AcquisitionDate")
_TAGS = ["PatientAge", "PatientSex", "PatientBirthDate", *_DAYS, "KVP", "StudyInstanceUID"]


@dataclass(frozen=True, kw_only=True)
class ExamFacts:
    """Facts of one exam that hold for all its images."""

    age_years: int | None
    """Age at the exam in whole years, at most OLDEST; None where unknown or implausible."""

    sex: str
    """F, M, O (other), or empty where unknown."""

    kvp: float
    """Peak tube voltage in kV, on which the HU of bone depend; NaN where unknown."""

    study_uid: str
    """StudyInstanceUID; never written as it is, since it identifies the study in a PACS."""


def read_exam_facts(path: Path) -> ExamFacts:
    """Read the facts of an exam from one of its images; an invalid value counts as unknown.

    Raises Rejected, as `read_dataset` does.
    """
    dataset = read_dataset(path, _TAGS)
    return ExamFacts(age_years=_age(dataset), sex=SEXES.get(_text(dataset, "PatientSex").upper(), ""),
                     kvp=_positive(dataset, "KVP"), study_uid=_text(dataset, "StudyInstanceUID"))


def _text(dataset: Dataset, name: str) -> str:
    value = value_of(dataset, name)
    return "" if value is None else str(value).strip()


def _positive(dataset: Dataset, name: str) -> float:
    try:
        number = float(value_of(dataset, name))
    except (TypeError, ValueError):
        return math.nan
    return number if 0 < number < math.inf else math.nan


def _age(dataset: Dataset) -> int | None:
    """Return the age from PatientAge, else from the birth date, which is not kept."""
    stated = _AGE.fullmatch(_text(dataset, "PatientAge").upper())
    if stated and (age := int(stated[1]) / _UNITS[stated[2]]) <= PLAUSIBLE:
        return min(int(age), OLDEST)
    born, seen = _day(dataset, "PatientBirthDate"), next(filter(None, (_day(dataset, name) for name in _DAYS)), None)
    if born is None or seen is None:
        return None
    years = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return min(years, OLDEST) if 0 <= years <= PLAUSIBLE else None


def _day(dataset: Dataset, name: str) -> datetime.date | None:
    match = _DATE.fullmatch(_text(dataset, name))
    if not match:
        return None
    try:
        return datetime.date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None
