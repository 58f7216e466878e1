"""The meaning of a label sheet's cells: exam ids, diagnosis codes and dates, in the ways in which people type them."""
import datetime
import functools
import re

from medical_fenlei.ingest.spreadsheet import Rows, plain, shown, squeezed
from medical_fenlei.ingest.workbook import EXACT
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL, UNLABELLED

YEARS = range(1950, 2101)
SERIAL_DAYS = range(20_000, 75_000)
"""Numbers that are dates as Excel counts days, 1954 to 2105."""

_CODED = re.compile(r"0?([1-6])(?:[.,]0+)?(?!\d)\s*([:∶、.,;)\-]*)\s*(.*)")
_DOUBT = re.compile(r"[\d?]")
_SCIENTIFIC = re.compile(r"\d+([.,]\d+E[+-]?|E[+-])\d+", re.IGNORECASE)
_EXPONENT = re.compile(r"(?<=\d)E[+-]?\d", re.IGNORECASE)
_GROUPED = re.compile(r"\d{1,3}(,\d{3})+(\.0+)?|\d{1,3}\.000")
"""An id with a separator of thousands; 123.000 may be 123 or 123,000."""
_ERROR = re.compile(r"#(N/A|REF!|VALUE!|NAME\?|NULL!|NUM!|DIV/0!|SPILL!|CALC!)")
_YEAR_FIRST = re.compile(r"(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})(?!\d)|(\d{4})(\d\d)(\d\d)(?:\d{4}|\d{6})?(?!\d)")
_YEAR_LAST = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})(?!\d)")
_SERIAL = re.compile(r"(\d{5})([.,]\d+)?")


def _normalized(text: str) -> str:
    """Return a diagnosis without what people write differently: spaces, brackets, dashes, case."""
    return re.sub(r"[\s()_-]", "", squeezed(text)).casefold()


_NAMES = {
    _normalized(name): d.code for d in DIAGNOSES.values() for name in (d.chinese, d.english, d.key, f"{d.english} {d.key}")
}
_LONG_NAMES = {_normalized(name): d.code for d in DIAGNOSES.values() for name in (d.chinese, d.english)}
_KEYWORDS = {"化脓": 1, "胆脂瘤": 2, "分泌性": 3, "胆固醇": 4}
"""Parts of names that identify a diagnosis."""
_NOT_NORMAL, _OTHER = re.compile("不正常|非正常|异常|abnormal"), 6
"""`other` may mention any diagnosis, for example what was operated on."""
_HEALTHY = re.compile(
    r"(?<![余外])(?<![余外],)(?:未见|未发现|未及|没有|无)(?:明显|明确|确切|显著)?(?:的)?(?:异常(?:密度影?|改变|征象|表现|所见)?|病变)"
    r"|(?<![a-z])(?:no|not|without)(?:any|clear|obvious|definite|evident|apparent|significant)*abnormal(?:ity|ities)?"
    r"(?:detected|seen|found|noted|identified)?|unremarkable|withinnormallimits")
"""The usual words for a healthy ear, `_normalized`; after "the rest" or "except" they describe only the rest."""
_NEGATION = ("(?:未见|未发现|未及|没有|无|非|不是|[不未]?能?除外|[不未]?能?排除|否认|疑似?|可疑"
             "|(?<![a-z])(?:no|not|without|possible|probable|suspected))"
             "(?:明显|明确|确切|典型|慢性|中耳|chronic|middleear|evidenceof|obvious)*")
_OWN_WORDS = {code: "|".join(word for word, of in (*_NAMES.items(), *_KEYWORDS.items()) if of == code) for code in DIAGNOSES}
_DENIED = {code: re.compile(f"{_NEGATION}(?:{words})|(?:{words})(?:可能|待排|待查|待除外)")
           for code, words in _OWN_WORDS.items()}
"""A diagnosis that is denied or doubted, by its code."""
_MEDICAL_WORDS = {*"".join(d.chinese for d in DIAGNOSES.values()), *re.findall(r"[a-z]{4,}", " ".join(_NAMES))}


def quoted(cell: object) -> str:
    """Return a cell for a report. Words that occur in no diagnosis may be a person's name: only their length is given."""
    def reported(word: re.Match[str]) -> str:
        if any(known in word[0].casefold() for known in _MEDICAL_WORDS) or _EXPONENT.match(word.string, word.start()):
            return word[0]
        return "<1 letter>" if len(word[0]) == 1 else f"<{len(word[0])} letters>"

    return shown(re.sub(r"[^\W\d_]+", reported, plain(str(cell))))


def parse_exam_id(cell: object) -> str:
    """Return the id as text, or "" for an empty cell. Raises ValueError if the cell may have lost digits.

    A number stored by Excel has no leading zeros left, unless its format shows them. What was typed around an id to keep it
    text (an apostrophe, `="…"`), spaces between digits, `.0` and invisible characters are removed.
    """
    if cell is None:
        return ""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        if cell <= 0 or not float(cell).is_integer():            # 0: a formula that refers to an empty cell
            raise ValueError("a number that is no id; write the id as text")
        if cell >= EXACT:
            raise ValueError("digits may be lost: Excel keeps 15 digits of a number; write the id as text")
        return str(int(cell))
    if not isinstance(cell, str):
        raise ValueError(f"Excel stored it as a {type(cell).__name__}; write the id as text")
    text = plain(cell)
    if text.startswith('="') and text.endswith('"'):
        text = text[2:-1].strip()
    text = text[1:].strip() if text.startswith(("'", "’", "‘")) else text
    if _SCIENTIFIC.fullmatch(text):
        raise ValueError("digits may be lost in scientific notation; write the id as text")
    if text.startswith("="):
        raise ValueError("a formula, not its value: open the file in Excel or WPS and save it")
    if _ERROR.fullmatch(text) or len(text.splitlines()) > 1:
        raise ValueError("no exam id")
    if _GROUPED.fullmatch(text):
        raise ValueError("a separator of thousands, or of decimals; write the id as text, with its digits only")
    if match := re.fullmatch(r"([\d ]+)([.,]0+)?", text):
        return match[1].replace(" ", "")
    return text


@functools.lru_cache(maxsize=1000, typed=True)  # a sheet has few different labels; typed: True is not 1
def parse_code(cell: object) -> int:
    """Return the code 1 to 6 of a cell such as `5：正常`, `5`, 5.0, `正常`, `未见异常`, `normal`, or 0 for an empty cell.

    Raises ValueError for any other cell. Words after a code that are no diagnosis of the list are a remark; if they name
    another diagnosis, a number or a question mark, or deny the diagnosis, the label is uncertain and refused.
    """
    text = plain("" if cell is None else str(cell))
    if not text:
        return UNLABELLED
    if named := _named_code(_normalized(text)):
        return named
    match = _CODED.fullmatch(text)
    code, name = (int(match[1]), _normalized(match[3])) if match else (UNLABELLED, "")
    named = _named_code(name)
    if text.startswith("="):
        raise ValueError("a formula, not its value: open the file in Excel or WPS and save it")
    if not match or (name and not match[2] and not named):
        raise ValueError("neither a code 1 to 6 nor the name of one: correct the cell")
    if not named and _DOUBT.search(name):
        raise ValueError("more than one code, or doubt: leave one code, or none")
    if named != code if named else _contradicts(code, name):
        raise ValueError("code and words disagree, or they deny or doubt it: correct the cell")
    return code


def _named_code(name: str) -> int:
    """Return the code of a `_normalized` name, or 0 for other words. Several words for a healthy ear are one name."""
    if name in _NAMES:
        return _NAMES[name]
    rest = _HEALTHY.sub("", name)
    is_healthy = rest != name and (not (other := rest.strip(",;.、。")) or _NAMES.get(other) == NORMAL)
    return NORMAL if is_healthy else UNLABELLED


def _contradicts(code: int, name: str) -> bool:
    """Return whether the words after a code name another diagnosis, or deny or doubt its own."""
    rest = _HEALTHY.sub("", name)
    if code == NORMAL and _NOT_NORMAL.search(rest):
        return True
    if code not in (NORMAL, _OTHER) and rest != name and not re.search(_OWN_WORDS[code], rest):
        return True
    others = {known for known, of in (*_LONG_NAMES.items(), *_KEYWORDS.items()) if code not in (of, _OTHER)}
    return _DENIED[code].search(name) is not None or any(other in rest for other in others)


def parse_date(cell: object, day_zero: datetime.date = Rows.day_zero) -> str:
    """Return the date of a cell as YYYY-MM-DD, or "" for an empty cell. Raises ValueError for no date or an ambiguous one.

    day_zero: date from which numbers count days.
    """
    if isinstance(cell, datetime.date):
        return _iso(cell.year, cell.month, cell.day)
    text = plain("" if cell is None else str(cell))
    if not text:
        return ""
    if match := _SERIAL.fullmatch(text):
        if int(match[1]) not in SERIAL_DAYS:
            raise ValueError("no date")
        return (day_zero + datetime.timedelta(days=int(match[1]))).isoformat()
    if match := _YEAR_FIRST.match(text):
        return _iso(*(int(part) for part in match.groups() if part))
    if match := _YEAR_LAST.match(text):
        one, other, year = int(match[1]), int(match[3]), int(match[4])
        if one != other and max(one, other) <= 12:
            raise ValueError("day and month are ambiguous")
        return _iso(year, min(one, other), max(one, other))
    raise ValueError("no date")


def _iso(year: int, month: int, day: int) -> str:
    if year not in YEARS:
        raise ValueError("no date")
    try:
        return datetime.date(year, month, day).isoformat()
    except ValueError:
        raise ValueError("no such day") from None
