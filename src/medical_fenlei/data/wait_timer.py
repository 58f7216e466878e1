"""How long the network waits for its data."""
import time
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class WaitTimer:
    """Measures how long a loop waits for its batches.

    On a GPU the loop runs ahead of the network, so its own waits mean nothing. What counts there is how long the network's
    stream is idle: from the end of the previous work until the batch has arrived.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._seconds = 0.0
        self._idle: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """Yield the same batches and time the wait for each."""
        while True:
            began, mark = time.monotonic(), self._mark()
            try:
                batch = next(batches)
            except StopIteration:
                return
            if mark is not None and (arrived := self._mark()) is not None:
                self._idle.append((mark, arrived))
            else:
                self._seconds += time.monotonic() - began
            yield batch

    def _mark(self) -> torch.cuda.Event | None:
        return self._stream.record_event(torch.cuda.Event(enable_timing=True)) if self._stream else None

    @property
    def seconds(self) -> float:
        """Seconds waited so far. Synchronises with the GPU."""
        if self._idle:
            self._idle[-1][1].synchronize()
        return self._seconds + sum(began.elapsed_time(arrived) for began, arrived in self._idle) / 1000
