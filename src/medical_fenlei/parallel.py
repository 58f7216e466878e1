"""A map over many items, with progress, worker processes, and a reason for every item that failed.

Workers are processes of this machine or of a Dask cluster. An item that crashes its process (a decoder, lack of memory) or
hangs costs only itself: the others continue.
"""
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from medical_fenlei.cluster import map_on_cluster
from medical_fenlei.outcomes import DIED, TIMED_OUT, UNEXPECTED, Item, Outcome, Value, attempt
from medical_fenlei.signals import ASKING, raise_if_stopped

if TYPE_CHECKING:
    from pebble import ProcessPool

Workers = int | str
"""Number of processes on this machine, or the address of a Dask scheduler (`tcp://host:8786`) whose workers do the work."""

ITEM_SECONDS = 900.0
"""Seconds after which an item counts as hanging."""


GROUP_SECONDS = 0.2
"""How much later than a worker this process may learn of a signal that was sent to both."""


def default_workers() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_items(
    function: Callable[[Item], Value], items: Iterable[Item], *, workers: Workers, label: str,
    item_seconds: float = ITEM_SECONDS,
) -> Iterator[Outcome[Item, Value]]:
    """Yield outcomes in the order of the items as they are finished, with a progress bar on a terminal.

    function: a module's function, or a partial of one. workers: 0 or 1 works in this process, where an item that ends the
    process ends everything. item_seconds: time limit of an item in a process of its own. Raises UserError if a cluster cannot
    be used.
    """
    from tqdm import tqdm

    todo = list(items)
    work = partial(_attempt_in, os.getcwd(), function)
    if isinstance(workers, str):
        outcomes: Iterable[Outcome[Item, Value]] = map_on_cluster(work, todo, workers, item_seconds) if todo else ()
    elif min(workers, len(todo)) <= 1:
        outcomes = map(partial(attempt, function), todo)
    else:
        outcomes = _map_in_processes(work, todo, min(workers, len(todo)), item_seconds)
    for outcome in tqdm(outcomes, total=len(todo), desc=label, unit="", file=sys.stderr, disable=None, leave=False):
        raise_if_stopped()
        yield outcome


def _attempt_in(folder: str, function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    try:
        os.chdir(folder)                                         # a worker may have been started earlier and elsewhere
        return attempt(function, item)
    except BaseException as error:                               # such as SystemExit, which must not end the worker
        return Outcome(item, reason=UNEXPECTED, detail=type(error).__name__)


def _map_in_processes(
    work: Callable[[Item], Outcome[Item, Value]], items: list[Item], workers: int, item_seconds: float
) -> Iterator[Outcome[Item, Value]]:
    pool = _pool(workers)
    futures = [pool.schedule(work, args=(item,), timeout=item_seconds) for item in items]
    try:
        for item, future in zip(items, futures, strict=True):
            yield _outcome(item, future, item_seconds)
    except BaseException:                                        # stopped, or no longer wanted: abandon what is running
        if not all(future.done() for future in futures):
            _close(workers)
        raise


def _outcome(item: Item, future: "Future[Outcome[Item, Value]]", item_seconds: float) -> Outcome[Item, Value]:
    from pebble import ProcessExpired

    try:
        return future.result()
    except TimeoutError:
        return Outcome(item, reason=TIMED_OUT, detail=f"was not done after {item_seconds:g} s")
    except ProcessExpired as expired:
        status = expired.exitcode or 0
        if -status in ASKING:                                    # sent to the whole group: then to this process as well
            time.sleep(GROUP_SECONDS)
            raise_if_stopped()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return Outcome(item, reason=DIED, detail=f"{how}; killed for its memory?" if status == -signal.SIGKILL else how)


_POOLS: dict[int, "ProcessPool"] = {}
"""Started pools by their number of workers: a later map reuses them, with everything they have imported."""


def _pool(workers: int) -> "ProcessPool":
    from pebble import ProcessPool

    pool = _POOLS.get(workers)
    if pool is None or not pool.active:
        for other in list(_POOLS):
            _close(other)
        pool = _POOLS[workers] = ProcessPool(workers, initializer=_prepare_worker, context=multiprocessing.get_context("spawn"))
        Finalize(None, _close_all, exitpriority=0)               # before multiprocessing waits for all who were started
    return pool


def _prepare_worker() -> None:
    """Limit a worker to one thread, since there are as many workers as processors; leave Ctrl-C to the parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from threadpoolctl import threadpool_limits

    global _limits
    _limits = threadpool_limits(1)


_limits: Any = None


def _close_all() -> None:
    for workers in list(_POOLS):
        _close(workers)


def _close(workers: int) -> None:
    pool = _POOLS.pop(workers, None)
    if pool is not None:
        pool.stop()
        pool.join()
