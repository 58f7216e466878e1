"""Stored values to Hounsfield units: int16, rounded and clipped."""
import contextlib

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import JPEGLSLossless, JPEGLSNearLossless

from medical_fenlei.dicom.header import Header
from medical_fenlei.errors import Rejected

AIR = -1000
"""HU of air, and of every place where there is no data."""

_INT16 = np.iinfo(np.int16)

_FASTEST = {str(JPEGLSLossless): "pyjpegls", str(JPEGLSNearLossless): "pyjpegls"}
"""By transfer syntax, where pydicom would first try a decoder that takes half as long again."""


def to_hu(stored: np.ndarray, header: Header) -> np.ndarray:
    """Stored values of any integer type to int16 HU of the same shape; padding becomes AIR. `stored` is used up.

    MONOCHROME1 says how to display and changes nothing here.
    """
    padding = None
    if header.padding is not None:                              # masked by stored value, before any rescaling could move it
        low, high = header.padding
        padding = stored == low if low == high else (stored >= low) & (stored <= high)
    shift = header.intercept
    if header.slope == 1 and shift.is_integer() and _INT16.min <= shift <= _INT16.max and stored.dtype.itemsize <= 2:
        own = np.iinfo(stored.dtype)                             # clipped before the sum, which int16 then holds
        np.clip(stored, max(own.min, _INT16.min - int(shift)), min(own.max, _INT16.max - int(shift)), out=stored)
        hu = stored.view(np.int16) if stored.dtype == np.uint16 else stored.astype(np.int16, copy=False)
        hu += np.int16(shift)                                    # what wrapped around in the view wraps back
    else:
        hu = np.clip(np.rint(stored * header.slope + header.intercept), _INT16.min, _INT16.max).astype(np.int16)
    if padding is not None:
        hu[padding] = AIR
    return hu


def _decode(dataset: Dataset, transfer_syntax: str) -> np.ndarray:
    if plugin := _FASTEST.get(transfer_syntax):
        with contextlib.suppress(Exception):                    # not installed, or more exacting than others that follow
            return pixel_array(dataset, raw=True, decoding_plugin=plugin)
    return pixel_array(dataset, raw=True)


def decode_hu(dataset: Dataset, header: Header) -> np.ndarray:
    """int16 HU (rows, columns) of a whole dataset. Raises Rejected (bad_pixels) where the pixels are short or damaged."""
    try:
        stored = _decode(dataset, header.transfer_syntax)
    except Exception as error:  # decoders raise whatever their format calls damage
        raise Rejected("bad_pixels", f"cannot be decoded ({type(error).__name__})") from None
    if stored.shape != (header.rows, header.columns) or stored.dtype.kind not in "iu":
        expected = (header.rows, header.columns)
        raise Rejected("bad_pixels", f"got {stored.dtype} {stored.shape}, expected whole numbers {expected}")
    return to_hu(stored, header)
