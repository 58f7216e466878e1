"""The index: label sheet and disk brought together, one row an exam, with an account of everything left out."""
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.ingest.label_sheet import LabelSheet
from medical_fenlei.ingest.scan import ExamScan, SeriesScan, scan_exams
from medical_fenlei.ingest.series_choice import Choice, SeriesRules, choose_series
from medical_fenlei.ingest.tree import ExamFolder, Tree
from medical_fenlei.parallel import Workers
from medical_fenlei.vocabulary import Side

HARMLESS = {"not_chosen", "localizer", "not_axial", "too_thick", "too_few_slices", "too_low", "single_ear", "not_ct", "copies",
            "refused_by_rules", "unparsable_date"}
"""Recorded, but no fault: why a series or a file loses beside a better one; a date, without which the exam is used too."""


@dataclass(frozen=True)
class Index:
    table: pd.DataFrame
    """`tables.INDEX`."""

    series: pd.DataFrame
    """`tables.SERIES`: every series that was found, with its verdict."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: series, files and cells that were left out."""

    counts: dict[str, int]
    """What the script prints, in order."""

    faults: int
    """Rejects that are faults of the input, not counts."""


def build_index(sheet: LabelSheet, tree: Tree, *, base: Path, scan_file: Path, workers: Workers, rules: SeriesRules,
                rescan: bool = False) -> Index:
    """Match exams by `exam_id` alone and choose a series for each.

    One id under several dates: the folder whose date equals the sheet's wins, else the one with the best series, else the
    latest. scan_file: what was read before, so that only exams whose files have changed are read again; rescan: all are.
    """
    labels = {row["exam_id"]: row for row in sheet.labels.to_dict("records")}
    wanted = {exam.relpath: exam for exam in tree.exams if exam.exam_id in labels}
    folders_of = Counter(exam.exam_id for exam in wanted.values())
    rejects = [*sheet.rejects, *_problems("", tree.problems)]
    best: dict[str, tuple[tuple[object, ...], ExamFolder, Choice]] = {}
    series: list[dict[str, object]] = []
    files: Counter[str] = Counter()
    for outcome, listing in scan_exams(base, list(wanted), scan_file, workers=workers, again=rescan):
        exam, scan = wanted[outcome.item], outcome.value
        files["in folders of these exams"] += listing.files
        if scan is None:
            rejects.append({"exam_id": exam.exam_id, "file": exam.relpath, "reason": outcome.reason, "detail": outcome.detail})
            continue
        choice = choose_series(scan.series, rules)
        series += [{"exam_id": exam.exam_id, "verdict": reason, "why": detail, **_row(facts)}
                   for facts, reason, detail in choice.verdicts]
        rejects += _problems(exam.exam_id, scan.problems)
        rejects += _lost(exam.exam_id, choice)
        files += _shares(scan, choice)
        rank = (choice.chosen is not None, exam.date == labels[exam.exam_id]["label_date"],
                choice.chosen.rank if choice.chosen else (), exam.date, exam.relpath)
        if exam.exam_id not in best or rank > best[exam.exam_id][0]:
            best[exam.exam_id] = (rank, exam, choice)

    rows = []
    for exam_id, (_, exam, choice) in sorted(best.items()):
        chosen = choice.chosen
        left, right = (chosen.of(side) if chosen else None for side in (Side.LEFT, Side.RIGHT))
        rows.append({
            "exam_id": exam_id, "date": exam.date, "label_date": labels[exam_id]["label_date"],
            "date_match": exam.date == labels[exam_id]["label_date"], "ambiguous_match": folders_of[exam_id] > 1,
            "exam_relpath": exam.relpath, "series_relpath": left.relpath if left else "",
            "right_series_relpath": right.relpath if right and right is not left else "",
            "n_instances": left.images if left else 0, "left_code": labels[exam_id]["left_code"],
            "right_code": labels[exam_id]["right_code"], "series_reason": chosen.reason if chosen else "no series can be used",
        })
        if chosen is None:
            rejects.append({"exam_id": exam_id, "file": exam.relpath, "reason": "no_series", "detail": "no series can be used"})
    table = tables.INDEX.frame(rows) if rows else tables.INDEX.empty().assign(right_series_relpath="")
    unlabelled = (table.left_code == 0) & (table.right_code == 0)
    unnamed = {e.exam_id for e in tree.exams} - set(labels)
    counts = {
        "rows in the sheet": sheet.rows,
        "exams in the sheet": len(labels),
        "matched to a folder": len(table),
        "missing on disk": len(labels) - len(table),
        "of these, there but for leading zeros": len({i.lstrip("0") for i in set(labels) - set(table.exam_id)}
                                                     & {i.lstrip("0") for i in unnamed}),
        "ambiguous (several folders)": int(table.ambiguous_match.sum()),
        "date differs from the sheet": int((~table.date_match).sum()),
        "unlabelled on both sides": int(unlabelled.sum()),
        "labelled, without a usable series": int((~unlabelled & (table.series_relpath == "")).sum()),
        "usable": int((~unlabelled & (table.series_relpath != "")).sum()),
        "of these, with a series for each ear": int((~unlabelled & (table.right_series_relpath != "")).sum()),
        "folders that the sheet does not name": len(unnamed),
        **{f"files {what}": files[what] for what in FILES},
    }
    faults = sum(1 for reject in rejects if reject["reason"] not in HARMLESS)
    report = tables.SERIES.frame(series) if series else tables.SERIES.empty()
    return Index(table, report, tables.REJECTS.frame(rejects), counts, faults)


FILES = ("in folders of these exams", "of chosen series", "of other series", "that are no CT image or cannot be read")
"""The first is the sum of the others."""


def _shares(scan: ExamScan, choice: Choice) -> Counter[str]:
    shares: Counter[str] = Counter()
    for facts, reason, _ in choice.verdicts:
        shares[FILES[1 if reason == "chosen" else 2]] += facts.files
    shares[FILES[3]] += scan.files - sum(facts.files for facts, _, _ in choice.verdicts)
    return shares


def _problems(exam_id: str, problems: Iterable[tuple[str, str, str]]) -> list[dict[str, object]]:
    return [{"exam_id": exam_id, "file": file, "reason": reason, "detail": detail} for file, reason, detail in problems]


def _lost(exam_id: str, choice: Choice) -> list[dict[str, object]]:
    """The series that were not chosen, and in those that were the files that say nothing new."""
    lost = [(facts.relpath, reason, detail) for facts, reason, detail in choice.verdicts if reason != "chosen"]
    lost += [(facts.relpath, "copies", f"{facts.copies} files repeat an image of this series")
             for facts, reason, _ in choice.verdicts if reason == "chosen" and facts.copies]
    return _problems(exam_id, lost)


def _row(facts: SeriesScan) -> dict[str, object]:
    """Facts of a series as cells of `tables.SERIES`."""
    row = vars(facts)
    renamed = {name: f"{name}_mm" for name in ("pixel_spacing", "slice_thickness", "step", "height", "width", "middle")}
    return {"series_relpath": row["relpath"], **{renamed.get(name, name): value for name, value in row.items()},
            "notes": "; ".join(row["notes"]), "tilt_deg": row["tilt"]}
