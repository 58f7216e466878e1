"""Find elements at the top level of a little-endian dataset, in a tenth of pydicom's time; whatever is unusual is left to it.

DICOM PS3.5, sections 7.1 (elements), 7.5 (sequences) and A.4 (pixel data).
"""
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

PIXEL_TAGS = frozenset(int(Tag(name)) for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))

_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""VRs whose length takes four bytes, after two reserved ones."""

_SHORT = frozenset((b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
                    b"SS", b"ST", b"TM", b"UI", b"UL", b"US"))
"""VRs whose length takes two bytes."""

_CHARACTER_SET = int(Tag("SpecificCharacterSet"))
UNDEFINED = 0xFFFFFFFF
_META_GROUP = b"\x02\x00"
_MAX_DEPTH = 64
"""Sequences nested deeper are damage, or an attack on parsers that recurse."""
ITEM, _ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
TAG_AND_LENGTH, _LENGTH = struct.Struct("<HHI"), struct.Struct("<I")

Element = tuple[int, bytes, int, int]
"""(tag, VR or b"" where it is implicit, first byte of the value, length)."""


class Unusual(ValueError):
    """Content that is truncated, out of order, or not written by the rules: left to pydicom."""


class Placed(NamedTuple):
    """An element, and where it lies in its file."""

    tag: int
    vr: bytes
    """b"" where it is implicit."""

    implicit: bool
    begin: int
    first: int
    """First byte of its value."""

    end: int


def list_elements(content: bytes, at: int, *, implicit: bool) -> list[Placed]:
    """Return the elements of a dataset from an offset to the pixel data element, which is the last. Raises Unusual."""
    return [Placed(tag, vr, implicit, begin, first, end) for tag, vr, begin, first, end, _ in _walk(content, at, implicit)]


def list_meta(content: bytes, at: int) -> list[Placed]:
    """Return the elements of the file meta information from an offset, whatever length it declares. Raises Unusual."""
    found = []
    while content.startswith(_META_GROUP, at):
        tag, vr, first, length = element_at(content, at, False)
        found.append(Placed(tag, vr, False, at, first, first + length))
        at = first + length
    return found


def scan_elements(content: bytes, at: int, *, implicit: bool, wanted: Collection[int]) -> tuple[Dataset, int]:
    """Return a dataset of the wanted elements before the pixel data, and the offset at which the pixel data element begins.

    at: offset of the first element. Raises Unusual.
    """
    wanted = {*wanted, _CHARACTER_SET}
    found = []
    for tag, vr, begin, first, end, length in _walk(content, at, implicit):
        at = begin
        if tag in wanted:
            if length == UNDEFINED or end > len(content):
                raise Unusual
            found.append(Placed(tag, vr, implicit, begin, first, end))
    return dataset_of(content, found), at


def dataset_of(content: bytes, elements: Sequence[Placed]) -> Dataset:
    """Return a dataset of these elements, parsed when they are accessed."""
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    for tag, vr, implicit, _, first, end in elements:
        base = BaseTag(tag)
        found[base] = RawDataElement(base, vr.decode() or None, end - first, content[first:end], first, implicit, True, True)
    dataset = Dataset(found)
    character_set = dataset.get("SpecificCharacterSet") if BaseTag(_CHARACTER_SET) in found else None
    dataset.set_original_encoding(bool(elements) and elements[0].implicit, True,
                                  convert_encodings(character_set) if character_set else None)
    return dataset


def _walk(content: bytes, at: int, implicit: bool) -> Iterator[tuple[int, bytes, int, int, int, int]]:
    """Yield (tag, VR, first byte, first byte of the value, end, length) of each element, lastly of the pixel data.

    The pixel data is not looked into: it ends where it begins. Raises Unusual.
    """
    last = -1
    while True:
        tag, vr, first, length = element_at(content, at, implicit)
        if tag in PIXEL_TAGS:
            yield tag, vr, at, first, first, length
            return
        if tag <= last:
            raise Unusual
        end = end_of(content, first, length, implicit)
        yield tag, vr, at, first, end, length
        at, last = end, tag


def element_at(content: bytes, at: int, implicit: bool) -> Element:
    """Return the element that begins at an offset. Raises Unusual where none does."""
    if at + 12 > len(content):
        raise Unusual
    group, number, length = TAG_AND_LENGTH.unpack_from(content, at)
    tag = group << 16 | number
    if implicit or group == 0xFFFE:
        return tag, b"", at + 8, length
    vr = content[at + 4:at + 6]
    if vr in _SHORT:
        return tag, vr, at + 8, length >> 16
    if vr in _LONG:
        return tag, vr, at + 12, _LENGTH.unpack_from(content, at + 8)[0]
    raise Unusual


def end_of(content: bytes, first: int, length: int, implicit: bool) -> int:
    """Return the offset behind a value, also behind items of undefined length, however deep they nest. Raises Unusual."""
    if length != UNDEFINED:
        return first + length
    at, closing = first, [SEQUENCE_END]
    while closing:
        tag, _, first, length = element_at(content, at, implicit)
        if tag == closing[-1]:
            closing.pop()
            at = first
        elif length != UNDEFINED:
            at = first + length
        elif len(closing) == _MAX_DEPTH:
            raise Unusual
        else:
            closing.append(_ITEM_END if tag == ITEM else SEQUENCE_END)
            at = first
    return at
