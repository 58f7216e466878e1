"""A kind of CSV: which columns it has and what their cells may hold. Reading checks it; writing is atomic.

In memory a code is an integer with 0 for "no label", a missing text is "", a missing number NaN. Text that a spreadsheet would
run as a formula is written behind an apostrophe, which reading removes again.
"""
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic, csv_quoting, is_inside
from medical_fenlei.json_files import LARGEST
from medical_fenlei.near_names import near_paths
from medical_fenlei.vocabulary import DIAGNOSES, SIDES, UNLABELLED

Kind = Literal["text", "key", "relpath", "side", "code", "flag", "int", "count", "age", "float", "mm", "share"]
"""text: may be empty; key: text, never empty; relpath: a path below a base folder; side: left or right; code: 1 to 6 or empty;
flag: true or false; int: an integer, never empty; count: an integer, may be empty; age: a count of years; float: a number, may
be empty; mm: a length, may be empty; share: a number from 0 to 1, never empty."""
LONGEST_MM, OLDEST = 10_000, 150
"""Greatest length and age in tables."""
NULLABLE = ("count", "age", "float", "mm")
"""Kinds of number whose cells may be empty."""
_FORMULA = re.compile(r"^'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"^'+[=+\-@\t\r]")
_DTYPES: dict[str, str] = {
    "code": "int8", "flag": "bool", "int": "int64", "count": "Int64", "age": "Int64", "float": "float64",
    "mm": "float64", "share": "float64"}
_ALLOWED: dict[str, tuple[Callable[[object], bool], str]] = {
    "key": (lambda v: v != "", "must not be empty"),
    "relpath": (lambda v: is_inside(str(v)), "must stay below its base folder"),
    "side": (lambda v: v in SIDES, "must be left or right"),
    "share": (lambda v: 0 <= cast(float, v) <= 1, "must be 0 to 1"),
    "mm": (lambda v: 0 <= cast(float, v) <= LONGEST_MM, f"must be 0 to {LONGEST_MM} mm"),
    "age": (lambda v: 0 <= cast(int, v) <= OLDEST, f"must be 0 to {OLDEST} years"),
    "code": (lambda v: v == UNLABELLED or v in DIAGNOSES, "must be 1 to 6 or empty"),
}


@dataclass(frozen=True)
class Table:
    """One kind of CSV: its columns and the rules of their cells."""

    name: str
    """What the table lists, for error messages."""

    columns: dict[str, Kind]
    """Required columns, in order."""

    more: Kind | None = None
    """Kind of further columns; None to ignore them."""

    optional: dict[str, Kind] = field(default_factory=dict)
    """Columns that may be missing."""

    unique: tuple[str, ...] = ()
    """Columns that together identify a row."""

    made_by: str = ""
    """The command that writes it, named where the file is missing."""

    def read(self, path: Path) -> pd.DataFrame:
        """Read and check a table; one that was read before and has not changed since comes from memory.

        Raises UserError for a missing file or column, or the first invalid cell.
        """
        where, state = path.absolute(), _settled_state(path)
        known = _READ.pop(where, None)
        if known is None or state is None or known[:2] != (state, self):
            known = state, self, self._read(path)
        if state is not None:
            _READ[where] = known
            while len(_READ) > MOST_READ:
                del _READ[next(iter(_READ))]                     # read the longest time ago
        return known[2].copy(deep=False)                         # copied in truth as soon as it is changed

    def _read(self, path: Path) -> pd.DataFrame:
        try:
            raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig",
                              encoding_errors="surrogateescape")
        except FileNotFoundError:
            remedy = f"; {self.made_by} writes it" if self.made_by else ""
            raise UserError(f"{path}: no such file ({self.name}){remedy}{near_paths('file', path)}") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: cannot be read as CSV ({self.name}): {str(error).splitlines()[0]}") from None
        missing = [c for c in self.columns if c not in raw.columns]
        if missing:
            other = next((mark for mark in ";\t" if len(raw.columns) == 1 and mark in raw.columns[0]), "")
            hint = f"; it is separated by {other!r}, expected commas: was it saved by Excel?" if other else ""
            there = ", ".join(c for c in raw.columns if c in self.columns) or "none"     # other names may be patient data
            raise UserError(f"{path}: column {missing[0]!r} is missing ({self.name}); of its columns there are: {there}{hint}")
        kinds = self._kinds(raw.columns)
        frame = pd.DataFrame({c: self._parse(raw[c], kind, path) for c, kind in kinds.items()})
        self._check(frame, str(path))
        return frame

    def write(self, path: Path, frame: pd.DataFrame) -> None:
        """Check and write the columns of the table, and others if `more` allows them. Raises UserError for an invalid cell."""
        kinds = self._kinds(frame.columns)
        frame = frame.reset_index(drop=True)[list(kinds)]
        self._check(frame, str(path))
        shown = pd.DataFrame({c: self._show(frame[c], kind) for c, kind in kinds.items()})
        quoting = csv_quoting(text for c, kind in kinds.items() if kind not in _DTYPES for text in shown[c])
        with atomic(path, "w") as file:
            shown.to_csv(file, index=False, lineterminator="\n", quoting=cast(Literal[0, 1], quoting))

    def empty(self) -> pd.DataFrame:
        """Return a table without rows."""
        return self.frame([])

    def frame(self, rows: Sequence[Mapping[str, object]] | pd.DataFrame) -> pd.DataFrame:
        """Return a table of these rows, possibly none, whose columns have the types of their kinds."""
        frame = pd.DataFrame(rows, columns=None if len(rows) else list(self.columns))
        return frame.astype({c: _DTYPES.get(k, "str") for c, k in self._kinds(frame.columns).items()})

    def _kinds(self, present: Iterable[str]) -> dict[str, Kind]:
        present = list(present)
        named = {**self.columns, **{c: kind for c, kind in self.optional.items() if c in present}}
        return {**named, **{c: self.more for c in present if self.more and c not in named}}

    def _parse(self, cells: pd.Series, kind: Kind, path: Path) -> pd.Series:
        if kind not in ("relpath", "text"):                      # spaces may belong to the name of a folder
            cells = cells.str.strip()
        try:
            if kind == "flag":
                values = cells.str.lower().map({"true": True, "false": False, "1": True, "0": False})
                if values.isna().any():
                    raise ValueError(f"got {cells[values.isna()].iloc[0]!r}, expected true or false")
                return values.astype(bool)
            if kind == "code":
                return cells.where(cells != "", str(UNLABELLED)).astype("int8")
            if kind in _DTYPES:
                _refuse_non_numbers(cells, kind)
                return cells.where(cells != "", "nan").astype("float64").astype(_DTYPES[kind])  # type: ignore[call-overload]
        except (ValueError, OverflowError) as error:
            raise UserError(f"{path}: column {cells.name!r}: {str(error).splitlines()[0]}") from None
        return cells.map(lambda text: text[1:] if _ESCAPED.match(text) else text).astype("str")

    def _show(self, cells: pd.Series, kind: Kind) -> pd.Series:
        if kind == "code":
            return cells.map(lambda code: "" if code == UNLABELLED else str(code))
        if kind in _DTYPES:
            return cells
        return cells.map(lambda text: f"'{text}" if _FORMULA.match(text) else text)

    def _check(self, frame: pd.DataFrame, where: str) -> None:
        import pandera.pandas as pa  # slow to import

        def column(kind: Kind) -> pa.Column:
            allowed, rule = _ALLOWED.get(kind, (None, ""))
            checks = [pa.Check(allowed, element_wise=True, error=rule)] if allowed else []
            return pa.Column(_DTYPES.get(kind, "str"), checks, nullable=kind in NULLABLE)

        schema = pa.DataFrameSchema(
            {c: column(k) for c, k in self._kinds(frame.columns).items()}, unique=list(self.unique) or None
        )
        try:
            schema.validate(frame)
        except pa.errors.SchemaError as error:
            if frame.duplicated(list(self.unique)).any() if self.unique else False:
                row = frame[frame.duplicated(list(self.unique))].iloc[0]
                named = ", ".join(f"{c} {row[c]}" for c in self.unique)
                raise UserError(f"{where}: more than one row for {named} ({self.name})") from None
            cases = error.failure_cases
            first = cases.iloc[0] if isinstance(cases, pd.DataFrame) and len(cases) else None
            if first is None or pd.isna(first["index"]):
                raise UserError(f"{where}: {str(error).splitlines()[0]} ({self.name})") from None
            case = first["failure_case"]
            rule = getattr(error.check, "error", "must not be null")         # the check for nulls is a word
            got = f"row {int(first['index']) + 2}: got {getattr(case, 'item', lambda: case)()!r}, it {rule}"
            raise UserError(f"{where}: column {error.schema.name!r}, {got} ({self.name})") from None


_READ: dict[Path, tuple[tuple[int, ...] | None, Table, pd.DataFrame]] = {}
"""Tables that were read, the last one last, with the state of their files; a run reads the same few some forty times."""
MOST_READ = 16
"""Greatest number of tables that are kept in memory."""
SETTLED_SECONDS = 2.0
"""Age from which on a change shows in the times of a file: file systems count them in steps of up to two seconds."""


def _settled_state(path: Path) -> tuple[int, ...] | None:
    """What changes whenever the file does; None if it is missing, or was changed so recently that a change might not show."""
    try:
        stat = path.stat()
    except OSError:
        return None
    if time.time() - max(stat.st_mtime, stat.st_ctime) < SETTLED_SECONDS:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _refuse_non_numbers(cells: pd.Series, kind: Kind) -> None:
    """Raise ValueError with the first cell that is not a number of this kind."""
    numbers = pd.to_numeric(cells, errors="coerce").astype("float64")
    wrong = numbers.isna() & ~(cells.str.lower().isin(["", "nan"]) & (kind in NULLABLE))
    if kind in ("int", "count", "age"):
        wrong |= numbers.notna() & (numbers % 1 != 0)
    wrong |= numbers.abs() > LARGEST
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        expected = "a whole number" if kind in ("int", "count", "age") else "a number"
        expected += f" of at most {LARGEST:.0e}" if abs(numbers.iloc[row]) > LARGEST else ""
        raise ValueError(f"row {row + 2}: got {cells.iloc[row]!r}, expected {expected}; was the file cut short, or edited?")


assert set(get_args(Kind)) >= set(_DTYPES) | set(_ALLOWED)
