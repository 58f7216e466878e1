"""Find elements at the top level of a little-endian dataset, in a tenth of pydicom's time; whatever is unusual is left to it.

DICOM PS3.5, sections 7.1 (elements), 7.5 (sequences) and A.4 (pixel data).
"""
import struct
from collections.abc import Collection

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
_UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 64
"""Sequences nested deeper are damage, or an attack on parsers that recurse."""
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_TAG_AND_LENGTH, _LENGTH = struct.Struct("<HHI"), struct.Struct("<I")

Element = tuple[int, bytes, int, int]
"""(tag, VR or b"" where it is implicit, first byte of the value, length)."""


def scan_elements(content: bytes, at: int, *, implicit: bool, wanted: Collection[int]) -> tuple[Dataset, int] | None:
    """Return a dataset of the wanted elements before the pixel data, and the offset at which the pixel data element begins.

    at: offset of the first element. Returns None where the content is truncated, out of order, or not written by the rules.
    """
    wanted = {*wanted, _CHARACTER_SET}
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    last = -1
    while (element := _element(content, at, implicit)) is not None:
        tag, vr, first, length = element
        if tag in PIXEL_TAGS:
            return _dataset(found, implicit), at
        if tag <= last:
            return None
        last = tag
        if length == _UNDEFINED:
            end = _after_items(content, first, implicit)
            if end is None or tag in wanted:
                return None
            at = end
            continue
        at = first + length
        if tag in wanted:
            if at > len(content):
                return None
            base = BaseTag(tag)
            found[base] = RawDataElement(base, vr.decode() or None, length, content[first:at], first, implicit, True, True)
    return None


def _element(content: bytes, at: int, implicit: bool) -> Element | None:
    """Return the element that begins at an offset, or None where none does."""
    if at + 12 > len(content):
        return None
    group, number, length = _TAG_AND_LENGTH.unpack_from(content, at)
    tag = group << 16 | number
    if implicit or group == 0xFFFE:
        return tag, b"", at + 8, length
    vr = content[at + 4:at + 6]
    if vr in _SHORT:
        return tag, vr, at + 8, length >> 16
    if vr in _LONG:
        return tag, vr, at + 12, _LENGTH.unpack_from(content, at + 8)[0]
    return None


def _after_items(content: bytes, at: int, implicit: bool) -> int | None:
    """Return the offset after a sequence of undefined length whose first item begins at `at`, however deep items nest."""
    closing = [_SEQUENCE_END]
    while closing:
        element = _element(content, at, implicit)
        if element is None:
            return None
        tag, _, first, length = element
        if tag == closing[-1]:
            closing.pop()
            at = first
        elif length != _UNDEFINED:
            at = first + length
        elif len(closing) == _MAX_DEPTH:
            return None
        else:
            closing.append(_ITEM_END if tag == _ITEM else _SEQUENCE_END)
            at = first
    return at


def _dataset(found: dict[BaseTag, DataElement | RawDataElement], implicit: bool) -> Dataset:
    dataset = Dataset(found)
    character_set = dataset.get("SpecificCharacterSet") if BaseTag(_CHARACTER_SET) in found else None
    dataset.set_original_encoding(implicit, True, convert_encodings(character_set) if character_set else None)
    return dataset
