"""What the studies of an index leave in doubt: UIDs that several exams share, series of several UIDs, dates that do not fit."""
import datetime
from collections.abc import Iterable, Mapping, Sequence

from medical_fenlei.ingest.exam_files import Problem
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.tree import ExamFolder

MANY_FOLDERS = 3
"""Folders with one study UID but no frame of reference in common, from which on the UID is a constant: a study that is exported
under several ids has mostly two."""

USUAL_SHARE, CLOSE_DAYS = 0.5, 1
"""Share of exams whose StudyDate is the folder's, above which another date is a fault; and by how many days it may differ."""


def constant_uids(exams: Mapping[str, Sequence[SeriesScan]]) -> set[str]:
    """Return the study UIDs (their digests) of several exams that cannot be one study. exams: series by exam id.

    Their dates differ, or one carries its own id as AccessionNumber and the other does too, or many have no frame of reference
    in common.
    """
    holding: dict[str, dict[str, list[SeriesScan]]] = {}
    for exam_id, series in exams.items():
        for facts in series:
            if facts.study_uid:
                holding.setdefault(facts.study_uid, {}).setdefault(exam_id, []).append(facts)
    return {uid for uid, of_exam in holding.items() if len(of_exam) > 1 and _contradict(list(of_exam.values()))}


def _contradict(exams: Sequence[Sequence[SeriesScan]]) -> bool:
    dates = {facts.study_date for series in exams for facts in series} - {""}
    own = sum(any(facts.study_accession == "own" for facts in series) for series in exams)
    frames = [frame for series in exams for frame in {facts.frame_of_reference for facts in series}]
    apart = len(exams) >= MANY_FOLDERS and "" not in frames and len(set(frames)) == len(frames)
    return len(dates) > 1 or own > 1 or apart


def uid_problems(exam: ExamFolder, chosen: Iterable[SeriesScan], constant: set[str]) -> list[Problem]:
    """Return the problems with the study UIDs of an exam. chosen: the series of its study, which may have several UIDs."""
    series = list(chosen)
    uids = {facts.study_uid for facts in series} - {""}
    problems = []
    if uids & constant:
        problems.append((exam.relpath, "shared_study_uid", "its StudyInstanceUID is also that of exams with other dates, "
                         "AccessionNumbers or frames of reference: a constant of the export; the exams stay separate"))
    if len(uids) > 1:
        count = f"its series have {len(uids)} values of StudyInstanceUID"
        if _is_one(series):
            problems.append((exam.relpath, "several_study_uids", f"{count}, but nothing else differs: taken as one study"))
        elif not is_undescribed(series):
            problems.append((exam.relpath, "unconfirmed_study", f"{count}, and neither AccessionNumber nor FrameOfReferenceUID "
                             "confirms that they are one study: check that the folder holds no prior, or export it again"))
    return problems


def is_undescribed(series: Sequence[SeriesScan]) -> bool:
    """Return whether each series has a study UID of its own and no date, so that UIDs are rather a habit of the export."""
    uids = [facts.study_uid for facts in series]
    return len(uids) > 1 and len({*uids} - {""}) == len(uids) and not any(facts.study_date for facts in series) and (
        not _is_one(series))


def _is_one(series: Sequence[SeriesScan]) -> bool:
    """Return whether all series carry an AccessionNumber (that does not differ, since they are one study), or share a frame."""
    frames: dict[str, set[str]] = {}
    for facts in series:
        frames.setdefault(facts.study_uid, set()).add(facts.frame_of_reference)
    return all(facts.study_accession for facts in series) or bool(set.intersection(*frames.values()) - {""})


def date_problems(exams: Iterable[tuple[ExamFolder, Sequence[SeriesScan]]]) -> dict[str, Problem]:
    """Return a problem, by exam folder, for each exam whose images are of another day, where most exams are of the folder's.

    exams: each folder with the series of its study. An exam that carries its own id as AccessionNumber is no problem.
    """
    dated = [(exam, series, date) for exam, series in exams
             if (date := next((facts.study_date for facts in series if facts.study_date), ""))]
    agreeing = sum(exam.date == date for exam, _, date in dated)
    if agreeing <= USUAL_SHARE * len(dated):
        return {}
    return {exam.relpath: (exam.relpath, "study_date_differs", f"its images have the StudyDate {date}, unlike the folder: "
                           "check that they are of this exam")
            for exam, series, date in dated
            if _days_apart(exam.date, date) > CLOSE_DAYS and not any(facts.study_accession == "own" for facts in series)}


def _days_apart(one: str, other: str) -> int:
    try:
        return abs((datetime.date.fromisoformat(one) - datetime.date.fromisoformat(other)).days)
    except ValueError:
        return 0                                                 # a folder may be called 2024-13-45
