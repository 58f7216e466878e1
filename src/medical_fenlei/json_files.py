"""A kind of JSON file: what its fields hold. Reading checks it, so that what is wrong is one line that names file and field.

Values are checked against the annotations of dataclasses and TypedDicts by pydantic, which takes what has one meaning: `3.0`
for an integer, a list for a tuple.
"""
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from medical_fenlei.errors import UserError
from medical_fenlei.files import read_json

T = TypeVar("T")
LARGEST = 1e15
"""Greatest number that a file may hold: nothing here is counted or measured beyond it."""
MOST_SHOWN = 60
"""Characters of a value that an error quotes."""
_WORDS = {"Input should be ": "expected ", "List should have ": "expected ", "String should have ": "expected ",
          " after validation": "", "Value error, ": "", "valid ": "", "a integer": "an integer"}
"""What pydantic says, and our words for it."""


Opaque: Any = dict[Any, Any] | None
"""The annotation of a dictionary whose content is its writer's business, infinite numbers included."""


@dataclass(frozen=True)
class JsonFile(Generic[T]):
    """One kind of JSON file."""

    name: str
    """What it holds, for errors."""

    kind: Any
    """The annotation of its content: a TypedDict, a dataclass, or a type such as `dict[str, int]`."""

    remedy: str
    """What to do where it is damaged."""

    only_known: bool = False
    """Whether a field that the annotation lacks is refused."""

    nan: bool = False
    """Whether numbers may be NaN or infinite."""

    def read(self, path: Path) -> T:
        """Read and check a file. Raises UserError, naming file and field; FileNotFoundError if there is none."""
        try:
            plain = read_json(path)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({self.name}), {_cause(error)}; {self.remedy}") from None
        return self.check(plain, str(path))

    def check(self, plain: object, where: str) -> T:
        """Return the content of a file that was read, with its types. Raises UserError, naming `where` and the field."""
        content, fault = checked(plain, self.kind, only_known=self.only_known, nan=self.nan)
        if fault:
            raise UserError(f"{where}: {fault} ({self.name}); {self.remedy}")
        return cast(T, content)


def checked(plain: object, kind: Any, *, name: str = "", only_known: bool = False, nan: bool = False) -> tuple[Any, str]:
    """Return plain values as the annotation says, and the first field that it does not allow with its fault, "" if none.

    name: the field that holds them. only_known, nan: as in `JsonFile`.
    """
    from pydantic import ValidationError  # a quarter of the time of --help

    for field, value in _absurd_numbers(plain, nan, name) if kind is not Opaque else ():
        return None, f"{_named(field)}: got {_short(value)}, expected a number of at most {LARGEST:.0e}"
    try:
        return _adapter(kind).validate_python(plain, extra="forbid" if only_known else None), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        return None, _described(_named(".".join(filter(None, (name, *map(str, first["loc"]))))), first)


def _described(field: str, first: Mapping[str, Any]) -> str:
    match first["type"]:
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{field} is unknown"
    expected = "expected a path" if first["type"] == "path_type" else first["msg"].split(", unable")[0]
    for said, meant in _WORDS.items():
        expected = expected.replace(said, meant)
    return f"{field}: got {_short(first['input'])}, {expected}"


def _named(field: str) -> str:
    return f"field {field}" if field else "content"


def _short(value: object) -> str:
    if isinstance(value, dict | list) and len(repr(value)) > MOST_SHOWN:
        return f"a {'dictionary' if isinstance(value, dict) else 'list'} of {len(value)}"
    return f"{value!r:.{MOST_SHOWN}}"


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _absurd_numbers(plain: object, nan: bool, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield the fields whose number is too large, or infinite or NaN where that is not allowed."""
    if isinstance(plain, dict | list | tuple):
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from _absurd_numbers(value, nan, f"{name}.{key}" if name else str(key))
    elif isinstance(plain, float | int) and not (abs(plain) <= LARGEST or (nan and not math.isfinite(plain))):
        yield name, plain


def _cause(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}: {error.msg[:1].lower()}{error.msg[1:]}"
    return error.strerror or "" if isinstance(error, OSError) else "it is no text" if isinstance(error, UnicodeError) else (
        f"{type(error).__name__}")


def in_range(low: float, high: float) -> Callable[[Any], Any]:
    """Return a check of a number for `pydantic.AfterValidator`. Raises ValueError."""
    def check(value: Any) -> Any:
        if not low <= value <= high:
            raise ValueError(f"expected {low:g} to {high:g}")
        return value

    return check
