"""Exams in a folder of any layout, without a label sheet: told apart by study and patient, and named without naming anybody.

Files may lie flat or in folders of any depth; where an index expects `<date>/<exam_id>/`, here the headers say what belongs
together. Who is examined is read to keep people apart, and goes no further than this module: what it returns is clean.
"""
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.exam_facts import read_exam_facts
from medical_fenlei.dicom.header import Identity, read_headers_of, read_identity
from medical_fenlei.dicom.volume import PART, series_files
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.ingest.patients import contradict
from medical_fenlei.ingest.scan import Listing, Problem, SeriesScan, list_exam, scan_exam
from medical_fenlei.ingest.series_choice import Choice, SeriesRules, choose_series
from medical_fenlei.ingest.tree import date_of
from medical_fenlei.parallel import Workers, map_items

LONGEST = 80
"""Characters of a name: with what stands behind it, it has to be a file's."""
HIDDEN = "…"
"""Stands where something was that names a person or a day."""
_DAYS = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")


class Private:
    """What must not be told of the people of some exams: their ids, names and birth dates, and the days of the exams."""

    def __init__(self, people: Iterable[Identity] = (), days: Iterable[str] = ()) -> None:
        patterns = set()
        for person in people:
            name = person.name.replace("\\", "")                 # which an Identity has between its letters
            words = [person.patient_id, *re.split(r"[\^=\s,]+", name)]
            patterns |= {_pattern(word) for word in words if len(word) > 1}
            patterns |= _day_pattern(person.birth_date)
        for day in days:
            patterns |= _day_pattern(day)
        self._sought = re.compile("|".join(sorted(patterns, key=len, reverse=True)), re.IGNORECASE) if patterns else None

    def __repr__(self) -> str:
        return "Private(…)"

    def hide(self, text: str) -> str:
        return self._sought.sub(HIDDEN, text) if self._sought else text

    def path(self, relpath: str) -> str:
        """A path without its date folders, and with nothing in it that names a person."""
        return "/".join(self.hide(part) for part in relpath.split("/") if part not in ("", ".") and not date_of(part))


def _pattern(word: str) -> str:
    """A short word of Latin letters is one only by itself: Li is no part of slices."""
    short = len(word) < 4 and word.isascii()
    return rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])" if short else re.escape(word)


def _day_pattern(date: str) -> set[str]:
    digits = re.sub(r"\D", "", date)
    if len(digits) != 8:
        return set()
    year, month, day = digits[:4], digits[4:6], digits[6:]
    return {rf"{year}\D?{month}\D?{day}", rf"{day}\D?{month}\D?{year}"}


@dataclass(frozen=True)
class LooseExam:
    """One study of one patient. Nothing in it names a person but the paths, which are for reading alone."""

    exam_id: str
    """Safe for a file's name, unlike any other in capital and small letters alike."""

    choice: Choice
    """Its series, by the rules of the index."""

    stamp: str
    """Follows from names, sizes and times of the files in its folders."""

    age_years: int | None
    problems: tuple[Problem, ...]
    """(file or series below the exam, reason, detail), clean: what holds no image, what was passed over, what looks wrong."""

    several_patients: bool = False
    """A series of it begins with one patient and ends with another: nothing of it can be trusted."""

    private: Private = field(default_factory=Private, repr=False)

    def told(self, series: SeriesScan) -> str:
        """The name of a series below the exam, to be written down."""
        return self.private.path(series.relpath) or self.exam_id


@dataclass(frozen=True)
class _Owned:
    """A series, whose it is, and what tells it from its other half."""

    facts: SeriesScan
    study: str
    people: tuple[Identity, Identity]
    """Of its lowest and of its highest image."""

    days: tuple[str, ...]
    age_years: int | None
    series_uid: str
    ends: tuple[str, str]

    @property
    def folder(self) -> str:
        return self.facts.relpath.partition(PART)[0] if PART in PurePosixPath(self.facts.relpath).name else self.facts.relpath


@dataclass(frozen=True)
class _Looked:
    stamp: str
    owned: tuple[_Owned, ...]
    problems: tuple[Problem, ...]


def find_loose_exams(base: Path, *, rules: SeriesRules, workers: Workers) -> tuple[list[LooseExam], list[Problem]]:
    """The exams below a folder, by name; and what belongs to none of them, clean. Raises UserError if it holds no CT image."""
    if not base.is_dir():
        raise UserError(f"--dicom {base}: no such folder")
    listing = list_exam(base, ".")
    folders = [_normal(folder) for folder in listing.folders]
    looked: dict[str, _Looked] = {}
    problems = [(_normal(file), reason, detail) for file, reason, detail in listing.problems]
    for outcome in map_items(functools.partial(_look, base), folders, workers=workers, label="headers"):
        if outcome.value is None:
            problems.append((outcome.item, outcome.reason, outcome.detail))
        else:
            looked[outcome.item] = outcome.value
            problems += outcome.value.problems
    owned = [one for found in looked.values() for one in found.owned]
    if not owned:
        what = ", ".join(sorted({reason for _, reason, _ in problems})) or "no file"
        raise UserError(f"--dicom {base}: holds no CT image that can be read; found there: {what}")
    groups = _by_exam(owned)
    choices = [choose_series([one.facts for one in group], rules) for group in groups]
    names = _names(base, groups, first=[n for n, choice in enumerate(choices) if choice.chosen])
    homes: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for one in group:
            homes.setdefault(one.folder, set()).add(number)
    of_exam: dict[int, list[Problem]] = {}
    rest: list[Problem] = []
    for problem in problems:
        own = homes.get(problem[0]) or homes.get(str(PurePosixPath(problem[0]).parent)) or set()
        (of_exam.setdefault(min(own), []) if len(own) == 1 else rest).append(problem)
    exams = []
    for number, (name, group, choice) in enumerate(zip(names, groups, choices, strict=True)):
        private = _private(group)
        said = [(private.path(file), reason, private.hide(detail))
                for file, reason, detail in [*of_exam.get(number, []), *_halves(group)]]
        stamps = [(folder, looked[folder].stamp) for folder in sorted({one.folder for one in group})]
        exams.append(LooseExam(
            name, choice, _digest((stamps, [one.facts.relpath for one in group])),
            next((one.age_years for one in group if one.age_years is not None), None), tuple(said),
            any(contradict(*one.people) for one in group), private))
    everybody = _private(owned)
    return (sorted(exams, key=lambda exam: exam.exam_id),
            [(everybody.path(file), reason, everybody.hide(detail)) for file, reason, detail in rest])


def refuse_several_patients(paths: Sequence[Path]) -> None:
    """Raises Rejected (several_patients) where two of these images are of different people."""
    people = list(dict.fromkeys(map(read_identity, paths)))
    if any(contradict(people[0], other) for other in people[1:]):
        raise Rejected("several_patients", "images of different patients in one series: take out what is not the exam's")


def _normal(relpath: str) -> str:
    return relpath.removeprefix("./") or "."


def _look(base: Path, folder: str) -> _Looked:
    """The series of one folder, without those below it."""
    files = [(path.name, (found := path.stat()).st_size, found.st_mtime_ns) for path in series_files(base / folder)]
    stamp = _digest(files)
    scan = scan_exam(base, folder, Listing(stamp, len(files), (folder,), ()))
    return _Looked(stamp, tuple(_owned(base, facts) for facts in scan.series), scan.problems)


def _owned(base: Path, facts: SeriesScan) -> _Owned:
    first, last = base / facts.first, base / facts.last
    about, dataset = read_exam_facts(first), read_dataset(first, _DAYS)
    headers = [read_headers_of(path)[0] for path in (first, last)]
    return _Owned(facts, about.study_uid, (read_identity(first), read_identity(last)),
                  tuple(str(dataset.get(name) or "") for name in _DAYS), about.age_years, headers[0].series_uid,
                  (headers[0].sop_uid, headers[1].sop_uid))


def _by_exam(owned: Sequence[_Owned]) -> list[list[_Owned]]:
    """Series of the same study, unless they are of different people. Without a study's UID those below the same folder."""
    groups: dict[str, list[list[_Owned]]] = {}
    for one in sorted(owned, key=lambda one: one.facts.relpath):
        parent = str(PurePosixPath(one.folder).parent)
        of_study = groups.setdefault(one.study or f"/{one.folder if parent == '.' else parent}", [])
        group = next((group for group in of_study if not contradict(group[0].people[0], one.people[0])), None)
        if group is None:
            of_study.append([one])
        else:
            group.append(one)
    return [group for of_study in groups.values() for group in of_study]


def _halves(group: Sequence[_Owned]) -> list[Problem]:
    """A problem where a series goes on in another folder; none where both hold the same."""
    known: dict[object, _Owned] = {}
    found = []
    for one in group:
        key = (one.series_uid, one.facts.plane, one.facts.kernel, one.facts.rows)
        before = known.setdefault(key, one)
        if before.folder != one.folder and one.series_uid and before.ends != one.ends:
            other = PurePosixPath(before.folder).name
            found.append((one.facts.relpath, "split_series",
                          f"goes on with the series in {other}: put both into one folder, else each is a series"))
    return found


def _names(base: Path, groups: Sequence[Sequence[_Owned]], first: Sequence[int]) -> list[str]:
    """Of each exam: its topmost folder that holds no other one, without what must not be told; below a date's folder that
    folder's own name, as the index has it.

    first: those that get their name before the others, where several would have the same.
    """
    owners: dict[str, set[int]] = {}
    for number, group in enumerate(groups):
        for one in group:
            for above in (one.folder, *map(str, PurePosixPath(one.folder).parents)):
                owners.setdefault(above, set()).add(number)
    names: dict[int, str] = {}
    taken: set[str] = set()
    for number in dict.fromkeys([*first, *range(len(groups))]):
        top = PurePosixPath(os.path.commonpath([one.folder for one in groups[number]]) or ".")
        while str(top.parent) != "." and len(owners[str(top.parent)]) == 1 and not date_of(top.parent.name):
            top = top.parent
        folder = base.resolve().name if str(top) == "." else top.name if date_of(top.parent.name) else str(top)
        told = _private(groups[number]).path(folder)
        name = re.sub(r"[^\w.-]+", "_", told.replace(HIDDEN, "").replace("/", "_")).strip("._-")[:LONGEST] or "exam"
        unique, again = name, 1
        while unique.casefold() in taken:
            again += 1
            unique = f"{name}_{again}"
        taken.add(unique.casefold())
        names[number] = unique
    return [names[number] for number in range(len(groups))]


def _private(owned: Sequence[_Owned]) -> Private:
    return Private((person for one in owned for person in one.people), (day for one in owned for day in one.days))


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
