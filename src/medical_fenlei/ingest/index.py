"""The index: the label sheet matched with the disk, one row per exam, with an account of everything left out."""
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.dicom.volume import PART
from medical_fenlei.errors import UserError
from medical_fenlei.files import write_json
from medical_fenlei.ingest.exam_files import Problem
from medical_fenlei.ingest.index_counts import count_files, count_index, indented
from medical_fenlei.ingest.label_sheet import LabelSheet
from medical_fenlei.ingest.scan import ExamScan, SeriesScan, scan_exams
from medical_fenlei.ingest.series_choice import Choice, SeriesVerdict
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.ingest.slice_values import DOUBTFUL
from medical_fenlei.ingest.study_choice import FolderStudies, choose_in_folder, name_exams
from medical_fenlei.ingest.study_doubts import constant_uids, date_problems, is_undescribed, uid_problems
from medical_fenlei.ingest.tree import ExamFolder, Tree
from medical_fenlei.ingest.unmatched import find_unmatched
from medical_fenlei.log import LOG
from medical_fenlei.parallel import Workers
from medical_fenlei.reasons import HARMLESS
from medical_fenlei.vocabulary import Side, plural

_COLUMNS = {
    "relpath": "series_relpath", "tilt": "tilt_deg",
    **{name: f"{name}_mm" for name in ("pixel_spacing", "slice_thickness", "slice_spacing", "z_coverage", "x_coverage",
                                       "x_centre")}}
"""Columns of `tables.SERIES` by the name of a fact, where they differ."""


@dataclass(frozen=True)
class Index:
    """The exams of a label sheet with their series, and the account of what was left out."""

    table: pd.DataFrame
    """`tables.INDEX`."""

    series: pd.DataFrame
    """`tables.SERIES`: every series on disk, with its verdict."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: series, files and cells that were left out."""

    counts: dict[str, int]
    """Counts of exams and files, in the order of `lines`."""

    faults: int
    """Number of rejects that are faults of the input."""

    def lines(self) -> list[str]:
        """Return the counts as indented lines."""
        return indented(self.counts)

    def write(self, index_csv: Path) -> Path:
        """Write the table, and beside it the counts and the report of all series, whose path is returned.

        Raises UserError, and leaves an earlier index as it is, if there is no exam.
        """
        if self.table.empty:                                     # `check_sheet_and_tree` has found folders of the sheet
            raise UserError(f"--out-csv {index_csv}: not written, since it would hold no exam: each folder that the label "
                            "sheet names is named like its patient; name folders, and exams in the sheet, by numbers")
        report = tables.series_report_path(index_csv)
        tables.SERIES.write(report, self.series)
        tables.INDEX.write(index_csv, self.table)
        write_json(tables.counts_path(index_csv), self.counts)
        return report


@dataclass(frozen=True)
class _ScannedFolder:
    """One folder of an exam, with the series chosen from it."""

    exam: ExamFolder
    scan: ExamScan
    choice: Choice
    subfolders: tuple[str, ...]
    """Folders that hold files, below the base."""

    @property
    def is_named(self) -> bool:
        """Whether the folder, and so the exam id, is named like the patient."""
        return any(reason == "named_exam" for _, reason, _ in self.scan.problems)

    @property
    def own_series(self) -> tuple[SeriesScan, ...]:
        """Series of the study that is the exam."""
        return tuple(facts for facts, reason, _ in self.choice.verdicts
                     if reason not in ("other_study", "several_studies", "exchanged_folder"))

    def rank(self, label_date: str) -> tuple[object, ...]:
        """Return the rank among the folders of an exam: usable series, date of the label sheet, best series, latest date."""
        chosen = self.choice.chosen
        return (chosen is not None, self.exam.date == label_date, chosen.rank if chosen else (), self.exam.date,
                self.exam.relpath)


def check_sheet_and_tree(sheet: LabelSheet, tree: Tree, *, xlsx_path: Path, dicom_base: Path) -> None:
    """Raise UserError, with an exam of either, if the sheet names none of the exam folders: one of both is another hospital's.

    To be called before anything is written, so that an earlier index stays.
    """
    if {exam.exam_id for exam in tree.exams}.isdisjoint(sheet.labels.exam_id):
        raise UserError(f"--dicom-base {dicom_base}, --xlsx-path {xlsx_path}: the label sheet names no exam folder; its first "
                        f"exam is {sheet.labels.exam_id.iloc[0]!r}, the first folder {tree.exams[0].relpath!r}")


def refuse_other_index(index_csv: Path, sheet: LabelSheet, tree: Tree, *, dicom_base: Path) -> None:
    """Raise UserError if there is an earlier index, none of whose exams the sheet and the tree have: another hospital's.

    Exams are the same by id and date of their folder, so that the base may move. A file that is no index is replaced.
    """
    try:
        earlier = tables.INDEX.read(index_csv)
    except UserError:
        return
    named = set(sheet.labels.exam_id)
    here = {(exam.exam_id, exam.date) for exam in tree.exams if exam.exam_id in named}
    if len(earlier) and here.isdisjoint(zip(earlier.exam_id, earlier.date, strict=True)):
        raise UserError(f"--out-csv {index_csv}: is the index of {plural(len(earlier), 'other exam')} (first "
                        f"{earlier.exam_relpath.iloc[0]!r}), none of which the label sheet and --dicom-base {dicom_base} have; "
                        "name another --out-csv, or remove that file to replace it")


def build_index(sheet: LabelSheet, tree: Tree, *, base: Path, scan_file: Path, workers: Workers, rules: SeriesRules,
                rescan: bool = False) -> Index:
    """Match exams by `exam_id` alone and choose a series for each.

    If an id has folders under several dates, the one with the date of the label sheet wins, else the one with the best series,
    else the latest. scan_file: kept scans, so that only exams with changed files are read again; rescan: read all again.
    """
    labels = {str(row["exam_id"]): row for row in sheet.labels.to_dict("records")}
    folders = _scan_folders(tree, labels, base=base, scan_file=scan_file, workers=workers, rules=rules, rescan=rescan)
    named = {folder.exam.exam_id: folder.exam.relpath for folder in folders if folder.is_named}
    labels = {exam_id: row for exam_id, row in labels.items() if exam_id not in named}
    folders = [folder for folder in folders if folder.exam.exam_id in labels]
    tree = replace(tree, exams=[exam for exam in tree.exams if exam.exam_id not in named])
    best: dict[str, _ScannedFolder] = {}
    for folder in folders:
        exam_id, date = folder.exam.exam_id, labels[folder.exam.exam_id]["label_date"]
        if exam_id not in best or folder.rank(date) > best[exam_id].rank(date):
            best[exam_id] = folder
    table = _index_table(best, labels, Counter(folder.exam.exam_id for folder in folders))

    doubts = _study_doubts(best)
    rejects = [row for row in sheet.rejects if row["exam_id"] not in named] + _named_exams(named.values())
    rejects += _reject_rows("", tree.problems)
    series: list[dict[str, object]] = []
    files: Counter[str] = Counter()
    for folder in folders:
        exam, used = folder.exam, best[folder.exam.exam_id]
        verdicts = folder.choice.verdicts if folder is used else _not_chosen(folder.choice, used.exam)
        series += [{"exam_id": exam.exam_id, "verdict": reason, "why": detail, **_series_row(facts)}
                   for facts, reason, detail in verdicts]
        rejects += _reject_rows(exam.exam_id, [*folder.scan.problems, *_lost(verdicts), *_doubtful(verdicts, rules),
                                               *doubts.get(exam.relpath, ())])
        files += count_files(folder.scan, verdicts)
        if folder is not used:
            rejects += _reject_rows(exam.exam_id, [_other_folder(folder, used, labels[exam.exam_id]["label_date"])])
    rejects += [{"exam_id": row.exam_id, "file": row.exam_relpath, "reason": "no_series", "detail": row.series_reason}
                for row in table[table.series_relpath == ""].itertuples()]
    inner = [(folder.exam.relpath, below.removeprefix(folder.exam.relpath).lstrip("/"))
             for folder in folders for below in folder.subfolders]
    unmatched = find_unmatched(labels, tree, base, inner=inner)
    rejects += unmatched.rejects()
    return Index(
        table, tables.SERIES.frame(series) if series else tables.SERIES.empty(), tables.REJECTS.frame(rejects),
        count_index(sheet, table, unmatched, chosen={exam_id: folder.choice.chosen for exam_id, folder in best.items()},
                    files=files, rules=rules, named=len(named)),
        faults=sum(1 for reject in rejects if reject["reason"] not in HARMLESS))


def _scan_folders(tree: Tree, labels: Mapping[str, Any], *, base: Path, scan_file: Path, workers: Workers, rules: SeriesRules,
                  rescan: bool) -> list[_ScannedFolder]:
    """Scan the folders of the labelled exams, and choose from each."""
    matched = {exam.relpath: exam for exam in tree.exams if exam.exam_id in labels}
    scanned = []
    for outcome, listing in scan_exams(base, list(matched), scan_file, workers=workers, again=rescan):
        scan = outcome.value or ExamScan(files=listing.files, series=(),
                                         problems=((outcome.item, outcome.reason, outcome.detail),))
        named = any(facts.refused == "named_path" for facts in scan.series)
        scanned.append((matched[outcome.item], scan, () if named else listing.folders))
    names = name_exams([(exam.relpath, scan.series) for exam, scan, _ in scanned],
                       {*labels, *(exam.exam_id for exam in tree.exams)}, base=base, workers=workers)
    folders = []
    for exam, scan, subfolders in scanned:
        studies = FolderStudies(exam=exam, label_date=labels[exam.exam_id]["label_date"], names=names)
        folders.append(_ScannedFolder(exam, scan, choose_in_folder(scan.series, rules, studies), subfolders))
    return folders


def _named_exams(folders: Iterable[str]) -> list[dict[str, object]]:
    """Return the rejects of exams whose folders (below the base) are named like the patient, which tell none of the names."""
    return [{"exam_id": "", "file": (PurePosixPath(folder).parent / f"{PART}exam{number}").as_posix(), "reason": "named_exam",
             "detail": "the folder of an exam is named like its patient: name it, and the exam in the label sheet, by a number"}
            for number, folder in enumerate(sorted(folders), 1)]


def _study_doubts(best: Mapping[str, _ScannedFolder]) -> dict[str, list[Problem]]:
    """Return what is doubtful about the study of each used folder, by folder; warn of a UID that several exams share."""
    series = {exam_id: folder.own_series for exam_id, folder in best.items()}
    constant = constant_uids(series)
    doubts = {folder.exam.relpath: uid_problems(folder.exam, series[exam_id], constant) for exam_id, folder in best.items()}
    sharing = sum(any(reason == "shared_study_uid" for _, reason, _ in problems) for problems in doubts.values())
    if sharing:
        LOG.warning("%d exams share a StudyInstanceUID with exams of other dates, AccessionNumbers or frames of reference: an "
                    "anonymizer's constant, which is ignored", sharing)
    if undescribed := [exam_id for exam_id, own in series.items() if is_undescribed(own)]:
        LOG.warning("%d exams have another StudyInstanceUID in each series, and neither date, AccessionNumber nor frame of "
                    "reference confirms that these are one study (the first: %s): they count as one",
                    len(undescribed), undescribed[0])
    for relpath, problem in date_problems((folder.exam, series[exam_id]) for exam_id, folder in best.items()).items():
        doubts[relpath].append(problem)
    return doubts


def _index_table(best: Mapping[str, _ScannedFolder], labels: Mapping[str, Any], folders_of: Mapping[str, int]) -> pd.DataFrame:
    """Return `tables.INDEX` of the folder used for each exam. folders_of: number of folders by exam id."""
    rows = []
    for exam_id, folder in sorted(best.items()):
        exam, chosen, label = folder.exam, folder.choice.chosen, labels[exam_id]
        left, right = (chosen.of(side) if chosen else None for side in (Side.LEFT, Side.RIGHT))
        rows.append({
            "exam_id": exam_id, "date": exam.date, "label_date": label["label_date"],
            "date_match": exam.date == label["label_date"], "ambiguous_match": folders_of[exam_id] > 1,
            "exam_relpath": exam.relpath, "series_relpath": left.relpath if left else "",
            "right_series_relpath": right.relpath if right and right is not left else "",
            "n_instances": left.images if left else 0, "left_code": label["left_code"], "right_code": label["right_code"],
            "series_reason": chosen.reason if chosen else _why_none(folder),
        })
    return tables.INDEX.frame(rows) if rows else tables.INDEX.empty().assign(right_series_relpath="")


def _not_chosen(choice: Choice, used: ExamFolder) -> tuple[SeriesVerdict, ...]:
    """Return the verdicts of a folder that is not used, since the exam has a better one."""
    return tuple((facts, "not_chosen", f"of the exam's folders {used.relpath} is used") if reason == "chosen" else
                 (facts, reason, detail) for facts, reason, detail in choice.verdicts)


def _other_folder(folder: _ScannedFolder, used: _ScannedFolder, label_date: str) -> Problem:
    """Return the reject of a folder that is not used: which one is, and by what of `_ScannedFolder.rank`."""
    criteria = ("only it has a usable series", "it has the date of the label sheet", "its series is better",
                "its date is later", "its path comes last")
    why = next(why for why, own, other in zip(criteria, used.rank(label_date), folder.rank(label_date), strict=True)
               if own != other)
    return folder.exam.relpath, "several_folders", f"of the exam's folders {used.exam.relpath} is used: {why}"


def _why_none(folder: _ScannedFolder) -> str:
    """Return why no series of a folder can be used, with the number of series and files by reason."""
    of_series = Counter(reason for _, reason, _ in folder.choice.verdicts)
    of_files = Counter(reason for _, reason, _ in folder.scan.problems)
    found = [*(f"{number} series {reason}" for reason, number in of_series.most_common()),
             *(f"{number} files or folders {reason}" for reason, number in of_files.most_common())]
    return "no series can be used: " + (", ".join(found) or "the folder holds no file")


def _reject_rows(exam_id: str, problems: Iterable[Problem]) -> list[dict[str, object]]:
    return [{"exam_id": exam_id, "file": file, "reason": reason, "detail": detail} for file, reason, detail in problems]


def _lost(verdicts: Sequence[SeriesVerdict]) -> list[Problem]:
    """Return the series that were not chosen, and the chosen ones with files that only repeat an image."""
    lost = [(facts.relpath, reason, detail) for facts, reason, detail in verdicts if reason != "chosen"]
    return lost + [(facts.relpath, "copies", f"files that repeat an image of this series: {facts.copies}")
                   for facts, reason, _ in verdicts if reason == "chosen" and facts.copies]


def _doubtful(verdicts: Sequence[SeriesVerdict], rules: SeriesRules) -> list[Problem]:
    """Return the chosen series with doubtful values, and the usable ones whose kernel is in no table."""
    doubts = [(facts.relpath, DOUBTFUL, note.partition(": ")[2]) for facts, reason, _ in verdicts if reason == "chosen"
              for note in facts.notes if note.startswith(DOUBTFUL)]
    return doubts + [(facts.relpath, "unknown_kernel", rules.unknown_kernel(facts)) for facts, reason, _ in verdicts
                     if reason in ("chosen", "not_chosen") and rules.unknown_kernel(facts)]


def _series_row(facts: SeriesScan) -> dict[str, object]:
    """Return the facts of a series as cells of `tables.SERIES`."""
    return {**{_COLUMNS.get(name, name): value for name, value in vars(facts).items()}, "notes": "; ".join(facts.notes)}
