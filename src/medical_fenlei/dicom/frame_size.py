"""The size that a compressed image declares, before a decoder allocates it."""
from medical_fenlei.dicom.header import Header
from medical_fenlei.errors import Rejected

_JXL_BOX = b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"
"""The first box of a JPEG XL container."""

_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
"""Columns over rows, by the ratio code of a size header."""


def refuse_other_size(stream: bytes, header: Header) -> None:
    """Raise Rejected (bad_pixels) where a compressed stream declares another size than the header."""
    size = jpeg_xl_size(stream) or jpeg_size(stream)
    if size is not None and size != (header.rows, header.columns):
        raise Rejected("bad_pixels", f"got an image of {size[0]} × {size[1]}, expected {header.rows} × {header.columns}")


def jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """Return the (rows, columns) that a compressed stream declares, or None where it declares none.

    Reads JPEG (ITU-T T.81 B.2.2), JPEG-LS (T.87 C.2.2) and JPEG 2000 (T.800 A.5.1).
    """
    def number(at: int, size: int) -> int:
        return int.from_bytes(stream[at:at + size], "big")

    if stream.startswith(b"\xff\x4f\xff\x51"):
        right, bottom, left, top = (number(8 + 4 * n, 4) for n in range(4))
        return bottom - top, right - left
    at = 2 if stream.startswith(b"\xff\xd8") else len(stream)
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        kind = stream[at + 1]
        if kind == 0xF7 or (0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)):
            return number(at + 5, 2), number(at + 7, 2)
        at += 1 if kind == 0xFF else 2 + number(at + 2, 2)       # fill bytes precede a marker
    return None


def jpeg_xl_size(stream: bytes) -> tuple[int, int] | None:
    """Return the (rows, columns) of a JPEG XL image, bare or in its container, or None where it declares none.

    ISO/IEC 18181-1 (size header, bits from the lowest on) and 18181-2 (boxes).
    """
    at = 0
    while stream.startswith(_JXL_BOX, 0) and at + 12 <= len(stream):
        size, kind, first = int.from_bytes(stream[at:at + 4], "big"), stream[at + 4:at + 8], at + 8
        if size == 1:
            size, first = int.from_bytes(stream[at + 8:at + 16], "big"), at + 16
        if kind in (b"jxlc", b"jxlp"):
            at = first + (4 if kind == b"jxlp" else 0)           # the number of a partial codestream
            break
        if size < 8:                                             # the last box, and no codestream
            return None
        at += size
    if not stream.startswith(b"\xff\x0a", at):
        return None
    bits = int.from_bytes(stream[at + 2:at + 14], "little")

    def take(number: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << number) - 1), bits >> number
        return value

    def length(is_small: int) -> int:
        return 8 * (1 + take(5)) if is_small else 1 + take((9, 13, 18, 30)[take(2)])

    is_small = take(1)
    rows = length(is_small)
    ratio = take(3)
    if ratio:
        over, under = _JXL_RATIOS[ratio - 1]
        return rows, rows * over // under
    return rows, length(is_small)
