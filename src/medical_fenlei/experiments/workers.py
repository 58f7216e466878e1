"""Jobs in processes of their own, so that what ends one (lack of memory, a broken driver) does not end the others."""
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Generic

from medical_fenlei.errors import STOPPED, Stopped
from medical_fenlei.log import log_to_terminal
from medical_fenlei.outcomes import DIED, Item, Outcome, attempt
from medical_fenlei.signals import stop_is_handled, stop_on_signals


class WorkerProcesses(Generic[Item]):
    """Calls a function for each item in a new process. The processes do not outlive this one.

    Used as a context: leaving it early stops the processes that are running, and each saves its state first.
    """

    def __init__(self, function: Callable[[Item], None], *, quiet: bool, threads: int | None) -> None:
        """Prepare to call a module's function.

        quiet: the processes print nothing. threads: processor threads of each (default: chosen by PyTorch).
        """
        self._function, self._quiet, self._threads = function, quiet, threads
        self._running: dict[Connection, tuple[Item, SpawnProcess]] = {}

    def __enter__(self) -> "WorkerProcesses[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        for _, process in self._running.values():
            process.terminate()
        for _, process in self._running.values():
            process.join()

    @property
    def running(self) -> int:
        """Number of processes that are running."""
        return len(self._running)

    def start(self, item: Item, *, name: str) -> None:
        """Start the process of an item. name: of the process, for messages."""
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(self._function, item, sender, self._quiet, self._threads), name=name)
        process.start()
        sender.close()
        self._running[receiver] = item, process

    def next_outcome(self) -> Outcome[Item, None]:
        """Wait until a process ends, and return its outcome. Raises Stopped if a signal stopped it."""
        receiver = next(ready for ready in wait(list(self._running)) if isinstance(ready, Connection))
        item, process = self._running.pop(receiver)
        try:
            outcome: Outcome[Item, None] = receiver.recv()
        except EOFError:                                         # it ended without an outcome
            process.join()
            if process.exitcode == STOPPED:
                raise Stopped(f"{process.name} is saved; the same command continues it") from None
            return Outcome(item, reason=DIED, detail=_cause_of_death(process.exitcode or 0))
        process.join()
        return outcome


def _cause_of_death(exit_code: int) -> str:
    """The exit status, or the signal, of a process that died."""
    if exit_code >= 0:
        return f"exit status {exit_code}"
    cause = f"signal {signal.Signals(-exit_code).name}"
    return f"{cause}; killed for its memory?" if exit_code == -signal.SIGKILL else cause


def _work(
    function: Callable[[Item], None], item: Item, sender: Connection, quiet: bool, threads: int | None
) -> None:
    """The main function of a process."""
    stop_on_signals()
    if quiet:
        _discard_output()
    else:
        log_to_terminal()
    if threads:
        import torch

        torch.set_num_threads(threads)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
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


def _die_with_parent() -> None:
    """Kill this process when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
