"""The index: label sheet and disk brought together, one row an exam, with an account of everything left out."""
import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.ingest.label_sheet import LabelSheet
from medical_fenlei.ingest.scan import ExamScan, SeriesScan, scan_exams
from medical_fenlei.ingest.series_choice import Choice, SeriesRules, choose_series
from medical_fenlei.ingest.tree import ExamFolder, Tree, called_alike
from medical_fenlei.parallel import Workers
from medical_fenlei.vocabulary import Side

Verdicts = tuple[tuple[SeriesScan, str, str], ...]
"""(series, reason code, detail), as of `Choice`."""

HARMLESS = {"not_chosen", "localizer", "not_axial", "too_thick", "too_few_slices", "too_low", "single_ear", "not_ct", "copies",
            "refused_by_rules", "unparsable_date", "missing_on_disk", "not_in_sheet", "hidden_folder"}
"""Recorded, but no fault: why a series or a file loses beside a better one; a date, without which the exam is used too; what
sheet or disk have alone."""

ALIKE = 3
"""So many places that are called nearly as an exam are named."""


@dataclass(frozen=True)
class Index:
    table: pd.DataFrame
    """`tables.INDEX`."""

    series: pd.DataFrame
    """`tables.SERIES`: every series that was found, with its verdict."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: series, files and cells that were left out."""

    counts: dict[str, int]
    """What `lines` shows, in order."""

    faults: int
    """Rejects that are faults of the input, not counts."""

    def lines(self) -> list[str]:
        """The counts. Those that stand one deeper add up to the one above; "of these" says how many have something more."""
        return [f"{number:7d} {'  ' * _DEPTH.get(what, 0)}{what}" for what, number in self.counts.items()]


@dataclass(frozen=True)
class _Read:
    """What was found in one folder of an exam."""

    exam: ExamFolder
    scan: ExamScan
    choice: Choice


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
    best: dict[str, tuple[tuple[object, ...], _Read]] = {}
    every: list[_Read] = []
    inner: list[tuple[str, str]] = []
    for outcome, listing in scan_exams(base, list(wanted), scan_file, workers=workers, again=rescan):
        exam, scan = wanted[outcome.item], outcome.value
        inner += [(exam.relpath, folder.removeprefix(exam.relpath).lstrip("/")) for folder in listing.folders]
        if scan is None:
            scan = ExamScan(files=listing.files, series=(), problems=((exam.relpath, outcome.reason, outcome.detail),))
        found = _Read(exam, scan, choose_series(scan.series, rules))
        every.append(found)
        chosen = found.choice.chosen
        rank = (chosen is not None, exam.date == labels[exam.exam_id]["label_date"], chosen.rank if chosen else (), exam.date,
                exam.relpath)
        if exam.exam_id not in best or rank > best[exam.exam_id][0]:
            best[exam.exam_id] = (rank, found)

    series: list[dict[str, object]] = []
    files: Counter[str] = Counter()
    for found in every:
        exam, taken = found.exam, best[found.exam.exam_id][1]
        verdicts = found.choice.verdicts if found is taken else _given_up(found.choice, taken.exam)
        series += [{"exam_id": exam.exam_id, "verdict": reason, "why": detail, **_row(facts)}
                   for facts, reason, detail in verdicts]
        rejects += _problems(exam.exam_id, found.scan.problems)
        rejects += _lost(exam.exam_id, verdicts)
        files += _shares(found.scan, verdicts)

    rows = []
    for exam_id, (_, found) in sorted(best.items()):
        exam, chosen = found.exam, found.choice.chosen
        left, right = (chosen.of(side) if chosen else None for side in (Side.LEFT, Side.RIGHT))
        reason = chosen.reason if chosen else _why_none(found)
        rows.append({
            "exam_id": exam_id, "date": exam.date, "label_date": labels[exam_id]["label_date"],
            "date_match": exam.date == labels[exam_id]["label_date"], "ambiguous_match": folders_of[exam_id] > 1,
            "exam_relpath": exam.relpath, "series_relpath": left.relpath if left else "",
            "right_series_relpath": right.relpath if right and right is not left else "",
            "n_instances": left.images if left else 0, "left_code": labels[exam_id]["left_code"],
            "right_code": labels[exam_id]["right_code"], "series_reason": reason,
        })
        if chosen is None:
            rejects.append({"exam_id": exam_id, "file": exam.relpath, "reason": "no_series", "detail": reason})
    table = tables.INDEX.frame(rows) if rows else tables.INDEX.empty().assign(right_series_relpath="")
    missing = [exam_id for exam_id in labels if exam_id not in best]
    strangers = [exam for exam in tree.exams if exam.exam_id not in labels]
    alike = called_alike(missing, [*inner, *_places(base, tree, strangers)]) if missing else {}
    rejects += [{"exam_id": exam_id, "file": "", "reason": "missing_on_disk",
                 "detail": "no exam folder of this name" + _named(alike.get(exam_id, []))} for exam_id in missing]
    rejects += [{"exam_id": exam.exam_id, "file": exam.relpath, "reason": "not_in_sheet",
                 "detail": "the sheet has no exam of this name"} for exam in strangers]

    unlabelled = (table.left_code == 0) & (table.right_code == 0)
    usable = table[~unlabelled & (table.series_relpath != "")]
    unnamed = {exam.exam_id for exam in strangers}
    but_for_zeros = {i.lstrip("0") for i in missing} & {i.lstrip("0") for i in unnamed}
    counts = {
        "rows in the sheet": sheet.rows,
        "exams in the sheet": len(labels),
        "missing on disk": len(missing),
        "of these, there but for leading zeros": len(but_for_zeros),
        "of these, in another place that is called nearly so": sum(1 for i in alike if i.lstrip("0") not in but_for_zeros),
        "matched to a folder": len(table),
        "of these, ambiguous (several folders)": int(table.ambiguous_match.sum()),
        "of these, date differs from the sheet": int((~table.date_match).sum()),
        "unlabelled on both sides": int(unlabelled.sum()),
        "labelled, without a usable series": int((~unlabelled & (table.series_relpath == "")).sum()),
        "usable": len(usable),
        "of these, with a series for each ear": int((usable.right_series_relpath != "").sum()),
        **{f"of these, {words}": number for words, number in _doubts(usable.exam_id, best, rules).items()},
        "folders that the sheet does not name": len(unnamed),
        **{f"files {what}": files[what] for what in FILES},
    }
    faults = sum(1 for reject in rejects if reject["reason"] not in HARMLESS)
    report = tables.SERIES.frame(series) if series else tables.SERIES.empty()
    return Index(table, report, tables.REJECTS.frame(rejects), counts, faults)


FILES = ("in folders of these exams", "of chosen series", "of other series", "that are no CT image or cannot be read")
"""The first is the sum of the others."""


DOUBTS = ("cut at a hole", "resampled over missing slices", "lower than most: a part may be missing")
_DEPTH = {
    "missing on disk": 1, "matched to a folder": 1, "unlabelled on both sides": 2, "labelled, without a usable series": 2,
    "usable": 2, **dict.fromkeys((f"files {what}" for what in FILES[1:]), 1),
    **dict.fromkeys(("of these, there but for leading zeros", "of these, in another place that is called nearly so",
                     "of these, ambiguous (several folders)", "of these, date differs from the sheet"), 2),
    **dict.fromkeys((f"of these, {words}" for words in ("with a series for each ear", *DOUBTS)), 3),
}
"""How deep a count stands."""


def _doubts(exam_ids: Iterable[str], best: Mapping[str, tuple[object, _Read]], rules: SeriesRules) -> dict[str, int]:
    """How many of these exams have a series that is not as it was scanned, by what is the matter, where any is."""
    counts: Counter[str] = Counter()
    for exam_id in exam_ids:
        chosen = best[exam_id][1].choice.chosen
        for facts in dict.fromkeys(chosen.series if chosen else ()):
            notes = {note.partition(":")[0] for note in facts.notes}
            counts.update({DOUBTS[0]: "cut_at_hole" in notes, DOUBTS[1]: "resampled" in notes,
                           DOUBTS[2]: facts.height < rules.high_mm})
    return {words: counts[words] for words in DOUBTS if counts[words]}


def _shares(scan: ExamScan, verdicts: Verdicts) -> Counter[str]:
    shares: Counter[str] = Counter()
    for facts, reason, _ in verdicts:
        shares[FILES[1 if reason == "chosen" else 2]] += facts.files
    shares[FILES[0]] = scan.files
    shares[FILES[3]] = scan.files - sum(facts.files for facts, _, _ in verdicts)
    return shares


def _given_up(choice: Choice, taken: ExamFolder) -> Verdicts:
    """The verdicts of a folder of an exam of which another one is taken."""
    return tuple((facts, "not_chosen", f"of the exam's folders {taken.relpath} is taken") if reason == "chosen" else
                 (facts, reason, detail) for facts, reason, detail in choice.verdicts)


def _why_none(found: _Read) -> str:
    """What the series of a folder are, none of which can be used, and what else lies there."""
    of_series = Counter(reason for _, reason, _ in found.choice.verdicts)
    of_files = Counter(reason for _, reason, _ in found.scan.problems)
    what = [*(f"{number} series {reason}" for reason, number in of_series.most_common()),
            *(f"{number} files or folders {reason}" for reason, number in of_files.most_common())]
    return "no series can be used: " + (", ".join(what) or "the folder holds no file")


def _places(base: Path, tree: Tree, strangers: Iterable[ExamFolder]) -> Iterator[tuple[str, str]]:
    """Where an exam may lie that was not found: folders that the sheet does not name and those in them, and what is no exam."""
    for exam in strangers:
        yield "", exam.relpath
        with contextlib.suppress(OSError), os.scandir(base / exam.relpath) as entries:
            yield from ((exam.relpath, entry.name) for entry in entries if entry.is_dir(follow_symlinks=False))
    yield from (("", file) for file, _, _ in tree.problems)


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - ALIKE} more" if len(places) > ALIKE else ""
    return f"; called nearly so: {', '.join(places[:ALIKE])}{more}" if places else ""


def _problems(exam_id: str, problems: Iterable[tuple[str, str, str]]) -> list[dict[str, object]]:
    return [{"exam_id": exam_id, "file": file, "reason": reason, "detail": detail} for file, reason, detail in problems]


def _lost(exam_id: str, verdicts: Verdicts) -> list[dict[str, object]]:
    """The series that were not chosen, and in those that were the files that say nothing new."""
    lost = [(facts.relpath, reason, detail) for facts, reason, detail in verdicts if reason != "chosen"]
    lost += [(facts.relpath, "copies", f"{facts.copies} files repeat an image of this series")
             for facts, reason, _ in verdicts if reason == "chosen" and facts.copies]
    return _problems(exam_id, lost)


def _row(facts: SeriesScan) -> dict[str, object]:
    """Facts of a series as cells of `tables.SERIES`."""
    row = vars(facts)
    renamed = {name: f"{name}_mm" for name in ("pixel_spacing", "slice_thickness", "step", "height", "width", "middle")}
    return {"series_relpath": row["relpath"], **{renamed.get(name, name): value for name, value in row.items()},
            "notes": "; ".join(row["notes"]), "tilt_deg": row["tilt"]}
