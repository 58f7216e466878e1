"""The label sheet: one row an exam, a diagnosis for each side. Excel or CSV; exam ids are text everywhere."""
import datetime
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import DIAGNOSES, UNLABELLED, Side

WORKSHEET = "影像学检查"
EXAM_ID, EXAM_TIME = "检查号", "检查时间"
LABEL_COLUMNS = {Side.LEFT: "左侧诊断-训练", Side.RIGHT: "右侧诊断-训练"}

_CODED = re.compile(r"^([1-6])(?:\.0)?\s*(?:[:：、.]\s*(.*))?$")
_DATE = re.compile(r"^(\d{4})[-/.年]?(\d{1,2})[-/.月]?(\d{1,2})")
_BY_NAME = {d.chinese: d.code for d in DIAGNOSES.values()}


@dataclass(frozen=True)
class LabelSheet:
    """What a sheet says, and what of it could not be read."""

    labels: pd.DataFrame
    """One row an exam: exam_id, label_date (YYYY-MM-DD or ""), left_code, right_code (0: no label)."""

    rows: int
    """Rows of the sheet that name an exam."""

    rejects: list[dict[str, object]]
    """Cells and rows that could not be used, as rows of `tables.REJECTS`."""


def only_sheet(folder: Path = Path("metadata")) -> Path:
    """The only .xlsx in the folder. Raises UserError if there is none, or a choice to make."""
    found = sorted(p for p in folder.glob("*.xlsx") if not p.name.startswith(("~", ".")))
    if len(found) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise UserError(f"--xlsx-path: expected one .xlsx in {folder}/, found {listed}; name the label sheet")
    return found[0]


def parse_code(cell: str) -> int:
    """Code 1 to 6 of a cell such as `5：正常`, `5`, `正常`; 0 for an empty one. Raises ValueError for anything else."""
    cell = cell.strip()
    if not cell:
        return UNLABELLED
    if cell in _BY_NAME:
        return _BY_NAME[cell]
    match = _CODED.match(cell)
    if not match:
        raise ValueError("neither a code 1 to 6 nor the name of one")
    code, name = int(match[1]), (match[2] or "").strip()
    if _BY_NAME.get(name, code) != code:
        raise ValueError("code and name disagree")
    return code


def parse_date(cell: object) -> str:
    """YYYY-MM-DD of a cell, "" where it holds no date."""
    match = _DATE.match(str(cell).strip())
    if not match:
        return ""
    try:
        return datetime.date(*map(int, match.groups())).isoformat()
    except ValueError:
        return ""


def _read_cells(path: Path) -> pd.DataFrame:
    """All cells as text. Numbers that Excel stored for an id lose no digit: they are written without a fraction."""
    if not path.is_file():
        raise UserError(f"--xlsx-path {path}: no such file")
    try:
        if path.suffix.lower() == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        book = pd.read_excel(path, sheet_name=None, dtype=object, engine="openpyxl")
    except Exception as error:  # a broken workbook raises whatever zip, XML or openpyxl met first
        raise UserError(f"--xlsx-path {path}: cannot be read as a label sheet ({type(error).__name__})") from None
    if WORKSHEET not in book:
        raise UserError(f"--xlsx-path {path}: no worksheet {WORKSHEET!r}; found: {', '.join(map(repr, book))}")
    return book[WORKSHEET].map(_as_text)


def _as_text(cell: object) -> str:
    if cell is None or cell is pd.NaT or cell != cell:
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


def read_label_sheet(path: Path) -> LabelSheet:
    """Read the sheet. Raises UserError if a column is missing; single cells that cannot be read become rejects.

    Rows that repeat an exam count once where they agree; where they disagree the side in question has no label.
    """
    cells = _read_cells(path)
    cells.columns = [str(c).strip() for c in cells.columns]
    for column in (EXAM_ID, *LABEL_COLUMNS.values()):
        if column not in cells.columns:
            raise UserError(f"--xlsx-path {path}: column {column!r} is missing; found: {', '.join(map(repr, cells.columns))}")
    rejects: list[dict[str, object]] = []

    def reject(row: int, exam_id: str, reason: str, detail: str) -> None:
        rejects.append({"exam_id": exam_id, "file": f"{path.name}, row {row}", "reason": reason, "detail": detail})

    exams: dict[str, dict[str, object]] = {}
    rows = 0
    for row, (_, line) in enumerate(cells.iterrows(), start=2):  # row 1 of the sheet is the header
        exam_id = line[EXAM_ID].strip()
        if not exam_id:
            if any(str(v).strip() for v in line):
                reject(row, "", "no_exam_id", f"column {EXAM_ID} is empty")
            continue
        rows += 1
        seen: dict[str, object] = {"exam_id": exam_id, "label_date": parse_date(line.get(EXAM_TIME, ""))}
        for side, column in LABEL_COLUMNS.items():
            try:
                seen[f"{side}_code"] = parse_code(line[column])
            except ValueError as error:
                seen[f"{side}_code"] = UNLABELLED
                reject(row, exam_id, "unparsable_label", f"column {column}: got {line[column].strip()[:30]!r}, {error}")
        before = exams.setdefault(exam_id, seen)
        for name in ("left_code", "right_code"):
            if before[name] != seen[name]:
                reject(row, exam_id, "conflicting_label", f"{name}: this row says {seen[name]}, an earlier one {before[name]}")
                before[name] = UNLABELLED
    labels = pd.DataFrame(list(exams.values()), columns=["exam_id", "label_date", "left_code", "right_code"])
    return LabelSheet(labels, rows, rejects)
