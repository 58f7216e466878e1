"""Exam folders on disk: `<base>/[wrapper/…]<YYYY-MM-DD>/<exam_id>/<series>/<file>`."""
import contextlib
import datetime
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.exam_files import Problem, is_file, no_file
from medical_fenlei.ingest.label_cells import YEARS, parse_exam_id
from medical_fenlei.log import LOG
from medical_fenlei.near_names import check_folder

_DATE_FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}")
_SPELT_DATE = re.compile(r"(\d{4})(?:([-._ ])(\d{1,2})\2(\d{1,2})|(\d{2})(\d{2})|年(\d{1,2})月(\d{1,2})日?)")
"""2024.1.5, 20240105, 2024年1月5日: year first, so that a date is unambiguous."""
_PACKED = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".001")
_RUN = re.compile(r"\d{3,}")


@dataclass(frozen=True)
class ExamFolder:
    """The folder of one exam."""

    exam_id: str
    date: str
    """Date of the date folder, as YYYY-MM-DD however the folder spells it."""

    relpath: str
    """Path below the base, with forward slashes."""


@dataclass(frozen=True)
class Tree:
    """The exam folders below a base folder."""

    exams: list[ExamFolder]
    """Sorted by date and id."""

    problems: list[Problem] = field(default_factory=list)
    """(file or folder below the base, reason, detail) of what belongs to no exam or cannot be listed."""

    def first(self, number: int | None) -> "Tree":
        """Return the tree with its first exams only, and warn about the others; None: all of them."""
        if number is None or number >= len(self.exams):
            return self
        LOG.warning("--limit %d: only the first of %d exam folders are read, the others count as missing",
                    number, len(self.exams))
        return replace(self, exams=self.exams[:number])


def find_exams(base: Path) -> Tree:
    """Find every exam folder below `base`, without following links to folders. Raises UserError if there is none."""
    check_folder("--dicom-base", base)
    tree, todo = Tree([]), [""]
    while todo:                                                  # not by recursion, since folders may be nested deeply
        todo += _list_folder(base, todo.pop(), tree)
    tree.problems.sort()
    tree.exams.sort(key=lambda exam: (exam.date, exam.exam_id, exam.relpath))
    if not tree.exams:
        there = sorted(path.name for path in base.iterdir() if not path.name.startswith("."))
        what = ("it is a date folder itself: name the folder above it" if date_of(base.resolve().name) else
                f"found there: {', '.join(there[:3])}{', …' if len(there) > 3 else ''}" if there else "it is empty")
        raise UserError(f"--dicom-base {base}: holds no <YYYY-MM-DD>/<exam_id>/ folder; {what}")
    return tree


def similar_names(exam_ids: Iterable[str], places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the files and folders, below the base, with a name similar to each of these ids, for ids that have any.

    places: (folder, path below it); only names in the second part are compared. Names are similar if they share a number of
    three digits or more, ignoring leading zeros: `00123`, `123`, `CT00123`, `00123_2`.
    """
    holding: dict[str, list[str]] = {}
    for folder, below in places:
        parts = below.split("/")
        for nth, part in enumerate(parts, 1):
            for number in set() if date_of(part) else _numbers(part):
                holding.setdefault(number, []).append("/".join([folder, *parts[:nth]] if folder else parts[:nth]))
    similar = {exam_id: [place for number in sorted(_numbers(exam_id)) for place in holding.get(number, [])]
               for exam_id in exam_ids}
    return {exam_id: list(dict.fromkeys(found)) for exam_id, found in similar.items() if found}


def _numbers(name: str) -> set[str]:
    return {run.lstrip("0") for run in _RUN.findall(name)} - {""}


def date_of(name: str) -> str:
    """Return the date of a date folder's name as YYYY-MM-DD, and "" for any other name."""
    if _DATE_FOLDER.fullmatch(name):
        return name
    if match := _SPELT_DATE.fullmatch(name):
        year, month, day = (int(part) for part in match.groups() if part and part.isdecimal())
        try:
            return datetime.date(year, month, day).isoformat() if year in YEARS else ""
        except ValueError:
            pass
    return ""


def exam_id_of(name: str) -> str:
    """Return the exam id of a folder's name, normalized like those of the label sheet (full-width digits, spaces)."""
    try:
        return parse_exam_id(name)
    except ValueError:
        return name


def _holds_dates(folder: Path) -> bool:
    """Return whether a folder is a wrapper around date folders, and so no exam."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(_DATE_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False) for entry in entries)
    return False


def _list_folder(base: Path, relpath: str, tree: Tree) -> list[str]:
    """Add the exams and problems in a folder to the tree, and return the folders in it that are still to be listed.

    If date folders are nested, the innermost counts: the outer one may be the date of an export.
    """
    date = date_of(relpath.rpartition("/")[2])
    strays: list[str] = []
    inside: list[str] = []
    try:
        with os.scandir(base / relpath) as entries:
            for entry in entries:
                below = f"{relpath}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if date and not _DATE_FOLDER.fullmatch(entry.name) and not _holds_dates(base / below):
                        tree.exams.append(ExamFolder(exam_id_of(entry.name), date, below))
                    else:
                        inside.append(below)
                elif not is_file(entry):
                    tree.problems.append((below, *no_file(entry)))
                elif entry.name.lower().endswith(_PACKED):
                    tree.problems.append((below, "not_unpacked", "an archive: unpack it to <YYYY-MM-DD>/<exam_id>/"))
                else:
                    strays.append(entry.name)
    except OSError as error:
        tree.problems.append((relpath or ".", "unreadable", error.strerror or type(error).__name__))
    if strays:
        what = f"{len(strays)} files in no <YYYY-MM-DD>/<exam_id>/ folder, {min(strays)} the first"
        tree.problems.append((relpath or ".", "outside_exam", what))
    return inside
