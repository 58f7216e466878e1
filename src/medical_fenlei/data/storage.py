"""Where the ears of a set live, and how they reach the device while the batch before them is used.

A home holds N ears, int16 HU (N, K, H, W). It is asked for batches by the ears' numbers and feeds the same ears in the same
order wherever they live. The files of the cache are read straight into their place in an array: not through memory maps, which
fault page by page, count as a second copy while a set is loaded, and end the process (SIGBUS) if a file shrinks under them.
"""
import contextlib
import math
import os
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch

from medical_fenlei.config import DataConfig
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.log import LOG
from medical_fenlei.vocabulary import Side

T = TypeVar("T")

DEVICE_SHARE = 0.5
"""All sets live on the accelerator when they take at most this share of its free memory: the rest is for activations."""
MEMORY_SHARE = 0.25
"""Else in host memory, at this share of what is free there."""
AHEAD = 2
"""Batches that are read from disk ahead of the one that is used, or more where that leaves a reader without work."""
CHUNK = 16
"""Ears at a time on the way to the accelerator when it is filled."""


class Home(Protocol):
    def feed(self, cuts: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        """int16 (n, K, H, W) on the device for each of the cuts, int64 (n,), n ≥ 1; the caller may change it."""


@dataclass(frozen=True)
class Placement:
    """Where all sets of a run live."""

    on: Literal["device", "memory", "disk"]
    device: torch.device
    """Of the network."""

    readers: int
    """Threads that read files."""

    nbytes: int
    """Of all ears."""

    @classmethod
    def choose(cls, data: DataConfig, store: EarStore, device: torch.device, *, ears: int,
               sharers: int = 1) -> "Placement":
        """As --data-on says; auto: the first of device, memory and disk where they fit. Raises UserError if they cannot.

        sharers: so many processes take as much of the host's memory.
        """
        nbytes, on = 2 * math.prod(store.spec.shape) * ears, data.data_on
        host = nbytes * sharers
        if on == "auto":
            if device.type != "cpu" and nbytes <= DEVICE_SHARE * free_on(device):
                on = "device"
            else:
                on = "memory" if host <= MEMORY_SHARE * free_memory() else "disk"
        elif on != "disk":
            at_gpu = on == "device" and device.type != "cpu"
            needed, free = (nbytes, free_on(device)) if at_gpu else (host, free_memory())
            if needed > free:
                raise UserError(f"--data-on {on}: {ears} ears take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
                                "take --data-on auto")
        return cls(on, device, data.read_workers, nbytes)

    def settle(self, store: EarStore, ears: pd.DataFrame) -> Home:
        """A home for these rows of the manifest, in their order. Raises UserError if one cannot be read."""
        disk = OnDisk(store, ears, self.readers)
        if self.on == "disk":
            return disk
        return OnDevice(disk, self.device) if self.on == "device" else InMemory(disk, self.device)

    def __str__(self) -> str:
        where = {"device": f"on {self.device}", "memory": "in memory", "disk": f"on disk, {self.readers} readers"}[self.on]
        return f"{self.nbytes / 1e9:.2f} GB of ears {where}"


class OnDisk:
    """One file an ear, read by threads a few batches ahead.

    Threads, for reading and copying hold no lock of Python, and what processes read has to be sent. Raises UserError.
    """

    def __init__(self, store: EarStore, ears: pd.DataFrame, readers: int) -> None:
        self.shape, self.readers = store.spec.shape, readers
        self.files = [store.locate(exam, Side(side)) for exam, side in zip(ears.exam_id, ears.side, strict=True)]

    def read(self, ear: int, into: np.ndarray) -> None:
        """One ear, int16 (K, H, W). Raises UserError."""
        path, offset = self.files[ear]
        try:
            with open(path, "rb") as file:
                file.seek(offset)
                count = file.readinto(into.data)
        except OSError as error:
            raise UserError(f"{path}: cannot be read any more ({error.strerror})") from None
        if count != into.nbytes:
            raise UserError(f"{path}: was cut short; remove it and build the cache again")

    def load(self) -> np.ndarray:
        """All of them, int16 (N, K, H, W)."""
        whole = np.empty((len(self.files), *self.shape), np.int16)
        with ThreadPoolExecutor(self.readers) as pool:
            deque(pool.map(self.read, range(len(whole)), whole), maxlen=0)
        return whole

    def feed(self, cuts: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        if device.type == "cpu":
            return self._read_ahead(cuts, pinned=False)
        return to_device(self._read_ahead(cuts, pinned=True), device)

    def _read_ahead(self, cuts: Sequence[np.ndarray], *, pinned: bool) -> Generator[torch.Tensor, None, None]:
        pool = ThreadPoolExecutor(self.readers, thread_name_prefix="reader")
        under_way: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
        try:
            for cut in cuts:
                batch = host_memory((len(cut), *self.shape), pinned=pinned)
                reads = [pool.submit(self.read, ear, place) for ear, place in zip(cut.tolist(), batch.numpy(), strict=True)]
                under_way.append((batch, reads))
                if len(under_way) > max(AHEAD, -(-2 * self.readers // len(cut))):
                    yield _whole(*under_way.popleft())
            while under_way:
                yield _whole(*under_way.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def host_memory(shape: tuple[int, ...], *, pinned: bool) -> torch.Tensor:
    """int16, not filled. Pinned memory is of torch's pool, which hands out again what was let go and is copied to its end."""
    if pinned:
        return torch.empty(shape, dtype=torch.int16, pin_memory=True)
    return torch.from_numpy(np.empty(shape, np.int16))           # numpy's has huge pages: filled in a quarter of the time


def _whole(batch: torch.Tensor, reads: Iterable[Future[None]]) -> torch.Tensor:
    for read in reads:
        read.result()
    return batch


class InMemory:
    """One array in host memory; pinned as a whole where the network is on a GPU, which then fetches each ear from its place."""

    def __init__(self, disk: OnDisk, device: torch.device) -> None:
        self.ears = disk.load()
        if device.type == "cuda":
            pin(self, self.ears)

    def feed(self, cuts: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        if device.type == "cpu":
            return ahead(torch.from_numpy(self.ears.take(cut, 0)) for cut in cuts)
        ears = torch.from_numpy(self.ears)
        return to_device(([ears[ear] for ear in cut.tolist()] for cut in cuts), device)


class OnDevice:
    """One tensor on the device; a batch is an index into it."""

    def __init__(self, disk: OnDisk, device: torch.device) -> None:
        if device.type == "cpu":
            self.ears = torch.from_numpy(disk.load())
            return
        count = len(disk.files)
        self.ears = torch.empty((count, *disk.shape), dtype=torch.int16, device=device)
        chunks = np.array_split(np.arange(count), -(-count // CHUNK)) if count else []
        for chunk, ears in zip(chunks, disk.feed(chunks, device), strict=True):
            self.ears[chunk[0] : chunk[-1] + 1] = ears

    def feed(self, cuts: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        if self.ears.device.type == "cpu":
            for cut in cuts:
                yield torch.from_numpy(self.ears.numpy().take(cut, 0)).to(device)
        elif len(cuts):
            order = torch.from_numpy(np.concatenate(cuts)).to(self.ears.device)      # at once: a copy a batch holds the loop up
            for cut in order.split([len(cut) for cut in cuts]):
                yield self.ears.index_select(0, cut).to(device)


def ahead(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """The items in order, each made by a thread while the one before is used."""
    end = object()
    thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    try:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
    finally:
        thread.shutdown(cancel_futures=True)
        items.close()


def to_device(
    batches: Generator[torch.Tensor | list[torch.Tensor], None, None], device: torch.device
) -> Generator[torch.Tensor, None, None]:
    """Each batch, n ears (K, H, W) in pinned host memory, as one tensor on the GPU; copied while the one before is used.

    The copies run on a stream of their own. The network's stream waits for them by an event, and the batch's memory, which the
    copying stream owns, goes back to it only when the network's stream has done with it (record_stream).
    """
    stream = torch.cuda.Stream(device)

    def copied() -> Generator[tuple[torch.Tensor, torch.cuda.Event], None, None]:
        with contextlib.closing(batches):
            for ears in batches:
                with torch.cuda.stream(stream):
                    batch = _room_for((len(ears), *ears[0].shape), ears[0].dtype, device)
                    for place, ear in zip(batch, ears, strict=True):
                        place.copy_(ear, non_blocking=True)
                    done = stream.record_event()
                yield batch, done

    with contextlib.closing(ahead(copied())) as coming:
        for batch, done in coming:
            network = torch.cuda.current_stream(device)
            network.wait_event(done)
            batch.record_stream(network)
            yield batch


def _room_for(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the GPU, not filled. Where a step that is under way has taken all there is, after that step."""
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except torch.OutOfMemoryError:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        return torch.empty(shape, dtype=dtype, device=device)


def pin(owner: object, array: np.ndarray) -> None:
    """Lock the array in memory as long as its owner lives, for asynchronous copies. Where that fails they are merely slower.

    Registered in place: pinned memory from torch's pool is rounded up to a power of two, 25 GB to 32.
    """
    runtime, address = torch.cuda.cudart(), array.ctypes.data
    if array.nbytes and int(runtime.cudaHostRegister(address, array.nbytes, 0)):
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device="cuda")                        # takes the error, which CUDA keeps for whatever comes next
        LOG.warning("%s", f"{array.nbytes / 1e9:.1f} GB could not be pinned; copies to the GPU will be slower")
    else:
        weakref.finalize(owner, runtime.cudaHostUnregister, address).atexit = False


def free_on(device: torch.device) -> int:
    """Bytes that can still be taken where the network computes."""
    if device.type == "cpu":
        return free_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)          # free, though torch holds it
    return torch.cuda.mem_get_info(device)[0] + kept


def free_memory() -> int:
    """Bytes that this process can still take: of the machine, or of its control group where that is less."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        group = Path("/sys/fs/cgroup")
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(stat["inactive_file"])                      # given back when asked for
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()) + cached
    except (OSError, ValueError, KeyError):                      # no control group, or no limit ("max")
        return free
    return max(0, min(free, limit))
