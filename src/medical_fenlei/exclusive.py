"""One process at a time in one place: a lock that ends with its process, and tells whose it is."""
import contextlib
import datetime
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from medical_fenlei.errors import UserError

LOCK = ".lock"
"""Name of the lock of a folder."""
SIGNED = "process "
"""What the text in a lock's file begins with."""


@contextlib.contextmanager
def exclusive(lock: Path, *, busy: str, remedy: str) -> Iterator[None]:
    """Hold a lock while the block runs. A dead process holds none, so that the file may stay.

    lock: the lock's file, which is made with its folder. Raises UserError, a line of `busy`, the other process and `remedy`, if
    another process holds it.
    """
    import filelock  # a quarter of the time of --help

    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = filelock.FileLock(lock, blocking=False).acquire()
    except filelock.Timeout:
        raise UserError(f"{busy}{_holder(lock)}; {remedy}") from None
    with held:
        _sign(lock, f"{SIGNED}{os.getpid()} on {platform.node()}, since {datetime.datetime.now():%Y-%m-%d %H:%M}\n")
        try:
            yield
        finally:
            _sign(lock, "")


@contextlib.contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """Hold a lock while the block runs, after any other process that holds it."""
    import filelock

    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):
        yield


def only_writer(flag: str, file: Path) -> contextlib.AbstractContextManager[None]:
    """Exclude a second process that writes this file, and those beside it that share its stem, while the block runs.

    flag: the flag that names it. Raises UserError if another process writes it.
    """
    return exclusive(file.with_name(f".{file.stem}.lock"), busy=f"{flag} {file}: another process is writing it",
                     remedy="wait for it, or name another file")


def only_writer_in(flag: str, folder: Path) -> contextlib.AbstractContextManager[None]:
    """Exclude a second process that writes into this folder while the block runs. Raises UserError as `only_writer` does."""
    return exclusive(folder / LOCK, busy=f"{flag} {folder}: another process is writing there",
                     remedy="wait for it, or name another folder")


def _sign(lock: Path, holder: str) -> None:
    """Write into the lock's file whose it is; where a file system has no locks, filelock keeps its own text there."""
    with contextlib.suppress(OSError, ValueError):
        if (text := lock.read_text(encoding="utf-8")) == "" or text.startswith(SIGNED):
            lock.write_text(holder, encoding="utf-8")


def _holder(lock: Path) -> str:
    """Who holds a lock, in brackets; "" if it does not say."""
    with contextlib.suppress(OSError, ValueError):
        if (text := lock.read_text(encoding="utf-8").strip()).startswith(SIGNED):
            return f" ({text})"
    return ""
