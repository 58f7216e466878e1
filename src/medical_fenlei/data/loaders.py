"""In which order samples are seen, and how long the network waits for them."""
import time
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch

from medical_fenlei.tasks import OUTSIDE

T = TypeVar("T")


def training_order(targets: np.ndarray, *, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    """The samples of one epoch, int64 (n,), n being the number of samples with a target.

    targets: (N, E), OUTSIDE where masked. Not balanced: each sample once. Balanced: each class has the same number of places
    (to within one); its ears fill them in random order, all of them once before any a second time.
    """
    valid = targets != OUTSIDE
    samples = np.flatnonzero(valid.any(1))
    if not balanced or not len(samples):
        return rng.permutation(samples)
    classes = np.unique(targets[valid])
    order = []
    for places, target in zip(np.array_split(samples, len(classes)), rng.permutation(classes), strict=True):
        ears = np.nonzero(targets == target)[0]
        rounds = -(-len(places) // len(ears))
        order.append(np.concatenate([rng.permutation(ears) for _ in range(rounds)] or [ears[:0]])[: len(places)])
    return rng.permutation(np.concatenate(order))


def nth_time(order: np.ndarray) -> np.ndarray:
    """int64 (n,): how often each of these samples came before, 0 where it comes for the first time."""
    by_sample = np.argsort(order, kind="stable")
    ranked = order[by_sample]
    first = np.flatnonzero(np.diff(ranked, prepend=-1))
    times = np.empty(len(order), np.int64)
    times[by_sample] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return times


def cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The order in batches of nearly equal size, at most `batch_size`, so that no last one is tiny."""
    return np.array_split(order, -(-len(order) // batch_size)) if len(order) else []


class Waiting:
    """How long the network waits for its data.

    On a GPU that is not how long the loop waits, which runs ahead of it, but how long the network's stream lies idle: from the
    end of the work before until the batch is there.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._seconds = 0.0
        self._idle: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def over(self, feed: Iterator[T]) -> Iterator[T]:
        """The same items, timed."""
        while True:
            began, mark = time.monotonic(), self._mark()
            try:
                item = next(feed)
            except StopIteration:
                return
            if mark is not None and (there := self._mark()) is not None:
                self._idle.append((mark, there))
            else:
                self._seconds += time.monotonic() - began
            yield item

    def _mark(self) -> torch.cuda.Event | None:
        return self._stream.record_event(torch.cuda.Event(enable_timing=True)) if self._stream else None

    @property
    def seconds(self) -> float:
        """So far; waits for the GPU."""
        if self._idle:
            self._idle[-1][1].synchronize()
        return self._seconds + sum(began.elapsed_time(there) for began, there in self._idle) / 1000
