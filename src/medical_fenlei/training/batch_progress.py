"""How far a long series of batches has come: a bar on a terminal, and from time to time a line in the log."""
import time
from collections.abc import Callable
from types import TracebackType

import torch.distributed as dist
from tqdm import tqdm

from medical_fenlei.log import FILE_ONLY, LOG

LINE_SECONDS = 300.0
"""Seconds between two lines in the log, and before the first: what takes less time logs none."""


class BatchProgress:
    """Counts batches. Lines estimate the time left from the batches that this process has run but for the first, which is slow.

    Where a terminal shows the bar, the lines go to log files alone. Of the processes of a run only the first says anything.
    """

    def __init__(self, name: str, total: int, *, done: int = 0, later: int = 0, last: str = "",
                 clock: Callable[[], float] = time.monotonic) -> None:
        """name, total: what the batches are of, and how many; done: of these, before this process; later: batches to follow.

        last: the name of what the later batches end with; clock: seconds.
        """
        self._name, self._total, self._done, self._later, self._last = name, total, done, later, last
        self._active = not dist.is_initialized() or dist.get_rank() == 0
        self._clock, self._logged = clock, clock()
        self._first: tuple[int, float] | None = None             # batches done and time after the first one of this process
        self._bar = tqdm(total=total, initial=done, desc=name, unit="batch", leave=False,
                         disable=None if self._active else True)

    def __enter__(self) -> "BatchProgress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def update(self) -> None:
        """Count a batch that was run."""
        self._bar.update()
        self._done += 1
        now = self._clock()
        if self._first is None:
            self._first = self._done, now
        elif self._active and now - self._logged >= LINE_SECONDS and self._done < self._total:
            self._logged = now
            LOG.info("%s: %d of %d batches; %s", self._name, self._done, self._total, self._time_left(*self._first, now),
                     extra={} if self._bar.disable else FILE_ONLY)

    def _time_left(self, since: int, began: float, now: float) -> str:
        """since, began: batches done and time from which on this process's speed is measured."""
        each, own = (now - began) / (self._done - since), self._total - self._done
        if not self._later:
            return f"{in_words(each * own)} left"
        return f"{in_words(each * own)} left, about {in_words(each * (own + self._later))} until {self._last} ends"


def in_words(seconds: float) -> str:
    """Return a time to the minute: "12 min", "3 h 10 min"; less than one counts as one."""
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
