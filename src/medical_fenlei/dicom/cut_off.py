"""Files that end within their pixels, as copies do that were interrupted: found without reading the pixels."""
import io
import os

from medical_fenlei.dicom.scan_elements import ITEM, SEQUENCE_END, TAG_AND_LENGTH, UNDEFINED, Unusual, element_at
from medical_fenlei.errors import Rejected


def refuse_cut_off(file: io.FileIO, start: bytes, pixels: int, *, implicit: bool) -> None:
    """Raise Rejected (bad_pixels) if a file ends within its pixels.

    start: its first bytes; pixels: offset of the pixel data element in them; implicit: whether its VR is implicit. What is
    unusual is left to the decoder.
    """
    size = os.fstat(file.fileno()).st_size
    try:
        _, _, first, length = element_at(start, pixels, implicit)
    except Unusual:
        return
    end = first + length if length != UNDEFINED else _end_of_items(file, first, size)
    if end > size:
        raise Rejected("bad_pixels", f"the file ends within its pixels: got {size} bytes, expected at least {end}")


def _end_of_items(file: io.FileIO, at: int, size: int) -> int:
    """Return the offset behind the compressed pixels that begin at an offset: beyond `size` where some are missing."""
    while at < size:
        file.seek(at)
        head = file.read(TAG_AND_LENGTH.size)
        if len(head) < TAG_AND_LENGTH.size:
            return size                                          # nothing is missing but a part of the delimiter
        group, element, length = TAG_AND_LENGTH.unpack(head)
        tag = group << 16 | element
        if tag != ITEM or length == UNDEFINED:
            return at + len(head) if tag == SEQUENCE_END else size
        at += len(head) + length
    return max(at, size + 1)                                     # a sequence that does not end is cut off too
