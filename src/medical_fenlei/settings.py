"""Settings typed once: a frozen dataclass is the flags, the JSON of a run, and back.

A settings class may hold others; flags are flat (so the names are unique), JSON is nested. A field's help is the string below
it in the source, its choices are its `Literal`. Readers never invent a value: JSON with a missing or unknown name is refused.
"""
import argparse
import ast
import dataclasses
import functools
import inspect
import itertools
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from medical_fenlei.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field that is not itself a settings class."""

    name: str
    kind: Any
    """The type without `| None`; for a Literal the type of its choices, for a tuple the type of its items."""

    choices: tuple[Any, ...] | None
    many: bool
    default: Any
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


@functools.cache
def _help_of(cls: type) -> dict[str, str]:
    body = typing.cast(ast.ClassDef, ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls))).body[0]).body
    return {
        field.target.id: " ".join(line.value.value.split())
        for field, line in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        and isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)
    }


def _members(cls: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return ((field, hints[field.name]) for field in dataclasses.fields(cls))


def settings_of(cls: type) -> Iterator[Setting]:
    """Every setting of the class and of the settings classes in it."""
    for _, kind in _members(cls):
        if dataclasses.is_dataclass(kind):
            yield from settings_of(typing.cast(type, kind))
    yield from _own_settings(cls)


def choices(cls: type, name: str) -> tuple[Any, ...]:
    """What a setting may be, of its `Literal`."""
    return next(s.choices for s in settings_of(cls) if s.name == name) or ()


def _own_settings(cls: type) -> Iterator[Setting]:
    for field, kind in _members(cls):
        if dataclasses.is_dataclass(kind):
            continue
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else None
        many = typing.get_origin(kind) is tuple
        base = type(choices[0]) if choices else typing.get_args(kind)[0] if many else kind
        yield Setting(field.name, base, choices, many, field.default, _help_of(cls).get(field.name, ""))


def add_flags(
    parser: argparse.ArgumentParser, cls: type, *, base: object | None = None, default: str = "",
    leave_out: tuple[str, ...] = (),
) -> None:
    """A flag for each setting. A flag that is not given leaves no trace in the namespace, so that `from_flags` can tell.

    base: settings whose values the help shows as defaults (else those of the class); default: words in place of values.
    """
    for field, kind in _members(cls):
        if dataclasses.is_dataclass(kind):
            add_flags(parser, typing.cast(type, kind), base=getattr(base, field.name, None), default=default,
                      leave_out=leave_out)
    group = parser.add_argument_group((inspect.getdoc(cls) or cls.__name__).splitlines()[0].rstrip("."))
    for s in _own_settings(cls):
        if s.name in leave_out:
            continue
        value = s.default if base is None else getattr(base, s.name)
        shown = ",".join(map(str, value)) if s.many and value else value
        text = f"{s.help} (default: {default or shown})".replace("%", "%%")
        if s.kind is bool:
            group.add_argument(s.flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
            continue
        kind = (lambda value, kind=s.kind: tuple(map(kind, value.split(",")))) if s.many else s.kind
        metavar = None if s.choices else ",".join([s.kind.__name__.upper()] * (2 if s.many else 1))
        group.add_argument(s.flag, type=kind, choices=s.choices, metavar=metavar, default=argparse.SUPPRESS, help=text)


def given(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The settings of the class that the user named."""
    return {s.name: getattr(args, s.name) for s in settings_of(cls) if hasattr(args, s.name)}


def _replace(cls: type[T], base: T | None, values: dict[str, Any]) -> T:
    changed = {}
    for field, kind in _members(cls):
        if dataclasses.is_dataclass(kind):
            changed[field.name] = _replace(typing.cast(type, kind), getattr(base, field.name, None), values)
        elif field.name in values:
            changed[field.name] = values[field.name]
    return cls(**changed) if base is None else dataclasses.replace(base, **changed)  # type: ignore[type-var]


def changed(base: T, **values: Any) -> T:
    """The settings with others in place of those named, however deep they lie. Raises UserError."""
    unknown = values.keys() - {s.name for s in settings_of(type(base))}
    if unknown:
        raise TypeError(f"{type(base).__name__} has no setting {sorted(unknown)[0]!r}")
    try:
        return _replace(type(base), base, values)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def from_flags(cls: type[T], args: argparse.Namespace, *, base: T | None = None) -> T:
    """The settings of `base` (default: of the class) with what the user named in their place. Raises UserError."""
    try:
        return _replace(cls, base, given(args, cls))
    except ValueError as error:
        raise UserError(f"--{error}") from None


def to_flags(settings: object, *, base: object | None = None, always: tuple[str, ...] = ()) -> list[str]:
    """The flags that give these settings again: those that differ from `base` (default: from the class's defaults).

    always: names of settings that are written even where they do not differ.
    """
    words: list[str] = []
    plain = (s.default for s in settings_of(type(settings))) if base is None else _values(base)
    for s, value, default in zip(settings_of(type(settings)), _values(settings), plain, strict=True):
        if value == default and s.name not in always:
            continue
        if s.kind is bool:
            words.append(s.flag if value else s.flag.replace("--", "--no-", 1))
        else:
            words += [s.flag, ",".join(map(str, value)) if s.many else str(value)]
    return words


def _values(settings: object) -> Iterator[Any]:
    """In the order of `settings_of`."""
    values = [getattr(settings, field.name) for field, _ in _members(type(settings))]
    for value in values:
        if dataclasses.is_dataclass(value):
            yield from _values(value)
    yield from (value for value in values if not dataclasses.is_dataclass(value))


def to_json(settings: object) -> dict[str, Any]:
    """Nested plain values: paths as text, tuples as lists."""
    plain: dict[str, Any] = {}
    for field, _ in _members(type(settings)):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = to_json(value)
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[field.name] = value
    return plain


def from_json(cls: type[T], plain: Any, *, where: str = "configuration") -> T:
    """The inverse of `to_json`. Raises UserError if a name is missing, unknown, or a value is refused."""
    if not isinstance(plain, dict):
        raise UserError(f"{where}: got {type(plain).__name__}, expected the settings of {cls.__name__}")
    members = list(_members(cls))
    names = {field.name for field, _ in members}
    if names != set(plain):
        missing, unknown = sorted(names - set(plain)), sorted(set(plain) - names)
        raise UserError(f"{where}: {cls.__name__} of another version: missing {missing or 'none'}, unknown {unknown or 'none'}")
    values: dict[str, Any] = {}
    for field, kind in members:
        value = plain[field.name]
        if dataclasses.is_dataclass(kind):
            value = from_json(typing.cast(type, kind), value, where=where)
        elif value is not None and (kind is Path or Path in typing.get_args(kind)):
            value = Path(value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from None
