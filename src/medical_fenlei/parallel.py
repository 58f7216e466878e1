"""One map over many items: progress, workers, and a reason for every item that failed.

Workers are processes of this machine, or of a Dask cluster. An item that kills its process (a decoder that crashes, memory that
runs out) or hangs costs itself alone: the others go on.
"""
import atexit
import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medical_fenlei import __version__
from medical_fenlei.errors import Rejected, UserError

if TYPE_CHECKING:
    from pebble import ProcessPool

Item = TypeVar("Item")
Value = TypeVar("Value")

UNEXPECTED, DIED, TIMED_OUT = "unexpected_error", "process_died", "timed_out"
Workers = int | str
"""How many processes of this machine, or the address of a Dask scheduler (`tcp://host:8786`) whose workers do the work."""

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
    try:
        os.chdir(folder)                                         # a worker may be older than this map, and started elsewhere
        return attempt(function, item)
    except BaseException as error:                               # what would end a process alone ends no other here
        return Outcome(item, reason=UNEXPECTED, detail=type(error).__name__)


def map_items(
    function: Callable[[Item], Value], items: Iterable[Item], *, workers: Workers, label: str, patience: float = PATIENCE
) -> Iterator[Outcome[Item, Value]]:
    """Outcomes in the order of the items, as they are done, with a progress bar on a terminal.

    function: of a module, or a partial of one. workers: 0 or 1 works in this process, where nothing can be survived that ends a
    process. patience: seconds an item may take in a process of its own. Raises UserError where a cluster cannot be used.
    """
    from tqdm import tqdm

    todo = list(items)
    away = partial(_attempt_in, os.getcwd(), function)
    if isinstance(workers, str):
        outcomes: Iterable[Outcome[Item, Value]] = _on_cluster(away, todo, workers, patience) if todo else ()
    elif min(workers, len(todo)) <= 1:
        outcomes = map(partial(attempt, function), todo)
    else:
        outcomes = _in_processes(away, todo, min(workers, len(todo)), patience)
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
        if not all(future.done() for future in under_way):
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
    pool = _POOLS.pop(workers, None)
    if pool is not None:
        pool.stop()
        pool.join()


def _on_cluster(
    work: Callable[[Item], Outcome[Item, Value]], todo: list[Item], address: str, patience: float
) -> Iterator[Outcome[Item, Value]]:
    """Each worker has one item at a time, and none waits behind it: so the item that ends a worker is known."""
    try:
        from distributed import Client, wait
    except ImportError:
        raise UserError("--cluster: needs Dask; pip install -r requirements-cluster.txt, here and on the cluster") from None
    try:
        client = Client(address, timeout=CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(f"--cluster {address}: no Dask scheduler answers there ({type(error).__name__}); is `dask scheduler` "
                        "running, and the address as it says?") from None
    with client, _one_failure_ends(client, address):
        left = deque(enumerate(todo))
        at_work: dict[Any, tuple[int, str]] = {}
        done: dict[int, Outcome[Item, Value]] = {}
        able: dict[str, str] = {}
        if not client.nthreads():
            raise UserError(f"--cluster {address}: it has no workers; start some with `dask worker {address} --nthreads 1`")
        for number in range(len(todo)):
            while number not in done:
                try:
                    known = client.scheduler_info(n_workers=-1)["workers"]
                    there = {worker: about["status"] for worker, about in known.items()}
                    able |= _judged(client, set(there) - set(able))
                    unfit = [able[worker] for worker in sorted(there) if able[worker]]
                    if not at_work and unfit and len(unfit) == len(there):
                        raise UserError(f"--cluster {address}: {unfit[0]}")
                    for lost in [future for future, (_, worker) in at_work.items() if worker not in there]:
                        if not lost.done():                      # it left before it had begun
                            again, _ = at_work.pop(lost)
                            left.appendleft((again, todo[again]))
                            lost.cancel()
                    busy = {worker for _, worker in at_work.values()}
                    for worker in sorted(there):                 # those whose memory is full are paused
                        if left and worker not in busy and there[worker] == "running" and not able[worker]:
                            n, item = left.popleft()
                            future = client.submit(_within, patience, work, item, workers=[worker], pure=False, retries=0)
                            at_work[future] = n, worker
                    if not at_work:                              # all of them are being started anew
                        client.wait_for_workers(1, timeout=RESTART)
                        time.sleep(LOOK / 50)
                        continue
                    with contextlib.suppress(TimeoutError):
                        wait(at_work, timeout=LOOK, return_when="FIRST_COMPLETED")
                    for future in [future for future in at_work if future.done()]:
                        n, _ = at_work.pop(future)
                        done[n] = _of_cluster(todo[n], future, patience)
                except OSError as error:                         # the scheduler is gone, or no worker has come back
                    raise UserError(f"--cluster {address}: lost ({type(error).__name__}); what was finished is kept, start it "
                                    "and run this again") from None
            yield done.pop(number)


def _of_cluster(item: Item, future: Any, patience: float) -> Outcome[Item, Value]:
    from distributed.scheduler import KilledWorker

    try:
        found: Outcome[Item, Value] = future.result(timeout=FETCH)
        return found
    except KilledWorker:
        return Outcome(item, reason=DIED, detail=f"its worker crashed, ran out of memory, or took {patience:g} s")
    except TimeoutError:
        return Outcome(item, reason=DIED, detail="its worker was gone before its result was fetched")
    except Exception as error:                                   # a result that cannot be sent
        return Outcome(item, reason=UNEXPECTED, detail=type(error).__name__)


CONNECT, RESTART, LOOK, FETCH = "10s", 300.0, 5.0, 120.0
"""How long a scheduler may take to answer; seconds that a cluster may be without a worker, between looks at what it has, and
that a result may take to come over."""


@contextlib.contextmanager
def _one_failure_ends(client: Any, address: str) -> Iterator[None]:
    """Within, an item that ends its worker is not tried on others, which it would end too. Raises UserError."""
    try:
        before = client.run_on_scheduler(_allow_failures, 0)
    except Exception as error:                                   # whatever keeps it from importing this package
        raise UserError(f"--cluster {address}: its scheduler {CANNOT.format(type(error).__name__)}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            client.run_on_scheduler(_allow_failures, before)


CANNOT = "cannot import medical_fenlei ({}); start it with PYTHONPATH=…/src, in the same environment"


def _allow_failures(number: int, dask_scheduler: Any = None) -> int:
    before: int = dask_scheduler.allowed_failures
    dask_scheduler.allowed_failures = number
    return before


def _judged(client: Any, workers: set[str]) -> dict[str, str]:
    """By worker: why it cannot do the work, "" where it can."""
    threads = client.nthreads() if workers else {}
    found = {}
    for worker in workers:
        if threads.get(worker, 1) > 1:
            found[worker] = (f"worker {worker} has {threads[worker]} threads; start it with --nthreads 1 (and --nworkers), for "
                             "an item may end its process")
            continue
        try:
            same = client.run(_is_same, __version__, os.getcwd(), workers=[worker]).get(worker, False)
            found[worker] = "" if same else (f"worker {worker} has another version of this program, or does not see "
                                             f"{os.getcwd()}; all need the same folders on a shared disk")
        except OSError:
            found[worker] = "the worker is gone"
        except Exception as error:                               # whatever keeps it from importing this package
            found[worker] = f"worker {worker} {CANNOT.format(type(error).__name__)}"
    return found


def _is_same(version: str, folder: str) -> bool:
    return version == __version__ and os.path.isdir(folder)


def _within(patience: float, work: Callable[[Item], Outcome[Item, Value]], item: Item) -> Outcome[Item, Value]:
    """Of a cluster's worker: an item that hangs ends it, and it is started anew."""
    faulthandler.dump_traceback_later(patience, exit=True)
    try:
        return work(item)
    finally:
        faulthandler.cancel_dump_traceback_later()
