"""Where the pixels of a file begin, and whether what precedes them is still the same: then it need not be parsed again."""
import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class PixelPlace:
    """Where the pixel data element of a file begins, and what precedes it."""

    begin: int
    """Offset of its first byte."""

    before: bytes
    """Digest of all bytes before it: as long as they are the same, the header is."""

    @classmethod
    def at(cls, begin: int, start: bytes) -> "PixelPlace":
        """Return the place at an offset of a file that starts like this."""
        return cls(begin, _digest(start[:begin]))

    def is_in(self, start: bytes) -> bool:
        """Return whether a file that starts like this has the same header still."""
        return _digest(start[:self.begin]) == self.before


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
