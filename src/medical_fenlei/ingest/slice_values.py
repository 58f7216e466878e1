"""Whether the values of a series are HU of a head, from its middle slice.

One slice is decoded for each series that may be used. Only where that one cannot be right, two more are. A part of its
neighbors' files is read, to see whether they repeat the slice.
"""
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.fast_pixels import read_stored
from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.pixels import decode_hu, rescale_to_hu
from medical_fenlei.dicom.plausible_hu import (
    blank_rows,
    implausible,
    implausible_middle,
    is_noise,
    is_padding_inside,
    thinned,
)
from medical_fenlei.errors import Rejected

HU_TYPES = ("", "HU", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS")
"""Values of RescaleType for Hounsfield units; without one, CT images hold these (DICOM PS3.3 C.8.2.1)."""
UNSPECIFIED = "US"
"""RescaleType of values without a stated unit."""

_TERM = re.compile(r"[A-Za-z0-9_/%^]{1,8}")
"""A unit, or a defined term of DICOM such as Z_EFF or MGML."""

MIN_SLICES = 8
"""Series of fewer slices are not judged: they are scouts, or too short to be used."""

COMPARED = 1 << 16
"""Most bytes of a slice's pixels that are compared with those of its neighbors: of their middle quarter."""

DOUBTFUL = "doubtful_values"
"""Code of a note on values that are used all the same."""


@dataclass(frozen=True)
class _Slice:
    """What one slice shows: why it cannot be right ("" if it can), else what is doubtful about it."""

    wrong: Rejected | None = None
    doubt: str = ""


def _refuse_maps(headers: Sequence[Header]) -> None:
    """Raise Rejected (not_hu) where an image states another unit than HU: a map of a material, for example."""
    for kind in sorted({header.rescale_type for header in headers}):
        if kind.upper() not in (*HU_TYPES, UNSPECIFIED):
            shown = repr(kind) if _TERM.fullmatch(kind) else "a text"                    # free text may name a person
            raise Rejected("not_hu", f"RescaleType: got {shown}, expected HU: a map, not an image of Hounsfield units")


def doubts_about_values(headers: Sequence[Header]) -> tuple[str, ...]:
    """Return notes on what is doubtful about the values of a series; headers: of its slices, lowest first.

    Scouts and reformats are not judged. Raises Rejected: not_hu; implausible_hu or bad_pixels, where neither the middle slice
    nor those halfway to the ends can be right.
    """
    _refuse_maps(headers)
    count = len(headers)
    if count < MIN_SLICES or not headers[0].is_axial or "LOCALIZER" in headers[0].image_type:
        return ()
    middle = _judge(headers[count // 2])
    if middle.wrong is None:
        doubt = middle.doubt or _beside(headers[count // 2 - 1:count // 2 + 2])
        return (f"{DOUBTFUL}: {doubt}",) if doubt else ()
    others = [_judge(headers[k]) for k in (count // 4, 3 * count // 4)]
    if all(other.wrong for other in others):
        raise middle.wrong
    return (f"{DOUBTFUL}: a slice that cannot be right among others that are: {middle.wrong.detail}",)


def _beside(headers: Sequence[Header]) -> str:
    """Return what is doubtful about the slices below and above the one in the middle, or "".

    Noise makes every slice of a scan differ from every other one, and none of a head is empty.
    """
    if any(header.frame is not None for header in headers):
        return ""
    parts = [_middle_bytes(header) for header in headers]
    for before, header, one, other in zip(headers, headers[1:], parts, parts[1:], strict=False):
        if one and one == other and header.path != before.path:  # of a missing slice the nearest one stands in its place
            return f"{header.path.name} repeats the pixels of {before.path.name}"
    blank = [header.path.name for header, part in zip(headers, parts, strict=True) if part == b""]
    return f"{blank[0]} is blank, in the middle of the scan" if blank else ""


def _middle_bytes(header: Header) -> bytes | None:
    """Return bytes from the middle of a file's pixels, empty where all are the same pixel; None where they are not found."""
    if header.place is None:
        return None
    try:
        with open(header.path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size - header.place.begin
            found = os.pread(file.fileno(), min(COMPARED, size // 4), header.place.begin + size // 16 * 6)
    except OSError:
        return None
    return b"" if found[2:] == found[:-2] else found


def _judge(header: Header) -> _Slice:
    try:
        hu = _decoded(replace(header, padding=None))
    except (Rejected, OSError) as error:
        detail = error.detail if isinstance(error, Rejected) else type(error).__name__
        return _Slice(wrong=Rejected("bad_pixels", f"{header.path.name}: {detail}"))
    padded, padding = np.zeros(hu.shape, bool), (0.0, 0.0)
    if header.padding is not None:
        ends = [value * header.slope + header.intercept for value in header.padding]
        padding = min(ends), max(ends)
        padded = (hu >= np.floor(padding[0])) & (hu <= np.ceil(padding[1]))
    few, few_padded = thinned(hu), thinned(padded)
    if why := implausible(few[~few_padded]) or implausible_middle(few, few_padded):
        remedy = "check RescaleIntercept, RescaleSlope and the pixels"
        return _Slice(wrong=Rejected("implausible_hu", f"{header.path.name}: {why}: {remedy}"))
    if is_noise(hu):
        return _Slice(doubt=f"{header.path.name}: neighboring pixels differ as much as any two: noise, or bytes swapped")
    if number := blank_rows(hu):
        return _Slice(doubt=f"{header.path.name}: {number} rows in the middle of the slice hold one value: pixels were lost")
    if is_padding_inside(padded, *padding):
        return _Slice(doubt=f"{header.path.name}: PixelPaddingValue is {padding[0]:.0f} HU, which the head also has, and "
                            "counts as air there")
    return _Slice()


def _decoded(header: Header) -> np.ndarray:
    stored = read_stored(header)
    return decode_hu(read_dataset(header.path), header) if stored is None else rescale_to_hu(stored, header)
