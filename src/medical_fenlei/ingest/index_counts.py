"""The counts of an index: how the exams of a sheet, and the files on disk, become usable series."""
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from medical_fenlei.ingest.label_sheet import LabelSheet
from medical_fenlei.ingest.scan import ExamScan
from medical_fenlei.ingest.series_choice import Candidate, SeriesVerdict
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.ingest.unmatched import Unmatched
from medical_fenlei.tables.index_counts import DOUBTS, FILES, count_depth


def indented(counts: Mapping[str, int]) -> list[str]:
    """Return a line for each count.

    The counts one level deeper add up to the one above them; "of these" counts a part that the others include.
    """
    return [f"{number:7d} {'  ' * count_depth(what)}{what}" for what, number in counts.items()]


def count_index(sheet: LabelSheet, table: pd.DataFrame, unmatched: Unmatched, *, chosen: Mapping[str, Candidate | None],
                files: Counter[str], rules: SeriesRules, named: int) -> dict[str, int]:
    """Return the counts in the order in which they are shown.

    table: `tables.INDEX`; chosen: by exam id; files: the sum of `count_files` over the exams; named: refused exams that
    are named like their patients.
    """
    lost = sum(not reject["exam_id"] for reject in sheet.rejects)
    unlabelled = (table.left_code == 0) & (table.right_code == 0)
    usable = table[~unlabelled & (table.series_relpath != "")]
    return {
        "rows in the label sheet": sheet.rows + lost,
        **({"of these, without a readable exam id": lost} if lost else {}),
        "exams in the label sheet": len(sheet.labels),
        "missing on disk": len(unmatched.missing),
        "of these, there but for leading zeros": len(unmatched.but_for_zeros),
        "of these, elsewhere under a similar name": len(unmatched.elsewhere),
        **({"refused, named like the patient": named} if named else {}),
        "matched to a folder": len(table),
        "of these, ambiguous (several folders)": int(table.ambiguous_match.sum()),
        "of these, date differs from the label sheet": int((~table.date_match).sum()),
        "unlabelled on both sides": int(unlabelled.sum()),
        "labelled, without a usable series": int((~unlabelled & (table.series_relpath == "")).sum()),
        "usable": len(usable),
        "of these, with a series for each ear": int((usable.right_series_relpath != "").sum()),
        **{f"of these, {doubt}": number for doubt, number in _doubts((chosen[exam] for exam in usable.exam_id), rules).items()},
        "folders that the label sheet does not name": len(unmatched.stranger_ids),
        **{f"files {what}": files[what] for what in FILES},
    }


def count_files(scan: ExamScan, verdicts: Sequence[SeriesVerdict]) -> Counter[str]:
    """Count the files of an exam by `FILES`."""
    counts: Counter[str] = Counter()
    for facts, reason, _ in verdicts:
        counts[FILES[1 if reason == "chosen" else 2]] += facts.files
    counts[FILES[0]] = scan.files
    counts[FILES[3]] = scan.files - sum(facts.files for facts, _, _ in verdicts)
    return counts


def _doubts(chosen: Iterable[Candidate | None], rules: SeriesRules) -> dict[str, int]:
    """Count the chosen series by `DOUBTS`, without zeros."""
    counts: Counter[str] = Counter()
    for candidate in chosen:
        for facts in dict.fromkeys(candidate.series if candidate else ()):
            notes = {note.partition(":")[0] for note in facts.notes}
            counts.update({DOUBTS[0]: "cut_at_hole" in notes, DOUBTS[1]: "resampled" in notes,
                           DOUBTS[2]: facts.z_coverage < rules.full_z_coverage_mm})
    return {doubt: counts[doubt] for doubt in DOUBTS if counts[doubt]}
