"""Where the ears of a set are stored (disk, host memory or device), and how batches of them reach the device.

A storage holds N ears, int16 HU (N, K, H, W), and yields the same batches wherever it keeps them. Files of the cache are read
straight into their place in an array, not through memory maps: those fault page by page, count as a second copy while a set is
loaded, and end the process (SIGBUS) if a file shrinks under them.
"""
import math
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd
import torch

from medical_fenlei.config import DataConfig
from medical_fenlei.data.memory import free_device_memory, free_memory
from medical_fenlei.data.transfer import host_buffer, pin, prefetch, to_device
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import Side

DEVICE_SHARE = 0.5
"""All sets go to the GPU if they take at most this share of its free memory; the rest is for activations."""
MEMORY_SHARE = 0.25
"""Otherwise they go to host memory if they take at most this share of what is free there."""
PREFETCHED = 2
"""Batches read from disk ahead of the one in use, or more where that would leave a reader idle."""
CHUNK = 16
"""Ears copied at a time when the device is filled."""


class EarStorage(Protocol):
    """The ears of a set, wherever they are kept."""

    def batches(self, indices: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        """Yield int16 (n, K, H, W) on the device for each int64 (n,) array of ear numbers, n ≥ 1; the caller may change it."""


@dataclass(frozen=True)
class Placement:
    """Where all sets of a run are stored."""

    on: Literal["device", "memory", "disk"]
    device: torch.device
    """The device of the network."""

    readers: int
    """Threads that read files."""

    nbytes: int
    """Bytes that all ears take."""

    @classmethod
    def choose(cls, data: DataConfig, store: EarStore, device: torch.device, *, ears: int,
               processes: int = 1) -> "Placement":
        """Follow --data-on; auto takes the first of device, memory and disk where the ears fit. Raises UserError if they don't.

        processes: how many processes of the run share the host's memory, each with ears of its own.
        """
        nbytes, on = 2 * math.prod(store.spec.shape) * ears, data.data_on
        host = nbytes * processes
        if on == "auto":
            if device.type != "cpu" and nbytes <= DEVICE_SHARE * free_device_memory(device):
                on = "device"
            else:
                on = "memory" if host <= MEMORY_SHARE * free_memory() else "disk"
        elif on != "disk":
            on_gpu = on == "device" and device.type != "cpu"
            needed, free = (nbytes, free_device_memory(device)) if on_gpu else (host, free_memory())
            if needed > free:
                raise UserError(f"--data-on {on}: {ears} ears take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
                                "take --data-on auto")
        return cls(on, device, data.read_workers, nbytes)

    def open_storage(self, store: EarStore, ears: pd.DataFrame) -> EarStorage:
        """Store the ears of these manifest rows, in their order. Raises UserError if one cannot be read."""
        disk = DiskStorage(store, ears, self.readers)
        if self.on == "disk":
            return disk
        return DeviceStorage(disk, self.device) if self.on == "device" else MemoryStorage(disk, self.device)

    def __str__(self) -> str:
        where = {"device": f"on {self.device}", "memory": "in memory", "disk": f"on disk, {self.readers} readers"}[self.on]
        return f"{self.nbytes / 1e9:.2f} GB of ears {where}"


class DiskStorage:
    """One file per ear, read by threads a few batches ahead.

    Threads suffice, since reading and copying release Python's global lock; processes would have to send what they read.
    """

    def __init__(self, store: EarStore, ears: pd.DataFrame, readers: int) -> None:
        self.shape, self.readers = store.spec.shape, readers
        self.files = [store.file_and_offset(exam, Side(side)) for exam, side in zip(ears.exam_id, ears.side, strict=True)]
        self._written = [os.stat(path).st_mtime_ns for path, _ in self.files]

    def read(self, ear: int, into: np.ndarray) -> None:
        """Read one ear, int16 (K, H, W), into an array. Raises UserError if its file is gone, cut short, or another one."""
        path, offset = self.files[ear]
        try:
            with open(path, "rb") as file:
                written = os.fstat(file.fileno()).st_mtime_ns
                file.seek(offset)
                count = file.readinto(into.data)
        except OSError as error:
            raise UserError(f"{path}: cannot be read any more ({error.strerror})") from None
        if count != into.nbytes:
            raise UserError(f"{path}: was cut short; remove it and build the cache again")
        if written != self._written[ear]:
            raise UserError(f"{path}: was cut anew while it was in use, perhaps from another series; run this again")

    def load(self) -> np.ndarray:
        """Read all ears, int16 (N, K, H, W)."""
        ears = np.empty((len(self.files), *self.shape), np.int16)
        with ThreadPoolExecutor(self.readers) as pool:
            deque(pool.map(self.read, range(len(ears)), ears), maxlen=0)
        return ears

    def batches(self, indices: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        """See `EarStorage`."""
        if device.type == "cpu":
            return self._read_ahead(indices, pinned=False)
        return to_device(self._read_ahead(indices, pinned=True), device)

    def _read_ahead(self, indices: Sequence[np.ndarray], *, pinned: bool) -> Generator[torch.Tensor, None, None]:
        pool = ThreadPoolExecutor(self.readers, thread_name_prefix="reader")
        pending: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
        try:
            for own in indices:
                batch = host_buffer((len(own), *self.shape), pinned=pinned)
                reads = [pool.submit(self.read, ear, place) for ear, place in zip(own.tolist(), batch.numpy(), strict=True)]
                pending.append((batch, reads))
                if len(pending) > max(PREFETCHED, -(-2 * self.readers // len(own))):
                    yield _when_read(*pending.popleft())
            while pending:
                yield _when_read(*pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _when_read(batch: torch.Tensor, reads: Iterable[Future[None]]) -> torch.Tensor:
    for read in reads:
        read.result()
    return batch


class MemoryStorage:
    """One array in host memory. Where the network is on a GPU it is pinned, and each ear is copied straight from it."""

    def __init__(self, disk: DiskStorage, device: torch.device) -> None:
        self.ears = disk.load()
        if device.type == "cuda":
            pin(self, self.ears)

    def batches(self, indices: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        """See `EarStorage`."""
        if device.type == "cpu":
            return prefetch(torch.from_numpy(self.ears.take(own, 0)) for own in indices)
        ears = torch.from_numpy(self.ears)
        return to_device(([ears[ear] for ear in own.tolist()] for own in indices), device)


class DeviceStorage:
    """One tensor on the device; a batch is an index into it."""

    def __init__(self, disk: DiskStorage, device: torch.device) -> None:
        if device.type == "cpu":
            self.ears = torch.from_numpy(disk.load())
            return
        count = len(disk.files)
        self.ears = torch.empty((count, *disk.shape), dtype=torch.int16, device=device)
        chunks = np.array_split(np.arange(count), -(-count // CHUNK)) if count else []
        for chunk, ears in zip(chunks, disk.batches(chunks, device), strict=True):
            self.ears[chunk[0] : chunk[-1] + 1] = ears

    def batches(self, indices: Sequence[np.ndarray], device: torch.device) -> Generator[torch.Tensor, None, None]:
        """See `EarStorage`."""
        if self.ears.device.type == "cpu":
            for own in indices:
                yield torch.from_numpy(self.ears.numpy().take(own, 0)).to(device)
        elif len(indices):
            order = torch.from_numpy(np.concatenate(indices)).to(self.ears.device)       # once: a copy per batch would stall
            for own in order.split([len(own) for own in indices]):
                yield self.ears.index_select(0, own).to(device)
