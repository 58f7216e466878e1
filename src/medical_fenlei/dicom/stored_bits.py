"""Which bits of a stored word hold the value (DICOM PS3.5 8.1.1), also where these are not the lowest ones.

Files of before 2011 may hold a value in the upper bits of its word: HighBit need not have been BitsStored - 1.
"""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from medical_fenlei.dicom.elements import value_of
from medical_fenlei.dicom.syntaxes import is_encapsulated
from medical_fenlei.errors import Rejected

BITS_TAGS = ("BitsAllocated", "BitsStored", "HighBit")
WORD_TAGS = (*BITS_TAGS, "PixelRepresentation", "SamplesPerPixel")


@dataclass(frozen=True)
class StoredBits:
    """The bits of a word that hold its value: `stored` of them, downwards from bit number `high`."""

    allocated: int
    stored: int
    high: int

    @property
    def are_lowest(self) -> bool:
        """Whether the value starts at bit 0, as it must since 2011."""
        return self.high == self.stored - 1

    def values(self, words: np.ndarray) -> np.ndarray:
        """Return the values of whole words, with their sign. Raises Rejected (bad_pixels) where other bits are in use.

        words: of `allocated` bits, signed or not, of any shape. Lower bits that are not 0 mean that HighBit is wrong.
        """
        below = (1 << (self.high - self.stored + 1)) - 1
        if (words & words.dtype.type(below)).any():
            raise Rejected("bad_pixels", f"HighBit: got {self.high} with BitsStored {self.stored}, but bits below the value "
                                         "are in use: export the file again")
        return (words << (self.allocated - 1 - self.high)) >> (self.allocated - self.stored)


class Word(NamedTuple):
    """A word of 16 bits that holds one stored value in its lowest bits."""

    dtype: type[np.int16] | type[np.uint16]
    unused: int
    """Number of upper bits that are no part of the value."""


def plain_word(dataset: Dataset) -> Word | None:
    """Return the word of a stored value; None for other than plain ones of 16 bits."""
    allocated, stored, high, signed, samples = (value_of(dataset, name) for name in WORD_TAGS)
    if allocated != 16 or (samples or 1) != 1 or not isinstance(stored, int) or not 0 < stored <= 16:
        return None
    if high != stored - 1 or signed not in (0, 1):
        return None
    return Word(np.int16 if signed else np.uint16, 16 - stored)


def stored_bits(dataset: Dataset) -> StoredBits:
    """Return the bits that hold a value. Raises Rejected (bad_attribute) where they do not fit into the word.

    Without BitsStored or HighBit, the lowest bits hold it. Compressed pixels are decoded to values, whose place in a word is
    then unknown unless it is the lowest one: other places are refused.
    """
    allocated, stored, high = (value_of(dataset, name) for name in BITS_TAGS)
    allocated = 16 if allocated is None else int(allocated)
    if not isinstance(stored, int) or not isinstance(high, int) or high == stored - 1:
        return StoredBits(allocated, allocated, allocated - 1)
    if not 0 < stored <= high + 1 <= allocated:
        raise Rejected("bad_attribute", f"HighBit: got {high} with BitsStored {stored} and BitsAllocated {allocated}, expected "
                                        f"{stored - 1} to {allocated - 1}")
    if is_encapsulated(str(dataset.file_meta.get("TransferSyntaxUID", ""))):
        raise Rejected("bad_attribute", f"HighBit: got {high} with BitsStored {stored} in compressed pixels, expected "
                                        f"{stored - 1}: export the file uncompressed")
    return StoredBits(allocated, stored, high)
