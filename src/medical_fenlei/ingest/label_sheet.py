"""The label sheet: one row per exam, with a diagnosis for each side. Excel or CSV; exam ids are text everywhere."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_cells import parse_code, parse_date, parse_exam_id, quoted
from medical_fenlei.ingest.spreadsheet import Rows, plain, read_rows, squeezed
from medical_fenlei.log import LOG
from medical_fenlei.vocabulary import UNLABELLED, Side

WORKSHEET = "影像学检查"
EXAM_ID, EXAM_TIME = "检查号", "检查时间"
LABEL_COLUMNS = {Side.LEFT: "左侧诊断-训练", Side.RIGHT: "右侧诊断-训练"}

_UNCLEAR = -1
"""Code of a side whose rows disagree or cannot be read."""


@dataclass(frozen=True)
class LabelSheet:
    """The labels of a sheet, and the cells that could not be read."""

    labels: pd.DataFrame
    """One row per exam: exam_id, label_date (YYYY-MM-DD or ""), left_code, right_code (0: no label)."""

    rows: int
    """Number of rows that name an exam."""

    rejects: list[dict[str, object]]
    """Cells and rows that could not be used, as rows of `tables.REJECTS`."""

    worksheet: str
    """Name of the worksheet that was read; "" for a CSV."""


def only_sheet(folder: Path = Path("metadata")) -> Path:
    """Return the only .xlsx in the folder. Raises UserError if there is none, or more than one."""
    found = sorted(p for p in folder.glob("*.xlsx") if not p.name.startswith(("~", ".")))
    if len(found) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise UserError(f"--xlsx-path: expected one .xlsx in {folder}/, found {listed}; name the label sheet")
    return found[0]


def read_label_sheet(path: Path) -> LabelSheet:
    """Read a label sheet. Raises UserError if a column is missing; single cells that cannot be read become rejects.

    Rows that repeat an exam count once. A side that is labelled in one row and empty in another has that label. It has none if
    two rows disagree, or one of them cannot be read. Warns if the worksheet has another name than expected.
    """
    sheet = read_rows(path, needed=(EXAM_ID, *LABEL_COLUMNS.values()), optional=(EXAM_TIME,), worksheet=WORKSHEET)
    if sheet.worksheet and squeezed(sheet.worksheet) != WORKSHEET:
        LOG.warning("%s has no worksheet %r; read %r, the only one with its columns", path, WORKSHEET, sheet.worksheet)
    reader = _Reader(f"{path.name}, sheet {sheet.worksheet}" if sheet.worksheet else path.name)
    for row in sheet.shifted:
        reader.reject(row, "", "shifted_row", "more cells than the header has: is a delimiter in a text not quoted?")
    for row, cells in sheet.rows:
        reader.read(row, cells, sheet)
    if not reader.codes:
        raise UserError(f"--xlsx-path {path}: no row below its header names an exam (column {EXAM_ID})")
    labels = pd.DataFrame(
        [(exam_id, reader.dates[exam_id], *(max(code, UNLABELLED) for code in codes.values()))
         for exam_id, codes in reader.codes.items()],
        columns=["exam_id", "label_date", *(f"{side}_code" for side in LABEL_COLUMNS)],
    )
    return LabelSheet(labels, reader.rows, reader.rejects, sheet.worksheet)


@dataclass
class _Reader:
    """The labels of the rows that were read so far."""

    file: str
    """Name of the file and worksheet, for rejects."""

    dates: dict[str, str] = field(default_factory=dict)
    codes: dict[str, dict[Side, int]] = field(default_factory=dict)
    rows: int = 0
    rejects: list[dict[str, object]] = field(default_factory=list)

    def reject(self, row: int, exam_id: str, reason: str, detail: str) -> None:
        """Add a reject of a row."""
        self.rejects.append({"exam_id": exam_id, "file": f"{self.file}, row {row}", "reason": reason, "detail": detail})

    def read(self, row: int, cells: Mapping[str, object], sheet: Rows) -> None:
        """Add the labels of a row."""
        if all(squeezed(str(cells[name])) == name for name in LABEL_COLUMNS.values()):
            return                                               # a repeated header, in a sheet merged from several
        try:
            exam_id = parse_exam_id(cells[EXAM_ID])
        except ValueError as error:
            self.reject(row, "", "unparsable_exam_id", f"column {EXAM_ID}: got {quoted(cells[EXAM_ID])}, {error}")
            return
        if not exam_id:
            if any(plain(str(cells[name] or "")) for name in LABEL_COLUMNS.values()):
                self.reject(row, "", "no_exam_id", f"column {EXAM_ID} is empty")
            return
        self.rows += 1
        try:
            date = parse_date(cells.get(EXAM_TIME), sheet.day_zero)
        except ValueError as error:
            date = ""
            self.reject(row, exam_id, "unparsable_date", f"column {EXAM_TIME}: got {quoted(cells[EXAM_TIME])}, {error}")
        self.dates[exam_id] = self.dates.get(exam_id) or date
        for side, column in LABEL_COLUMNS.items():
            self._add_label(row, exam_id, side, column, cells[column])

    def _add_label(self, row: int, exam_id: str, side: Side, column: str, cell: object) -> None:
        try:
            code = parse_code(cell)
        except ValueError as error:
            code = _UNCLEAR
            self.reject(row, exam_id, "unparsable_label", f"column {column}: got {quoted(cell)}, {error}")
        codes = self.codes.setdefault(exam_id, dict.fromkeys(LABEL_COLUMNS, UNLABELLED))
        earlier = codes[side]
        if earlier == UNLABELLED:
            codes[side] = code
        elif code not in (UNLABELLED, earlier):
            codes[side] = _UNCLEAR
            this, other = ("unclear" if each == _UNCLEAR else each for each in (code, earlier))
            self.reject(row, exam_id, "conflicting_label", f"column {column}: this row is {this}, an earlier one {other}")
