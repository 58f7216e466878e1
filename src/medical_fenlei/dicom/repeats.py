"""Scans of the same place within one SeriesInstanceUID, told apart by acquisition, image type, field of view, time or number.

A patient who moved is scanned again at once; both ears are reconstructed apart; some archives put all of it into one series.
Slices of two scans are never mixed, even where the second begins half a slice higher and both would look like one fine scan.
"""
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from medical_fenlei.dicom.geometry import MIN_SPACING_MM
from medical_fenlei.dicom.header import Header

MIN_SCAN = 8
"""Fewest slices of a scan that is recognised without shared positions, or by the order of its slices."""

MAX_SCANS = 8
"""Largest number of scans that the order of slices tells apart."""

SAME_FIELD_MM = 5.0
"""Fields of view whose corners are further apart are different ones; a tilted gantry moves them by less from slice to slice."""

Parts = list[list[Header]]


def sharing_a_position(images: Sequence[Header]) -> list[tuple[Header, Header]]:
    """Return pairs of images at the same position along their normal: the first at each position with each further one."""
    along = _along(images)
    order = np.argsort(along, kind="stable").tolist()
    pairs, first = [], order[0]
    for n in order[1:]:
        if along[n] - along[first] < MIN_SPACING_MM:
            pairs.append((images[first], images[n]))
        else:
            first = n
    return pairs


def split_repeats(images: Sequence[Header]) -> tuple[Parts, str]:
    """Return the scans among images that fit together, and by what they were told apart: "" where there is one scan only.

    Where images share positions that nothing tells apart, they are returned as one.
    """
    for by, split in _SPLITS.items():
        parts = split(images)
        if len(parts) > 1 and not any(map(sharing_a_position, parts)) and _repeats(parts, shared_only=by == "InstanceNumber"):
            return _deeper(by, [split_repeats(part) for part in parts])
    for by, split in _SPLITS.items():                            # both ears, each scanned twice
        parts = split(images)
        if 1 < len(parts) <= MAX_SCANS and _repeats(parts):
            deeper = [split_repeats(part) for part in parts]
            if all(how or not sharing_a_position(part) for (_, how), part in zip(deeper, parts, strict=True)):
                return _deeper(by, deeper)
    return [list(images)], ""


def _deeper(by: str, found: Sequence[tuple[Parts, str]]) -> tuple[Parts, str]:
    """Return the parts of parts, and by what they were told apart."""
    return [part for parts, _ in found for part in parts], ", ".join(dict.fromkeys([by, *(how for _, how in found if how)]))


def _along(images: Sequence[Header]) -> np.ndarray:
    """(N,): positions along the normal of the first image, mm."""
    return np.array([header.position for header in images]) @ images[0].normal


def _repeats(parts: Parts, *, shared_only: bool = False) -> bool:
    """Return whether any two parts are scans of the same place: half of one shares positions, or most of its extent."""
    spans = [np.sort(_along(part)) for part in parts]
    for n, one in enumerate(spans):
        for other in spans[n + 1:]:
            fewer, more = sorted((one, other), key=len)
            if 2 * sum(np.abs(more - z).min() < MIN_SPACING_MM for z in fewer) >= len(fewer):
                return True
            common = min(one[-1], other[-1]) - max(one[0], other[0])
            if not shared_only and len(fewer) >= MIN_SCAN and 2 * common > min(np.ptp(one), np.ptp(other)):
                return True
    return False


def _by_value(images: Iterable[Header], value: Callable[[Header], Hashable]) -> Parts:
    parts: dict[Hashable, list[Header]] = {}
    for header in images:
        parts.setdefault(value(header), []).append(header)
    return list(parts.values())


def _by_acquisition(images: Sequence[Header]) -> Parts:
    return _by_value(sorted(images, key=lambda header: header.acquisition), lambda header: header.acquisition)


def _by_image_type(images: Sequence[Header]) -> Parts:
    return _by_value(images, lambda header: header.image_type)


def _by_field(images: Sequence[Header]) -> Parts:
    """Group images by the corner of their field of view; a chain of small steps counts as one field."""
    position = np.array([header.position for header in images])
    groups = []
    for direction in (images[0].row_cosines, images[0].column_cosines):
        corner = position @ np.array(direction)
        order = np.argsort(corner, kind="stable")
        group = np.empty(len(images), int)
        group[order] = np.concatenate([[0], np.cumsum(np.diff(corner[order]) > SAME_FIELD_MM)])
        groups.append(group.tolist())
    parts: dict[tuple[int, int], list[Header]] = {}
    for header, *field in zip(images, *groups, strict=True):
        parts.setdefault((field[0], field[1]), []).append(header)
    return list(parts.values()) if min(map(len, parts.values())) >= MIN_SCAN else [list(images)]


def _by_time(images: Sequence[Header]) -> Parts:
    if not all(header.acquired for header in images) or len({header.acquired for header in images}) < 2:
        return [list(images)]
    return _runs(sorted(images, key=lambda header: (header.acquired, header.instance or 0, header.frame or 0)))


def _by_number(images: Sequence[Header]) -> Parts:
    if any(header.instance is None for header in images):
        return [list(images)]
    return _runs(sorted(images, key=lambda header: header.instance or 0))


def _runs(ordered: list[Header]) -> Parts:
    """Cut a sequence of images wherever they turn back or stay; return it whole if there are too many or too short parts."""
    steps = np.diff(_along(ordered))
    parts, upward = [[ordered[0]]], 0.0
    for header, step in zip(ordered[1:], steps.tolist(), strict=True):
        if abs(step) < MIN_SPACING_MM or upward * step < 0:
            parts.append([header])
            upward = 0.0
        else:
            parts[-1].append(header)
            upward = step
    return parts if len(parts) <= MAX_SCANS and min(map(len, parts)) >= MIN_SCAN else [ordered]


_SPLITS: dict[str, Callable[[Sequence[Header]], Parts]] = {
    "AcquisitionNumber": _by_acquisition, "ImageType": _by_image_type, "field of view": _by_field, "acquisition time": _by_time,
    "InstanceNumber": _by_number,
}
"""How scans are told apart, the most reliable first."""
