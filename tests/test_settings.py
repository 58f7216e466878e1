"""A settings class is written as flags and as JSON, and both give it back."""
import argparse
import dataclasses
from pathlib import Path
from typing import Literal

import pytest

from medical_fenlei import settings
from medical_fenlei.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """Part of it."""

    size: int = 3
    """Edge, pixels."""

    mode: Literal["even", "block"] = "even"
    """Which."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """All of it."""

    folder: Path = Path("here")
    """Where."""

    ratios: tuple[float, ...] = (0.1, 1.0)
    """Amounts."""

    width: float | None = None
    """Width, mm."""

    fast: bool = False
    """Hurry."""

    inner: Inner = dataclasses.field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 0:
            raise ValueError(f"width: got {self.width}, expected at least 0")


CHANGED = Outer(folder=Path("there"), ratios=(0.5,), width=2.5, fast=True, inner=Inner(size=9, mode="block"))


def parse(words):
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, Outer)
    return parser.parse_args(words)


@pytest.mark.parametrize("value", [Outer(), CHANGED])
def test_flags_written_from_settings_give_them_again(value):
    assert settings.from_flags(Outer, parse(settings.to_flags(value))) == value


@pytest.mark.parametrize("value", [Outer(), CHANGED])
def test_json_gives_the_settings_back_whole(value):
    assert settings.from_json(Outer, settings.to_json(value)) == value


def test_only_flags_that_were_given_replace_a_base():
    assert settings.from_flags(Outer, parse(["--no-fast", "--size", "3"]), base=CHANGED) == dataclasses.replace(
        CHANGED, fast=False, inner=Inner(size=3, mode="block"))
    assert settings.given(parse(["--size", "3"]), Inner) == {"size": 3}


@pytest.mark.parametrize("change", [lambda d: d.pop("width"), lambda d: d.update(more=1), lambda d: d["inner"].pop("size")])
def test_json_with_a_missing_or_unknown_name_is_refused(change):
    plain = settings.to_json(CHANGED)
    change(plain)
    with pytest.raises(UserError, match="another version"):
        settings.from_json(Outer, plain)


def test_a_refused_value_names_its_flag():
    with pytest.raises(UserError, match="--width: got -1"):
        settings.from_flags(Outer, parse(["--width", "-1"]))


def test_help_comes_from_the_line_below_a_field():
    assert {s.name: s.help for s in settings.settings_of(Outer)}["width"] == "Width, mm."
