"""What one header of an exam says about the whole of it: how old the patient was, of which sex, and the tube's voltage."""
import datetime
import math
import re
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.elements import value_of

OLDEST = 90
"""Stands for 90 years or more: of ages beyond 89 only that may be told (45 CFR 164.514(b)(2)(i)(C), HIPAA's safe harbor)."""
PLAUSIBLE = 120
"""Years beyond which an age is a mistake."""

SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M", "O": "O"}
"""As DICOM writes them (PS3.3 C.7.1.1), and as some exports do."""

_AGE, _UNITS = re.compile(r"(\d{1,3})([DWMY])"), {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}
"""Of the value representation AS (DICOM PS3.5 6.2): so many units make a year."""
_DATE = re.compile(r"(\d{4})([-./]?)(\d{2})\2(\d{2})")
_DAYS = ("StudyDate", "SeriesDate", "AcquisitionDate")
_TAGS = ["PatientAge", "PatientSex", "PatientBirthDate", *_DAYS, "KVP", "StudyInstanceUID"]


@dataclass(frozen=True, kw_only=True)
class ExamFacts:
    age_years: int | None
    """Whole years at the exam, OLDEST for all beyond; None where unknown or implausible."""

    sex: str
    """F, M, O (other), or nothing where unknown."""

    kvp: float
    """Peak kilovoltage, NaN where unknown: the HU of bone depend on it."""

    study_uid: str
    """Never written as it is: PACS and study can be found by it."""


def read_exam_facts(path: Path) -> ExamFacts:
    """Raises Rejected where the file is no DICOM; a value that makes no sense is unknown."""
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
    """As the header says; where it does not, from the birth date, which goes no further than here."""
    said = _AGE.fullmatch(_text(dataset, "PatientAge").upper())
    if said and (age := int(said[1]) / _UNITS[said[2]]) <= PLAUSIBLE:
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
