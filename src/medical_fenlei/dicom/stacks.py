"""Stacks: which images of a folder, or of several folders, form one series, before their geometry is decided."""
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.fragments import FRAGMENT, Joined, join_fragments
from medical_fenlei.dicom.geometry import Geometry, stack
from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.header_reader import HeaderReader
from medical_fenlei.dicom.pixels import decode_hu
from medical_fenlei.dicom.repeats import sharing_a_position, split_repeats
from medical_fenlei.errors import Rejected

SAME_DIRECTION, SAME_SPACING = 0.01, 0.05
"""Images whose cosines or spacings (mm) differ by at most this belong to one series. Wider than the tolerances of `geometry`:
a series that drifts is refused as a whole instead of being cut into two."""


@dataclass(frozen=True)
class Stack:
    """The images of a folder that form one series."""

    headers: tuple[Header, ...]
    copies: tuple[Path, ...] = ()
    """Files that duplicate another image."""

    notes: tuple[str, ...] = ()
    """What was joined or taken apart against the UIDs: reason code, colon, detail."""

    refusal: Rejected | None = None
    """Why the images cannot be used as a series, whatever their geometry."""

    is_part: bool = False
    """Whether it was taken apart from other images of the same SeriesInstanceUID."""

    def arranged(self) -> Geometry:
        """Return the geometry of the images (`geometry.stack`). Raises Rejected, also for a refusal."""
        if self.refusal:
            raise self.refusal
        return stack(self.headers)

    @property
    def name(self) -> str:
        """8 hex digits: a hash of the first image's UID and what distinguishes series, whatever else lies in the folder."""
        first = min(self.headers, key=lambda header: (header.sop_uid, header.frame or 0))
        own: tuple[object, ...] = (
            first.sop_uid, first.frame, first.series_uid, first.acquisition, first.kernel, first.rows, first.columns,
            first.row_cosines, first.column_cosines, first.pixel_spacing)
        if self.is_part:
            own = (*own, first.acquired, first.instance, first.image_type, first.position)
        return hashlib.sha256(repr(own).encode()).hexdigest()[:8]


def read_stacks(folder: Path) -> tuple[list[Stack], list[tuple[Path, Rejected]]]:
    """Return the series in a folder, and the files that hold no CT image, each with the reason.

    Images belong together if they share SeriesInstanceUID, study, size, kernel, direction and spacing. Fragments with UIDs of
    their own are joined (`fragments`), and scans of the same place are taken apart (`repeats`). Duplicates count once. Raises
    Rejected: missing_folder, unreadable.
    """
    reader = HeaderReader()
    headers: list[Header] = []
    rejects = []
    for path in series_files(folder):
        try:
            headers += reader.read(path)
        except Rejected as rejected:
            rejects.append((path, rejected))
    alike: dict[object, list[list[Header]]] = {}
    for header in headers:
        groups = alike.setdefault((header.series_uid, header.rows, header.columns, header.kernel), [])
        group = next((group for group in groups if _fits(header, group[0])), None)
        if group is None:
            groups.append([header])
        else:
            group.append(header)
    joined = join_fragments([group for groups in alike.values() for group in groups], fits=_fits)
    return [stack for group in joined for stack in _taken_apart(group)], rejects


def _fits(header: Header, other: Header) -> bool:
    """Return whether two images have the same direction and spacing, and may be of one study."""
    def difference(one: tuple[float, ...], two: tuple[float, ...]) -> float:
        return max(abs(a - b) for a, b in zip(one, two, strict=True))

    return (difference(header.row_cosines + header.column_cosines, other.row_cosines + other.column_cosines) <= SAME_DIRECTION
            and difference(header.pixel_spacing, other.pixel_spacing) <= SAME_SPACING
            and not header.study.is_apart_from(other.study))


def _taken_apart(joined: Joined) -> list[Stack]:
    """Remove duplicates from images that fit together, and separate the scans among them that repeat places."""
    images, copies = _without_copies(joined.headers)
    parts, how = ([images], "") if joined.refusal else split_repeats(images)
    if len(parts) > 1:
        notes = (*joined.notes, f"taken_apart: {len(parts)} scans of the same place in one series, told apart by {how}")
        return [Stack(tuple(part), () if n else tuple(copies), notes, is_part=True) for n, part in enumerate(parts)]
    for one, other in sharing_a_position(images):
        if _same_pixels(one, other):
            images.remove(other)
            copies.append(other.path)
    return [Stack(tuple(images), tuple(copies), joined.notes, joined.refusal)]


def _without_copies(group: Sequence[Header]) -> tuple[list[Header], list[Path]]:
    """Return the images without those that repeat another's UID, place, time and number, and the files of the others."""
    positions: dict[tuple[str, int | None], set[object]] = {}
    for header in group:
        positions.setdefault((header.sop_uid, header.frame), set()).add(header.position)
    if not all(uid and len(found) == 1 for (uid, _), found in positions.items()):
        return list(group), []                                   # UIDs do not identify images
    first: dict[object, Header] = {}
    copies = [header.path for header in group
              if first.setdefault((header.sop_uid, header.frame, header.acquired, header.instance), header) is not header]
    return list(first.values()), copies


def join_scattered(found: Iterable[Stack]) -> tuple[list[Stack], list[Stack]]:
    """Join the series of which every folder holds only a few slices. found: stacks of several folders.

    Returns the joined series, and the stacks that they consist of.
    """
    few = {frozenset(header.path for header in one.headers): one for one in found
           if len(one.headers) <= FRAGMENT and not one.refusal and not one.is_part}
    joined, used = [], []
    for whole in join_fragments([one.headers for one in few.values()], fits=_fits, how="in {} folders"):
        paths = {header.path for header in whole.headers}
        own = [one for part, one in few.items() if part <= paths]
        if len({path.parent for path in paths}) < len(own) or len(own) < 2:
            continue                                             # series of their own within one folder
        copies = tuple(path for one in own for path in one.copies)
        first, *others = _taken_apart(whole)
        joined += [replace(first, copies=(*copies, *first.copies)), *others]
        used += own
    return joined, used


def read_scattered(folder: Path) -> list[Stack]:
    """Return the series that are scattered over the folders below this one. Raises Rejected: missing_folder, unreadable."""
    folders = sorted(Path(path) for path, _, _ in os.walk(folder)
                     if not any(part.startswith(".") for part in Path(path).relative_to(folder).parts))
    return join_scattered(one for below in folders for one in read_stacks(below)[0])[0]


def _same_pixels(one: Header, other: Header) -> bool:
    """Return whether two files hold the same image."""
    try:
        first, second = (decode_hu(read_dataset(header.path), header) for header in (one, other))
    except Rejected:
        return False
    return one.position == other.position and bool(np.array_equal(first, second))


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:                                              # such as a link to itself
        return False


def series_files(folder: Path) -> list[Path]:
    """List the files of a series folder that may be images, sorted by name; hidden files and folders are skipped.

    Raises Rejected: missing_folder, unreadable.
    """
    try:
        with os.scandir(folder) as entries:                      # saves a stat call per file
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_file(entry))
    except (FileNotFoundError, NotADirectoryError):
        raise Rejected("missing_folder", "the series folder is not there") from None
    except OSError as error:
        raise Rejected("unreadable", error.strerror or type(error).__name__) from None
    return [folder / name for name in names]
