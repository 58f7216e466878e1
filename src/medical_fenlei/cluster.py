"""A map over many items on the workers of a Dask cluster.

Each worker has one item at a time, and none waits behind it, so that it is clear which item ended a worker.
"""
import contextlib
import faulthandler
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Generic

from medical_fenlei import __version__
from medical_fenlei.errors import UserError
from medical_fenlei.outcomes import DIED, UNEXPECTED, Item, Outcome, Value

CONNECT_TIMEOUT = "10s"
"""How long a scheduler may take to answer."""
RESTART_SECONDS = 300.0
"""How long a cluster may be without a worker."""
POLL_SECONDS = 5.0
"""How often the workers of the cluster are listed."""
FETCH_SECONDS = 120.0
"""How long the transfer of a result may take."""

Work = Callable[[Item], Outcome[Item, Value]]
CANNOT_IMPORT = "cannot import medical_fenlei ({}); start it with PYTHONPATH=…/src, in the same environment"


def map_on_cluster(
    work: Work[Item, Value], items: list[Item], address: str, item_seconds: float
) -> Iterator[Outcome[Item, Value]]:
    """Yield the outcomes in the order of the items. Raises UserError if the cluster cannot be used or is lost.

    work: returns the outcome of an item and raises nothing; item_seconds: time limit of an item, after which its worker ends.
    """
    with _connect(address) as client, _without_retries(client, address):
        if not client.nthreads():
            raise UserError(f"--cluster {address}: it has no workers; start some with `dask worker {address} --nthreads 1`")
        yield from _ClusterMap(client, address, work, items, item_seconds).outcomes()


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--cluster: needs Dask; pip install -r requirements-cluster.txt, here and on the cluster") from None
    try:
        return Client(address, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(f"--cluster {address}: no Dask scheduler answers there ({type(error).__name__}); is `dask scheduler` "
                        "running, and the address as it says?") from None


@contextlib.contextmanager
def _without_retries(client: Any, address: str) -> Iterator[None]:
    """Make the scheduler give up an item that ended its worker, instead of ending other workers with it. Raises UserError."""
    try:
        before = client.run_on_scheduler(_set_allowed_failures, 0)
    except Exception as error:                                   # whatever keeps it from importing this package
        raise UserError(f"--cluster {address}: its scheduler {CANNOT_IMPORT.format(type(error).__name__)}") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            client.run_on_scheduler(_set_allowed_failures, before)


def _set_allowed_failures(number: int, dask_scheduler: Any = None) -> int:
    """Runs on the scheduler; returns the number before."""
    before: int = dask_scheduler.allowed_failures
    dask_scheduler.allowed_failures = number
    return before


class _ClusterMap(Generic[Item, Value]):
    """The state of a map: which items wait, which run and where, and which workers can be used."""

    def __init__(self, client: Any, address: str, work: Work[Item, Value], items: list[Item], item_seconds: float) -> None:
        self._client, self._address, self._work, self._item_seconds = client, address, work, item_seconds
        self._items = items
        self._waiting = deque(range(len(items)))
        self._running: dict[Any, tuple[int, str]] = {}
        """Future to the number of its item and its worker."""
        self._faults: dict[str, str] = {}
        """Worker to why it cannot be used, "" if it can."""

    def outcomes(self) -> Iterator[Outcome[Item, Value]]:
        """Yield the outcomes in the order of the items. Raises UserError."""
        done: dict[int, Outcome[Item, Value]] = {}
        for number in range(len(self._items)):
            while number not in done:
                try:
                    self._submit(self._worker_status())
                    done |= self._collect()
                except OSError as error:                         # the scheduler is gone, or no worker came back
                    raise UserError(f"--cluster {self._address}: lost ({type(error).__name__}); what was finished is kept, "
                                    "start it and run this again") from None
            yield done.pop(number)

    def _worker_status(self) -> dict[str, str]:
        """The status of each worker; the items of lost workers wait again. Raises UserError if none can be used."""
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        status = {worker: facts["status"] for worker, facts in known.items()}
        self._faults |= _faults(self._client, set(status) - set(self._faults))
        faults = [self._faults[worker] for worker in sorted(status) if self._faults[worker]]
        if not self._running and faults and len(faults) == len(status):
            raise UserError(f"--cluster {self._address}: {faults[0]}")
        for future in [future for future, (_, worker) in self._running.items() if worker not in status]:
            if not future.done():                                # the worker left before it had begun
                number, _ = self._running.pop(future)
                self._waiting.appendleft(number)
                future.cancel()
        return status

    def _submit(self, status: dict[str, str]) -> None:
        """Give an item to each idle worker; a worker whose memory is full is paused and gets none."""
        busy = {worker for _, worker in self._running.values()}
        for worker in sorted(status):
            if self._waiting and worker not in busy and status[worker] == "running" and not self._faults[worker]:
                number = self._waiting.popleft()
                future = self._client.submit(_run_with_time_limit, self._item_seconds, self._work, self._items[number],
                                             workers=[worker], pure=False, retries=0)
                self._running[future] = number, worker

    def _collect(self) -> dict[int, Outcome[Item, Value]]:
        """Wait until an item is finished, at most POLL_SECONDS; return the finished outcomes by number."""
        from distributed import wait

        if not self._running:                                    # all workers are being restarted
            self._client.wait_for_workers(1, timeout=RESTART_SECONDS)
            time.sleep(POLL_SECONDS / 50)
            return {}
        with contextlib.suppress(TimeoutError):
            wait(self._running, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
        done = {}
        for future in [future for future in self._running if future.done()]:
            number, _ = self._running.pop(future)
            done[number] = self._outcome(self._items[number], future)
        return done

    def _outcome(self, item: Item, future: Any) -> Outcome[Item, Value]:
        from distributed.scheduler import KilledWorker

        try:
            outcome: Outcome[Item, Value] = future.result(timeout=FETCH_SECONDS)
            return outcome
        except KilledWorker:
            return Outcome(item, reason=DIED, detail=f"its worker crashed, ran out of memory, or took {self._item_seconds:g} s")
        except TimeoutError:
            return Outcome(item, reason=DIED, detail="its worker was gone before its result was fetched")
        except Exception as error:                               # a result that cannot be sent
            return Outcome(item, reason=UNEXPECTED, detail=type(error).__name__)


def _faults(client: Any, workers: set[str]) -> dict[str, str]:
    """Why each worker cannot be used, "" if it can."""
    threads = client.nthreads() if workers else {}
    return {worker: _fault(client, worker, threads.get(worker, 1)) for worker in workers}


def _fault(client: Any, worker: str, threads: int) -> str:
    if threads > 1:
        return (f"worker {worker} has {threads} threads; start it with --nthreads 1 (and --nworkers), since an item may end "
                "its process")
    try:
        same = client.run(_is_same, __version__, os.getcwd(), workers=[worker]).get(worker, False)
    except OSError:
        return "the worker is gone"
    except Exception as error:                                   # whatever keeps it from importing this package
        return f"worker {worker} {CANNOT_IMPORT.format(type(error).__name__)}"
    return "" if same else (f"worker {worker} has another version of this program, or does not see {os.getcwd()}; all need the "
                            "same folders on a shared disk")


def _is_same(version: str, folder: str) -> bool:
    """Runs on a worker: whether it has this version of the package and sees the folder."""
    return version == __version__ and os.path.isdir(folder)


def _run_with_time_limit(item_seconds: float, work: Work[Item, Value], item: Item) -> Outcome[Item, Value]:
    """Runs on a worker: an item that hangs ends the worker, which is then restarted."""
    faulthandler.dump_traceback_later(item_seconds, exit=True)
    try:
        return work(item)
    finally:
        faulthandler.cancel_dump_traceback_later()
