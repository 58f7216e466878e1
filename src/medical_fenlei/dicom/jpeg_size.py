"""The size that a compressed image declares, before a decoder allocates it."""
from medical_fenlei.dicom.header import Header
from medical_fenlei.errors import Rejected


def refuse_other_size(stream: bytes, header: Header) -> None:
    """Raise Rejected (bad_pixels) where a compressed stream declares another size than the header."""
    size = jpeg_size(stream)
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
