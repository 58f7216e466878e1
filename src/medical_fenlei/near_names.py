"""Names like one that does not exist, for errors: most wrong paths are one slip of the keyboard from a right one."""
import contextlib
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from medical_fenlei.errors import UserError

MOST = 3
"""Greatest number of names that an error suggests."""


def near_names(got: str, known: Iterable[str]) -> list[str]:
    """Return the known names that are most like `got`, whatever their case, the nearest first."""
    spelt: dict[str, list[str]] = {}
    for name in known:
        spelt.setdefault(name.casefold(), []).append(name)
    return [name for near in difflib.get_close_matches(got.casefold(), spelt, n=MOST) for name in spelt[near]][:MOST]


def near_paths(what: Literal["file", "folder"], path: Path) -> str:
    """Return "; near names: …" with paths that exist and are most like one that does not; "" if there are none.

    They differ from it where it leaves what exists; a file has the same ending.
    """
    near: list[Path] = []
    with contextlib.suppress(OSError):
        end = path                                               # the first part that does not exist
        while not end.parent.exists():
            end = end.parent
        is_file = what == "file" and end == path
        there = {entry.stem if is_file else entry.name: entry for entry in sorted(end.parent.iterdir())
                 if entry.is_dir() != is_file and (not is_file or entry.suffix.casefold() == end.suffix.casefold())}
        for name in near_names(end.stem if is_file else end.name, there):
            whole = there[name] / path.relative_to(end)
            near.append(whole if whole.exists() else there[name])
    return f"; near names: {', '.join(map(str, near))}" if near else ""


def check_folder(flag: str, folder: Path) -> None:
    """Raise UserError, with similar folders, if there is no folder at this path."""
    if not folder.is_dir():
        what = "is a file, expected a folder" if folder.exists() else f"no such folder{near_paths('folder', folder)}"
        raise UserError(f"{flag} {folder}: {what}")
