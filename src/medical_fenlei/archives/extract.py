"""Extract outer zips, and the split archives in them, to a tree of DICOM files.

There are two stages, volumes and members. Each runs in parallel, checks everything before it writes, and can be resumed.
"""
import contextlib
import multiprocessing
import os
import queue
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from medical_fenlei.archives import unpack
from medical_fenlei.archives.destinations import Destinations
from medical_fenlei.archives.joined_files import Archive, find_archives, is_archive
from medical_fenlei.archives.unpack import METHODS, PARTS, Chunk, ChunkResult, Member, Reject
from medical_fenlei.errors import Rejected, Stopped, UserError
from medical_fenlei.log import LOG

_CHUNK_MEMBERS, _CHUNK_BYTES = 100, 64 << 20
_PROGRESS_SECONDS = 3.0
_SPARE_BYTES = 64 << 20
_BLOCK_BYTES = 4096
"""Disk space that the last block of a file may take beyond the file's size."""
_ENCRYPTED = 0x1
_GB = 1e9
_VOLUMES = "volumes"
"""Folder below the archives for the volumes that come out of outer zips."""
INSTALL_SEVEN_ZIP = "install the Debian package 7zip and run it again"


class ListedArchive(NamedTuple):
    """An archive with its list of members, without the entries of folders."""

    archive: Archive
    encoding: str
    """Encoding of names that are not marked as UTF-8."""

    infos: list[zipfile.ZipInfo]


def list_members(archives: Sequence[Archive], max_expansion: float) -> list[ListedArchive]:
    """List the members of each archive.

    Raises UserError if a list cannot be read, or declares that its archive expands more than `max_expansion`-fold.
    """
    listed = []
    for archive in archives:
        infos, encoding = archive.members()
        infos = [info for info in infos if not info.filename.endswith(("/", "\\"))]
        size = sum(info.file_size for info in infos)
        if size > max_expansion * archive.size:
            raise UserError(f"{archive.name}: expands {size / archive.size:.0f}-fold, to {size / _GB:.1f} GB; if you trust it, "
                            f"raise --max-expansion (now {max_expansion:g})")
        listed.append(ListedArchive(archive, encoding, infos))
    return listed


class Stage:
    """The extraction of members to one folder: all are planned first, then those that are missing are written."""

    def __init__(self, base: Path, what: str, *, are_volumes: bool = False) -> None:
        self.base, self.what, self.are_volumes = base, what, are_volumes
        self.found = self.existing = self.extracted = 0
        self.rejects: list[Reject] = []
        self.paths: set[Path] = set()
        self._destinations = Destinations(base)
        self._chunks: list[Chunk] = []
        self._seven_zip = unpack.find_seven_zip()

    def plan(self, archive: ListedArchive, infos: Sequence[zipfile.ZipInfo], prefix: str = "") -> None:
        """Decide where these members of an archive go. Nothing is written yet."""
        missing: list[Member] = []
        for info in infos:
            self.found += 1
            try:
                path, exists = self._destinations.take(info, prefix)
                if self.are_volumes:
                    self.paths.add(self.base / path)
                if not exists:
                    self._check_method(info)
                    missing.append(Member(info, path))
                self.existing += exists
            except Rejected as error:
                self.rejects.append(Reject(archive.archive.name, info.filename, error.reason, error.detail))
        for own, seven_zip in ((True, None), (False, self._seven_zip)):
            members = [member for member in missing if (member.info.compress_type in METHODS) == own]
            self._chunks += [Chunk(archive.archive, archive.encoding, self.base, some, seven_zip, self.are_volumes)
                             for some in _in_chunks(members)]

    def _check_method(self, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & _ENCRYPTED:
            raise Rejected("encrypted", "needs a password")
        if info.compress_type not in METHODS and self._seven_zip is None:
            raise Rejected("needs_7zip", f"compression method {info.compress_type}")

    def run(self, jobs: int) -> None:
        """Extract the missing members in `jobs` processes. Raises UserError, before it writes, if the disk lacks space."""
        if self._chunks:
            self._check_space(jobs)
        if self._chunks or (self.base / PARTS).exists():
            with unpack.parts_folder(self.base):
                self._extract(jobs)
        if self.found:
            LOG.info("%s: %d found: %d extracted, %d existed already, %d left out",
                     self.what, self.found, self.extracted, self.existing, len(self.rejects))

    def _check_space(self, jobs: int) -> None:
        members = [member.info for chunk in self._chunks for member in chunk.members]
        copies = sorted((m.info.compress_size for c in self._chunks if c.seven_zip for m in c.members), reverse=True)
        need = sum(info.file_size + _BLOCK_BYTES for info in members) + sum(copies[:jobs]) + _SPARE_BYTES
        existing = next(folder for folder in (self.base, *self.base.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free
        LOG.info("%s: %d to extract; %.2f GB needed, %.2f GB free in %s",
                 self.what, len(members), need / _GB, free / _GB, existing)
        if need > free:
            raise UserError(f"{self.base}: {need / _GB:.2f} GB are needed, {free / _GB:.2f} GB are free; make room, or put the "
                            "folder on another disk")

    def _extract(self, jobs: int) -> None:
        finished: queue.SimpleQueue[Future[ChunkResult]] = queue.SimpleQueue()
        with ProcessPoolExecutor(max(1, min(jobs, len(self._chunks))), initializer=unpack.become_worker) as pool:
            try:
                for chunk in self._chunks:
                    pool.submit(unpack.extract, chunk).add_done_callback(finished.put)
                with _Progress(self.what, [member.info for chunk in self._chunks for member in chunk.members]) as progress:
                    for _ in self._chunks:
                        result = progress.wait(finished)
                        self.extracted += result.extracted
                        self.rejects += result.rejects
            except BrokenProcessPool:
                raise Stopped("a process was killed; run it again to continue, with fewer JOBS if memory ran out") from None
            except BaseException:                                # a pool without processes is broken, and ends at once
                for child in multiprocessing.active_children():
                    child.terminate()
                raise


class _Progress(contextlib.AbstractContextManager["_Progress"]):
    """Progress: a line in the log every few seconds, and a bar if there is a terminal and tqdm is installed."""

    def __init__(self, what: str, infos: Sequence[zipfile.ZipInfo]) -> None:
        self._what, self._members, self._size = what, len(infos), sum(info.file_size for info in infos)
        self._members_done = self._size_done = 0
        self._began = self._logged = time.monotonic()
        try:
            from tqdm import tqdm
        except ImportError:
            self._bar = None
        else:
            tqdm.monitor_interval = 0                            # a thread, and the next stage forks
            self._bar = tqdm(total=self._size, desc=what, unit="B", unit_scale=True, file=sys.stderr, disable=None, leave=False)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def wait(self, finished: "queue.SimpleQueue[Future[ChunkResult]]") -> ChunkResult:
        """Return the next result. Raises what its process raised."""
        while True:
            if time.monotonic() - self._logged > _PROGRESS_SECONDS:
                self._log()
            with contextlib.suppress(queue.Empty):
                result = finished.get(timeout=_PROGRESS_SECONDS).result()
                self._members_done += result.extracted + len(result.rejects)
                self._size_done += result.size
                if self._bar is not None:
                    self._bar.update(result.size)
                return result

    def _log(self) -> None:
        self._logged = time.monotonic()
        speed = self._size_done / (self._logged - self._began)
        left = f"{(self._size - self._size_done) / speed / 60:.0f} min left" if speed else "waiting for the first"
        LOG.debug("%s: %d of %d, %.2f of %.2f GB, %.0f MB/s, %s", self._what, self._members_done, self._members,
                  self._size_done / _GB, self._size / _GB, speed / 1e6, left)


def _in_chunks(members: Sequence[Member]) -> Iterator[list[Member]]:
    chunk, size = list[Member](), 0
    for member in members:
        chunk.append(member)
        size += member.info.file_size
        if len(chunk) == _CHUNK_MEMBERS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _archive_files(folder: Path) -> Iterator[Path]:
    """Yield the archives and volumes in and below a folder, without hidden folders and those extracted from outer zips."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(parent, f) != folder / _VOLUMES)
        yield from (Path(parent, name) for name in sorted(names) if is_archive(name))


def extract_all(archives: Path, out_dir: Path, *, jobs: int, threads: int, max_expansion: float) -> list[Reject]:
    """Extract everything in and below `archives`, and return the members that were left out.

    jobs: processes that extract members; threads: volumes copied out of outer zips at a time. Raises UserError for unusable
    input.
    """
    outer = list_members(find_archives(_archive_files(archives)), max_expansion)
    if not outer:
        raise UserError(f"--archives {archives}: holds no .zip and no .zip.001")
    volumes = _extract_volumes(archives, outer, threads)
    usable = find_archives(volumes.paths, {path for path in volumes.paths if not path.is_file()})
    members = Stage(out_dir, "members")
    for archive in outer:
        members.plan(archive, [info for info in archive.infos if not is_archive(info.filename)])
    for archive in list_members(usable, max_expansion):
        members.plan(archive, archive.infos)
    members.run(jobs)
    rejects = volumes.rejects + members.rejects
    if not volumes.extracted + members.extracted + len(rejects):
        LOG.info("nothing to extract")
    return rejects


def _extract_volumes(archives: Path, outer: Sequence[ListedArchive], threads: int) -> Stage:
    """Copy the archives and volumes inside outer zips to a folder below `archives`. Raises UserError if one needs 7-Zip."""
    volumes = Stage(archives / _VOLUMES, "volumes", are_volumes=True)
    for archive in outer:
        prefix = Path(archive.archive.name).relative_to(archives).as_posix()
        volumes.plan(archive, [info for info in archive.infos if is_archive(info.filename)], prefix)
    if unreadable := [reject for reject in volumes.rejects if reject.reason == "needs_7zip"]:
        first = unreadable[0]
        raise UserError(f"{first.archive}: {first.member} cannot be read without 7-Zip ({first.detail}); {INSTALL_SEVEN_ZIP}")
    volumes.run(threads)
    for reject in volumes.rejects:                               # unlike a member's, a volume's name identifies no patient
        LOG.info("%s: %s: %s: %s", reject.archive, reject.member, reject.reason, reject.detail)
    return volumes
