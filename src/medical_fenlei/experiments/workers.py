"""Jobs in processes of their own, so that what ends one (lack of memory, a broken driver) does not end the others.

Between this process and the jobs stands a starter: a process that imports what the jobs need, once, and does nothing else. Each
job is a fork of it, and begins with everything imported. Nobody but the starter may be forked: threads do not survive a fork,
and whatever computes with torch has some.
"""
import contextlib
import gc
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic

from medical_fenlei.errors import STOPPED, Stopped
from medical_fenlei.log import log_to_terminal
from medical_fenlei.outcomes import DIED, Item, Outcome, attempt
from medical_fenlei.signals import ASKING, stop_is_handled, stop_on_signals

FORK = "fork" if sys.platform == "linux" else "spawn"
"""How the starter starts a job. Elsewhere system libraries do not survive a fork: there each job imports everything anew."""
ASKED = {signal.SIGINT, *ASKING}
"""Signals of a job that the starter leaves to it, even where they are sent to all processes of a terminal."""


@dataclass(frozen=True)
class Work:
    """What the jobs do: functions of one item, as `module:function`, so that this process need not import them."""

    function: str
    """Called in the process of the job."""

    prepare: str
    """Called in the starter before each job: imports what the job needs, and must not compute nor start threads."""

    quiet: bool
    """Whether the jobs print nothing."""

    threads: int | None
    """Processor threads of each job (None: chosen by PyTorch)."""


class WorkerProcesses(Generic[Item]):
    """Calls a function for each item in a new process. The processes do not outlive this one.

    Used as a context: leaving it early stops the processes that are running, and each saves its state first.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._running: dict[str, Item] = {}
        self._starter: tuple[Connection, BaseProcess] | None = None

    def __enter__(self) -> "WorkerProcesses[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        if self._starter is not None:
            orders, process = self._starter
            with contextlib.suppress(OSError):                   # it has died
                orders.send(None)
            process.join()

    @property
    def running(self) -> int:
        """Number of processes that are running."""
        return len(self._running)

    def start(self, item: Item, *, name: str) -> None:
        """Start the process of an item. name: of the process, for messages; no two that run may share one."""
        if self._starter is None:
            resource_tracker.ensure_running()                    # or starting it would let the signals through
            with _blocked(ASKED):                                # or an interrupt could lose the starter that has begun
                self._starter = _start_starter(self._work)
        self._running[name] = item
        with contextlib.suppress(OSError):                       # it has died, as `next_outcome` will say
            self._starter[0].send((name, item))

    def next_outcome(self) -> Outcome[Item, None]:
        """Wait until a process ends, and return its outcome. Raises Stopped if a signal stopped it."""
        assert self._starter is not None
        orders, starter = self._starter
        try:
            name, outcome, exit_code = orders.recv()
        except (EOFError, OSError):                              # the jobs died with it; the next job has another starter
            starter.join()
            name, outcome, exit_code = next(iter(self._running)), None, starter.exitcode
        item = self._running.pop(name)
        if starter.exitcode is not None and not self._running:
            self._starter = None
        if outcome is not None:
            return Outcome(item, reason=outcome.reason, detail=outcome.detail)
        if exit_code == STOPPED:
            raise Stopped(f"{name} is saved; the same command continues it")
        return Outcome(item, reason=DIED, detail=_cause_of_death(exit_code or 0))


def _cause_of_death(exit_code: int) -> str:
    """The exit status, or the signal, of a process that died."""
    if exit_code >= 0:
        return f"exit status {exit_code}"
    cause = f"signal {signal.Signals(-exit_code).name}"
    return f"{cause}; killed for its memory?" if exit_code == -signal.SIGKILL else cause


def _start_starter(work: Work) -> tuple[Connection, BaseProcess]:
    """Start the starter. The signals of ASKED have to wait here, and then wait in it from its first instruction on."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_start_jobs, args=(there, work), name="starter")
    process.start()
    there.close()
    return here, process


@contextlib.contextmanager
def _blocked(numbers: set[signal.Signals]) -> Iterator[None]:
    """Let these signals wait while the block is executed. Processes that it starts inherit that, for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_jobs(orders: Connection, work: Work) -> None:
    """The main function of the starter: start the jobs that are ordered, and report those that end.

    An order is the name and the item of a job, or None: ask all to stop, and end with them, as where no order can come any
    more. A report is the name of the job, its outcome (None if it died) and its exit status.
    """
    try:
        _carry_out(orders, work)
    finally:
        gc.unfreeze()                                            # or triton calls what is frozen at the end a leak (findings)


def _carry_out(orders: Connection, work: Work) -> None:
    """The loop of `_start_jobs`."""
    context, parent = multiprocessing.get_context(FORK), multiprocessing.parent_process()
    assert parent is not None
    running: dict[Any, tuple[str, BaseProcess]] = {}
    stopping = False
    while running or not stopping:
        for ready in wait([parent.sentinel, *([] if stopping else [orders]), *running]):
            if ready == parent.sentinel:
                for _, process in running.values():
                    process.kill()
                return
            if ready is not orders:
                name, process = running.pop(ready)
                outcome = _outcome_of(ready, process)
                with contextlib.suppress(OSError):               # nobody is there any more
                    orders.send((name, outcome, process.exitcode))
            elif (order := _next_order(orders)) is None:
                for _, process in running.values():
                    process.terminate()
                stopping = True
            else:
                receiver, process = _start_job(context, work, order[0], order[1], parent.sentinel)
                running[receiver] = order[0], process


def _next_order(orders: Connection) -> tuple[str, Any] | None:
    """The order that has arrived; None to stop, and if nobody is there any more."""
    try:
        order: tuple[str, Any] | None = orders.recv()
    except (EOFError, OSError):
        return None
    return order


def _start_job(context: Any, work: Work, name: str, item: Any, parent: int) -> tuple[Connection, BaseProcess]:
    """Start a job; return where its outcome arrives, and its process. parent: sentinel of the starter's parent."""
    with contextlib.suppress(Exception):                         # the job meets the same error, and says so
        if FORK == "fork":
            pkgutil.resolve_name(work.prepare)(item)
            gc.freeze()                                          # the jobs' garbage collector need not look at all of this
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, name=name,
                              args=(work, item, sender, parent if FORK == "fork" else None))
    process.start()
    sender.close()
    return receiver, process


def _outcome_of(receiver: Any, process: BaseProcess) -> Outcome[Any, None] | None:
    """The outcome of a job that ends, or None if it died."""
    outcome: Outcome[Any, None] | None = None
    with contextlib.suppress(EOFError, OSError):
        outcome = receiver.recv()
    receiver.close()
    process.join()
    return outcome


def _work(work: Work, item: Any, sender: Connection, grandparent: int | None) -> None:
    """The main function of a job. grandparent: sentinel of the process that ordered it, if it is inherited."""
    try:
        stop_on_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)        # here arrives what was sent while it started
        if work.quiet:
            _discard_output()
        else:
            log_to_terminal()
        if work.threads:
            import torch

            torch.set_num_threads(work.threads)
        threading.Thread(target=_die_with_others, args=(grandparent,), daemon=True).start()
        function: Callable[[Any], None] = pkgutil.resolve_name(work.function)
        sender.send(attempt(function, item))
    except KeyboardInterrupt:
        stop_is_handled()
        raise SystemExit(STOPPED) from None


def _discard_output() -> None:
    """Send standard output and standard error, also those of libraries, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _die_with_others(grandparent: int | None) -> None:
    """Kill this process when the starter has ended, or the process that ordered the job: the starter may be busy importing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel, *([] if grandparent is None else [grandparent])])
    os.kill(os.getpid(), signal.SIGKILL)
