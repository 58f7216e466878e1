"""The value of one element: plain values are parsed here in a tenth of the time, all others by pydicom.

A series has hundreds of headers with some twenty elements each, nearly all of them plain.
"""
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

Order = Literal["little", "big"]


@cache
def tag_of(name: str) -> BaseTag:
    """Return the tag of an element by its keyword."""
    return Tag(name)


@cache
def _vr_of(name: str) -> str:
    return dictionary_VR(tag_of(name))


def value_of(dataset: Dataset, name: str) -> Any:
    """Return the value of an element like `dataset.get(name)`, as plain numbers, strings or lists; None where it is absent."""
    element = dataset.get_item(tag_of(name))
    if not isinstance(element, RawDataElement) or not element.value:
        return None if element is None else dataset.get(name)
    try:
        return plain_value(name, element.VR, element.value, "little" if element.is_little_endian else "big")
    except (KeyError, ValueError):                               # padded, damaged or not ASCII: left to pydicom
        return dataset.get(name)


def plain_value(name: str, vr: str | None, value: bytes, order: Order = "little") -> Any:
    """Parse the bytes of an element. vr: None where it is implicit. Raises KeyError or ValueError where they are not plain."""
    known = _vr_of(name)                                         # one VR, or "US or SS"
    vr = vr or known
    if vr not in known:
        raise ValueError
    return _PLAIN[vr](value, order)


def _one_or_all(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _decimals(value: bytes, order: Order) -> Any:
    if b"," in value:                                            # the decimal comma of a German or French system
        value = value.replace(b",", b".")
    return _one_or_all([float(number) for number in value.split(b"\\")])


def _integers(value: bytes, order: Order) -> Any:
    return _one_or_all([int(number) for number in value.split(b"\\")])


def _word(value: bytes, order: Order, *, signed: bool = False) -> int:
    if len(value) != 2:
        raise ValueError
    return int.from_bytes(value, order, signed=signed)


def _uid(value: bytes, order: Order) -> str:
    uid = value.rstrip(b"\0 ").decode("ascii")
    if not uid.replace(".", "").isdecimal():
        raise ValueError
    return uid


def _text(value: bytes, order: Order) -> Any:
    text = value.rstrip(b"\0 ").decode("ascii")                  # ASCII is common to all character sets of DICOM
    if not text.isprintable():
        raise ValueError
    return _one_or_all([part.rstrip(" ") for part in text.split("\\")])


_PLAIN: dict[str, Callable[[bytes, Order], Any]] = {
    "DS": _decimals, "IS": _integers, "US": _word, "SS": partial(_word, signed=True), "UI": _uid, "CS": _text, "LO": _text,
    "SH": _text, "DA": _text, "TM": _text, "DT": _text,
}
"""Parser by VR; it raises ValueError where the value is not plain."""
