"""What the package says while it works: one logger, which commands send to the terminal and runs to a file as well.

A program that only imports the package hears warnings through Python's own logging, and may configure the logger
`medical_fenlei` as it likes.
"""
import logging
import sys
from pathlib import Path

LOG = logging.getLogger("medical_fenlei")


class _Terminal(logging.Handler):
    """Lines on standard output; from WARNING on `warning: …` on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record to the streams of this moment."""
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            print(f"warning: {text}", file=sys.stderr, flush=True)
        else:
            print(text, flush=True)


def log_to_terminal() -> None:
    """Send the package's log, from INFO on, to the terminal alone."""
    _send_to([_terminal()], logging.INFO)


def log_to(path: Path, *, level: int = logging.INFO) -> None:
    """Send the package's log to a file, with the time of each line, and from INFO on to the terminal; to no other file."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    _send_to([file, _terminal()], level)


def _terminal() -> logging.Handler:
    terminal = _Terminal()
    terminal.setLevel(logging.INFO)
    return terminal


def _send_to(handlers: list[logging.Handler], level: int) -> None:
    for handler in [*LOG.handlers]:
        LOG.removeHandler(handler)
        handler.close()
    LOG.setLevel(level)
    LOG.propagate = False
    for handler in handlers:
        LOG.addHandler(handler)
