"""A digest of a series: equal as long as its files hold the same images. No pixels are read."""
import hashlib
from collections.abc import Iterable

from medical_fenlei.dicom.header import Header

_MILLISECOND = 10**6
"""Nanoseconds. Finer digits of a modification time depend on how a disk is mounted."""


def series_digest(headers: Iterable[Header]) -> str:
    """Return `<images>-<times>` in hexadecimal, independent of the order of the images. Raises OSError if a file is gone.

    The first part covers the name and the size of each file, its UID, and the header values that decide its HU and its place;
    the second the modification times in ms, which alone change if a file is rewritten with other pixels under the same UID.
    """
    images = sorted(((header.path.name, header.frame or 0, header) for header in headers), key=lambda image: image[:2])
    found = {header.path: header.path.stat() for _, _, header in images}
    content = [(name, frame, header.sop_uid, header.transfer_syntax, found[header.path].st_size, header.rows, header.columns,
                header.position, header.pixel_spacing, header.slope, header.intercept, header.padding)
               for name, frame, header in images]
    times = sorted((path.name, status.st_mtime_ns // _MILLISECOND) for path, status in found.items())
    return f"{_hash(content, 12)}-{_hash(times, 6)}"


def same_images(one: str, other: str) -> bool:
    """Return whether two digests are of the same images, whatever the modification times of their files."""
    return one.partition("-")[0] == other.partition("-")[0]


def _hash(value: object, size: int) -> str:
    return hashlib.blake2b(repr(value).encode("utf-8", "surrogateescape"), digest_size=size).hexdigest()
