"""Decode stored values and rescale them to Hounsfield units: int16, rounded and clipped."""
import contextlib

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import UID, AllTransferSyntaxes, JPEGLSLossless, JPEGLSNearLossless

from medical_fenlei.dicom.fast_pixels import decode_lossless_jpeg
from medical_fenlei.dicom.frame_size import refuse_other_size
from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.recent_codecs import decode_recent, frame_of
from medical_fenlei.dicom.stored_bits import stored_bits
from medical_fenlei.dicom.syntaxes import RECENT, is_encapsulated
from medical_fenlei.errors import Rejected
from medical_fenlei.vocabulary import AIR

_INT16 = np.iinfo(np.int16)

_ITEM = b"\xfe\xff\x00\xe0"
"""Item tag with which compressed pixels begin (DICOM PS3.5 A.4)."""

_FASTEST = {str(JPEGLSLossless): "pyjpegls", str(JPEGLSNearLossless): "pyjpegls"}
"""Decoder by transfer syntax, where pydicom's first choice takes half as long again."""


def rescale_to_hu(stored: np.ndarray, header: Header) -> np.ndarray:
    """Convert stored values of any integer type to int16 HU of the same shape; padding becomes AIR.

    `stored` is overwritten. MONOCHROME1 concerns the display only and changes nothing here.
    """
    padding = None
    if header.padding is not None:                               # compared before rescaling, which would change it
        low, high = header.padding
        padding = stored == low if low == high else (stored >= low) & (stored <= high)
    shift = header.intercept
    if header.slope == 1 and shift.is_integer() and _INT16.min <= shift <= _INT16.max and stored.dtype.itemsize <= 2:
        own = np.iinfo(stored.dtype)
        low, high = max(own.min, _INT16.min - int(shift)), min(own.max, _INT16.max - int(shift))
        if stored.min(initial=low) < low or stored.max(initial=high) > high:       # seldom, and clipping takes long
            np.clip(stored, low, high, out=stored)               # so that the sum fits into int16
        hu = stored.view(np.int16) if stored.dtype == np.uint16 else stored.astype(np.int16, copy=False)
        hu += np.int16(shift)                                    # uint16 values that wrapped in the view wrap back
    else:
        hu = np.clip(np.rint(stored * header.slope + header.intercept), _INT16.min, _INT16.max).astype(np.int16)
    if padding is not None:
        hu[padding] = AIR
    return hu


def _decode(dataset: Dataset, header: Header) -> np.ndarray:
    """Return the stored values of an image."""
    bits = stored_bits(dataset)
    if not bits.are_lowest:
        whole = Dataset(dict(dataset.items()))                   # decoded as whole words: pydicom would cut the upper bits off
        whole.file_meta, whole.BitsStored, whole.HighBit = dataset.file_meta, bits.allocated, bits.allocated - 1
        whole.set_original_encoding(*dataset.original_encoding)
        return bits.values(pixel_array(whole, index=header.frame, raw=True))
    if header.transfer_syntax in RECENT:
        return decode_recent(dataset, header)
    if (decoded := decode_lossless_jpeg(dataset, header)) is not None:
        return decoded
    if plugin := _FASTEST.get(header.transfer_syntax):
        with contextlib.suppress(Exception):                    # not installed, or stricter than pydicom's other decoders
            return pixel_array(dataset, index=header.frame, raw=True, decoding_plugin=plugin)
    return pixel_array(dataset, index=header.frame, raw=True)


def _why_not(dataset: Dataset, header: Header) -> str:
    """Return what is evidently wrong with pixels that cannot be decoded, or "" where nothing is."""
    syntax, pixels = UID(header.transfer_syntax), dataset.get("PixelData")
    if not pixels:
        return "the file holds no pixels"
    if syntax not in (*AllTransferSyntaxes, *RECENT):
        return f"got transfer syntax {syntax or 'missing'}, expected a known one: convert the file"
    expected = header.rows * header.columns * int(dataset.get("BitsAllocated") or 16) // 8
    if is_encapsulated(syntax) or len(pixels) >= expected:
        return ""
    if pixels.startswith(_ITEM):
        return f"got compressed pixels, expected uncompressed ones ({syntax.name})"
    return f"got {len(pixels)} bytes of pixels, expected {expected}"


def decode_hu(dataset: Dataset, header: Header) -> np.ndarray:
    """Decode an image of a dataset that includes its pixels, as int16 HU (rows, columns).

    Raises Rejected: bad_pixels, where the image is damaged or cannot be decoded.
    """
    try:
        if is_encapsulated(header.transfer_syntax):
            refuse_other_size(frame_of(dataset, header), header)
        stored = _decode(dataset, header)
    except (Rejected, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # decoders raise anything; a panic in one written in Rust is no Exception
        raise Rejected("bad_pixels", _why_not(dataset, header) or f"cannot be decoded ({type(error).__name__})") from None
    if stored.shape != (header.rows, header.columns) or stored.dtype.kind not in "iu":
        expected = (header.rows, header.columns)
        raise Rejected("bad_pixels", f"got {stored.dtype} {stored.shape}, expected integers {expected}")
    return rescale_to_hu(stored, header)
