"""The label sheet: one row per exam, with a diagnosis for each side. Excel or CSV; exam ids are text everywhere."""
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_cells import parse_code, parse_date, parse_exam_id, quoted
from medical_fenlei.ingest.spreadsheet import Rows, WantedColumns, plain, read_rows, squeezed
from medical_fenlei.ingest.workbook import UnreadableCell
from medical_fenlei.log import LOG
from medical_fenlei.vocabulary import UNLABELLED, Side

WORKSHEET = "影像学检查"
TEMPLATE = Path("metadata/template.xlsx")
"""Where an empty label sheet is written (`template_sheet`)."""
EXAM_ID, EXAM_TIME = "检查号", "检查时间"
LABEL_COLUMNS = {Side.LEFT: "左侧诊断-训练", Side.RIGHT: "右侧诊断-训练"}

Parsed = TypeVar("Parsed")

_COLUMNS = WantedColumns(needed=(EXAM_ID, *LABEL_COLUMNS.values()), optional=(EXAM_TIME,), alike=tuple(LABEL_COLUMNS.values()))
_SHEETS = (".xlsx", ".xlsm", ".xls", ".et", ".ods", ".csv", ".tsv")
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
    """Return the only .xlsx (or .XLSX) in the folder; beside others, the template does not count.

    Raises UserError if there is none, or more than one.
    """
    sheets = sorted(p for p in folder.glob("*") if p.suffix.lower() in _SHEETS and not p.name.startswith(("~", ".")))
    found = [path for path in sheets if path.suffix.lower() == ".xlsx"]
    if len(found) > 1:
        found = [path for path in found if path.name != TEMPLATE.name]
    if len(found) != 1:
        listed = ", ".join(p.name for p in found or sheets) or "none"
        remedy = "name the label sheet" if sheets else (
            f"move the sheet there, or name it with --xlsx-path FILE; build_index --template writes an empty one, {TEMPLATE}")
        raise UserError(f"--xlsx-path: expected one .xlsx in {folder}/, found {listed}; {remedy}")
    return found[0]


def read_label_sheet(path: Path) -> LabelSheet:
    """Read a label sheet. Raises UserError if a column is missing; single cells that cannot be read become rejects.

    Rows that repeat an exam count once. A side that is labelled in one row and empty in another has that label. It has none if
    two rows disagree, or one of them cannot be read. A merged cell counts for each row and side that it covers. Warns if the
    worksheet has another name than expected, or others have the same columns.
    """
    sheet = read_rows(path, _COLUMNS, worksheet=WORKSHEET)
    if sheet.worksheet and squeezed(sheet.worksheet) != WORKSHEET:
        LOG.warning("%s has no worksheet %r; read %r, the only one with its columns", path, WORKSHEET, sheet.worksheet)
    if sheet.others:
        LOG.warning("%s: read %r only; the same columns are in %s", path, sheet.worksheet, ", ".join(map(repr, sheet.others)))
    reader = _Reader(f"{path.name}, sheet {sheet.worksheet}" if sheet.worksheet else path.name)
    for row in sheet.shifted:
        reader.reject(row, "", "shifted_row", "more cells than the header has: is a delimiter in a text not quoted?")
    for row, cells in sheet.rows:
        reader.read(row, cells, sheet)
    if not reader.codes:
        why = f"; {reader.rejects[0]['file']}: {reader.rejects[0]['detail']}" if reader.rejects else ""
        raise UserError(f"--xlsx-path {path}: no row below its header names an exam (column {EXAM_ID}){why}")
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
        exam_id = self._parse(row, "", EXAM_ID, cells, parse_exam_id, reason="unparsable_exam_id")
        if exam_id is None:
            return
        if not exam_id:
            if any(plain(str(cells[name] or "")) for name in LABEL_COLUMNS.values()):
                self.reject(row, "", "no_exam_id", f"column {EXAM_ID} is empty: type the id, or clear the labels of this row")
            return
        self.rows += 1
        date = self._parse(row, exam_id, EXAM_TIME, cells, functools.partial(parse_date, day_zero=sheet.day_zero),
                           reason="unparsable_date")
        self.dates[exam_id] = self.dates.get(exam_id) or date or ""
        for side, column in LABEL_COLUMNS.items():
            self._add_label(row, exam_id, side, column, cells)

    def _parse(self, row: int, exam_id: str, column: str, cells: Mapping[str, object], parse: Callable[[object], Parsed], *,
               reason: str) -> Parsed | None:
        """Return the meaning of a cell, or None with a reject for one that has none."""
        cell = cells.get(column)
        if isinstance(cell, UnreadableCell):                    # a date is not needed: its reason stays the harmless one
            self.reject(row, exam_id, reason if column == EXAM_TIME else cell.reason, f"column {column}: {cell.detail}")
            return None
        try:
            return parse(cell)
        except ValueError as error:
            self.reject(row, exam_id, reason, f"column {column}: got {quoted(cell)}, {error}")
            return None

    def _add_label(self, row: int, exam_id: str, side: Side, column: str, cells: Mapping[str, object]) -> None:
        parsed = self._parse(row, exam_id, column, cells, parse_code, reason="unparsable_label")
        code = _UNCLEAR if parsed is None else parsed
        codes = self.codes.setdefault(exam_id, dict.fromkeys(LABEL_COLUMNS, UNLABELLED))
        earlier = codes[side]
        if earlier == UNLABELLED:
            codes[side] = code
        elif code not in (UNLABELLED, earlier):
            codes[side] = _UNCLEAR
            this, other = ("unclear" if each == _UNCLEAR else each for each in (code, earlier))
            self.reject(row, exam_id, "conflicting_label", f"column {column}: this row is {this}, an earlier one {other}")
