"""Exam folders on disk: `<base>/[wrapper/…]<YYYY-MM-DD>/<exam_id>/<series>/<file>`."""
import contextlib
import datetime
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.label_sheet import YEARS, parse_exam_id

_DATE_FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}")
_SPELT_DATE = re.compile(r"(\d{4})(?:([-._ ])(\d{1,2})\2(\d{1,2})|(\d{2})(\d{2})|年(\d{1,2})月(\d{1,2})日?)")
"""2024.1.5, 20240105, 2024年1月5日: the year first, so that it can be read in one way only."""
_PACKED = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".001")
_RUN = re.compile(r"\d{3,}")


@dataclass(frozen=True)
class ExamFolder:
    exam_id: str
    date: str
    """Of the date folder, YYYY-MM-DD, however it is spelt there."""

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
        there = sorted(path.name for path in base.iterdir() if not path.name.startswith("."))
        what = ("it is a date folder itself: name the folder above it" if date_of(base.resolve().name) else
                f"found there: {', '.join(there[:3])}{', …' if len(there) > 3 else ''}" if there else "it is empty")
        raise UserError(f"--dicom-base {base}: holds no <YYYY-MM-DD>/<exam_id>/ folder; {what}")
    return tree


def called_alike(exam_ids: Iterable[str], places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """For each of these ids the files and folders, below the base, that have a name like it.

    places: (folder, path below it), of which the second is looked at. Alike are names that share a number of three digits or
    more, but for leading zeros: `00123`, `123`, `CT00123`, `00123_2`.
    """
    holding: dict[str, list[str]] = {}
    for folder, below in places:
        parts = below.split("/")
        for nth, part in enumerate(parts, 1):
            for number in set() if date_of(part) else _numbers(part):
                holding.setdefault(number, []).append("/".join([folder, *parts[:nth]] if folder else parts[:nth]))
    found = {exam_id: [place for number in sorted(_numbers(exam_id)) for place in holding.get(number, [])]
             for exam_id in exam_ids}
    return {exam_id: list(dict.fromkeys(there)) for exam_id, there in found.items() if there}


def _numbers(name: str) -> set[str]:
    return {run.lstrip("0") for run in _RUN.findall(name)} - {""}


def date_of(name: str) -> str:
    """YYYY-MM-DD of a date folder's name, "" of any other."""
    if _DATE_FOLDER.fullmatch(name):
        return name
    if match := _SPELT_DATE.fullmatch(name):
        year, month, day = (int(part) for part in match.groups() if part and part.isdecimal())
        try:
            return datetime.date(year, month, day).isoformat() if year in YEARS else ""
        except ValueError:
            pass
    return ""


def _exam_id(name: str) -> str:
    """As the sheet's are read: full-width digits and spaces around them are no part of it."""
    try:
        return parse_exam_id(name)
    except ValueError:
        return name


def _holds_dates(folder: Path) -> bool:
    """Whether it is no exam but a wrapper."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(_DATE_FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False) for entry in entries)
    return False


def _walk(base: Path, relpath: str, tree: Tree) -> None:
    """Of date folders in one another the innermost counts: the outer may be the day of an export."""
    date = date_of(relpath.rpartition("/")[2])
    strays: list[str] = []
    try:
        with os.scandir(base / relpath) as entries:
            for entry in entries:
                below = f"{relpath}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if date and not _DATE_FOLDER.fullmatch(entry.name) and not _holds_dates(base / below):
                        tree.exams.append(ExamFolder(_exam_id(entry.name), date, below))
                    else:
                        _walk(base, below, tree)
                elif entry.is_dir():
                    tree.problems.append((below, "bad_link", "links to folders are not followed: put the folder itself there"))
                elif entry.name.lower().endswith(_PACKED):
                    tree.problems.append((below, "not_unpacked", "an archive: unpack it to <YYYY-MM-DD>/<exam_id>/"))
                else:
                    strays.append(entry.name)
    except OSError as error:
        tree.problems.append((relpath or ".", "unreadable", error.strerror or type(error).__name__))
    if strays:
        what = f"{len(strays)} files that lie in no <YYYY-MM-DD>/<exam_id>/ folder, {min(strays)} the first"
        tree.problems.append((relpath or ".", "outside_exam", what))
