"""The study of an image: what its header states, and when two images cannot be of one study.

A StudyInstanceUID alone proves little: some exports write another one in every series, and some anonymisers write one constant
in all exams. Date and accession number count for more.
"""
import datetime
import re
from dataclasses import dataclass

from pydicom.dataset import Dataset

from medical_fenlei.dicom.elements import value_of

STUDY_TAGS = ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber")

_DATE = re.compile(r"(\d{4})([-./]?)(\d{2})\2(\d{2})")
_FIRST_YEAR, _LAST_YEAR = 1970, 2100
"""CT exams are not older; dates such as 00010101 stand for none."""


@dataclass(frozen=True)
class StatedStudy:
    """Attributes of a study, empty where they are unknown. UID, time and accession number never appear in a file or log."""

    uid: str = ""
    date: str = ""
    """Day, as YYYY-MM-DD."""

    time: str = ""
    """Time of day to the second, as HHMMSS."""

    accession: str = ""

    def __repr__(self) -> str:
        """Show nothing that identifies the study."""
        return "Study(…)"

    def is_apart_from(self, other: "StatedStudy") -> bool:
        """Return whether both cannot be one study: another day or accession number, or another UID with another time."""
        return (_differ(self.date, other.date) or _differ(self.accession, other.accession)
                or (_differ(self.uid, other.uid) and _differ(self.time, other.time)))


def study_of(dataset: Dataset) -> StatedStudy:
    """Return the study of an image. A date that is none, and an accession number without a digit above 0, count as unknown."""
    uid, date, time, accession = (_text(dataset, name) for name in STUDY_TAGS)
    time = re.sub(r"[^\d.]", "", time).partition(".")[0]
    return StatedStudy(uid, _day(date), time if len(time) == 6 else "", accession if re.search("[1-9]", accession) else "")


def number_studies(studies: list[StatedStudy]) -> list[int]:
    """Return the number of the study of each series of an exam; 1 is the earliest.

    Series are of one study unless they contradict each other. Those that state most come first, so that one that states nothing
    joins a study of its UID, else any.
    """
    groups: list[list[StatedStudy]] = []
    number: dict[int, int] = {}
    order = sorted(range(len(studies)), key=lambda n: -sum(map(bool, (studies[n].date, studies[n].accession, studies[n].time))))
    for n in order:
        fitting = [group for group in groups if not any(studies[n].is_apart_from(other) for other in group)]
        group = next((group for group in fitting if any(studies[n].uid == other.uid for other in group)), None)
        if group is None and fitting:
            group = fitting[0]
        if group is None:
            groups.append(group := [])
        group.append(studies[n])
        number[n] = next(k for k, other in enumerate(groups) if other is group)
    begins = [min((study.date or "9", study.time or "9") for study in group) for group in groups]
    earliest = sorted(range(len(groups)), key=begins.__getitem__)
    return [earliest.index(number[n]) + 1 for n in range(len(studies))]


def _differ(one: str, other: str) -> bool:
    """Return whether both values are known, and not the same."""
    return bool(one and other and one != other)


def _text(dataset: Dataset, name: str) -> str:
    value = value_of(dataset, name)
    return "" if value is None else str(value).strip()


def _day(text: str) -> str:
    match = _DATE.fullmatch(text)
    if not match or not _FIRST_YEAR <= int(match[1]) <= _LAST_YEAR:
        return ""
    try:
        return datetime.date(int(match[1]), int(match[3]), int(match[4])).isoformat()
    except ValueError:
        return ""
