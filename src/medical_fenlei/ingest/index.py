"""The index: label sheet and disk brought together, one row an exam, with an account of everything left out."""
import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.ingest.label_sheet import LabelSheet
from medical_fenlei.ingest.series_choice import Choice, choose_series
from medical_fenlei.ingest.tree import ExamFolder, series_folders
from medical_fenlei.parallel import map_items

HARMLESS = {"not_chosen", "localizer", "not_axial", "too_thick", "too_few_slices", "not_ct"}
"""Why a series loses beside a better one: recorded, but no fault of the export."""


@dataclass(frozen=True)
class Index:
    table: pd.DataFrame
    """`tables.INDEX`."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: series, files and cells that were left out."""

    counts: dict[str, int]
    """What the script prints, in order."""

    faults: int
    """Rejects that are faults of the input, not counts."""


def build_index(sheet: LabelSheet, exams: list[ExamFolder], *, base: Path, workers: int) -> Index:
    """Match exams by `exam_id` alone and choose a series for each.

    One id under several dates: the folder whose date equals the sheet's wins, else the one with the best series, else the
    latest.
    """
    labels = sheet.labels.set_index("exam_id")
    wanted = [e for e in exams if e.exam_id in labels.index]
    folders_of = Counter(e.exam_id for e in wanted)
    rejects = list(sheet.rejects)
    best: dict[str, tuple[tuple[object, ...], ExamFolder, Choice]] = {}
    for outcome in map_items(functools.partial(_choose, base), wanted, workers=workers, label="exams"):
        exam = outcome.item
        if outcome.value is None:
            rejects.append({"exam_id": exam.exam_id, "file": exam.relpath, "reason": outcome.reason, "detail": outcome.detail})
            continue
        choice = outcome.value
        for path, reason, detail in choice.others:
            file = path.relative_to(base).as_posix()
            rejects.append({"exam_id": exam.exam_id, "file": file, "reason": reason, "detail": detail})
        rank = (choice.chosen is not None, exam.date == labels.label_date[exam.exam_id],
                choice.chosen.rank if choice.chosen else (), exam.date, exam.relpath)
        if exam.exam_id not in best or rank > best[exam.exam_id][0]:
            best[exam.exam_id] = (rank, exam, choice)

    rows = []
    for exam_id, (_, exam, choice) in sorted(best.items()):
        chosen = choice.chosen
        rows.append({
            "exam_id": exam_id, "date": exam.date, "label_date": labels.label_date[exam_id],
            "date_match": exam.date == labels.label_date[exam_id], "ambiguous_match": folders_of[exam_id] > 1,
            "exam_relpath": exam.relpath, "series_relpath": chosen.folder.relative_to(base).as_posix() if chosen else "",
            "n_instances": chosen.n_instances if chosen else 0, "left_code": labels.left_code[exam_id],
            "right_code": labels.right_code[exam_id], "series_reason": chosen.reason if chosen else "no series can be used",
        })
        if chosen is None:
            rejects.append({"exam_id": exam_id, "file": exam.relpath, "reason": "no_series", "detail": "no series can be used"})
    table = tables.INDEX.frame(rows)
    unlabelled = (table.left_code == 0) & (table.right_code == 0)
    counts = {
        "rows in the sheet": sheet.rows,
        "exams in the sheet": len(labels),
        "matched to a folder": len(table),
        "missing on disk": len(labels) - len(table),
        "ambiguous (several folders)": int(table.ambiguous_match.sum()),
        "date differs from the sheet": int((~table.date_match).sum()),
        "unlabelled on both sides": int(unlabelled.sum()),
        "labelled, without a usable series": int((~unlabelled & (table.series_relpath == "")).sum()),
        "usable": int((~unlabelled & (table.series_relpath != "")).sum()),
        "folders that the sheet does not name": len({e.exam_id for e in exams} - set(labels.index)),
    }
    faults = sum(1 for r in rejects if r["reason"] not in HARMLESS)
    return Index(table, tables.REJECTS.frame(rejects), counts, faults)


def _choose(base: Path, exam: ExamFolder) -> Choice:
    return choose_series(series_folders(base / exam.relpath))
