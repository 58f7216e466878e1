"""Stored values to Hounsfield units: int16, rounded and clipped."""
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from medical_fenlei.dicom.header import Header
from medical_fenlei.errors import Rejected

AIR = -1000
"""HU of air, and of every place where there is no data."""

_INT16 = np.iinfo(np.int16)


def to_hu(stored: np.ndarray, header: Header) -> np.ndarray:
    """Stored values of any integer type to int16 HU of the same shape; padding becomes AIR.

    MONOCHROME1 says how to display and changes nothing here.
    """
    if header.slope == 1 and header.intercept == int(header.intercept) and stored.dtype.itemsize <= 2:
        hu = stored.astype(np.int32) + int(header.intercept)
    else:
        hu = np.rint(stored * header.slope + header.intercept)
    hu = np.clip(hu, _INT16.min, _INT16.max).astype(np.int16)
    if header.padding is not None:                              # masked by stored value, before any rescaling could move it
        low, high = header.padding
        hu[(stored >= low) & (stored <= high)] = AIR
    return hu


def decode_hu(dataset: Dataset, header: Header) -> np.ndarray:
    """int16 HU (rows, columns) of a whole dataset. Raises Rejected (bad_pixels) where the pixels are short or damaged."""
    try:
        stored = pixel_array(dataset, raw=True)
    except Exception as error:  # decoders raise whatever their format calls damage
        raise Rejected("bad_pixels", f"cannot be decoded ({type(error).__name__})") from None
    if stored.shape != (header.rows, header.columns) or stored.dtype.kind not in "iu":
        expected = (header.rows, header.columns)
        raise Rejected("bad_pixels", f"got {stored.dtype} {stored.shape}, expected whole numbers {expected}")
    return to_hu(stored, header)
