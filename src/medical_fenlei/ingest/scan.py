"""The header facts of an exam: read once, kept on disk, and read again only where files have changed.

A scan holds facts and no decisions: `series_choice` decides from it, so that other rules do not read the disk again. It holds
nothing that identifies a person.
"""
import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medical_fenlei.dicom.digest import series_digest
from medical_fenlei.dicom.geometry import canonical
from medical_fenlei.dicom.identity import read_identity
from medical_fenlei.dicom.stacks import Stack, join_scattered, read_stacks
from medical_fenlei.dicom.volume import PART
from medical_fenlei.errors import Rejected
from medical_fenlei.files import atomic
from medical_fenlei.ingest.exam_files import NOT_KEPT, ExamFiles, Problem, list_exam
from medical_fenlei.ingest.redaction import Redactor
from medical_fenlei.ingest.slice_values import doubts_about_values
from medical_fenlei.ingest.study_facts import AccessionFact, study_facts
from medical_fenlei.json_files import checked
from medical_fenlei.outcomes import Outcome
from medical_fenlei.parallel import Workers, map_items

SCAN_VERSION = 9
"""Raised whenever the code finds other facts in the same files, or names them differently."""
SPLIT_SERIES = "continues the series in {}: put both into one folder, otherwise each counts as a series"
"""Detail of the problem `split_series`, for the other folder."""


@dataclass(frozen=True, kw_only=True)
class SeriesScan:
    """One series of an exam, usable or not. Lengths in mm, frame LPS."""

    relpath: str
    """Folder below the base, followed by `#<name>` if the folder holds several series."""

    first: str
    """File with the most inferior image, below the base."""

    last: str
    """File with the most superior image, below the base."""

    other_people: tuple[str, ...] = ()
    """Files with an image whose patient is stated otherwise than in `first`, one for each statement, below the base."""

    files: int
    """Files that hold its images, copies included; a file that holds several series counts for one of them."""

    images: int
    copies: int
    """Files that only repeat one of the images."""

    plane: str
    """Plane of the images: axial, coronal, sagittal, or oblique (more than 30 degrees from each)."""

    image_type: str
    """Values of ImageType, joined by a backslash as in DICOM."""

    manufacturer: str
    model: str
    kernel: str
    transfer_syntax: str
    rows: int
    columns: int
    pixel_spacing: float
    slice_thickness: float | None
    slice_spacing: float = 0.0
    """Distance between slices, from their positions; 0 if the geometry is refused."""

    tilt: float = 0.0
    """Gantry tilt in degrees."""

    z_coverage: float = 0.0
    """Distance from the most inferior slice to the most superior one."""

    x_coverage: float = 0.0
    """Width of the field of view from right to left."""

    x_centre: float = 0.0
    """Centre of the field of view along x."""

    slices: int = 0
    """Slices of the regular stack; 0 if the geometry is refused."""

    notes: tuple[str, ...] = ()
    """Irregularities of the geometry, and how they were handled."""

    refused: str = ""
    """Reason code if the geometry is refused."""

    detail: str = ""
    study: int = 1
    """Number of its study in the exam's folder, the earliest first."""

    study_date: str = ""
    """StudyDate as YYYY-MM-DD, empty where it is unknown."""

    study_accession: AccessionFact = ""
    study_uid: str = ""
    """Digest of StudyInstanceUID, to compare exams."""

    frame_of_reference: str = ""
    """Digest of FrameOfReferenceUID."""

    digest: str = ""
    """Digest of its images (`dicom.digest.series_digest`)."""


@dataclass(frozen=True, kw_only=True)
class ExamScan:
    """The content of an exam's folder: each file is an image of a series, or a problem."""

    files: int
    series: tuple[SeriesScan, ...]
    problems: tuple[Problem, ...]


def scan_exams(base: Path, exams: Sequence[str], kept: Path, *, workers: Workers, again: bool = False,
               ) -> Iterator[tuple[Outcome[str, ExamScan], ExamFiles]]:
    """Scan these exam folders (paths below the base) in order, or take the scan from `kept` if nothing has changed.

    again: read all headers, even those that are kept. Each scan is kept at once, so that an interrupted run can continue.
    """
    listings = {exam: list_exam(base, exam) for exam in tqdm(exams, desc="folders", disable=None, leave=False)}
    with _Kept(kept) as known:
        found = {} if again else {exam: scan for exam, listing in listings.items()
                                  if (scan := known.get(exam, listing.stamp)) is not None}
        todo = [exam for exam in listings if exam not in found]
        read = map_items(functools.partial(scan_exam, base, named=False), todo, workers=workers, label="headers")
        for exam, listing in listings.items():
            if exam in found:
                yield Outcome(exam, found[exam]), listing
                continue
            outcome = next(read)                                 # a file that cannot be read now may be readable later
            if outcome.value is not None and not NOT_KEPT.intersection(reason for _, reason, _ in outcome.value.problems):
                known.add(exam, listing.stamp, outcome.value)
            yield outcome, listing
        for _ in read:                                           # nothing is left: the map ends normally, and its workers stay
            pass


def scan_exam(base: Path, relpath: str, listing: ExamFiles | None = None, *, named: bool = True) -> ExamScan:
    """Read every header of an exam, or those of the listed folders if a listing is given.

    named: whether folders and files may be named like the patient. If not, such series are refused (named_path), or the exam
    if its own folder is (named_exam), and none of their paths is told.
    """
    listing = listing or list_exam(base, relpath)
    found, problems = list[tuple[str, Stack]](), list(listing.problems)
    for folder in listing.folders:
        try:
            stacks, bad = read_stacks(base / folder)
        except Rejected as rejected:
            problems.append((folder, rejected.reason, rejected.detail))
            continue
        problems += [(path.relative_to(base).as_posix(), rejected.reason, rejected.detail) for path, rejected in bad]
        found += [(folder if len(stacks) == 1 else f"{folder}{PART}{one.name}", one) for one in stacks]
    joined, used = join_scattered([one for _, one in found])
    parts = set(map(id, used))
    found = [(name, one) for name, one in found if id(one) not in parts] + [
        (f"{_common_folder(base, one)}{PART}{one.name}", one) for one in joined]
    problems += _split_series(base, [one for _, one in found])
    counted: set[Path] = set()
    series = []
    for name, one in found:
        own = {header.path for header in one.headers}.union(one.copies) - counted
        counted |= own
        series.append(_series_scan(base, name, one, len(own)))
    stated = study_facts([(one.headers[0].study, one.headers[0].frame_of_reference) for _, one in found], relpath)
    if not named:
        people = {header.identity: header.path for _, one in found for header in one.headers}.values()
        redactor = Redactor(map(read_identity, people), names_alone=True)
        if redactor.finds_long(Path(relpath).name):
            return ExamScan(files=listing.files, series=(), problems=(("", "named_exam", ""),))
        series = [_refused_if_named(base, relpath, redactor, facts, one, number)
                  for number, (facts, (_, one)) in enumerate(zip(series, found, strict=True), 1)]
        problems = [(relpath + redactor.hide(file.removeprefix(relpath)), reason, redactor.hide(detail))
                    for file, reason, detail in problems]
    series = sorted((replace(facts, **of_study) for facts, of_study in zip(series, stated, strict=True)),
                    key=lambda facts: facts.relpath)
    return ExamScan(files=listing.files, series=tuple(series), problems=tuple(problems))


def _refused_if_named(base: Path, exam: str, redactor: Redactor, facts: SeriesScan, found: Stack, number: int) -> SeriesScan:
    """Return a series, refused and without a path of its own if a path below the exam's folder holds its patient's name."""
    below = "\n".join(header.path.relative_to(base).as_posix().removeprefix(exam) for header in found.headers)
    if not redactor.finds(below):
        return facts
    shown = f"{exam}{PART}named{number}"
    return replace(facts, relpath=shown, first=shown, last=shown, other_people=(), slices=0, digest="", notes=(),
                   refused="named_path", detail="a folder or file of the series is named like the patient: rename it")


def _common_folder(base: Path, found: Stack) -> str:
    """Return the innermost folder, below the base, that contains all images of a series."""
    return Path(os.path.commonpath([header.path.parent for header in found.headers])).relative_to(base).as_posix()


def _split_series(base: Path, stacks: Sequence[Stack]) -> list[Problem]:
    """Return a problem for each folder with images of a series in an earlier one, unless both hold the same images."""
    known: dict[tuple[object, ...], tuple[str, set[str]]] = {}
    problems = []
    for found in stacks:
        header, images, folder = found.headers[0], {header.sop_uid for header in found.headers}, _common_folder(base, found)
        directions = np.round(header.row_cosines + header.column_cosines, 2).tolist()
        key = (header.series_uid, header.rows, header.columns, header.kernel, *directions)
        earlier, others = known.setdefault(key, (folder, images))
        if earlier != folder and header.series_uid and not images <= others and not others <= images:
            problems.append((folder, "split_series", SPLIT_SERIES.format(earlier)))
    return problems


def _series_scan(base: Path, relpath: str, found: Stack, files: int) -> SeriesScan:
    header = found.headers[0]
    geometry: dict[str, Any] = {"notes": found.notes}
    try:
        regular = found.arranged()
        geometry |= {"slice_spacing": round(regular.slice_spacing, 4), "tilt": round(regular.tilt_deg, 2),
                    "slices": regular.shape[0], "notes": (*found.notes, *regular.notes),
                    "z_coverage": round(regular.slice_spacing * (regular.shape[0] - 1), 2)}
        regular, _ = canonical(regular)
        width = regular.affine.step(2)[0] * regular.shape[2]
        geometry |= {"x_coverage": round(float(width), 2), "x_centre": round(float(regular.affine.origin[0] + width / 2), 2)}
        ordered = [found.headers[n] for n in regular.order]
        first, last = ordered[0], ordered[-1]
        geometry["notes"] += doubts_about_values(ordered)
    except Rejected as rejected:
        geometry |= {"refused": rejected.reason, "detail": rejected.detail}
        first, last = (end(found.headers, key=lambda header: header.position[2]) for end in (min, max))
    stated = {image.identity: image.path for image in (*reversed(found.headers), first)}
    return SeriesScan(
        other_people=tuple(sorted(path.relative_to(base).as_posix() for path in stated.values() if path != first.path)),
        relpath=relpath, first=first.path.relative_to(base).as_posix(), last=last.path.relative_to(base).as_posix(),
        files=files, images=len(found.headers), copies=len(found.copies), plane=header.plane,
        image_type="\\".join(header.image_type), manufacturer=header.manufacturer, model=header.model, kernel=header.kernel,
        transfer_syntax=header.transfer_syntax, rows=header.rows, columns=header.columns,
        pixel_spacing=header.pixel_spacing[0],
        slice_thickness=None if np.isnan(header.slice_thickness) else header.slice_thickness,
        digest=series_digest(found.headers), **geometry)


_LINE = ("version", "exam", "stamp")
"""Fields of a kept scan beside those of `ExamScan`."""


class _Kept:
    """The scans on disk, one line of JSON each. The last line of an exam counts; truncated lines are ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[str, dict[str, Any]] = {}
        self._read = 0
        self._file: Any = None

    def __enter__(self) -> "_Kept":
        with contextlib.suppress(FileNotFoundError), open(self._path, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                self._read += 1
                with contextlib.suppress(ValueError):
                    scan = json.loads(line)
                    if isinstance(scan, dict) and scan.get("version") == SCAN_VERSION and {"exam", "stamp"} <= set(scan):
                        self._lines[scan["exam"]] = scan
        return self

    def get(self, exam: str, stamp: str) -> ExamScan | None:
        scan = self._lines.get(exam)
        if scan is None or scan.get("stamp") != stamp:
            return None
        facts = {name: value for name, value in scan.items() if name not in _LINE}
        found: ExamScan | None = checked(facts, ExamScan, only_known=True)[0]    # a line that is not ours counts as not read
        return found

    def add(self, exam: str, stamp: str, scan: ExamScan) -> None:
        self._lines[exam] = {"version": SCAN_VERSION, "exam": exam, "stamp": stamp, **asdict(scan)}
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (closed at the end)
            self._file.write(b"\n")                              # ends a line that was truncated
        self._file.write(self._line(self._lines[exam]))
        self._read += 1

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._read > 2 * len(self._lines) + 8:                # most lines are outdated
            with atomic(self._path) as file:
                file.writelines(map(self._line, self._lines.values()))

    @staticmethod
    def _line(scan: dict[str, Any]) -> bytes:
        return json.dumps(scan, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape") + b"\n"
