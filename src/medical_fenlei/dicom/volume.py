"""CT series opened for reading: which images of a folder belong together, their geometry, and slices decoded on demand.

A series is named by its folder. Where a folder holds several, each is named `<folder>#<name>` (`Stack.name`).
"""
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.geometry import MIN_SPACING_MM, Geometry, canonical, stack
from medical_fenlei.dicom.header import Header, headers_of, read_headers_of
from medical_fenlei.dicom.pixels import decode_hu
from medical_fenlei.errors import Rejected
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import AIR

SAME_DIRECTION, SAME_SPACING = 0.01, 0.05
"""Images whose cosines or spacings (mm) differ by at most this belong to one series. Wider than the tolerances of `geometry`:
a series that drifts is refused as a whole instead of being cut into two."""

PART = "#"
"""Between a folder and the name of one of its series."""


class Series:
    """One regular axial series in the canonical order: k runs up, rows to the back, columns to the patient's left (LPS)."""

    def __init__(self, headers: Iterable[Header]) -> None:
        """Arrange the images of a series. Raises Rejected, as `geometry.stack` and `geometry.canonical` do."""
        self._given = tuple(headers)
        geometry, self._turn = canonical(stack(self._given))
        self.geometry: Geometry = geometry
        self.headers: tuple[Header, ...] = tuple(self._given[i] for i in geometry.order)
        """Header of each slice, lowest first; that of the nearest image where a slice lies between two."""

        self._whole: tuple[Path, Dataset] | None = None

    @property
    def affine(self) -> Affine:
        """Voxel index (k, row, column) to LPS mm."""
        return self.geometry.affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, rows, columns)."""
        return self.geometry.shape

    def slice(self, k: int) -> np.ndarray:
        """Decode slice k as int16 HU (rows, columns). Raises Rejected, naming the file, where it cannot be decoded."""
        if self.geometry.between is None:
            return self._image(self.headers[k])
        below, above, weight = self.geometry.between[k]
        if weight in (0, 1):
            return self._image(self._given[above if weight else below])
        low, high = (self._image(self._given[n]) for n in (below, above))
        mean = np.rint(low * np.float32(1 - weight) + high * np.float32(weight)).astype(np.int16)
        return np.where((low == AIR) | (high == AIR), high if weight > 0.5 else low, mean)       # padding is never averaged

    def _image(self, header: Header) -> np.ndarray:
        try:
            dataset = self._dataset(header)
            return self._turn.apply(decode_hu(dataset, header))
        except Rejected as rejected:
            raise Rejected(rejected.reason, f"{header.path.name}: {rejected.detail}") from None

    def _dataset(self, header: Header) -> Dataset:
        """Read the dataset of an image; a file of many frames is read once for all of them."""
        if self._whole is not None and self._whole[0] == header.path:
            return self._whole[1]
        dataset = read_dataset(header.path)
        if headers_of(dataset, header.path)[header.frame or 0].sop_uid != header.sop_uid:
            raise Rejected("changed_file", "the file is not the one that was indexed")
        self._whole = None if header.frame is None else (header.path, dataset)
        return dataset


@dataclass(frozen=True)
class Stack:
    """The images of a folder that form one series."""

    headers: tuple[Header, ...]
    copies: tuple[Path, ...] = ()
    """Files that duplicate another image."""

    @property
    def name(self) -> str:
        """8 hex digits: a hash of the first image's UID and what distinguishes series, whatever else lies in the folder."""
        first = min(self.headers, key=lambda header: (header.sop_uid, header.frame or 0))
        own = (first.sop_uid, first.frame, first.series_uid, first.acquisition, first.kernel, first.rows, first.columns,
               first.row_cosines, first.column_cosines, first.pixel_spacing)
        return hashlib.sha256(repr(own).encode()).hexdigest()[:8]


def read_stacks(folder: Path) -> tuple[list[Stack], list[tuple[Path, Rejected]]]:
    """Return the series in a folder, and the files that hold no CT image, each with the reason.

    Images belong together if they share SeriesInstanceUID, size, kernel, direction and spacing and, where some of them share a
    position, the acquisition number. Duplicates count once. Raises Rejected: missing_folder, unreadable.
    """
    headers: list[Header] = []
    rejects = []
    for path in series_files(folder):
        try:
            headers += read_headers_of(path)
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
    return [stack for groups in alike.values() for group in groups for stack in _split_by_acquisition(group)], rejects


def _fits(header: Header, other: Header) -> bool:
    """Return whether both images have the same direction and spacing."""
    def difference(one: tuple[float, ...], two: tuple[float, ...]) -> float:
        return max(abs(a - b) for a, b in zip(one, two, strict=True))

    return (difference(header.row_cosines + header.column_cosines, other.row_cosines + other.column_cosines) <= SAME_DIRECTION
            and difference(header.pixel_spacing, other.pixel_spacing) <= SAME_SPACING)


def _split_by_acquisition(group: Sequence[Header]) -> list[Stack]:
    """Remove duplicates from images that fit together; split them by acquisition where images share positions without it."""
    images, copies = list(group), []
    positions: dict[tuple[str, int | None], set[object]] = {}
    for header in group:
        positions.setdefault((header.sop_uid, header.frame), set()).add(header.position)
    if all(uid and len(found) == 1 for (uid, _), found in positions.items()):    # otherwise UIDs do not identify images
        first: dict[object, Header] = {}
        copies = [header.path for header in group if first.setdefault((header.sop_uid, header.frame), header) is not header]
        images = list(first.values())
    if not (sharing := _sharing_a_position(images)):
        return [Stack(tuple(images), tuple(copies))]
    parts: dict[str, list[Header]] = {}
    for header in sorted(images, key=lambda header: header.acquisition):
        parts.setdefault(header.acquisition, []).append(header)
    shared = Counter(frozenset((one.acquisition, other.acquisition)) for one, other in sharing)
    scanned_twice = any(2 * number >= min(len(parts[name]) for name in names) for names, number in shared.items())
    if scanned_twice and len(parts) > 1 and not any(map(_sharing_a_position, parts.values())):
        return [Stack(tuple(part), () if n else tuple(copies)) for n, part in enumerate(parts.values())]
    for one, other in sharing:
        if _same_pixels(one, other):
            images.remove(other)
            copies.append(other.path)
    return [Stack(tuple(images), tuple(copies))]


def _sharing_a_position(images: Sequence[Header]) -> list[tuple[Header, Header]]:
    """Return pairs of images at the same position along their normal: the first at each position with each further one."""
    along = np.array([header.position for header in images]) @ images[0].normal
    order = np.argsort(along, kind="stable").tolist()
    pairs, first = [], order[0]
    for n in order[1:]:
        if along[n] - along[first] < MIN_SPACING_MM:
            pairs.append((images[first], images[n]))
        else:
            first = n
    return pairs


def _same_pixels(one: Header, other: Header) -> bool:
    """Return whether two files hold the same image."""
    try:
        first, second = (decode_hu(read_dataset(header.path), header) for header in (one, other))
    except Rejected:
        return False
    return one.position == other.position and bool(np.array_equal(first, second))


def series_files(folder: Path) -> list[Path]:
    """List the files of a series folder that may be images, sorted by name; hidden files and folders are skipped.

    Raises Rejected: missing_folder, unreadable.
    """
    try:
        with os.scandir(folder) as entries:                      # saves a stat call per file
            names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        raise Rejected("missing_folder", "the series folder is not there") from None
    except OSError as error:
        raise Rejected("unreadable", error.strerror or type(error).__name__) from None
    return [folder / name for name in names]


def inside(base: Path, relpath: str) -> Path:
    """Return `base/relpath`. Raises Rejected (outside_base) where it leads out of `base`, through `..` or a link."""
    path = base / relpath
    if not path.resolve().is_relative_to(base.resolve()):
        raise Rejected("outside_base", "the path leads out of its base folder")
    return path


def read_headers(series: Path) -> tuple[list[Header], list[tuple[Path, Rejected]]]:
    """Return the headers of a series, and the files of its folder that are no images, each with the reason.

    series: its folder, or `<folder>#<name>`. Raises Rejected: missing_folder; mixed_series, where the folder holds several
    series and none is named; missing_series, where it holds none of that name.
    """
    folder, name = series, ""
    if PART in series.name and not series.is_dir():
        folder, name = series.parent / series.name.rpartition(PART)[0], series.name.rpartition(PART)[2]
    stacks, rejects = read_stacks(folder)
    found = [stack for stack in stacks if name in ("", stack.name)]
    if len(found) > 1:
        raise Rejected("mixed_series", f"got a folder of {len(found)} series and no name of one: build the index again")
    if stacks and not found:
        raise Rejected("missing_series", "the folder no longer holds this series: build the index again")
    return [header for stack in found for header in stack.headers], rejects


def open_series(series: Path) -> Series:
    """Open a series, named by its folder or by `<folder>#<name>`; files that are no CT images are skipped. Raises Rejected."""
    return Series(read_headers(series)[0])
