"""The package's logger: commands send it to the terminal, runs to a log file as well.

A program that only imports the package gets warnings through Python's own logging, and may configure the logger
`medical_fenlei` as it likes.
"""
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

LOG = logging.getLogger("medical_fenlei")

FILE_ONLY = {"file_only": True}
"""`extra` of a record that belongs in a log file but not on the terminal, where the user sees it anyway."""


class _Formatter(logging.Formatter):
    """Lines with their level in front from WARNING on: `warning: …`."""

    def format(self, record: logging.LogRecord) -> str:
        record.prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return super().format(record)


class _Terminal(logging.Handler):
    """Lines on standard output, from WARNING on standard error."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(_Formatter("%(prefix)s%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record to what `sys.stdout` and `sys.stderr` are at this moment."""
        if not getattr(record, "file_only", False):
            write_to(sys.stderr if record.levelno >= logging.WARNING else sys.stdout, self.format(record) + "\n")


def write_to(stream: TextIO, text: str) -> None:
    """Write a text to standard output or standard error.

    Where it cannot be written, because nobody reads it any more (`| head`) or a disk is full, the work goes on, and what else
    is written to the stream goes nowhere: files and exit status do not depend on who looks on.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError) and stream is not sys.stderr:
            LOG.warning("standard output cannot be written (%s); the work goes on", error.strerror)


def log_to_terminal() -> None:
    """Send the package's log, from INFO on, to the terminal, and to no file."""
    _send_to([_Terminal()], logging.INFO)


def log_to_file(path: Path, *, level: int = logging.INFO) -> None:
    """Send the package's log to a file, with the time of each line, and from INFO on to the terminal; to no other file."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(_Formatter("%(asctime)s %(prefix)s%(message)s", "%Y-%m-%d %H:%M:%S"))
    _send_to([file, _Terminal()], level)


def _send_to(handlers: list[logging.Handler], level: int) -> None:
    for handler in [*LOG.handlers]:
        LOG.removeHandler(handler)
        handler.close()
    LOG.setLevel(level)
    LOG.propagate = False
    for handler in handlers:
        LOG.addHandler(handler)
