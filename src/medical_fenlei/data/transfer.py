"""The way of a batch to the device: prefetching by a thread, pinned host memory, copies on a CUDA stream of their own."""
import contextlib
import weakref
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from medical_fenlei.log import LOG

T = TypeVar("T")


def prefetch(items: Generator[T, None, None]) -> Generator[T, None, None]:
    """Yield the items in order; a thread prepares the next one while the current one is in use."""
    end = object()
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
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
    """Yield each batch, n ears (K, H, W) in pinned host memory, as one tensor on the GPU, copied one batch ahead.

    The copies run on a stream of their own. The network's stream waits for them by an event. The copying stream owns the memory
    of a batch and gets it back only when the network's stream has finished with it (record_stream).
    """
    stream = torch.cuda.Stream(device)

    def copied() -> Generator[tuple[torch.Tensor, torch.cuda.Event], None, None]:
        with contextlib.closing(batches):
            for ears in batches:
                with torch.cuda.stream(stream):
                    batch = _empty_on_gpu((len(ears), *ears[0].shape), ears[0].dtype, device)
                    for place, ear in zip(batch, ears, strict=True):
                        place.copy_(ear, non_blocking=True)
                    done = stream.record_event()
                yield batch, done

    with contextlib.closing(prefetch(copied())) as coming:
        for batch, done in coming:
            network = torch.cuda.current_stream(device)
            network.wait_event(done)
            batch.record_stream(network)
            yield batch


def _empty_on_gpu(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised tensor on the GPU; if a step in progress holds all memory, wait for that step."""
    try:
        return torch.empty(shape, dtype=dtype, device=device)
    except torch.OutOfMemoryError:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        return torch.empty(shape, dtype=dtype, device=device)


def host_buffer(shape: tuple[int, ...], *, pinned: bool) -> torch.Tensor:
    """An uninitialised int16 tensor in host memory; torch's pool reuses pinned memory only once copies from it are done."""
    if pinned:
        return torch.empty(shape, dtype=torch.int16, pin_memory=True)
    return torch.from_numpy(np.empty(shape, np.int16))           # numpy's has huge pages: filled in a quarter of the time


def pin(owner: object, array: np.ndarray) -> None:
    """Page-lock the array as long as its owner lives, for asynchronous copies. Where that fails, copies are merely slower.

    The array is registered in place: torch's pool rounds pinned memory up to a power of two, 25 GB to 32.
    """
    runtime, address = torch.cuda.cudart(), array.ctypes.data
    if array.nbytes and int(runtime.cudaHostRegister(address, array.nbytes, 0)):
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device="cuda")                        # clears the error, which CUDA would report with the next call
        LOG.warning("%.1f GB could not be pinned; copies to the GPU will be slower", array.nbytes / 1e9)
    else:
        weakref.finalize(owner, runtime.cudaHostUnregister, address).atexit = False
