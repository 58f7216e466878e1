"""Zip archives, whole (`a.zip`) or split into volumes (`a.zip.001`, `a.zip.002`, …), read as one file.

Like everything that extraction needs, this uses the standard library only.
"""
import bisect
import io
import itertools
import os
import re
import struct
import zipfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medical_fenlei.errors import UserError

_VOLUME = re.compile(r"(?P<archive>.+\.zip)\.(?P<number>\d{3,})", re.IGNORECASE)
_LOCAL_HEADER = 30
"""Bytes of a member's header before its name."""

_READ_AHEAD = 1 << 18


class JoinedFiles(io.RawIOBase):
    """Several files concatenated into one readable, seekable stream. One file is open at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._ends = list(itertools.accumulate(path.stat().st_size for path in paths))
        self._position = 0
        self._number = -1
        self._file: io.FileIO | None = None

    def readable(self) -> bool:
        """Return True: the stream can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: the position can be set."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes from the start of the first file."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it. Raises ValueError for a position before the first byte."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1]}[whence]
        if start + offset < 0:
            raise ValueError("position before the first byte")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into the buffer, up to the end of one file, and return the number of bytes; 0 at the end of the last."""
        number = bisect.bisect_right(self._ends, self._position)
        if number == len(self._paths):
            return 0
        if number != self._number or self._file is None:
            self._close_file()
            self._number, self._file = number, io.FileIO(self._paths[number])
        self._file.seek(self._position - (self._ends[number - 1] if number else 0))
        with memoryview(buffer).cast("B") as view:
            got = self._file.readinto(view[:self._ends[number] - self._position]) or 0
        self._position += got
        return got

    def close(self) -> None:
        """Close the stream and the file that is open."""
        self._close_file()
        super().close()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass(frozen=True)
class Archive:
    """A zip archive on disk: its only file, or its volumes in order."""

    volumes: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Path of its first file, without the number of a volume."""
        path = self.volumes[0]
        cut = _VOLUME.fullmatch(path.name)
        return str(path.with_name(cut["archive"]) if cut else path)

    @property
    def size(self) -> int:
        """Size on disk in bytes."""
        return sum(path.stat().st_size for path in self.volumes)

    def open(self) -> io.BufferedReader:
        """Open the whole archive for reading, its volumes joined."""
        return io.BufferedReader(JoinedFiles(self.volumes), _READ_AHEAD)

    def members(self) -> tuple[list[zipfile.ZipInfo], str]:
        """Return the entries in the order of their bytes, and the encoding of names that are not marked as UTF-8.

        Chinese Windows writes names as GBK. Raises UserError if the list of members cannot be read.
        """
        for encoding in ("gbk", "cp437"):
            try:
                with self.open() as file, zipfile.ZipFile(file, metadata_encoding=encoding) as opened:
                    infos = sorted(opened.infolist(), key=lambda info: info.header_offset)
            except UnicodeDecodeError:
                continue
            except OSError as error:
                raise UserError(f"{self._shown()}: cannot be read: {error.strerror}") from None
            except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error):
                break
            if infos and infos[0].header_offset < 0:
                raise UserError(f"{self._shown()}: {-infos[0].header_offset} bytes are missing: a volume was truncated")
            return infos, encoding
        raise UserError(f"{self.volumes[-1]}: cannot read the list of members at its end; it is damaged, truncated, or "
                        "not the last volume")

    def volumes_holding(self, info: zipfile.ZipInfo) -> tuple[str, ...]:
        """Return the paths of the volumes that hold a member's bytes."""
        ends = list(itertools.accumulate(path.stat().st_size for path in self.volumes))
        last_byte = info.header_offset + _LOCAL_HEADER + len(info.orig_filename.encode("utf-8")) + info.compress_size - 1
        first, last = (min(bisect.bisect_right(ends, at), len(ends) - 1) for at in (info.header_offset, last_byte))
        return tuple(str(path) for path in self.volumes[first:last + 1])

    def _shown(self) -> str:
        first, last = self.volumes[0], self.volumes[-1]
        return str(first) if first == last else f"{first} to {last.name}"


def is_archive(name: str) -> bool:
    """Return whether this is the name of a zip archive or of a volume of one."""
    name = re.split(r"[/\\]", name)[-1]
    return not name.startswith(".") and (name.lower().endswith(".zip") or _VOLUME.fullmatch(name) is not None)


def find_archives(files: Iterable[Path], lost: Collection[Path] = ()) -> list[Archive]:
    """Group files into archives, sorted by name.

    lost: files known to be unusable; the archives they belong to are left out.
    Raises UserError, naming the volume, if a volume is missing or shorter than the others.
    """
    archives, split = [], dict[Path, dict[int, Path]]()
    for path in files:
        if match := _VOLUME.fullmatch(path.name):
            split.setdefault(path.with_name(match["archive"]), {})[int(match["number"])] = path
        elif is_archive(path.name) and path not in lost:
            archives.append(Archive((path,)))
    for name, volumes in split.items():
        if any(path in lost for path in volumes.values()):
            continue
        missing = [n for n in range(min(1, *volumes), max(volumes)) if n not in volumes]
        if missing:
            raise UserError(f"{name}.{missing[0]:03d}: this volume is missing; got {len(volumes)} volumes, the last is "
                            f".{max(volumes):03d}")
        archives.append(Archive(tuple(volumes[n] for n in sorted(volumes))))
        _check_lengths(archives[-1])
    return sorted(archives, key=lambda archive: archive.name)


def _check_lengths(archive: Archive) -> None:
    sizes = [path.stat().st_size for path in archive.volumes]
    for path, size in zip(archive.volumes[:-1], sizes, strict=False):
        if size < max(sizes):
            raise UserError(f"{path}: {size} bytes, other volumes have {max(sizes)}: it was truncated, copy it again")
