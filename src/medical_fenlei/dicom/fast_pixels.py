"""Stored values of the most common files, in a fraction of pydicom's time; whatever is unusual is left to pydicom.

Uncompressed files are read once and their pixels taken where they lie. Lossless JPEG is decoded by libjpeg-turbo 3
(imagecodecs), ten times as fast as by GDCM.
"""
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLossless, JPEGLosslessSV1

from medical_fenlei.dicom.dataset import read_until_pixels
from medical_fenlei.dicom.elements import value_of
from medical_fenlei.dicom.header import Header
from medical_fenlei.errors import Rejected

NATIVE = {str(ExplicitVRLittleEndian): b"\xe0\x7f\x10\x00OW\x00\x00", str(ImplicitVRLittleEndian): b"\xe0\x7f\x10\x00"}
"""Bytes of PixelData before its length, by uncompressed transfer syntax."""

LOSSLESS_JPEG = (str(JPEGLossless), str(JPEGLosslessSV1))
_LENGTH = 4
"""Bytes of an element's length."""

_MAX_OVERHEAD = 1 << 24
"""Largest size of a file beyond its pixels, bytes; nothing larger is read at once."""

_WORD_TAGS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel")


def read_native(header: Header) -> np.ndarray | None:
    """Read the stored values (rows, columns) of a file of one uncompressed image with 16 bits per value.

    Returns None where the file is of another kind, or unusual in any way. Raises Rejected (changed_file) if it holds another
    image than the header's.
    """
    begin = NATIVE.get(header.transfer_syntax)
    if begin is None or header.frame is not None:
        return None
    size = header.rows * header.columns * 2
    with open(header.path, "rb", buffering=0) as file:
        content = file.read(size + _MAX_OVERHEAD)
    found = read_until_pixels(content, ("SOPInstanceUID", *_WORD_TAGS))
    if found is None:
        return None
    dataset, at = found
    if dataset.file_meta.get("TransferSyntaxUID") != header.transfer_syntax:
        return None
    if value_of(dataset, "SOPInstanceUID") != header.sop_uid:
        raise Rejected("changed_file", "the file is not the one that was indexed")
    word = _word(dataset, header)
    first = at + len(begin) + _LENGTH
    if word is None or not content.startswith(begin, at) or len(content) < first + size or (
            int.from_bytes(content[first - _LENGTH:first], "little") != size):
        return None
    dtype, unused = word
    stored = np.frombuffer(content, dtype, header.rows * header.columns, first).reshape(header.rows, header.columns).copy()
    if unused:                                                   # bits above the value may hold an overlay
        np.left_shift(stored, unused, out=stored)
        np.right_shift(stored, unused, out=stored)
    return stored


def decode_lossless_jpeg(dataset: Dataset, header: Header) -> np.ndarray | None:
    """Decode a lossless JPEG frame to its stored values (rows, columns), or return None where this decoder does not serve.

    Raises whatever the decoder raises for damaged streams.
    """
    word = _word(dataset, header)
    if header.transfer_syntax not in LOSSLESS_JPEG or word is None:
        return None
    import imagecodecs  # slow to import, and needed by few

    frame = get_frame(dataset.PixelData, header.frame or 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    stored = imagecodecs.jpeg8_decode(frame)
    dtype, unused = word
    if stored.dtype != np.uint16 or stored.shape != (header.rows, header.columns):
        return None
    if unused and (dtype == np.int16 or int(stored.max()) >> (16 - unused)):
        return None                                              # the sign, or what lies above the value, is pydicom's matter
    return stored.view(dtype)


def _word(dataset: Dataset, header: Header) -> tuple[type[np.int16] | type[np.uint16], int] | None:
    """Return the type of a stored value and how many upper bits it leaves unused; None for other than plain 16-bit words."""
    rows, columns, allocated, stored, high, signed, samples = (value_of(dataset, name) for name in _WORD_TAGS)
    if (rows, columns, allocated) != (header.rows, header.columns, 16) or (samples or 1) != 1:
        return None
    if not isinstance(stored, int) or not 0 < stored <= 16 or high != stored - 1 or signed not in (0, 1):
        return None
    return (np.int16 if signed else np.uint16), 16 - stored

