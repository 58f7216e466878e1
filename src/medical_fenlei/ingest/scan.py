"""What the headers of an exam tell: read once, kept on disk, read again only where files have changed.

A scan holds facts, no judgement: which series to take is decided from it anew each time, and other rules need no second look at
the disk. It holds nothing that identifies a person.
"""
import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medical_fenlei.dicom.geometry import canonical, stack
from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.volume import PART, Stack, read_stacks
from medical_fenlei.errors import Rejected
from medical_fenlei.files import atomic
from medical_fenlei.parallel import Outcome, Workers, map_items

SCAN_VERSION = 3
"""Raised whenever the code finds other facts in the same files."""

Problem = tuple[str, str, str]
"""(file or folder below the base, reason, detail)."""


@dataclass(frozen=True, kw_only=True)
class SeriesScan:
    """One series of an exam, usable or not. Lengths in mm, frame LPS."""

    relpath: str
    """Its folder below the base, `#<name>` behind it where that holds several series."""

    first: str
    """The file with its lowest image, below the base."""

    last: str
    """The file with its highest one."""

    files: int
    """Those that hold its images, copies of them included; a file that holds several series counts for one of them."""

    images: int
    copies: int
    """Files that only repeat one of the images."""

    plane: str
    """axial, coronal, sagittal, or oblique: more than 30 degrees from each."""

    image_type: str
    """Its values joined by a backslash, as DICOM writes them."""

    manufacturer: str
    model: str
    kernel: str
    transfer_syntax: str
    rows: int
    columns: int
    pixel_spacing: float
    slice_thickness: float | None
    step: float = 0.0
    """Between slices, from their positions; 0 where geometry refuses them."""

    tilt: float = 0.0
    """Of the gantry, degrees."""

    height: float = 0.0
    """From the lowest slice to the highest."""

    width: float = 0.0
    """Of the field of view from right to left."""

    middle: float = 0.0
    """Of the field of view, as x."""

    slices: int = 0
    """After what geometry did; 0 where it refuses them."""

    notes: tuple[str, ...] = ()
    """What geometry found and did."""

    refused: str = ""
    """Why geometry refuses it: reason code."""

    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class ExamScan:
    """All that the files of an exam's folder are: images of a series, or a problem each."""

    files: int
    series: tuple[SeriesScan, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Listing:
    """The files of an exam's folder, without a look into them."""

    stamp: str
    """Follows from their names, sizes and times."""

    files: int
    folders: tuple[str, ...]
    """Those that hold files, below the base."""

    problems: tuple[Problem, ...]


def list_exam(base: Path, relpath: str) -> Listing:
    """One pass over an exam's folder.

    Hidden files are passed over. Problems are hidden folders and links to folders, which are not looked into either, and what
    cannot be listed.
    """
    files: list[tuple[str, list[tuple[str, int, int]]]] = []
    problems: list[Problem] = []
    todo = [relpath]
    while todo:
        folder = todo.pop()
        here: list[tuple[str, int, int]] = []
        try:
            with _opened(f"{base}/{folder}") as opened, os.scandir(opened) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == ".":
                        if entry.is_dir(follow_symlinks=False):
                            problems.append((f"{folder}/{name}", "hidden_folder", "if it holds images, rename it"))
                    elif entry.is_file():                        # most are: asked first
                        found = entry.stat()
                        here.append((name, found.st_size, found.st_mtime_ns))
                    elif entry.is_dir(follow_symlinks=False):
                        todo.append(f"{folder}/{name}")
                    elif entry.is_symlink():
                        what = "links to folders are not followed: put the folder itself there" if entry.is_dir() else (
                            "a link to nothing")
                        problems.append((f"{folder}/{name}", "bad_link", what))
        except OSError as error:
            problems.append((folder, "unreadable", error.strerror or type(error).__name__))
        if here:
            here.sort()
            files.append((folder, here))
    files.sort()
    problems.sort()
    stamp = hashlib.blake2b(repr((files, problems)).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return Listing(stamp, sum(len(here) for _, here in files), tuple(folder for folder, _ in files), tuple(problems))


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[int]:
    """The folder itself: its files are then looked up in it, not each along the whole path, which takes a fifth longer."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield opened
    finally:
        os.close(opened)


def scan_exams(base: Path, exams: Sequence[str], kept: Path, *, workers: Workers, again: bool = False,
               ) -> Iterator[tuple[Outcome[str, ExamScan], Listing]]:
    """Scans of these exam folders (paths below the base), in their order; from `kept` where nothing has changed.

    again: read all headers, whatever is kept. What is read is kept as it comes, so that an interrupted scan goes on.
    """
    listings = {exam: list_exam(base, exam) for exam in tqdm(exams, desc="folders", disable=None, leave=False)}
    with _Kept(kept) as known:
        found = {} if again else {exam: scan for exam, listing in listings.items()
                                  if (scan := known.get(exam, listing.stamp)) is not None}
        todo = [exam for exam in listings if exam not in found]
        read = map_items(functools.partial(scan_exam, base), todo, workers=workers, label="headers")
        for exam, listing in listings.items():
            if exam in found:
                yield Outcome(exam, found[exam]), listing
                continue
            outcome = next(read)                                 # what a disk refuses now it may give another time
            if outcome.value is not None and all(reason != "unreadable" for _, reason, _ in outcome.value.problems):
                known.add(exam, listing.stamp, outcome.value)
            yield outcome, listing
        for _ in read:                                           # none is left: it ends by itself, and its workers stay
            pass


def scan_exam(base: Path, relpath: str, listing: Listing | None = None) -> ExamScan:
    """Read every header of an exam; of the listed folders alone, where a listing is given."""
    listing = listing or list_exam(base, relpath)
    series: list[SeriesScan] = []
    problems = list(listing.problems)
    known: dict[tuple[object, ...], tuple[str, set[str]]] = {}
    for folder in listing.folders:
        try:
            stacks, bad = read_stacks(base / folder)
        except Rejected as rejected:
            problems.append((folder, rejected.reason, rejected.detail))
            continue
        problems += [(path.relative_to(base).as_posix(), rejected.reason, rejected.detail) for path, rejected in bad]
        counted: set[Path] = set()
        for found in stacks:
            own = {header.path for header in found.headers}.union(found.copies) - counted
            counted |= own
            problems += _continued(folder, found, known)
            series.append(_facts(base, folder if len(stacks) == 1 else f"{folder}{PART}{found.name}", found, len(own)))
    series.sort(key=lambda facts: facts.relpath)
    return ExamScan(files=listing.files, series=tuple(series), problems=tuple(problems))


def _continued(folder: str, found: Stack, known: dict[tuple[object, ...], tuple[str, set[str]]]) -> list[Problem]:
    """A problem where a series has further images in a folder before this one; none where both hold the same."""
    one, images = found.headers[0], {header.sop_uid for header in found.headers}
    alike = (one.series_uid, one.rows, one.columns, one.kernel, *np.round(one.row_cosines + one.column_cosines, 2).tolist())
    before, there = known.setdefault(alike, (folder, images))
    if before == folder or not one.series_uid or images <= there or there <= images:
        return []
    return [(folder, "split_series", f"goes on with the series in {before}: put both into one folder, else each is a series")]


def _facts(base: Path, relpath: str, found: Stack, files: int) -> SeriesScan:
    one = found.headers[0]
    placed: dict[str, Any] = {}
    try:
        upright = stack(found.headers)
        placed = {"step": round(upright.step, 4), "tilt": round(upright.tilt, 2), "slices": upright.shape[0],
                  "height": round(upright.step * (upright.shape[0] - 1), 2), "notes": upright.notes}
        upright, _ = canonical(upright)
        across = upright.affine[0, 2] * upright.shape[2]
        placed |= {"width": round(float(across), 2), "middle": round(float(upright.affine[0, 3] + across / 2), 2)}
        lowest, highest = (found.headers[upright.order[k]] for k in (0, -1))
    except Rejected as rejected:
        placed |= {"refused": rejected.reason, "detail": rejected.detail}
        lowest, highest = (end(found.headers, key=lambda header: header.position[2]) for end in (min, max))
    return SeriesScan(
        relpath=relpath, first=lowest.path.relative_to(base).as_posix(), last=highest.path.relative_to(base).as_posix(),
        files=files, images=len(found.headers), copies=len(found.copies), plane=_plane(one),
        image_type="\\".join(one.image_type), manufacturer=one.manufacturer, model=one.model, kernel=one.kernel,
        transfer_syntax=one.transfer_syntax, rows=one.rows, columns=one.columns, pixel_spacing=one.pixel_spacing[0],
        slice_thickness=None if np.isnan(one.slice_thickness) else one.slice_thickness,
        **placed)


def _plane(header: Header) -> str:
    if header.is_axial:
        return "axial"
    across = np.abs(header.normal)
    return "oblique" if across.max() < np.cos(np.radians(30)) else ("sagittal", "coronal", "axial")[int(across.argmax())]


class _Kept:
    """The scans on disk, a line of JSON each, the last of an exam counting; a line that was cut short does not count."""

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
        with contextlib.suppress(KeyError, TypeError):           # a line that this program did not write
            series = tuple(SeriesScan(**{**facts, "notes": tuple(facts["notes"])}) for facts in scan["series"])
            return ExamScan(files=scan["files"], series=series, problems=tuple(map(tuple, scan["problems"])))
        return None

    def add(self, exam: str, stamp: str, scan: ExamScan) -> None:
        self._lines[exam] = {"version": SCAN_VERSION, "exam": exam, "stamp": stamp, **asdict(scan)}
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (closed at the end)
            self._file.write(b"\n")                              # behind a line that was cut short
        self._file.write(self._line(self._lines[exam]))
        self._read += 1

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._read > 2 * len(self._lines) + 8:                # mostly lines that no longer count
            with atomic(self._path) as file:
                file.writelines(map(self._line, self._lines.values()))

    @staticmethod
    def _line(scan: dict[str, Any]) -> bytes:
        return json.dumps(scan, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape") + b"\n"
