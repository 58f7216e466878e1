"""Exams in a folder of any layout, without a label sheet: separated by study and patient, with names that identify nobody.

Files may lie flat or in folders of any depth. An index expects `<date>/<exam_id>/`; here the headers decide what belongs
together. Identities are read to separate people, and do not leave this module: what it returns is redacted.
"""
import functools
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medical_fenlei.dicom.fragments import FRAGMENT, MIN_FRAGMENTS
from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.identity import Identity, read_identity
from medical_fenlei.dicom.stacks import series_files
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.ingest.exam_files import ExamFiles, Problem, list_exam
from medical_fenlei.ingest.loose_series import LooseSeries, group_series_by_exam, read_loose_series
from medical_fenlei.ingest.person import are_different
from medical_fenlei.ingest.redaction import HIDDEN, Redactor
from medical_fenlei.ingest.scan import SPLIT_SERIES, SeriesScan, scan_exam
from medical_fenlei.ingest.series_choice import Choice, choose_series
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.ingest.tree import date_of
from medical_fenlei.near_names import check_folder
from medical_fenlei.parallel import Workers, map_items

MAX_NAME = 80
"""Largest length of an exam's name, in characters: with a suffix it must be a valid file name."""


@dataclass(frozen=True)
class LooseExam:
    """One study of one patient. Only its paths may identify a person; they are for reading files."""

    exam_id: str
    """Name that is safe for a file, and unique among the exams without regard to case."""

    choice: Choice
    """Choice among its series, by the rules of the index."""

    stamp: str
    """Digest of names, sizes and modification times of the files in its folders."""

    age_years: int | None
    problems: tuple[Problem, ...]
    """(file or series below the exam, reason, detail), redacted: files without an image, ignored files, irregularities."""

    several_patients: bool = False
    """Whether a series holds images of several patients, so that nothing of the exam can be trusted."""

    redactor: Redactor = field(default_factory=Redactor, repr=False)

    def shown_name(self, series: SeriesScan) -> str:
        """Return the redacted name of a series below the exam."""
        return self.redactor.path(series.relpath) or self.exam_id


@dataclass(frozen=True)
class _Folder:
    """The content of one folder, without the folders below it."""

    stamp: str
    series: tuple[LooseSeries, ...]
    problems: tuple[Problem, ...]


def find_loose_exams(base: Path, *, rules: SeriesRules, workers: Workers, reserved: Iterable[str] = ()
                     ) -> tuple[list[LooseExam], list[Problem]]:
    """Find the exams below a folder.

    reserved: names that no exam gets. Returns the exams by name, and the redacted problems that belong to none of them. Raises
    UserError if the folder holds no readable CT image.
    """
    check_folder("--dicom", base)
    folders, problems = _read_folders(base, workers)
    series = [one for folder in folders.values() for one in folder.series]
    if not series:
        reasons = ", ".join(sorted({reason for _, reason, _ in problems})) or "no file"
        raise UserError(f"--dicom {base}: holds no readable CT image; found: {reasons}")
    found = group_series_by_exam(series)
    groups = [exam.series for exam in found]
    owners = Counter(folder for group in groups for folder in {one.folder for one in group})
    choices = [choose_series(_joined(base, group, owners), rules) for group in groups]
    names = _names(base, groups, first=[n for n, choice in enumerate(choices) if choice.chosen], reserved=reserved)
    problems_of, rest = _assign(problems, groups)
    exams = [_exam(name, exam.series, choice, [*problems_of.get(number, ()), *exam.problems], folders)
             for number, (name, exam, choice) in enumerate(zip(names, found, choices, strict=True))]
    redactor = _redactor(series)
    return (sorted(exams, key=lambda exam: exam.exam_id),
            [(redactor.path(file), reason, redactor.hide(detail)) for file, reason, detail in rest])


def _joined(base: Path, group: Sequence[LooseSeries], owners: Mapping[str, int]) -> list[SeriesScan]:
    """Return the series of an exam; those of which each folder holds only a few slices are joined.

    owners: number of exams with series in a folder.
    """
    few = sorted({one.folder for one in group if one.facts.images <= FRAGMENT})
    if len(few) < MIN_FRAGMENTS or any(owners[folder] > 1 for folder in few):
        return [one.facts for one in group]
    scan = scan_exam(base, os.path.commonpath(few) or ".", ExamFiles("", 0, tuple(few), ()))
    return [*(one.facts for one in group if one.folder not in few), *scan.series]


def refuse_several_patients(headers: Sequence[Header]) -> None:
    """Raise Rejected (several_patients) if any of these images are of different people."""
    if _are_several([read_identity(path) for path in {header.identity: header.path for header in headers}.values()]):
        raise Rejected("several_patients", "images of different patients in one series: take out what is not the exam's")


def _are_several(people: Sequence[Identity]) -> bool:
    return any(are_different(people[0], other) for other in people[1:])


def _read_folders(base: Path, workers: Workers) -> tuple[dict[str, _Folder], list[Problem]]:
    """Read every folder with files below the base. Returns them by path, and all problems."""
    listing = list_exam(base, ".")
    folders: dict[str, _Folder] = {}
    problems = [(_normal(file), reason, detail) for file, reason, detail in listing.problems]
    for outcome in map_items(functools.partial(_read_folder, base), [_normal(folder) for folder in listing.folders],
                             workers=workers, label="headers"):
        if outcome.value is None:
            problems.append((outcome.item, outcome.reason, outcome.detail))
        else:
            folders[outcome.item] = outcome.value
            problems += outcome.value.problems
    return folders, problems


def _normal(relpath: str) -> str:
    return relpath.removeprefix("./") or "."


def _read_folder(base: Path, folder: str) -> _Folder:
    files = [(path.name, (found := path.stat()).st_size, found.st_mtime_ns) for path in series_files(base / folder)]
    stamp = _digest(files)
    scan = scan_exam(base, folder, ExamFiles(stamp, len(files), (folder,), ()))
    return _Folder(stamp, tuple(read_loose_series(base, facts) for facts in scan.series), scan.problems)


def _assign(problems: Iterable[Problem], groups: Sequence[Sequence[LooseSeries]]
            ) -> tuple[dict[int, list[Problem]], list[Problem]]:
    """Assign each problem to the only exam with a series in its folder. Returns problems by exam number, and the rest."""
    owners: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for one in group:
            owners.setdefault(one.folder, set()).add(number)
    assigned: dict[int, list[Problem]] = {}
    rest: list[Problem] = []
    for problem in problems:
        own = owners.get(problem[0]) or owners.get(str(PurePosixPath(problem[0]).parent)) or set()
        (assigned.setdefault(min(own), []) if len(own) == 1 else rest).append(problem)
    return assigned, rest


def _exam(name: str, group: Sequence[LooseSeries], choice: Choice, problems: Iterable[Problem],
          folders: Mapping[str, _Folder]) -> LooseExam:
    redactor, separate = _redactor(group), {facts.relpath for facts, _, _ in choice.verdicts}
    shown = [(redactor.path(file), reason, redactor.hide(detail))
             for file, reason, detail in [*problems, *_split_series([one for one in group if one.facts.relpath in separate])]]
    stamps = [(folder, folders[folder].stamp) for folder in sorted({one.folder for one in group})]
    return LooseExam(
        name, choice, _digest((stamps, [one.facts.relpath for one in group])),
        next((one.age_years for one in group if one.age_years is not None), None), tuple(shown),
        any(_are_several(one.people) for one in group), redactor)


def _split_series(group: Sequence[LooseSeries]) -> list[Problem]:
    """Return a problem for each series that continues in another folder, and none if both folders hold the same images."""
    known: dict[object, LooseSeries] = {}
    problems = []
    for one in group:
        key = (one.series_uid, one.facts.plane, one.facts.kernel, one.facts.rows)
        earlier = known.setdefault(key, one)
        if earlier.folder != one.folder and one.series_uid and earlier.ends != one.ends:
            problems.append((one.facts.relpath, "split_series", SPLIT_SERIES.format(PurePosixPath(earlier.folder).name)))
    return problems


def _names(base: Path, groups: Sequence[Sequence[LooseSeries]], first: Sequence[int], reserved: Iterable[str]) -> list[str]:
    """Return a name for each exam: its topmost folder that holds no other exam, redacted.

    Below a date folder the name is that of the folder alone, as in an index. first: numbers of the exams that are named before
    the others, so that they keep a name that several would have; reserved: names that none gets.
    """
    owners: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for one in group:
            for above in (one.folder, *map(str, PurePosixPath(one.folder).parents)):
                owners.setdefault(above, set()).add(number)
    names: dict[int, str] = {}
    taken = {name.casefold() for name in reserved}
    for number in dict.fromkeys([*first, *range(len(groups))]):
        top = PurePosixPath(os.path.commonpath([one.folder for one in groups[number]]) or ".")
        while str(top.parent) != "." and len(owners[str(top.parent)]) == 1 and not date_of(top.parent.name):
            top = top.parent
        folder = base.resolve().name if str(top) == "." else top.name if date_of(top.parent.name) else str(top)
        redacted = _redactor(groups[number]).path(folder).replace(HIDDEN, "").replace("/", "_")
        names[number] = _unique(re.sub(r"[^\w.-]+", "_", redacted).strip("._-")[:MAX_NAME] or "exam", taken)
    return [names[number] for number in range(len(groups))]


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken, and add it to those taken (without regard to case)."""
    unique, number = name, 1
    while unique.casefold() in taken:
        number += 1
        unique = f"{name}_{number}"
    taken.add(unique.casefold())
    return unique


def _redactor(series: Sequence[LooseSeries]) -> Redactor:
    return Redactor((person for one in series for person in one.people), (date for one in series for date in one.dates))


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
