"""Rows of an Excel or CSV file by the names of their columns, in whichever of the first rows the header is.

Only the requested columns leave this module: the others hold findings about patients.
"""
import csv
import datetime
import io
import itertools
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.workbook import MergedRange, UnreadableCell, Workbook
from medical_fenlei.near_names import near_paths

HEADER_WITHIN = 20
"""Number of rows that are searched for the header; titles and merged cells may be above it."""

_OLD_OR_ENCRYPTED = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_ZIP = b"PK\x03\x04"
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-"))
_END = "\0end"


@dataclass(frozen=True)
class Rows:
    """The rows below the header."""

    worksheet: str
    """Name of the worksheet; "" for a CSV."""

    rows: list[tuple[int, dict[str, object]]]
    """Row number as shown in Excel, and cells by column: None, text, number, bool, date or `UnreadableCell`."""

    shifted: list[int] = field(default_factory=list)
    """CSV rows with more cells than the header, in which no cell can be trusted; they are not in `rows`."""

    day_zero: datetime.date = datetime.date(1899, 12, 30)
    """Date from which the file counts days."""

    others: tuple[str, ...] = ()
    """Other worksheets with the needed columns, which are not read."""


@dataclass(frozen=True, kw_only=True)
class WantedColumns:
    """Names of the columns to read."""

    needed: tuple[str, ...]
    """The sheet must have these."""

    optional: tuple[str, ...] = ()
    """The sheet may have these."""

    alike: tuple[str, ...] = ()
    """A cell merged over several of these counts for each."""


@dataclass(frozen=True)
class _Header:
    row: int
    columns: dict[str, int]
    width: int


def plain(text: str) -> str:
    """Return the text half-width, without invisible characters and outer spaces."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf")).strip()


def squeezed(text: str) -> str:
    """Return the `plain` text without spaces and with one kind of dash, to compare names that people type."""
    return "".join(plain(text).translate(_DASHES).split())


def read_rows(path: Path, wanted: WantedColumns, *, worksheet: str) -> Rows:
    """Read the cells of these columns, from the worksheet of that name or else the only one with the needed columns.

    The header is the first row, within HEADER_WITHIN, with every needed column; a name merged over several rows counts for the
    lowest. Hidden rows and columns are read too, and formulas as the value that Excel computed last. A merged cell counts in
    each of its rows. Raises UserError, with one line, if the file cannot be read, or if a column is missing or occurs twice.
    """
    if not path.is_file():
        what = "is a folder: name the file in it" if path.is_dir() else f"no such file{near_paths('file', path)}"
        raise UserError(f"--xlsx-path {path}: {what}")
    try:
        with path.open("rb") as file:
            start = file.read(len(_OLD_OR_ENCRYPTED))
            file.seek(0)
            if not start:
                raise UserError(f"--xlsx-path {path}: is empty; copy it again")
            if start == _OLD_OR_ENCRYPTED and _ENCRYPTED in file.read():
                raise UserError(f"--xlsx-path {path}: is protected by a password; save a copy without one in Excel")
            if start == _OLD_OR_ENCRYPTED:
                raise UserError(f"--xlsx-path {path}: is in the old .xls format; save it as .xlsx in Excel or WPS")
            if path.suffix.lower() in _TEXT_SUFFIXES and not start.startswith(_ZIP):
                return _from_text(file.read(), path, wanted)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")                  # warnings of openpyxl quote cells
                return _from_workbook(file, path, wanted, worksheet)
    except UserError:
        raise
    except Exception as error:  # broken files raise errors of zip, XML, csv or openpyxl, which may quote cells
        what = f"cannot be read as a label sheet ({type(error.__cause__ or error).__name__})"
        raise UserError(f"--xlsx-path {path}: {what}; open it in Excel and save it as .xlsx or as CSV") from None


def _from_workbook(file: BinaryIO, path: Path, wanted: WantedColumns, worksheet: str) -> Rows:
    book = Workbook(file, path)
    tops = {title: book.top_rows(title, HEADER_WITHIN) for title in book.titles}
    suited = [title for title, top in tops.items() if _header(top, wanted)]
    chosen = [title for title in tops if squeezed(title) == worksheet][:1]
    if not chosen:
        chosen = list(tops) if len(tops) == 1 else suited
    if len(chosen) != 1:
        many = f"{len(chosen)} hold its columns: rename the right one" if chosen else "none holds its columns"
        listed = ", ".join(map(repr, chosen or tops)) or "none"
        raise UserError(f"--xlsx-path {path}: no worksheet {worksheet!r}, and {many}; found: {listed}")
    header = _header_of(tops[chosen[0]], path, wanted)
    sheet = book.worksheet(chosen[0])
    corners = {(area.top, area.left): None for area in sheet.merged}
    rows: dict[int, dict[str, object]] = {}
    values: dict[tuple[int, int], object] = {}
    for number, row in enumerate(sheet.rows, 1):
        values |= {(number, column): value for column, value in enumerate(row) if (number, column) in corners}
        if number > header.row:
            rows[number] = {name: row[column] if column < len(row) else None for name, column in header.columns.items()}
    _spread_merged(rows, [(area, values.get((area.top, area.left))) for area in sheet.merged], header, wanted)
    others = tuple(title for title in suited if title not in chosen)
    return Rows(chosen[0], list(rows.items()), day_zero=book.day_zero, others=others)


def _spread_merged(rows: Mapping[int, dict[str, object]], merged: Iterable[tuple[MergedRange, object]], header: _Header,
                   wanted: WantedColumns) -> None:
    """Give the value of each merged cell to all cells below it, as people read it.

    It counts within its column, and for several columns if they are `alike`; over others it is a title or unreadable. Rows that
    are otherwise empty stay so: they only make a cell taller.
    """
    filled = {number for number, cells in rows.items() if any(not _is_blank(cell) for cell in cells.values())}
    for area, value in merged:
        names = [name for name, column in header.columns.items() if area.left <= column <= area.right]
        if _is_blank(value) or not names or area.top <= header.row:
            continue
        same = [name for name in names if header.columns[name] == area.left]
        if set(same) & set(wanted.alike):
            same = [name for name in names if name in wanted.alike]
        is_title = any(name in wanted.needed and name not in wanted.alike for name in names)
        for number in sorted(filled.intersection(range(area.top, area.bottom + 1))):
            for name in names:
                cell = rows[number][name]
                if (number, header.columns[name]) == (area.top, area.left):
                    continue
                if not _is_blank(cell) and cell != value:
                    hidden = "another value is hidden below the merged cell: split it, and type each value"
                    rows[number][name] = UnreadableCell("merged_cell", hidden)
                elif name in same:
                    rows[number][name] = value
                elif name in wanted.alike and not is_title:
                    rows[number][name] = UnreadableCell("merged_cell", "merged with a cell of another column: split it")


def _is_blank(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not plain(cell))


def _from_text(content: bytes, path: Path, wanted: WantedColumns) -> Rows:
    lines = f"{_decoded(content, path).rstrip()}\n{_END}"
    read = {delimiter: csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter) for delimiter in ",;\t"}
    tops = {delimiter: list(itertools.islice(reader, HEADER_WITHIN)) for delimiter, reader in read.items()}
    delimiter = max(tops, key=lambda d: (_header(tops[d], wanted) is not None, _most_names(tops[d], wanted)[0]))
    header = _header_of(tops[delimiter], path, wanted)
    records = [*tops[delimiter], *read[delimiter]]
    if records.pop() != [_END]:
        raise UserError(f"--xlsx-path {path}: a quotation mark in row {len(records) + 1} or before is never closed")
    rows, shifted = [], []
    for number, record in enumerate(records[header.row:], header.row + 1):
        if any(cell.strip() for cell in record[header.width:]):
            shifted.append(number)
        else:
            rows.append((number, {name: record[c] if c < len(record) else None for name, c in header.columns.items()}))
    return Rows("", rows, shifted)


def _decoded(content: bytes, path: Path) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UserError(f"--xlsx-path {path}: is neither UTF-8 nor GB18030 text; save it as CSV UTF-8 in Excel")


def _names(row: Iterable[object]) -> dict[int, str]:
    """Return the names in a row by their column."""
    squeezed_cells = ((column, squeezed(cell)) for column, cell in enumerate(row) if isinstance(cell, str))
    return {column: name for column, name in squeezed_cells if name}


def _header(top: Sequence[Sequence[object]], wanted: WantedColumns) -> _Header | None:
    above: dict[int, str] = {}
    for number, row in enumerate(top, 1):
        own = _names(row)
        merged = {column: name for column, name in above.items() if column not in own and name not in own.values()}
        columns: dict[str, int] = {}
        for column, name in itertools.chain(own.items(), merged.items()):
            if name in (*wanted.needed, *wanted.optional) and columns.setdefault(name, column) != column:
                columns[name] = -1                               # it occurs twice
        if set(wanted.needed) <= set(columns):
            return _Header(number, columns, len(row))
        above |= own
    return None


def _most_names(top: Sequence[Sequence[object]], wanted: WantedColumns) -> tuple[int, list[str]]:
    """Return the number of needed names in the row with most of them, and all names in that row."""
    rows = [list(_names(row).values()) for row in top]
    return max(((len(set(wanted.needed) & set(names)), names) for names in rows), key=lambda row: row[0], default=(0, []))


def _header_of(top: Sequence[Sequence[object]], path: Path, wanted: WantedColumns) -> _Header:
    """Return the header. Raises UserError; a row without any needed name is not quoted, since it may be patient data."""
    header = _header(top, wanted)
    if header is None:
        hits, names = _most_names(top, wanted)
        if not hits:
            raise UserError(f"--xlsx-path {path}: none of the first {HEADER_WITHIN} rows holds the columns "
                            f"{', '.join(wanted.needed)}; name them so")
        missing = next(name for name in wanted.needed if name not in names)
        raise UserError(f"--xlsx-path {path}: column {missing!r} is missing; found: {', '.join(name[:30] for name in names)}")
    twice = [name for name, column in header.columns.items() if column < 0]
    if twice:
        raise UserError(f"--xlsx-path {path}: column {twice[0]!r} occurs twice; rename the one that does not count")
    return header


def shown(cell: object) -> str:
    """Return at most 30 characters of a cell, for a report."""
    return repr(str(cell).strip()[:30])
