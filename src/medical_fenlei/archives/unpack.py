"""The work of one process: write members of an archive below a folder, each whole or not at all. Standard library only."""
import copy
import errno
import fcntl
import functools
import importlib.util
import io
import multiprocessing
import os
import shutil
import signal
import struct
import subprocess
import threading
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from medical_fenlei.archives.joined_files import Archive
from medical_fenlei.errors import Rejected, UserError

PARTS = ".extract_all.part"
"""Folder below the target for unfinished members; on the same disk, so that a finished one is only renamed."""

_MODULES = {zipfile.ZIP_STORED: "zlib", zipfile.ZIP_DEFLATED: "zlib", zipfile.ZIP_BZIP2: "_bz2", zipfile.ZIP_LZMA: "_lzma"}
if hasattr(zipfile, "ZIP_ZSTANDARD"):                            # Python 3.14
    _MODULES[zipfile.ZIP_ZSTANDARD] = "_zstd"
METHODS = frozenset(method for method, module in _MODULES.items() if importlib.util.find_spec(module))
"""Compression methods that this Python reads; many others (Deflate64 is 9, PPMd 98) need 7-Zip."""

IMPOSSIBLE_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Error numbers of a file system that does not accept a name."""

_BLOCK = 1 << 20
_DATA_DESCRIPTOR, _UTF8_NAME = 0x8, 0x800


class Member(NamedTuple):
    """A member of an archive and where it is to be written."""

    info: zipfile.ZipInfo
    path: str
    """Checked path below the target folder."""


class Reject(NamedTuple):
    """A member that was left out, and why."""

    archive: str
    member: str
    reason: str
    detail: str
    volumes: tuple[str, ...] = ()
    """Files that hold the bytes of a damaged member."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive members of one archive: the unit of work of a process."""

    archive: Archive
    encoding: str
    base: Path
    members: list[Member]
    seven_zip: str | None
    """Path of 7-Zip, for members in a compression method that this Python lacks."""

    are_volumes: bool
    """Whether the members are volumes of further archives. These are flushed to disk, and kept even with a wrong checksum."""


class ChunkResult(NamedTuple):
    """The outcome of a chunk."""

    extracted: int
    """Members that were written."""

    size: int
    """Uncompressed bytes of all its members, extracted or not."""

    rejects: list[Reject]


def find_seven_zip() -> str | None:
    """Return the path of 7-Zip, or None where it is not installed."""
    return next(filter(None, map(shutil.which, ("7z", "7zz", "7za"))), None)


@contextmanager
def parts_folder(base: Path) -> Iterator[None]:
    """Hold the folder of unfinished members, emptied of what a killed run left. Raises UserError if another run holds it."""
    folder = base / PARTS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"{base}: cannot write: {error.strerror}") from None
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)     # held by this process only: children do not inherit it
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):      # else the file system has no locks
                raise UserError(f"{base}: another extraction is at work there; wait for it, or stop it") from None
        for part in folder.glob("*.part"):
            part.unlink()
        try:
            yield
        finally:
            shutil.rmtree(folder)


def become_worker() -> None:
    """Prepare a worker process: ignore Ctrl-C, which the parent handles, end on SIGTERM, and do not outlive the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def extract(chunk: Chunk) -> ChunkResult:
    """Write the members of a chunk. Raises UserError if the disk, not a member, is at fault."""
    reader = _reader(chunk.archive, chunk.encoding)
    rejects = []
    for member in chunk.members:
        try:
            _extract(chunk, reader, member)
        except Rejected as error:
            volumes = chunk.archive.volumes_holding(member.info) if error.reason == "damaged_member" else ()
            rejects.append(Reject(chunk.archive.name, member.info.filename, error.reason, error.detail, volumes))
        except OSError as error:
            if error.errno not in IMPOSSIBLE_NAME:
                raise UserError(f"{chunk.base}: cannot write: {error.strerror}") from None
            rejects.append(Reject(chunk.archive.name, member.info.filename, "bad_name",
                                  "the file system does not accept this name"))
    size = sum(member.info.file_size for member in chunk.members)
    return ChunkResult(len(chunk.members) - len(rejects), size, rejects)


@functools.lru_cache(maxsize=1)
def _reader(archive: Archive, encoding: str) -> zipfile.ZipFile:
    """Return a reader that opens members by their entry.

    It does not read the list of members: 680,000 entries would take half a gigabyte in each process.
    """
    reader = zipfile.ZipFile(io.BytesIO(b"PK\5\6" + bytes(18)), metadata_encoding=encoding)
    try:
        reader.fp = archive.open()
    except OSError as error:
        raise UserError(f"{archive.name}: cannot be read: {error.strerror}") from None
    return reader


def _extract(chunk: Chunk, reader: zipfile.ZipFile, member: Member) -> None:
    """Write one member. Raises Rejected if its bytes are not what its entry declares."""
    info, part, target = member.info, chunk.base / PARTS / f"{os.getpid()}.part", chunk.base / member.path
    size = crc = 0
    with closing(_blocks(reader, info, chunk.seven_zip, part.with_suffix(".zip.part"))) as blocks, open(part, "wb") as file:
        for block in blocks:
            size += len(block)
            if size > info.file_size:
                raise Rejected("larger_than_declared", f"more than {info.file_size} bytes")
            crc = zlib.crc32(block, crc)
            file.write(block)
        if chunk.are_volumes:
            file.flush()
            os.fsync(file.fileno())
    if size < info.file_size:
        raise Rejected("damaged_member", f"got {size} bytes, expected {info.file_size}")
    if crc != info.CRC and not chunk.are_volumes:
        raise Rejected("damaged_member", "wrong checksum")
    # Members are not flushed one by one: that would take longer than extracting them. After a crash of the machine some may
    # be short; the next run compares sizes and extracts those again.
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, target)
    if crc != info.CRC:
        raise Rejected("damaged_member", "wrong checksum; used nevertheless, since its members have checksums of their own")


def _blocks(
    reader: zipfile.ZipFile, info: zipfile.ZipInfo, seven_zip: str | None, scratch: Path
) -> Generator[bytes, None, None]:
    """Yield the content of a member in blocks. Raises Rejected if it cannot be read."""
    unchecked = copy.copy(info)
    del unchecked.CRC                                            # the caller compares it, whatever decompresses
    try:
        with reader.open(unchecked) if seven_zip is None else _through_seven_zip(reader, info, seven_zip, scratch) as stream:
            while block := stream.read(_BLOCK):
                yield block
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):          # while writing the scratch copy
            raise
        raise Rejected("damaged_member", f"cannot be read: {error.strerror or 'bad data'}") from None
    except Exception as error:                                   # each compression method has its own errors
        raise Rejected("damaged_member", f"cannot be read: {type(error).__name__}") from None


@contextmanager
def _through_seven_zip(
    reader: zipfile.ZipFile, info: zipfile.ZipInfo, seven_zip: str, scratch: Path
) -> Iterator[IO[bytes]]:
    """Open the content of a member, decompressed by 7-Zip.

    7-Zip gets a scratch archive that holds this member only, under the name "member". So no name from the archive, in whatever
    encoding, decides what 7-Zip reads or writes, and the caller can count the bytes as they come.
    """
    try:
        _copy_alone(reader, info, scratch)
        command = [seven_zip, "x", "-tzip", "-so", "-mmt=1", "-bd", "--", str(scratch)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            yield process.stdout
    finally:
        scratch.unlink(missing_ok=True)


def _copy_alone(reader: zipfile.ZipFile, info: zipfile.ZipInfo, to: Path) -> None:
    """Write an archive that holds this member only, with its compressed bytes unchanged."""
    source = reader.fp
    assert source
    source.seek(info.header_offset)
    lengths = struct.unpack("<26x2H", source.read(30))           # name and extra field, between header and data
    source.seek(sum(lengths), os.SEEK_CUR)
    alone = copy.copy(info)
    alone.filename, alone.extra, alone.comment, alone.header_offset = "member", b"", b"", 0
    alone.flag_bits &= ~(_DATA_DESCRIPTOR | _UTF8_NAME)
    with zipfile.ZipFile(to, "w") as made:
        assert made.fp
        made.fp.write(alone.FileHeader())
        left = info.compress_size
        while block := source.read(min(_BLOCK, left)):
            made.fp.write(block)
            left -= len(block)
        made.filelist.append(alone)
        made.start_dir = made.fp.tell()
