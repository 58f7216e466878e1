"""Exam folders on disk: `<base>/[wrapper/…]<YYYY-MM-DD>/<exam_id>/<series>/<file>`."""
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medical_fenlei.errors import UserError

_DATE_FOLDER = re.compile(r"^\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class ExamFolder:
    exam_id: str
    date: str
    """Name of the date folder, YYYY-MM-DD."""

    relpath: str
    """Below the base, with forward slashes."""


def find_exams(base: Path) -> list[ExamFolder]:
    """Every exam folder below `base`, by date and id; links are not followed. Raises UserError if there is none."""
    if not base.is_dir():
        raise UserError(f"--dicom-base {base}: no such folder")
    exams = sorted(_walk(base, base), key=lambda e: (e.date, e.exam_id, e.relpath))
    if not exams:
        raise UserError(f"--dicom-base {base}: holds no <YYYY-MM-DD>/<exam_id>/ folder")
    return exams


def _walk(folder: Path, base: Path) -> Iterator[ExamFolder]:
    for entry in _folders(folder):
        if not _DATE_FOLDER.match(entry.name):
            yield from _walk(Path(entry.path), base)
            continue
        for exam in _folders(Path(entry.path)):
            yield ExamFolder(exam.name, entry.name, Path(exam.path).relative_to(base).as_posix())


def _folders(folder: Path) -> list["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        return [e for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]


def series_folders(exam: Path) -> list[Path]:
    """The folders of an exam that hold files, at any depth, the exam's own included."""
    found = []
    for folder, folders, files in os.walk(exam):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        if any(not f.startswith(".") for f in files):
            found.append(Path(folder))
    return found
