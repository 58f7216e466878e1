"""Outer zips to split volumes to a tree of DICOM: in two stages, each in parallel, checked before it writes, resumable."""
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
from medical_fenlei.archives.destinations import Places
from medical_fenlei.archives.joined_files import Archive, find_archives, is_archive
from medical_fenlei.archives.unpack import METHODS, PARTS, Chunk, Done, Member, Reject
from medical_fenlei.errors import Rejected, Stopped, UserError
from medical_fenlei.log import LOG

_CHUNK_MEMBERS, _CHUNK_BYTES = 100, 64 << 20
_PROGRESS_SECONDS = 3.0
_SPARE_BYTES = 64 << 20
_BLOCK_BYTES = 4096
"""What a file's last block may take up beyond its size."""
_ENCRYPTED = 0x1
_GB = 1e9
_VOLUMES = "volumes"
"""Folder below the archives for what comes out of outer ones."""
_BY_A_SIGNAL = "by a signal; what was extracted is kept, run it again to go on"
_GET_SEVEN_ZIP = "install the Debian package 7zip and run this again"


class Listing(NamedTuple):
    """An archive and its members; its folders are made by what lies in them."""

    archive: Archive
    encoding: str
    infos: list[zipfile.ZipInfo]


def list_members(archives: Sequence[Archive], max_expansion: float) -> list[Listing]:
    """Raises UserError if an archive's list cannot be read, or says that it expands more than `max_expansion`-fold."""
    listings = []
    for archive in archives:
        infos, encoding = archive.members()
        infos = [info for info in infos if not info.filename.endswith(("/", "\\"))]
        size = sum(info.file_size for info in infos)
        if size > max_expansion * archive.size:
            raise UserError(f"{archive.name}: expands {size / archive.size:.0f}-fold, to {size / _GB:.1f} GB; if it is known "
                            f"to be sound, raise --max-expansion (now {max_expansion:g})")
        listings.append(Listing(archive, encoding, infos))
    return listings


class Stage:
    """Members on their way to one folder: first all are planned, then those that are missing are extracted."""

    def __init__(self, base: Path, what: str, *, are_volumes: bool = False) -> None:
        self.base, self.what, self.are_volumes = base, what, are_volumes
        self.found = self.there = self.extracted = 0
        self.rejects: list[Reject] = []
        self.paths: set[Path] = set()
        self._places = Places(base)
        self._chunks: list[Chunk] = []
        self._seven_zip = unpack.find_seven_zip()

    def plan(self, listing: Listing, infos: Sequence[zipfile.ZipInfo], prefix: str = "") -> None:
        """Decide for members of an archive where they go; nothing is written."""
        missing: list[Member] = []
        for info in infos:
            self.found += 1
            try:
                path, there = self._places.take(info, prefix)
                if self.are_volumes:
                    self.paths.add(self.base / path)
                if not there:
                    self._check_method(info)
                    missing.append(Member(info, path))
                self.there += there
            except Rejected as error:
                self.rejects.append(Reject(listing.archive.name, info.filename, error.reason, error.detail))
        for own, seven_zip in ((True, None), (False, self._seven_zip)):
            members = [member for member in missing if (member.info.compress_type in METHODS) == own]
            self._chunks += [Chunk(listing.archive, listing.encoding, self.base, some, seven_zip, self.are_volumes)
                             for some in _in_chunks(members)]

    def _check_method(self, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & _ENCRYPTED:
            raise Rejected("encrypted", "needs a password")
        if info.compress_type not in METHODS and self._seven_zip is None:
            raise Rejected("needs_7zip", f"compression method {info.compress_type}")

    def run(self, jobs: int) -> None:
        """Extract what is missing in so many processes. Raises UserError before anything is written if there is no room."""
        if self._chunks:
            self._check_space(jobs)
        if self._chunks or (self.base / PARTS).exists():
            with unpack.parts_folder(self.base):
                self._extract(jobs)
        if self.found:
            LOG.info(f"{self.what}: {self.found} found: {self.extracted} extracted, {self.there} were there, "
                     f"{len(self.rejects)} left out")

    def _check_space(self, jobs: int) -> None:
        members = [member.info for chunk in self._chunks for member in chunk.members]
        copies = sorted((m.info.compress_size for c in self._chunks if c.seven_zip for m in c.members), reverse=True)
        need = sum(info.file_size + _BLOCK_BYTES for info in members) + sum(copies[:jobs]) + _SPARE_BYTES
        there = next(folder for folder in (self.base, *self.base.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        LOG.info(f"{self.what}: {len(members)} to extract; {need / _GB:.2f} GB needed, {free / _GB:.2f} GB free in {there}")
        if need > free:
            raise UserError(f"{self.base}: {need / _GB:.2f} GB are needed, {free / _GB:.2f} GB are free; make room, or let the "
                            "folder lie on another disk")

    def _extract(self, jobs: int) -> None:
        finished: queue.SimpleQueue[Future[Done]] = queue.SimpleQueue()
        with ProcessPoolExecutor(max(1, min(jobs, len(self._chunks))), initializer=unpack.become_worker) as pool:
            try:
                for chunk in self._chunks:
                    pool.submit(unpack.extract, chunk).add_done_callback(finished.put)
                with _Progress(self.what, [member.info for chunk in self._chunks for member in chunk.members]) as progress:
                    for _ in self._chunks:
                        done = progress.wait(finished)
                        self.extracted += done.extracted
                        self.rejects += done.rejects
            except BrokenProcessPool:
                raise Stopped("a process was killed; run it again to go on, with fewer JOBS if memory ran out") from None
            except BaseException:                                # the pool finds itself broken, and ends before it is left
                for child in multiprocessing.active_children():
                    child.terminate()
                raise


class _Progress(contextlib.AbstractContextManager["_Progress"]):
    """A line in the log every few seconds; a bar where there is a terminal and tqdm."""

    def __init__(self, what: str, infos: Sequence[zipfile.ZipInfo]) -> None:
        self._what, self._members, self._size = what, len(infos), sum(info.file_size for info in infos)
        self._members_done = self._size_done = 0
        self._began = self._said = time.monotonic()
        try:
            from tqdm import tqdm
        except ImportError:
            self._bar = None
        else:
            tqdm.monitor_interval = 0                            # it would be a thread, and the next stage forks
            self._bar = tqdm(total=self._size, desc=what, unit="B", unit_scale=True, file=sys.stderr, disable=None, leave=False)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def wait(self, finished: "queue.SimpleQueue[Future[Done]]") -> Done:
        """The next result. Raises what its process raised."""
        while True:
            if time.monotonic() - self._said > _PROGRESS_SECONDS:
                self._say()
            with contextlib.suppress(queue.Empty):
                done = finished.get(timeout=_PROGRESS_SECONDS).result()
                self._members_done += done.extracted + len(done.rejects)
                self._size_done += done.size
                if self._bar is not None:
                    self._bar.update(done.size)
                return done

    def _say(self) -> None:
        self._said = time.monotonic()
        speed = self._size_done / (self._said - self._began)
        left = f"{(self._size - self._size_done) / speed / 60:.0f} min left" if speed else "waiting for the first"
        LOG.debug(f"{self._what}: {self._members_done} of {self._members}, {self._size_done / _GB:.2f} of "
                  f"{self._size / _GB:.2f} GB, {speed / 1e6:.0f} MB/s, {left}")


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


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(place, f) != folder / _VOLUMES)
        yield from (Path(place, name) for name in sorted(names) if is_archive(name))


def extract_all(archives: Path, out_dir: Path, *, jobs: int, threads: int, max_expansion: float) -> list[Reject]:
    """Extract everything in and below `archives`; returns what was left out. Raises UserError for unusable input."""
    outer = list_members(find_archives(_files(archives)), max_expansion)
    if not outer:
        raise UserError(f"--archives {archives}: holds no .zip and no .zip.001")
    volumes = Stage(archives / _VOLUMES, "volumes", are_volumes=True)
    for listing in outer:
        prefix = Path(listing.archive.name).relative_to(archives).as_posix()
        volumes.plan(listing, [info for info in listing.infos if is_archive(info.filename)], prefix)
    if hard := [reject for reject in volumes.rejects if reject.reason == "needs_7zip"]:
        volume, method = f"{hard[0].archive}: {hard[0].member}", hard[0].detail
        raise UserError(f"{volume} cannot be read without 7-Zip ({method}); {_GET_SEVEN_ZIP}")
    volumes.run(threads)
    for reject in volumes.rejects:                               # a volume's name tells of no patient
        LOG.info(f"{reject.archive}: {reject.member}: {reject.reason}: {reject.detail}")

    inner = list_members(find_archives(volumes.paths, {path for path in volumes.paths if not path.is_file()}), max_expansion)
    members = Stage(out_dir, "members")
    for listing in outer:
        members.plan(listing, [info for info in listing.infos if not is_archive(info.filename)])
    for listing in inner:
        members.plan(listing, listing.infos)
    members.run(jobs)
    rejects = volumes.rejects + members.rejects
    if not volumes.extracted + members.extracted + len(rejects):
        LOG.info("nothing was to be done")
    return rejects
