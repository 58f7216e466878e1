"""Exam folders on disk: `<base>/[wrapper/…]<YYYY-MM-DD>/<exam_id>/<series>/<file>`."""
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_sheet import parse_exam_id

_DATE_FOLDER = re.compile(r"^\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class ExamFolder:
    exam_id: str
    date: str
    """Name of the date folder, YYYY-MM-DD."""

    relpath: str
    """Below the base, with forward slashes."""


@dataclass(frozen=True)
class Tree:
    """What lies below a base folder."""

    exams: list[ExamFolder]
    """By date and id."""

    problems: list[tuple[str, str, str]] = field(default_factory=list)
    """(file or folder below the base, reason, detail) of what belongs to no exam and of what cannot be looked into."""


def find_exams(base: Path) -> Tree:
    """Every exam folder below `base`; links to folders are not followed. Raises UserError if there is none."""
    if not base.is_dir():
        raise UserError(f"--dicom-base {base}: no such folder")
    tree = Tree([])
    _walk(base, "", tree)
    tree.exams.sort(key=lambda exam: (exam.date, exam.exam_id, exam.relpath))
    if not tree.exams:
        raise UserError(f"--dicom-base {base}: holds no <YYYY-MM-DD>/<exam_id>/ folder")
    return tree


def _exam_id(name: str) -> str:
    """As the sheet's are read: full-width digits and spaces around them are no part of it."""
    try:
        return parse_exam_id(name)
    except ValueError:
        return name


def _walk(base: Path, relpath: str, tree: Tree) -> None:
    is_date = _DATE_FOLDER.match(relpath.rpartition("/")[2])
    strays = 0
    try:
        with os.scandir(base / relpath) as entries:
            for entry in entries:
                below = f"{relpath}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if is_date:
                        tree.exams.append(ExamFolder(_exam_id(entry.name), relpath.rpartition("/")[2], below))
                    else:
                        _walk(base, below, tree)
                elif entry.is_dir():
                    tree.problems.append((below, "bad_link", "links to folders are not followed"))
                else:
                    strays += 1
    except OSError as error:
        tree.problems.append((relpath or ".", "unreadable", error.strerror or type(error).__name__))
    if strays:
        tree.problems.append((relpath or ".", "outside_exam", f"{strays} files that lie in no <YYYY-MM-DD>/<exam_id>/ folder"))
