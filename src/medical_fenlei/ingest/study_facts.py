"""What a scan keeps of the studies of an exam: enough to tell them apart, and nothing that identifies them."""
import hashlib
from collections.abc import Sequence
from typing import Literal, TypedDict

from medical_fenlei.dicom.study import StatedStudy, number_studies
from medical_fenlei.ingest.tree import exam_id_of

AccessionFact = Literal["", "own", "other"]
"""Unknown, the id of the exam's folder, or any other text. The number itself is not kept."""


class StudyFacts(TypedDict):
    """Facts of the study of one series, as `scan.SeriesScan` has them."""

    study: int
    study_date: str
    study_accession: AccessionFact
    study_uid: str
    frame_of_reference: str


def same_id(one: str, other: str) -> bool:
    """Return whether two exam ids agree but for leading zeros, which some programs drop."""
    return one.lstrip("0").casefold() == other.lstrip("0").casefold()


def study_facts(series: Sequence[tuple[StatedStudy, str]], exam_relpath: str) -> list[StudyFacts]:
    """Return the facts of each series of an exam from its study and its FrameOfReferenceUID."""
    exam_id = exam_id_of(exam_relpath.rpartition("/")[2])
    numbers = number_studies([study for study, _ in series])
    return [StudyFacts(study=number, study_date=study.date, study_accession=_accession(study, exam_id),
                       study_uid=_digest(study.uid), frame_of_reference=_digest(frame))
            for number, (study, frame) in zip(numbers, series, strict=True)]


def _accession(study: StatedStudy, exam_id: str) -> AccessionFact:
    if not study.accession:
        return ""
    return "own" if same_id(exam_id_of(study.accession), exam_id) else "other"


def _digest(uid: str) -> str:
    return hashlib.blake2b(uid.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest() if uid else ""
