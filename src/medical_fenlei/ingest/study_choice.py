"""Which study of an exam's folder is the exam: the one that fits the folder's id and date; its series alone are candidates.

A prior or a repeat in the folder is never mixed in. A folder whose images have the AccessionNumber of another exam is not used.
"""
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.study import STUDY_TAGS, study_of
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_choice import Choice, SeriesVerdict, choose_series
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.ingest.study_facts import same_id
from medical_fenlei.ingest.tree import ExamFolder, exam_id_of
from medical_fenlei.parallel import Workers, map_items

NamedExams = Mapping[tuple[str, int], str]
"""Exam id that the images of a study name instead of their folder's, by exam folder and number of the study."""


@dataclass(frozen=True, kw_only=True)
class FolderStudies:
    """The studies in the folder of an exam."""

    exam: ExamFolder
    label_date: str
    """Date of the exam in the label sheet, empty where it has none."""

    names: NamedExams

    def named(self, study: int) -> str:
        """Return the id of the other exam that the AccessionNumber of a study is, or ""."""
        return self.names.get((self.exam.relpath, study), "")

    def fit(self, series: Sequence[SeriesScan]) -> tuple[int, int]:
        """Return how well a study fits the folder, by id and by date; 2 or more is a positive match, 0 a contradiction."""
        own = any(facts.study_accession == "own" for facts in series)
        date = _date(series)
        return (2 if own else 0 if self.named(series[0].study) else 1,
                1 if not date else 3 if date == self.exam.date else 2 if date == self.label_date else 0)

    def describe(self, series: Sequence[SeriesScan]) -> str:
        """Return the date of a study and what its AccessionNumber is, as part of a sentence."""
        named = self.named(series[0].study)
        accessions = {facts.study_accession for facts in series}
        number = (f"the AccessionNumber of exam {named}" if named else "this exam's AccessionNumber" if "own" in accessions else
                  "an AccessionNumber that is no exam's id" if "other" in accessions else "no AccessionNumber")
        return f"StudyDate {_date(series) or 'unknown'} and {number}"


def choose_in_folder(series: Sequence[SeriesScan], rules: SeriesRules, folder: FolderStudies) -> Choice:
    """Choose the study that is the exam, and the best candidate among its series."""
    studies: dict[int, list[SeriesScan]] = {}
    for facts in series:
        studies.setdefault(facts.study, []).append(facts)
    if not studies:
        return choose_series(series, rules)
    fits = {number: folder.fit(own) for number, own in studies.items()}
    best = max(fits.values())
    fitting = sorted(number for number, fit in fits.items() if fit == best)
    if len(fitting) > 1 and max(best) < 2:
        several = "; ".join(folder.describe(studies[number]) for number in fitting)
        return _refused(series, "several_studies", f"the folder holds {len(fitting)} studies, and none fits its id or date "
                                                   f"({several}): leave only the study that the label is of")
    choices = {number: choose_series(studies[number], rules) for number in fitting}
    used = next((number for number in fitting if choices[number].chosen), fitting[0])
    choice = choices[used]
    if named := folder.named(used):
        choice = _refused(studies[used], "exchanged_folder", f"its images have the AccessionNumber of exam {named}: move them "
                          f"to the folder of that exam, and the images of {folder.exam.exam_id} here")
    verdicts = {facts.relpath: (facts, reason, detail) for facts, reason, detail in choice.verdicts}
    for number, own in studies.items():
        if number != used:
            verdicts |= {facts.relpath: _of_other_study(facts, folder, own, studies[used], tie=number in fitting)
                         for facts in own}
    return Choice(choice.chosen, tuple(verdicts[facts.relpath] for facts in series))


def _refused(series: Iterable[SeriesScan], reason: str, detail: str) -> Choice:
    return Choice(None, tuple((facts, reason, detail) for facts in series))


def _of_other_study(facts: SeriesScan, folder: FolderStudies, own: Sequence[SeriesScan], used: Sequence[SeriesScan], *,
                    tie: bool) -> SeriesVerdict:
    """Return the verdict on a series of a study that is not used; tie: whether it fits the folder just as well."""
    if tie:
        return facts, "several_studies", (f"a second study of the exam ({folder.describe(own)}); the earlier usable one is "
                                          "used: leave only the study that the label is of")
    return facts, "other_study", f"of another study ({folder.describe(own)}); that of {folder.describe(used)} fits the folder"


def _date(series: Iterable[SeriesScan]) -> str:
    return next((facts.study_date for facts in series if facts.study_date), "")


def name_exams(scanned: Iterable[tuple[str, Sequence[SeriesScan]]], exam_ids: Collection[str], *, base: Path, workers: Workers
               ) -> NamedExams:
    """Return the studies whose AccessionNumber is another exam's id.

    scanned: (exam folder, its series). Only one header is read of each study whose AccessionNumber is not its folder's id; a
    number that is no exam's id is forgotten at once.
    """
    first = {(relpath, facts.study): facts.first for relpath, series in scanned for facts in series
             if facts.study_accession == "other"}
    known = {exam_id.lstrip("0").casefold(): exam_id for exam_id in exam_ids}
    names = {}
    files = list(dict.fromkeys(first.values()))
    accessions = {outcome.item: outcome.value or "" for outcome in
                  map_items(functools.partial(_accession, base), files, workers=workers, label="accession numbers")}
    for study, file in first.items():
        exam_id = known.get(exam_id_of(accessions[file]).lstrip("0").casefold())
        if exam_id and not same_id(exam_id, exam_id_of(study[0].rpartition("/")[2])):
            names[study] = exam_id
    return names


def _accession(base: Path, file: str) -> str:
    return study_of(read_dataset(base / file, STUDY_TAGS)).accession
