"""Headers of one file after another: bytes that repeat those of the file before are not parsed again.

The files of a series differ in a few elements: UID, number, position and time of the image, and some that are not used here.
Where all other bytes before the pixels equal those of a file that was parsed, so do the facts in them.
"""
import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from medical_fenlei.dicom.cut_off import refuse_cut_off
from medical_fenlei.dicom.dataset import PREAMBLE, list_until_pixels, read_block
from medical_fenlei.dicom.elements import plain_value, tag_of
from medical_fenlei.dicom.header import HEADER_TAGS, IMAGE_TAGS, Header, next_image, read_headers_of
from medical_fenlei.dicom.pixel_place import PixelPlace
from medical_fenlei.dicom.scan_elements import Placed, Unusual, element_at, end_of

_OF_IMAGE = {int(tag_of(name)): name for name in IMAGE_TAGS}
_OF_SERIES = {int(tag_of(name)) for name in (*HEADER_TAGS, "SpecificCharacterSet", "TransferSyntaxUID")} - {*_OF_IMAGE}

_TAG_BYTES = 4
_MAX_MISSES = 8
"""Files in a row that do not repeat the one before them, after which a reader no longer expects it."""


class HeaderReader:
    """Reads headers exactly as `read_headers_of` does, but those of a series in a tenth of the time."""

    def __init__(self) -> None:
        self._pattern: _Pattern | None = None
        self._misses = 0

    def read(self, path: Path) -> list[Header]:
        """Read and check the header of a CT image, or of each of its frames.

        Raises Rejected, as `read_headers_of` does; bad_pixels, if the file ends within its pixels.
        """
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            return self._read(file, path)
        return read_headers_of(path)                             # which reports why it cannot be opened

    def _read(self, file: io.FileIO, path: Path) -> list[Header]:
        start, known = b"", None
        with contextlib.suppress(Exception):                     # whatever is unusual is read and reported below
            start = read_block(file)
            if self._pattern is not None and self._misses < _MAX_MISSES:
                known = self._pattern.header_of(start, path)
        pixels: Placed | None
        if known:
            self._misses = 0
            headers, pixels = [known[0]], known[1]
        else:
            headers, elements = read_headers_of(path), _list(start)
            pixels = elements[-1] if elements else None
            self._misses += 1
            if pixels is not None and len(headers) == 1 and headers[0].frame is None:
                headers = [replace(headers[0], place=PixelPlace.at(pixels.begin, start))]
                if self._misses <= _MAX_MISSES:
                    self._pattern = _learn(start, elements, headers[0], self._pattern)
        if pixels is not None:
            refuse_cut_off(file, start, pixels.begin, implicit=pixels.implicit)
        return headers


class _Piece(NamedTuple):
    """Bytes that repeat from file to file, and the element behind them, which differs."""

    repeated: bytes
    tag: int
    vr: bytes
    implicit: bool


@dataclass(frozen=True)
class _Pattern:
    """A file that was parsed, and the elements in which others of its series differ from it."""

    header: Header
    content: dict[int, bytes]
    """Bytes of each element by its tag."""

    differing: frozenset[int]
    pieces: tuple[_Piece, ...]
    rest: bytes
    """What follows the last piece, up to the tag of the pixel data."""

    pixels: Placed
    """The pixel data element."""

    def header_of(self, start: bytes, path: Path) -> tuple[Header, Placed]:
        """Return the header of a file that starts like this, and its pixel data element.

        Raises Unusual, KeyError or ValueError where it does not follow the pattern, and Rejected.
        """
        at, own = PREAMBLE, {}
        for repeated, tag, vr, implicit in self.pieces:
            if not start.startswith(repeated, at):
                raise Unusual
            at += len(repeated)
            found, own_vr, first, length = element_at(start, at, implicit)
            end = end_of(start, first, length, implicit)
            if (found, own_vr) != (tag, vr) or end > len(start):
                raise Unusual
            if end > first and (name := _OF_IMAGE.get(tag)):
                own[name] = plain_value(name, vr.decode(), start[first:end])
            at = end
        if not start.startswith(self.rest, at):
            raise Unusual
        begin = at + len(self.rest) - _TAG_BYTES
        return next_image(self.header, own, path, PixelPlace.at(begin, start)), self.pixels._replace(begin=begin)


def _list(start: bytes) -> list[Placed]:
    """Return the elements of a file up to its pixel data, none where it is unusual."""
    with contextlib.suppress(Exception):
        return list_until_pixels(start) or []
    return []


def _learn(start: bytes, listed: list[Placed], header: Header, before: _Pattern | None) -> _Pattern:
    """Return the pattern of a file that was parsed; elements that differ from those of the file before may differ again."""
    *elements, pixels = listed
    content = {element.tag: start[element.begin:element.end] for element in elements}
    differing = frozenset(_OF_IMAGE)
    if before is not None:
        differing = before.differing | {tag for tag, old in before.content.items() if content.get(tag, old) != old}
    differing -= _OF_SERIES
    pieces, at = [], PREAMBLE
    for element in elements:
        if element.tag in differing:
            pieces.append(_Piece(start[at:element.begin], element.tag, element.vr, element.implicit))
            at = element.end
    return _Pattern(header, content, differing, tuple(pieces), start[at:pixels.begin + _TAG_BYTES], pixels)
