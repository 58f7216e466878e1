"""Series in a folder of any layout, and which of them are one exam: one study of one patient.

UIDs are evidence, not truth. One StudyInstanceUID over several dates, accession numbers or patients is several exams; several
UIDs over one accession number, date and folder are one.
"""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.exam_facts import read_exam_facts
from medical_fenlei.dicom.header import read_headers_of
from medical_fenlei.dicom.identity import Identity, read_identity
from medical_fenlei.dicom.study import StatedStudy
from medical_fenlei.dicom.volume import PART
from medical_fenlei.ingest.exam_files import Problem
from medical_fenlei.ingest.person import are_different
from medical_fenlei.ingest.scan import SeriesScan

_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")

SHARED_UID = ("its StudyInstanceUID is also that of exams with other dates, AccessionNumbers or frames of reference: a "
              "constant of the export; the exams are answered separately")
SEVERAL_UIDS = "its series have {} values of StudyInstanceUID, but one AccessionNumber and date: taken as one exam"


@dataclass(frozen=True)
class LooseSeries:
    """A series with what decides which exam it belongs to."""

    facts: SeriesScan
    study: StatedStudy
    frame_of_reference: str
    people: tuple[Identity, ...]
    """Identities in its first and its last image, and wherever the patient is stated otherwise."""

    dates: tuple[str, ...]
    age_years: int | None
    series_uid: str
    ends: tuple[str, str]
    """SOPInstanceUID of its first and its last image."""

    @property
    def folder(self) -> str:
        """Folder that holds the series."""
        return self.facts.relpath.partition(PART)[0] if PART in PurePosixPath(self.facts.relpath).name else self.facts.relpath

    @property
    def parent(self) -> str:
        """Folder above that of the series."""
        return str(PurePosixPath(self.folder).parent)

    @property
    def exam_folder(self) -> str:
        """Folder above that of the series; its own where that is the base."""
        return self.folder if self.parent == "." else self.parent


@dataclass(frozen=True)
class ExamSeries:
    """The series of one exam, by path."""

    series: tuple[LooseSeries, ...]
    problems: tuple[Problem, ...] = ()
    """What its UIDs leave in doubt."""


def read_loose_series(base: Path, facts: SeriesScan) -> LooseSeries:
    """Read what decides which exam a series belongs to, from its first and its last image."""
    first, last = base / facts.first, base / facts.last
    dataset = read_dataset(first, _DATES)
    headers = [read_headers_of(path)[0] for path in (first, last)]
    people = tuple(read_identity(base / file) for file in (facts.first, facts.last, *facts.other_people))
    return LooseSeries(facts, headers[0].study, headers[0].frame_of_reference, people,
                       tuple(str(dataset.get(name) or "") for name in _DATES), read_exam_facts(first).age_years,
                       headers[0].series_uid, (headers[0].sop_uid, headers[1].sop_uid))


def group_series_by_exam(series: Iterable[LooseSeries]) -> list[ExamSeries]:
    """Group series by study, or by parent folder where there is no StudyInstanceUID, and keep different people apart."""
    studies: dict[str, list[list[LooseSeries]]] = {}
    for one in sorted(series, key=lambda one: one.facts.relpath):
        exams = studies.setdefault(one.study.uid or f"/{one.exam_folder}", [])
        exam = next((exam for exam in exams if _belongs(one, exam)), None)
        if exam is None:
            exams.append([one])
        else:
            exam.append(one)
    shared = {id(exam) for exams in studies.values() for exam in exams
              if any(other is not exam and not are_different(exam[0].people[0], other[0].people[0]) for other in exams)}
    joined: dict[object, list[list[LooseSeries]]] = {}
    for exam in (exam for exams in studies.values() for exam in exams):
        own = joined.setdefault(_name(exam), [])
        if own and not are_different(own[0][0].people[0], exam[0].people[0]):
            own[0] += exam
        else:
            own.append(exam)
    return [_exam(exam, is_shared=id(exam) in shared) for exams in joined.values() for exam in exams]


def _belongs(one: LooseSeries, exam: Sequence[LooseSeries]) -> bool:
    """Return whether a series is of the exam with the same StudyInstanceUID (or parent folder)."""
    return (not are_different(exam[0].people[0], one.people[0])
            and not any(one.study.is_apart_from(other.study) for other in exam)
            and any(one.parent == other.parent or one.frame_of_reference in ("", other.frame_of_reference)
                    or not other.frame_of_reference for other in exam))


def _name(exam: Sequence[LooseSeries]) -> object:
    """Return what exams of different StudyInstanceUIDs must share to be one; nothing else is equal where it is not known."""
    study, folders = exam[0].study, {one.exam_folder for one in exam}
    if study.date and study.accession and len(folders) == 1:
        return study.date, study.accession, *folders
    return id(exam)


def _exam(series: Sequence[LooseSeries], *, is_shared: bool) -> ExamSeries:
    ordered = sorted(series, key=lambda one: one.facts.relpath)
    file, problems = ordered[0].facts.relpath, []
    if is_shared:
        problems.append((file, "shared_study_uid", SHARED_UID))
    if (uids := len({one.study.uid for one in ordered} - {""})) > 1:
        problems.append((file, "several_study_uids", SEVERAL_UIDS.format(uids)))
    return ExamSeries(tuple(ordered), tuple(problems))
