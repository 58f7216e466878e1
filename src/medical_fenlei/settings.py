"""Settings typed once: a frozen dataclass gives command-line flags and JSON, and is built back from both.

A settings class may contain other settings classes. Flags are flat, so names must be unique; JSON is nested. The help of a flag
is the string below its field in the source, its choices are those of the field's `Literal`. Readers never invent a value: JSON
with a missing or unknown name is refused.
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
from medical_fenlei.json_files import checked

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A field of a settings class that is not itself a settings class."""

    owner: type
    """The settings class that declares the field."""

    name: str
    """Name of the field."""

    kind: Any
    """Type of the value without `| None`; the type of the choices for a Literal, of the items for a tuple."""

    choices: tuple[Any, ...] | None
    """Allowed values of a Literal, None for other types."""

    many: bool
    """Whether the value is a tuple, written with commas on the command line."""

    default: Any
    """Default value of the field."""

    help: str
    """The string below the field in the source."""

    @property
    def flag(self) -> str:
        """The command-line flag, `--batch-size` for `batch_size`."""
        return "--" + self.name.replace("_", "-")

    def text_of(self, value: Any) -> str:
        """The value as the command line writes it, "" for None."""
        if value is None:
            return ""
        return ",".join(map(str, value)) if self.many else str(value)

    def parse(self, text: str) -> Any:
        """The value of a command-line text. Raises argparse.ArgumentTypeError."""
        try:
            return tuple(map(self.kind, text.split(","))) if self.many else self.kind(text)
        except ValueError:
            expected = f"{self.kind.__name__} values with commas" if self.many else self.kind.__name__
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {expected}") from None

    def parse_and_check(self, text: str) -> Any:
        """The value of a command-line text, checked by the settings class beside its defaults.

        Raises argparse.ArgumentTypeError.
        """
        value = self.parse(text)
        try:
            self.owner(**{self.name: value})
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{self.flag[2:]}: ")) from None
        return value

    def argument(self, shown_default: str) -> dict[str, Any]:
        """Keyword arguments of `ArgumentParser.add_argument`, except the default. "" shows none in the help."""
        text = (self.help.rstrip(".") + (f" (default: {shown_default})" if shown_default else "")).replace("%", "%%")
        if self.kind is bool:
            return {"action": argparse.BooleanOptionalAction, "help": text}
        metavar = None if self.choices else ",".join([self.kind.__name__.upper()] * (2 if self.many else 1))
        return {"type": self.parse, "choices": self.choices, "metavar": metavar, "help": text}


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
    """Each field with its resolved type."""
    hints = typing.get_type_hints(cls)
    return ((field, hints[field.name]) for field in dataclasses.fields(cls))


def settings_of(cls: type) -> Iterator[Setting]:
    """Yield every setting of the class, those of nested settings classes first."""
    for _, kind in _members(cls):
        if dataclasses.is_dataclass(kind):
            yield from settings_of(typing.cast(type, kind))
    yield from _own_settings(cls)


def check_seed(seed: int) -> None:
    """Raise ValueError, naming the flag, if a seed is none that every generator of random numbers takes."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}, expected 0 to {2**32 - 1}")


def find_setting(cls: type, name: str) -> Setting:
    """The setting of this name, however deeply nested. Raises KeyError."""
    for setting in settings_of(cls):
        if setting.name == name:
            return setting
    raise KeyError(name)


def choices(cls: type, name: str) -> tuple[Any, ...]:
    """The allowed values of a `Literal` setting, () for other types."""
    return find_setting(cls, name).choices or ()


def _own_settings(cls: type) -> Iterator[Setting]:
    for field, kind in _members(cls):
        if dataclasses.is_dataclass(kind):
            continue
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            kind = next(k for k in typing.get_args(kind) if k is not type(None))
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else None
        many = typing.get_origin(kind) is tuple
        base = type(choices[0]) if choices else typing.get_args(kind)[0] if many else kind
        yield Setting(owner=cls, name=field.name, kind=base, choices=choices, many=many, default=field.default,
                      help=_help_of(cls).get(field.name, ""))


def add_flags(
    parser: argparse.ArgumentParser, cls: type, *, base: object | None = None, default: str = "",
    leave_out: tuple[str, ...] = (),
) -> None:
    """Add a flag for each setting, one argument group per settings class.

    A flag that is not given leaves no trace in the namespace, so that `from_flags` can tell. base: settings whose values the
    help shows as defaults (default: those of the class); default: a text shown in place of the values.
    """
    for field, kind in _members(cls):
        if dataclasses.is_dataclass(kind):
            add_flags(parser, typing.cast(type, kind), base=getattr(base, field.name, None), default=default,
                      leave_out=leave_out)
    group = parser.add_argument_group((inspect.getdoc(cls) or cls.__name__).splitlines()[0].rstrip("."))
    for setting in _own_settings(cls):
        if setting.name not in leave_out:
            value = setting.default if base is None else getattr(base, setting.name)
            group.add_argument(setting.flag, default=argparse.SUPPRESS, **setting.argument(default or setting.text_of(value)))


def given(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The settings of the class that were given on the command line, by name."""
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
    """A copy of the settings with some values changed, however deeply nested. Raises UserError for a refused value."""
    unknown = values.keys() - {s.name for s in settings_of(type(base))}
    if unknown:
        raise TypeError(f"{type(base).__name__} has no setting {sorted(unknown)[0]!r}")
    try:
        return _replace(type(base), base, values)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def from_flags(cls: type[T], args: argparse.Namespace, *, base: T | None = None) -> T:
    """The settings of `base` (default: of the class) with the given flags in their place. Raises UserError."""
    try:
        return _replace(cls, base, given(args, cls))
    except ValueError as error:
        raise UserError(f"--{error}") from None


def to_flags(settings: object, *, base: object | None = None, always: tuple[str, ...] = ()) -> list[str]:
    """The flags that give these settings again: those that differ from `base` (default: the defaults of the class).

    always: names of settings that are written even where they do not differ.
    """
    flags: list[str] = []
    plain = (s.default for s in settings_of(type(settings))) if base is None else _values(base)
    for s, value, default in zip(settings_of(type(settings)), _values(settings), plain, strict=True):
        if value == default and s.name not in always:
            continue
        if s.kind is bool:
            flags.append(s.flag if value else s.flag.replace("--", "--no-", 1))
        else:
            flags += [s.flag, s.text_of(value)]
    return flags


def _values(settings: object) -> Iterator[Any]:
    """Values in the order of `settings_of`."""
    values = [getattr(settings, field.name) for field, _ in _members(type(settings))]
    for value in values:
        if dataclasses.is_dataclass(value):
            yield from _values(value)
    yield from (value for value in values if not dataclasses.is_dataclass(value))


def to_json(settings: object) -> dict[str, Any]:
    """The settings as nested plain values: paths as text, tuples as lists."""
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
    """Build the settings that `to_json` wrote. Raises UserError if a name is missing or unknown, or a value is refused.

    where: file and field, for the error.
    """
    if not isinstance(plain, dict):
        raise UserError(f"{where}: got {type(plain).__name__}, expected the settings of {cls.__name__}")
    members = list(_members(cls))
    names = {field.name for field, _ in members}
    if names != set(plain):
        missing, unknown = sorted(names - set(plain)), sorted(set(plain) - names)
        raise UserError(f"{where}: settings of another version ({cls.__name__}): "
                        f"missing {missing or 'none'}, unknown {unknown or 'none'}")
    values: dict[str, Any] = {}
    for field, kind in members:
        value = plain[field.name]
        if dataclasses.is_dataclass(kind):
            values[field.name] = from_json(typing.cast(type, kind), value, where=f"{where}, {field.name}")
            continue
        values[field.name], fault = checked(value, kind, name=field.name)
        if fault:
            raise UserError(f"{where}: {fault}")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from None
