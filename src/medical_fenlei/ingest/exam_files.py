"""The files below an exam's folder, listed without opening them."""
import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Problem = tuple[str, str, str]
"""(file or folder below the base, reason, detail)."""

NOT_KEPT = frozenset({"unreadable", "named_exam"})
"""Reasons of problems with which a scan is made anew each time: it may go well later, or its path would tell a name."""


@dataclass(frozen=True)
class ExamFiles:
    """The files of an exam, as listed."""

    stamp: str
    """Digest of their names, sizes and modification times."""

    files: int
    folders: tuple[str, ...]
    """Folders that hold files, below the base."""

    problems: tuple[Problem, ...]


def list_exam(base: Path, relpath: str) -> ExamFiles:
    """List the files of an exam's folder in one pass.

    Hidden files are ignored. Hidden folders and links to folders are not searched; these, folders that cannot be listed, and
    what is neither file nor folder are problems.
    """
    files: list[tuple[str, list[tuple[str, int, int]]]] = []
    problems: list[Problem] = []
    todo = [relpath]
    while todo:
        folder = todo.pop()
        here: list[tuple[str, int, int]] = []
        try:
            with _open_folder(f"{base}/{folder}") as opened, os.scandir(opened) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        if entry.is_dir(follow_symlinks=False):
                            problems.append((f"{folder}/{name}", "hidden_folder", "if it holds images, rename it"))
                    elif is_file(entry):                         # tested first, since most are
                        found = entry.stat()
                        here.append((name, found.st_size, found.st_mtime_ns))
                    elif entry.is_dir(follow_symlinks=False):
                        todo.append(f"{folder}/{name}")
                    else:
                        problems.append((f"{folder}/{name}", *no_file(entry)))
        except OSError as error:
            problems.append((folder, "unreadable", error.strerror or type(error).__name__))
        if here:
            here.sort()
            files.append((folder, here))
    files.sort()
    problems.sort()
    stamp = hashlib.blake2b(repr((files, problems)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return ExamFiles(stamp, sum(len(here) for _, here in files), tuple(folder for folder, _ in files), tuple(problems))


@contextlib.contextmanager
def _open_folder(folder: str) -> Iterator[int]:
    """Open a folder, so that its files are looked up in it: resolving the whole path of each takes a fifth longer."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield opened
    finally:
        os.close(opened)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a file or a link to one; a link that cannot be followed is none."""
    try:
        return entry.is_file()
    except OSError:                                              # such as a link to itself
        return False


def no_file(entry: os.DirEntry[str]) -> tuple[str, str]:
    """Return reason and detail of an entry that is neither a file nor a folder."""
    if not entry.is_symlink():
        return "special_file", "a pipe, a socket or a device"
    try:
        there = entry.stat()
    except FileNotFoundError:
        return "bad_link", "a link to nothing"
    except OSError as error:
        return "bad_link", f"a link that leads nowhere ({error.strerror})"
    if stat.S_ISDIR(there.st_mode):
        return "bad_link", "links to folders are not followed: put the folder itself there"
    return "special_file", "a link to a pipe, a socket or a device"
