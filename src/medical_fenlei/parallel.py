"""One map over many items: progress, worker processes, and a reason for every item that failed.

An item that kills its process (a decoder that crashes, memory that runs out) or hangs costs itself alone: the others go on.
"""
import atexit
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medical_fenlei.errors import Rejected

if TYPE_CHECKING:
    from pebble import ProcessPool

Item = TypeVar("Item")
Value = TypeVar("Value")

UNEXPECTED, DIED, TIMED_OUT = "unexpected_error", "process_died", "timed_out"
PATIENCE = 900.0
"""Seconds that an item may take before it counts as hanging."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Value]):
    """What became of one item: a value, or a reason with its detail."""

    item: Item
    value: Value | None = None
    reason: str = ""
    detail: str = ""

    @property
    def ok(self) -> bool:
        return not self.reason


def default_workers() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def attempt(function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    """Call `function`; an exception becomes the outcome's reason.

    Of an unexpected one only the type and the place are kept: its message may quote a patient's data.
    """
    try:
        return Outcome(item, value=function(item))
    except Rejected as rejected:
        return Outcome(item, reason=rejected.reason, detail=rejected.detail)
    except Exception as error:  # the one place where a batch outlives a bad item; the reason goes into its report
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(item, reason=UNEXPECTED, detail=f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}")


def _attempt_in(folder: str, function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    os.chdir(folder)                                             # a worker may be older than this map, and started elsewhere
    try:
        return attempt(function, item)
    except BaseException as error:                               # what would end a process alone ends no other here
        return Outcome(item, reason=UNEXPECTED, detail=type(error).__name__)


def map_items(
    function: Callable[[Item], Value], items: Iterable[Item], *, workers: int, label: str, patience: float = PATIENCE
) -> Iterator[Outcome[Item, Value]]:
    """Outcomes in the order of the items, as they are done, with a progress bar on a terminal.

    function: of a module, or a partial of one. workers: processes; 0 or 1 works in this one, where nothing can be survived that
    ends a process. patience: seconds an item may take in a process of its own.
    """
    from tqdm import tqdm

    todo = list(items)
    workers = min(workers, len(todo))
    if workers <= 1:
        outcomes: Iterable[Outcome[Item, Value]] = map(partial(attempt, function), todo)
    else:
        outcomes = _in_processes(partial(_attempt_in, os.getcwd(), function), todo, workers, patience)
    yield from tqdm(outcomes, total=len(todo), desc=label, unit="", file=sys.stderr, disable=None, leave=False)


def _in_processes(
    work: Callable[[Item], Outcome[Item, Value]], todo: list[Item], workers: int, patience: float
) -> Iterator[Outcome[Item, Value]]:
    pool = _pool(workers)
    under_way = [pool.schedule(work, args=(item,), timeout=patience) for item in todo]
    try:
        for item, future in zip(todo, under_way, strict=True):
            yield _outcome(item, future, patience)
    except BaseException:                                        # stopped, or no longer wanted: what is under way is given up
        _close(workers)
        raise


def _outcome(item: Item, future: "Future[Outcome[Item, Value]]", patience: float) -> Outcome[Item, Value]:
    from pebble import ProcessExpired

    try:
        return future.result()
    except TimeoutError:
        return Outcome(item, reason=TIMED_OUT, detail=f"was not done after {patience:g} s")
    except ProcessExpired as expired:
        status = expired.exitcode or 0
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return Outcome(item, reason=DIED, detail=f"{how}; killed for its memory?" if status == -signal.SIGKILL else how)


_POOLS: dict[int, "ProcessPool"] = {}
"""By the number of workers: a second map finds them started, with all that the first imported."""


def _pool(workers: int) -> "ProcessPool":
    from pebble import ProcessPool

    pool = _POOLS.get(workers)
    if pool is None or not pool.active:
        for other in list(_POOLS):
            _close(other)
        pool = _POOLS[workers] = ProcessPool(workers, initializer=_begin, context=multiprocessing.get_context("spawn"))
    return pool


def _begin() -> None:
    """Of a worker: one thread, for the workers are as many as the processors."""
    from threadpoolctl import threadpool_limits

    global _limits
    _limits = threadpool_limits(1)


_limits: Any = None


@atexit.register
def _close_all() -> None:
    for workers in list(_POOLS):
        _close(workers)


def _close(workers: int) -> None:
    pool = _POOLS.pop(workers)
    pool.stop()
    pool.join()
