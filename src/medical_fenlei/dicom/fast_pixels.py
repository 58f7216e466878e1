"""Stored values of the most common files, in a fraction of pydicom's time; whatever is unusual is left to pydicom.

A file of one image is read once. Uncompressed pixels are taken where they lie; lossless JPEG is decoded by libjpeg-turbo 3
(imagecodecs), ten times as fast as by GDCM.
"""
import contextlib
import io
import os
import struct

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLossless, JPEGLosslessSV1

from medical_fenlei.dicom.dataset import read_block, read_until_pixels
from medical_fenlei.dicom.elements import value_of
from medical_fenlei.dicom.frame_size import refuse_other_size
from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.stored_bits import WORD_TAGS, Word, plain_word
from medical_fenlei.errors import Rejected

LOSSLESS_JPEG = (str(JPEGLossless), str(JPEGLosslessSV1))
_BEGINS = {
    str(ExplicitVRLittleEndian): b"\xe0\x7f\x10\x00OW\x00\x00",
    str(ImplicitVRLittleEndian): b"\xe0\x7f\x10\x00",
    **dict.fromkeys(LOSSLESS_JPEG, b"\xe0\x7f\x10\x00OB\x00\x00"),
}
"""Bytes of PixelData before its length, by transfer syntax."""

_LENGTH, _UNDEFINED = 4, b"\xff\xff\xff\xff"
"""Bytes of an element's length, and those of a length that is not given."""

_MAX_STREAM = 1 << 26
"""Largest size of a compressed image that is read at once, bytes."""

_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
"""Markers before and behind the values of a JPEG stream. Without the second, decoders make up what is missing."""


def read_stored(header: Header) -> np.ndarray | None:
    """Read the stored values (rows, columns) of a file of one image with 16 bits per value, uncompressed or lossless JPEG.

    Returns None where the file is of another kind, or unusual in any way. Raises Rejected: changed_file, if it holds another
    image than the header's; bad_pixels, if the image is of another size or cut off.
    """
    begin = _BEGINS.get(header.transfer_syntax)
    if begin is None or header.frame is not None:
        return None
    with open(header.path, "rb", buffering=0) as file:
        start = read_block(file)
        if header.place is not None and header.place.is_in(start):
            word, at = header.word, header.place.begin
        else:
            word, at = _look_up(start, header)
        if word is None or not start.startswith(begin, at):
            return None
        first = at + len(begin) + _LENGTH
        if header.transfer_syntax not in LOSSLESS_JPEG:
            return _native(file, start, first, header, word)
        if not start.endswith(_UNDEFINED, first - _LENGTH, first):
            return None
        with contextlib.suppress(ValueError, struct.error):      # without items
            rest = file.read(min(_MAX_STREAM, os.fstat(file.fileno()).st_size))
            return _decoded(get_frame(start[first:] + rest, 0, number_of_frames=1), header, word)
    return None


def _look_up(start: bytes, header: Header) -> tuple[Word | None, int]:
    """Return the word of a file that starts like this, None where it is unusual, and where its pixel data element begins.

    Raises Rejected (changed_file) where it holds another image than the header's.
    """
    found = read_until_pixels(start, ("SOPInstanceUID", "Rows", "Columns", *WORD_TAGS))
    if found is None or found[0].file_meta.get("TransferSyntaxUID") != header.transfer_syntax:
        return None, 0
    dataset, at = found
    if value_of(dataset, "SOPInstanceUID") != header.sop_uid:
        raise Rejected("changed_file", "the file is not the one that was indexed")
    return _word(dataset, header), at


def decode_lossless_jpeg(dataset: Dataset, header: Header) -> np.ndarray | None:
    """Decode a lossless JPEG frame to its stored values (rows, columns), or return None where this decoder does not serve.

    Raises Rejected (bad_pixels) where the image is of another size or cut off.
    """
    word = _word(dataset, header)
    if header.transfer_syntax not in LOSSLESS_JPEG or word is None:
        return None
    frame = get_frame(dataset.PixelData, header.frame or 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    return _decoded(frame, header, word)


def _native(file: io.FileIO, start: bytes, first: int, header: Header, word: Word) -> np.ndarray | None:
    """Read the stored values that begin at an offset, behind their length; return None where some are missing."""
    stored = np.empty((header.rows, header.columns), word.dtype)
    if start[first - _LENGTH:first] != stored.nbytes.to_bytes(_LENGTH, "little"):
        return None
    file.seek(first)
    if file.readinto(stored) != stored.nbytes:  # type: ignore[arg-type]
        return None
    if word.unused:                                              # bits above the value may hold an overlay
        np.left_shift(stored, word.unused, out=stored)
        np.right_shift(stored, word.unused, out=stored)
    return stored


def _decoded(frame: bytes, header: Header, word: Word) -> np.ndarray | None:
    """Return the stored values of a lossless JPEG stream, None where this decoder fails: it is stricter than others.

    Raises Rejected (bad_pixels) where the stream is of another size, or ends within the image.
    """
    import imagecodecs  # slow to import, and needed by few

    refuse_other_size(frame, header)
    if _START_OF_SCAN in frame[max(0, frame.rfind(_END_OF_IMAGE)):]:           # neither occurs within a scan
        raise Rejected("bad_pixels", "the JPEG stream ends within the image: the file was cut off or overwritten")
    try:
        stored = imagecodecs.jpeg8_decode(frame)
    except (RuntimeError, ValueError):                           # a damaged stream, or one of another JPEG process
        return None
    if stored.dtype != np.uint16 or stored.shape != (header.rows, header.columns):
        return None
    if word.unused and (word.dtype == np.int16 or int(stored.max()) >> (16 - word.unused)):
        return None                                              # the sign, or what lies above the value, is pydicom's matter
    return stored.view(word.dtype)


def _word(dataset: Dataset, header: Header) -> Word | None:
    """Return the word of a stored value; None where it is unusual, or the image is of another size."""
    size = value_of(dataset, "Rows"), value_of(dataset, "Columns")
    return plain_word(dataset) if size == (header.rows, header.columns) else None
