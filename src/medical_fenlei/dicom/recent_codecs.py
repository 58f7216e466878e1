"""Frames of transfer syntaxes that pydicom 3.0 does not know: JPEG XL (DICOM supplement 232) and deflated frames (244)."""
import zlib

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame

from medical_fenlei.dicom.elements import value_of
from medical_fenlei.dicom.frame_size import refuse_other_size
from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.syntaxes import DEFLATED_FRAMES
from medical_fenlei.errors import Rejected


def frame_of(dataset: Dataset, header: Header) -> bytes:
    """Return the compressed stream of an image."""
    return get_frame(dataset.PixelData, header.frame or 0, number_of_frames=int(dataset.get("NumberOfFrames") or 1))


def decode_recent(dataset: Dataset, header: Header) -> np.ndarray:
    """Decode a frame of one of the syntaxes RECENT to its stored values (rows, columns).

    Raises Rejected (bad_pixels) where the frame is of another size, or not of a kind that a decoder knows.
    """
    allocated, stored, signed = (value_of(dataset, name) for name in ("BitsAllocated", "BitsStored", "PixelRepresentation"))
    word = {8: np.uint8, 16: np.uint16}.get(allocated)
    if word is None:
        raise Rejected("bad_pixels", f"got BitsAllocated {allocated} in {header.transfer_syntax}, expected 8 or 16")
    frame = frame_of(dataset, header)
    if header.transfer_syntax == DEFLATED_FRAMES:
        values = _inflate(frame, header, np.dtype(word))
    else:
        if signed:
            raise Rejected("bad_pixels", "got signed values in JPEG XL, which holds none: export the file uncompressed")
        values = _decode_jpeg_xl(frame, header)
    if values.dtype != word:
        raise Rejected("bad_pixels", f"got {values.dtype.itemsize * 8} bits per value, expected {allocated} (BitsAllocated)")
    unused = allocated - (stored or allocated)
    if not signed:
        return values & values.dtype.type((1 << (allocated - unused)) - 1)
    return (values.view(values.dtype.str.replace("u", "i")) << unused) >> unused


def _inflate(frame: bytes, header: Header, word: np.dtype) -> np.ndarray:
    """Inflate a frame of native pixels: raw deflate, RFC 1951 (DICOM PS3.5 A.4.13), no further than an image is large."""
    size = header.rows * header.columns * word.itemsize
    pixels = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame, size + 2)
    if not size <= len(pixels) <= size + size % 2:
        raise Rejected("bad_pixels", f"got {len(pixels)} bytes of pixels in a deflated frame, expected {size}")
    return np.frombuffer(pixels, word.newbyteorder("<"), size // word.itemsize).reshape(header.rows, header.columns)


def _decode_jpeg_xl(frame: bytes, header: Header) -> np.ndarray:
    import imagecodecs  # slow to import, and needed by few

    refuse_other_size(frame, header)
    return imagecodecs.jpegxl_decode(frame)
