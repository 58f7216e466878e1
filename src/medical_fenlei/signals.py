"""Signals that ask a job to stop: as a KeyboardInterrupt, or as a flag that the work checks where it can be left."""
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
"""Signals that ask for a stop: SIGTERM; SIGUSR1, which SLURM usually sends before the time limit (--signal=USR1@120); and
SIGALRM, as which a signal that came during an import is repeated."""
RETRY_SECONDS = 0.05
"""How long after a signal during an import it is repeated."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not during an import: the library might swallow it, or crash the process."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
            return
        frame = frame.f_back
    for other in WARNINGS:
        signal.signal(other, signal.SIG_IGN)                     # a second signal must not disturb the cleanup
    raise KeyboardInterrupt


def stop_on_signals() -> None:
    """Make the signals that ask for a stop raise KeyboardInterrupt, once, as Ctrl-C does."""
    for number in WARNINGS:
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:                    # not ignored, as behind `nohup … &`
        signal.signal(signal.SIGINT, _interrupt)


class StopRequest:
    """Whether the work was asked to stop, for work that can only be left at certain points."""

    def __init__(self) -> None:
        self.received = self._by_hand = False

    @contextlib.contextmanager
    def on_signals(self) -> Iterator["StopRequest"]:
        """Make signals set `received` inside the block instead of interrupting it; a second Ctrl-C still interrupts.

        Outside the main thread, which alone receives signals, nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, *WARNINGS)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.received and number in WARNINGS else handler)

    def _note(self, number: int, frame: object) -> None:
        if self._by_hand and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._by_hand |= number == signal.SIGINT
        self.received = True
