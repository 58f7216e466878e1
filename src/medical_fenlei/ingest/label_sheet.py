"""The label sheet: one row an exam, a diagnosis for each side. Excel or CSV; exam ids are text everywhere."""
import datetime
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.spreadsheet import EXACT, Rows, plain, read_rows, shown, squeezed
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL, UNLABELLED, Side

WORKSHEET = "影像学检查"
EXAM_ID, EXAM_TIME = "检查号", "检查时间"
LABEL_COLUMNS = {Side.LEFT: "左侧诊断-训练", Side.RIGHT: "右侧诊断-训练"}

UNSURE = -1
"""Stands for a side of which a row cannot be read, or rows disagree."""
YEARS = range(1950, 2101)
SERIALS = range(20_000, 75_000)
"""Numbers that are days as Excel counts them, 1954 to 2105."""

_CODED = re.compile(r"0?([1-6])(?:\.0+)?(?!\d)\s*([:∶、.,;)\-]*)\s*(.*)")
_DOUBT = re.compile(r"[\d?]")
_SCIENTIFIC = re.compile(r"\d+(\.\d+)?E[+-]\d+", re.IGNORECASE)
_ERROR = re.compile(r"#(N/A|REF!|VALUE!|NAME\?|NULL!|NUM!|DIV/0!|SPILL!|CALC!)")
_YEAR_FIRST = re.compile(r"(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})(?!\d)|(\d{4})(\d\d)(\d\d)(?:\d{4}|\d{6})?(?!\d)")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?!\d)")
_SERIAL = re.compile(r"(\d{5})(\.\d+)?")


def _name(text: str) -> str:
    """A diagnosis without what people write differently: spaces, brackets, dashes, case."""
    return re.sub(r"[\s()_-]", "", squeezed(text)).casefold()


_NAMES = {
    _name(name): d.code for d in DIAGNOSES.values() for name in (d.chinese, d.english, d.key, f"{d.english} {d.key}")
}
_TELLING = {"化脓": 1, "胆脂瘤": 2, "分泌性": 3, "胆固醇": 4}
"""Parts of names that tell the diagnosis. `other` may speak of any: what was operated on, say."""
_NOT_NORMAL, OTHER = re.compile("不正常|非正常|异常|abnormal"), 6
_LONG_NAMES = {_name(name): d.code for d in DIAGNOSES.values() for name in (d.chinese, d.english)}


_WORDS = {*"".join(d.chinese for d in DIAGNOSES.values()), *re.findall(r"[a-z]{4,}", " ".join(_NAMES))}


def _quoted(cell: object) -> str:
    """A cell as it is reported. Words that no diagnosis has may be a person's name: their length is told in their place."""
    def told(word: re.Match[str]) -> str:
        return word[0] if any(known in word[0].casefold() for known in _WORDS) else f"<{len(word[0])} letters>"

    return shown(re.sub(r"[^\W\d_]+", told, plain(str(cell))))


@dataclass(frozen=True)
class LabelSheet:
    """What a sheet says, and what of it could not be read."""

    labels: pd.DataFrame
    """One row an exam: exam_id, label_date (YYYY-MM-DD or ""), left_code, right_code (0: no label)."""

    rows: int
    """Rows of the sheet that name an exam."""

    rejects: list[dict[str, object]]
    """Cells and rows that could not be used, as rows of `tables.REJECTS`."""

    worksheet: str
    """The one that was read; "" of a CSV."""


def only_sheet(folder: Path = Path("metadata")) -> Path:
    """The only .xlsx in the folder. Raises UserError if there is none, or a choice to make."""
    found = sorted(p for p in folder.glob("*.xlsx") if not p.name.startswith(("~", ".")))
    if len(found) != 1:
        listed = ", ".join(p.name for p in found) or "none"
        raise UserError(f"--xlsx-path: expected one .xlsx in {folder}/, found {listed}; name the label sheet")
    return found[0]


def parse_exam_id(cell: object) -> str:
    """The id as text, "" of an empty cell. Raises ValueError where the cell may have lost digits.

    A number that Excel stored has no leading zeros left (unless its format shows them). What was typed around an id to keep it
    text (an apostrophe, `="…"`), spaces between digits, `.0` and invisible characters do not belong to it.
    """
    if cell is None:
        return ""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        if cell < 0 or not float(cell).is_integer():
            raise ValueError("a number that is no id; write the id as text")
        if cell >= EXACT:
            raise ValueError("digits may be lost: Excel keeps 15 of a number; write the id as text")
        return str(int(cell))
    if not isinstance(cell, str):
        raise ValueError(f"Excel took it for a {type(cell).__name__}; write the id as text")
    text = plain(cell)
    if text.startswith('="') and text.endswith('"'):
        text = text[2:-1].strip()
    text = text[1:].strip() if text.startswith(("'", "’", "‘")) else text
    if _SCIENTIFIC.fullmatch(text):
        raise ValueError("digits may be lost in a number written so; write the id as text")
    if _ERROR.fullmatch(text) or len(text.splitlines()) > 1:
        raise ValueError("no exam id")
    if re.fullmatch(r"[\d ]+(\.0+)?", text):
        return text.replace(" ", "").split(".")[0]
    return text


@functools.lru_cache(maxsize=1000, typed=True)  # a sheet holds few different labels; typed: True is not 1
def parse_code(cell: object) -> int:
    """Code 1 to 6 of a cell such as `5：正常`, `5`, 5.0, `正常`, `normal`; 0 of an empty one. Raises ValueError for any other.

    Words behind a code that are no diagnosis of the list are a remark; one that names another diagnosis, a number or a question
    mark makes the label unsure, and is refused.
    """
    text = plain("" if cell is None else str(cell))
    if not text:
        return UNLABELLED
    if _name(text) in _NAMES:
        return _NAMES[_name(text)]
    match = _CODED.fullmatch(text)
    code, name = (int(match[1]), _name(match[3])) if match else (UNLABELLED, "")
    if not match or (name and not match[2] and name not in _NAMES):
        raise ValueError("neither a code 1 to 6 nor the name of one")
    if name not in _NAMES and _DOUBT.search(name):
        raise ValueError("more than one code, or doubt")
    others = {known for known, of in (*_LONG_NAMES.items(), *_TELLING.items()) if code not in (of, OTHER)}
    if code == NORMAL and _NOT_NORMAL.search(name):
        raise ValueError("code and name disagree")
    if _NAMES.get(name, code) != code or (name not in _NAMES and any(other in name for other in others)):
        raise ValueError("code and name disagree")
    return code


def parse_date(cell: object, day_zero: datetime.date = Rows.day_zero) -> str:
    """YYYY-MM-DD of a cell, "" of an empty one. Raises ValueError where it holds no date, or one that can be read in two ways.

    day_zero: of the days that a number counts.
    """
    if isinstance(cell, datetime.date):
        return _iso(cell.year, cell.month, cell.day)
    text = plain("" if cell is None else str(cell))
    if not text:
        return ""
    if match := _SERIAL.fullmatch(text):
        if int(match[1]) not in SERIALS:
            raise ValueError("no date")
        return (day_zero + datetime.timedelta(days=int(match[1]))).isoformat()
    if match := _YEAR_FIRST.match(text):
        return _iso(*(int(part) for part in match.groups() if part))
    if match := _YEAR_LAST.match(text):
        one, other, year = int(match[1]), int(match[3]), int(match[4])
        if one != other and max(one, other) <= 12:
            raise ValueError("day and month can be read in two ways")
        return _iso(year, min(one, other), max(one, other))
    raise ValueError("no date")


def _iso(year: int, month: int, day: int) -> str:
    if year not in YEARS:
        raise ValueError("no date")
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        raise ValueError("no such day") from None


def read_label_sheet(path: Path) -> LabelSheet:
    """Read the sheet. Raises UserError if a column is missing; single cells that cannot be read become rejects.

    Rows that repeat an exam count once. A side that one row labels and another leaves empty has that label; where two rows
    disagree, or one of them cannot be read, it has none.
    """
    sheet = read_rows(path, needed=(EXAM_ID, *LABEL_COLUMNS.values()), optional=(EXAM_TIME,), worksheet=WORKSHEET)
    file = f"{path.name}, sheet {sheet.worksheet}" if sheet.worksheet else path.name
    rejects: list[dict[str, object]] = []

    def reject(row: int, exam_id: str, reason: str, detail: str) -> None:
        rejects.append({"exam_id": exam_id, "file": f"{file}, row {row}", "reason": reason, "detail": detail})

    for row in sheet.shifted:
        reject(row, "", "shifted_row", "more cells than the header has: a delimiter in a text that is not quoted?")
    dates: dict[str, str] = {}
    codes: dict[str, dict[Side, int]] = {}
    rows = 0
    for row, cells in sheet.rows:
        if all(squeezed(str(cells[name])) == name for name in LABEL_COLUMNS.values()):
            continue                                             # the header again, of a sheet put together from several
        try:
            exam_id = parse_exam_id(cells[EXAM_ID])
        except ValueError as error:
            reject(row, "", "unparsable_exam_id", f"column {EXAM_ID}: got {_quoted(cells[EXAM_ID])}, {error}")
            continue
        if not exam_id:
            if any(plain(str(cells[name] or "")) for name in LABEL_COLUMNS.values()):
                reject(row, "", "no_exam_id", f"column {EXAM_ID} is empty")
            continue
        rows += 1
        try:
            date = parse_date(cells.get(EXAM_TIME), sheet.day_zero)
        except ValueError as error:
            date = ""
            reject(row, exam_id, "unparsable_date", f"column {EXAM_TIME}: got {_quoted(cells[EXAM_TIME])}, {error}")
        dates[exam_id] = dates.get(exam_id) or date
        known = codes.setdefault(exam_id, dict.fromkeys(LABEL_COLUMNS, UNLABELLED))
        for side, column in LABEL_COLUMNS.items():
            try:
                code = parse_code(cells[column])
            except ValueError as error:
                code = UNSURE
                reject(row, exam_id, "unparsable_label", f"column {column}: got {_quoted(cells[column])}, {error}")
            before = known[side]
            if before == UNLABELLED:
                known[side] = code
            elif code not in (UNLABELLED, before):
                known[side] = UNSURE
                this, earlier = ("unclear" if said == UNSURE else said for said in (code, before))
                reject(row, exam_id, "conflicting_label", f"column {column}: this row is {this}, an earlier one {earlier}")
    if not codes:
        raise UserError(f"--xlsx-path {path}: no row below its header names an exam (column {EXAM_ID})")
    labels = pd.DataFrame(
        [(exam_id, dates[exam_id], *(max(code, UNLABELLED) for code in known.values())) for exam_id, known in codes.items()],
        columns=["exam_id", "label_date", *(f"{side}_code" for side in LABEL_COLUMNS)],
    )
    return LabelSheet(labels, rows, rejects, sheet.worksheet)
