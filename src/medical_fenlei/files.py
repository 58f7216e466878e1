"""Atomic files: written beside the target, flushed, then renamed, so that a file is complete or absent.

What a killed process has left beside its target is removed by the next process that writes to the folder.
"""
import contextlib
import csv
import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.part")
"""Names of files that are not finished. Each is locked by the process that writes it, for as long as it lives."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Constants of Linux's renameat2: a path from the working folder; two names are exchanged."""
_SWEPT: set[str] = set()
"""Folders from which this process has removed what killed ones left."""


@contextlib.contextmanager
def atomic(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file object whose content appears at `path`, complete, when the block ends without an error.

    Text is UTF-8; undecodable bytes of file names survive (surrogateescape). An OSError names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        with _open_locked(beside, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):                           # name the requested file, not the temporary one
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def whole_folder(path: Path, own: Collection[str]) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends without an error.

    A kill leaves the old folder or the new one. What the old one holds under other names than `own` stays. An OSError names
    `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    beside.mkdir()
    folder = os.open(beside, os.O_RDONLY)
    try:
        _lock(folder)
        yield beside
        _keep_others(path, beside, own)
        _exchange(beside, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        os.close(folder)
        shutil.rmtree(beside, ignore_errors=True)


def _keep_others(old: Path, new: Path, own: Collection[str]) -> None:
    for entry in old.iterdir() if old.is_dir() else ():
        if entry.name not in own and not PARTIAL.fullmatch(entry.name):
            (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, new / entry.name)


def _exchange(new: Path, at: Path) -> None:
    """Put a folder in the place of another, which gets its name, in one step where the system can."""
    if not at.exists():
        os.rename(new, at)
        return
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None or renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(at), RENAME_EXCHANGE):
        aside = at.with_name(f".{at.name}.{uuid.uuid4().hex[:8]}.part")                  # a file system without exchange
        os.rename(at, aside)
        os.rename(new, at)
        os.rename(aside, new)


def write_new(path: Path, content: bytes, *, permissions: int) -> bool:
    """Write a file that does not exist yet, and return whether it was written; False if there is one.

    permissions: its mode bits, from the beginning. An OSError names `path`.
    """
    beside = _beside(path)
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, permissions), "wb") as file:
            _lock(file.fileno())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            try:
                os.link(beside, path)                            # which, unlike a renaming, replaces nothing
            except FileExistsError:
                return False
            except OSError:                                      # a file system without hard links
                if path.exists():
                    return False
                os.rename(beside, path)
        return True
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """The name under which a file is written until it is finished; the first in a folder removes what killed processes left."""
    folder = os.path.abspath(path.parent)
    if folder not in _SWEPT:
        _SWEPT.add(folder)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for left in [entry.path for entry in entries if PARTIAL.fullmatch(entry.name)]:
                remove_partial(Path(left))
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def remove_partial(path: Path) -> None:
    """Remove an unfinished file or folder, unless the process that writes it lives."""
    with contextlib.suppress(OSError):
        opened = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        finally:
            os.close(opened)


def _open_locked(beside: Path, mode: str, **text: Any) -> IO[Any]:
    """Open and lock an unfinished file; again if another process took it for a left one before it was locked."""
    while True:
        file: IO[Any] = open(beside, mode, **text)  # noqa: SIM115 (closed by the caller)
        _lock(file.fileno())
        if beside.exists():
            return file
        file.close()


def _lock(descriptor: int) -> None:
    with contextlib.suppress(OSError):                           # a file system without locks: nothing is removed there
        fcntl.flock(descriptor, fcntl.LOCK_EX)                   # others hold it only while they remove the file


def write_text(path: Path, text: str) -> None:
    """Write a text atomically, as UTF-8."""
    with atomic(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the given order; NaN and infinity become null."""
    with atomic(path, "w") as file:
        json.dump(_finite(value), file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises OSError or ValueError."""
    return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return None
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def csv_quoting(cells: Iterable[str]) -> int:
    """Return how a CSV of these cells is quoted, for `csv.writer`: as needed, but wholly if one holds a carriage return.

    Before Python 3.13 the writer does not quote a cell for its carriage return, at which a reader ends the row.
    """
    return csv.QUOTE_ALL if any("\r" in cell for cell in cells) else csv.QUOTE_MINIMAL


def is_inside(path: str) -> bool:
    """Whether a relative path stays below its base folder, by the rules of Linux and of Windows."""
    parts = path.replace("\\", "/").split("/")
    return not (parts[0] == "" and len(parts) > 1) and ".." not in parts and not re.match("[A-Za-z]:", parts[0])
