"""The file of a checkpoint: its checksum, and what can be refused of it without torch.

A checkpoint is an ordinary file of torch; the checksum is the comment at the end of its ZIP archive.
"""
import os
from pathlib import Path

from medical_fenlei.config import DUAL, EAR2D
from medical_fenlei.errors import UserError
from medical_fenlei.runs import Run, listed_runs

MARK = b"medical_fenlei checkpoint, sha256 "
FOOTER = len(MARK) + 64
"""Length of the comment in bytes: the mark and the hexadecimal checksum."""
READ_BY = {EAR2D: "predict_ear2d", DUAL: "predict_dual"}
"""The command that predicts with a checkpoint of each kind."""


def check_file(path: Path) -> None:
    """Raise UserError if there is no checkpoint at this path, as far as the end of the file tells."""
    try:
        if path.is_dir():
            best = Run(path).checkpoint("best")
            raise UserError(f"--checkpoint {path}: is a folder; " + (f"name {best}" if best.is_file() else _there()))
        with open(path, "rb") as file:
            file.seek(-min(FOOTER, os.fstat(file.fileno()).st_size), os.SEEK_END)
            footer = file.read()
    except FileNotFoundError:
        raise UserError(f"--checkpoint {path}: no such file; {_there()}") from None
    except OSError as error:
        raise UserError(f"--checkpoint {path}: {error.strerror}") from None
    if not footer.startswith(MARK):
        raise UserError(f"--checkpoint {path}: is not a checkpoint of this program, or was cut short")


def check_kind(path: Path, got: str, expected: str | None) -> None:
    """Raise UserError if a checkpoint is of another kind than the one that a command reads; None reads both."""
    if expected is not None and got != expected:
        raise UserError(f"--checkpoint {path}: holds a network of kind {got}, expected {expected}; "
                        f"{READ_BY.get(got, 'no command here')} reads it")


def _there() -> str:
    return listed_runs("checkpoints/best.pt")
