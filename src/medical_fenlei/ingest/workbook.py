"""Excel workbooks: the values of their cells as Excel shows them, merged cells, and formulas whose value is not stored."""
import io
import itertools
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from medical_fenlei.errors import UserError

LARGEST = 500_000_000
"""Largest unpacked size of a workbook in bytes; a sheet of 4,000 exams has a few million."""
EXACT = 10 ** 15
"""Integers from here on may have lost digits: Excel keeps 15 digits of a number."""

_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/")
"""Namespaces of a workbook saved as "Strict Open XML", which openpyxl does not read."""
_LITERAL = r'(?:"[^"]*"|\\.|-)'
_ZERO_PADDED = re.compile(rf"({_LITERAL}*)(0+)({_LITERAL}*)")


@dataclass(frozen=True)
class UnreadableCell:
    """A cell without a value that can be trusted."""

    reason: str
    """Code of a reject."""

    detail: str
    """What is the matter, and what to do."""


@dataclass(frozen=True)
class MergedRange:
    """A merged cell; rows count from 1 as in Excel, columns from 0, both ends belong to it."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Worksheet:
    """The contents of a worksheet."""

    rows: Iterator[list[object]]
    """Values of each row, from the first: None, text, number, bool, date or `UnreadableCell`."""

    merged: list[MergedRange]
    """The merged cells; only the upper left one has a value in `rows`, unless a hidden one was left below them."""


class Workbook:
    """The worksheets of an .xlsx file. Needs defusedxml beside openpyxl, which then refuses entity bombs."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        """Open a workbook; `path` is named in errors. Raises UserError if it is too large, else what zip or openpyxl raise."""
        import openpyxl  # slow to import

        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > LARGEST:
                raise UserError(f"--xlsx-path {path}: holds more than {LARGEST // 10 ** 6} MB unpacked; is it a label sheet?")
            strict = "xl/workbook.xml" in archive.namelist() and _STRICT.search(archive.read("xl/workbook.xml")) is not None
            readable = _transitional(archive) if strict else file
        self._book = openpyxl.load_workbook(readable, read_only=True, data_only=True, keep_links=False)
        for sheet in self._book.worksheets:
            sheet.reset_dimensions()                             # exporters write wrong dimensions
        self.titles: list[str] = [sheet.title for sheet in self._book.worksheets]
        self.day_zero = self._book.epoch.date()

    def top_rows(self, title: str, number: int) -> list[list[object]]:
        """Return the values of the first rows of a worksheet."""
        return [[cell.value for cell in row] for row in itertools.islice(self._book[title].iter_rows(), number)]

    def worksheet(self, title: str) -> "Worksheet":
        """Return the contents of a worksheet."""
        merged, unvalued = self._marks(title)
        return Worksheet(self._rows(title, unvalued), merged)

    def _rows(self, title: str, unvalued: Mapping[int, Sequence[int]]) -> Iterator[list[object]]:
        for number, row in enumerate(self._book[title].iter_rows(), 1):
            values = [_value(cell) for cell in row]
            for column in unvalued.get(number, ()):
                values += [None] * (column + 1 - len(values))
                values[column] = UnreadableCell("formula_without_value", "a formula whose value is not stored in the file: "
                                                "open the file in Excel or WPS and save it")
            yield values

    def _marks(self, title: str) -> tuple[list[MergedRange], dict[int, list[int]]]:
        """Return merged cells, and the columns of formulas without a value by row: openpyxl leaves both out of its rows."""
        from defusedxml.ElementTree import iterparse
        from openpyxl.utils.cell import coordinate_to_tuple, range_boundaries

        merged: list[MergedRange] = []
        unvalued: dict[int, list[int]] = {}
        row = column = 0
        with self._book[title]._get_source() as source:         # the part of this worksheet, which no public name gives
            for event, element in iterparse(source, ("start", "end")):
                tag = element.tag.rpartition("}")[2]
                if event == "start" and tag == "row":
                    row, column = int(element.get("r", row + 1)), 0
                elif event == "end" and tag == "c":
                    at = element.get("r")
                    column = coordinate_to_tuple(at)[1] if at else column + 1
                    if _is_unvalued(element):
                        unvalued.setdefault(row, []).append(column - 1)
                elif event == "end" and tag == "row":
                    element.clear()
                elif event == "end" and tag == "mergeCell":
                    left, top, right, bottom = range_boundaries(element.get("ref"))
                    merged.append(MergedRange(top, left - 1, bottom, right - 1))
        return merged, unvalued


def _transitional(archive: zipfile.ZipFile) -> BinaryIO:
    """Return a copy of a strict workbook with the namespaces of the usual (transitional) kind."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as changed:
        for name in archive.namelist():
            part = archive.read(name)
            if name.endswith((".xml", ".rels")):
                part = _STRICT.sub(rb"http://schemas.openxmlformats.org/\1/2006/", part)
            changed.writestr(name, part)
    return copy


def _is_unvalued(cell: Any) -> bool:
    """Return whether an XML cell has a formula and no value; a text of no letters (type `str`) is a value."""
    parts = {part.tag.rpartition("}")[2]: part.text for part in cell}
    return "f" in parts and not parts.get("v") and cell.get("t") != "str"


def _value(cell: Any) -> object:
    """Return the value of a cell; a number that Excel shows with leading zeros or text around it becomes the text shown."""
    value = cell.value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < EXACT and float(value).is_integer():
        match = _ZERO_PADDED.fullmatch((cell.number_format or "").split(";")[0])
        if match and len(match[0]) > 1:
            before, after = (re.sub(r'["\\]', "", text) for text in (match[1], match[3]))
            return before + str(int(value)).zfill(len(match[2])) + after
    return value
