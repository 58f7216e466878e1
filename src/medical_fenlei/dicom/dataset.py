"""Parse a DICOM file into a dataset, or reject it with a reason. `header` interprets the values."""
import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom import filereader
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medical_fenlei.dicom.elements import tag_of, value_of
from medical_fenlei.dicom.scan_elements import (
    PIXEL_TAGS,
    Placed,
    Unusual,
    dataset_of,
    element_at,
    list_elements,
    list_meta,
    scan_elements,
)
from medical_fenlei.dicom.syntaxes import RECENT
from medical_fenlei.errors import Rejected

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
warnings.filterwarnings("ignore", module=r"pydicom\b")
logging.getLogger("pydicom").setLevel(logging.ERROR)
"""pydicom's warnings quote values, patient names among them; the values used here are checked here."""

MAX_INFLATED = 1 << 27
"""Largest size of a deflated file when inflated, bytes: twice the largest image of 32 bits."""

_SEQUENCES = {int(Tag(name)) for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")}
"""Elements that only pydicom parses."""

_BLOCK = 1 << 16
"""Bytes read at once; they hold nearly every header."""

PREAMBLE, _MAGIC = 128, b"DICM"
_BEGIN = _MAGIC + b"\x02\x00\x00\x00UL\x04\x00"
"""A file begins with the preamble, the magic word, and the length of the file meta information."""

_FIRST_TAGS = frozenset(int(Tag(group, element)) for group, element in (
    (2, 0), (2, 1), (2, 2), (2, 16), (8, 0), (8, 1), (8, 5), (8, 8), (8, 18), (8, 22), (8, 24)))
"""Elements with which a dataset begins where nothing precedes it."""

_SNIFFED = 1024
"""Bytes that tell what a file is which is not DICOM: more than the file meta information takes."""

_MAX_FIRST = 128
"""Largest plausible length of the first element, bytes."""

_PACKED = {b"PK\3\4": "ZIP", b"\x1f\x8b": "gzip", b"Rar!": "RAR", b"7z\xbc\xaf": "7-Zip"}
"""Archive formats by their first bytes."""

_IMPLICIT = {**{str(uid): uid.is_implicit_VR for uid in AllTransferSyntaxes if uid.is_little_endian and not uid.is_deflated},
             **dict.fromkeys(RECENT, False)}
"""Whether elements are written without their VR, by transfer syntax."""


@contextlib.contextmanager
def damage_refused() -> Iterator[None]:
    """Turn errors of the parser into Rejected (unreadable, damaged_header).

    Damaged files raise errors of many types, some only when a value is accessed. Only the type is reported, since messages may
    quote a patient's data.
    """
    try:
        yield
    except (Rejected, MemoryError):
        raise
    except OSError as error:
        raise Rejected("unreadable", error.strerror or type(error).__name__) from None
    except Exception as error:
        raise Rejected("damaged_header", type(error).__name__) from None


@damage_refused()
def read_dataset(path: Path, tags: Iterable[str] | None = None) -> Dataset:
    """Read the dataset of a DICOM file: whole with its pixels, or with `tags` only these elements, without pixels.

    Raises Rejected: not_dicom, unreadable, damaged_header, too_large.
    """
    if tags is None:
        _refuse_bomb(path)
        return _whole(path)
    wanted: list[BaseTag | int] = [int(tag_of(name)) for name in tags]
    dataset = None
    with contextlib.suppress(Exception):                         # the full read below finds and reports what is wrong
        dataset = _in_first_block(path, wanted)
    if dataset is None:
        _refuse_bomb(path)
        dataset = _whole(path, stop_before_pixels=True, specific_tags=wanted)
    return dataset


def _whole(path: Path, **options: Any) -> Dataset:
    """Read a file with `pydicom.dcmread`. Raises Rejected (not_dicom) with what the file is instead."""
    try:
        return pydicom.dcmread(path, **options)
    except InvalidDicomError:
        with open(path, "rb") as file:
            start = file.read(_SNIFFED)
    if _is_bare(start):
        return _without_preamble(path, start, **options)
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), "")
    raise Rejected("not_dicom", f"got a {packed} archive: unpack it" if packed else
                   "no DICOM preamble" if start else "the file is empty: copy it again")


def _is_bare(start: bytes) -> bool:
    """Return whether a file begins with its first element, as files without a preamble do."""
    for implicit in (False, True):
        with contextlib.suppress(Unusual):
            tag, _, _, length = element_at(start, 0, implicit)
            if tag in _FIRST_TAGS and length <= _MAX_FIRST:
                return True
    return False


def _without_preamble(path: Path, start: bytes, **options: Any) -> Dataset:
    """Read a file without a preamble; its elements tell how they are written. Raises Rejected where it is deflated."""
    if value_of(dataset_of(start, list_meta(start, 0)), "TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        raise Rejected("not_dicom", "no DICOM preamble before a deflated file: export it again")
    dataset = pydicom.dcmread(path, force=True, **options)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (ImplicitVRLittleEndian if implicit else
                                               ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
    return dataset


def _meta_of(file: BinaryIO) -> Dataset:
    """Read the file meta information from behind the magic word to its last element, whatever length it declares."""
    return filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)


def _refuse_bomb(path: Path) -> None:
    """Raise Rejected (too_large) for a deflated file that inflates beyond MAX_INFLATED: pydicom would inflate gigabytes."""
    with open(path, "rb") as file:
        if not file.read(PREAMBLE + len(_MAGIC)).endswith(_MAGIC):
            return                                               # not DICOM: pydicom will not read it
        if value_of(_meta_of(file), "TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        for packed in iter(partial(file.read, _BLOCK), b""):
            while packed and not inflate.eof:
                size += len(inflate.decompress(packed, _BLOCK))
                packed = inflate.unconsumed_tail
                if size > MAX_INFLATED:
                    raise Rejected("too_large", f"inflates to more than {MAX_INFLATED >> 20} MiB, expected at most that")


def _in_first_block(path: Path, wanted: list[BaseTag | int]) -> Dataset | None:
    """Read elements from the first block, in half the time of `dcmread`.

    Returns None where the file begins unusually or its pixels begin in a later block.
    """
    found = _until_pixels(read_start(path), wanted)
    return found[0] if found else None


def read_until_pixels(content: bytes, tags: Iterable[str]) -> tuple[Dataset, int] | None:
    """Read these elements from the content of a DICOM file; also return where its pixel data element begins.

    Returns None where the file begins unusually, is compressed as a whole, damaged, or holds no pixels.
    """
    with contextlib.suppress(Exception):                         # whoever reads the file otherwise finds what is wrong
        return _until_pixels(content, [int(tag_of(name)) for name in tags])
    return None


def _until_pixels(start: bytes, wanted: list[BaseTag | int]) -> tuple[Dataset, int] | None:
    begin = _begin_of(start)
    if begin is None:
        return None
    meta, at, implicit = begin
    found = None
    if not _SEQUENCES & {*wanted}:
        with contextlib.suppress(Unusual):
            found = scan_elements(start, at, implicit=implicit, wanted=[int(tag) for tag in wanted])
    if found is None:
        found = _parse_until_pixels(start, at, implicit, wanted)
    if found is not None:
        found[0].file_meta = FileMetaDataset(dataset_of(start, meta))
    return found


def _begin_of(start: bytes) -> tuple[list[Placed], int, bool] | None:
    """Return the file meta information, the offset of the dataset behind it, and whether its VRs are implicit.

    Returns None where a file that starts like this begins unusually. Raises Unusual.
    """
    if not start.startswith(_BEGIN, PREAMBLE):
        return None
    meta = list_meta(start, PREAMBLE + len(_MAGIC))
    implicit = _IMPLICIT.get(value_of(dataset_of(start, meta), "TransferSyntaxUID"))
    return None if implicit is None else (meta, meta[-1].end, implicit)


def read_start(path: Path) -> bytes:
    """Read the first block of a file, which holds nearly every header."""
    with open(path, "rb", buffering=0) as file:
        return read_block(file)


def read_block(file: io.FileIO) -> bytes:
    """Read one block of a file that was opened without a buffer."""
    return file.read(_BLOCK)


def list_until_pixels(start: bytes) -> list[Placed] | None:
    """Return all elements of a file from its file meta information to the pixel data, which is the last.

    Returns None where the file begins unusually. Raises Unusual.
    """
    begin = _begin_of(start)
    return begin and [*begin[0], *list_elements(start, begin[1], implicit=begin[2])]


def _parse_until_pixels(start: bytes, at: int, implicit: bool, wanted: list[BaseTag | int]) -> tuple[Dataset, int] | None:
    """Read these elements with pydicom."""
    block, reached = io.BytesIO(start), False
    block.seek(at)

    def at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
        nonlocal reached
        reached = tag in PIXEL_TAGS
        return reached

    dataset = filereader.read_dataset(block, implicit, True, stop_when=at_pixels, specific_tags=wanted)
    return (dataset, block.tell()) if reached else None
