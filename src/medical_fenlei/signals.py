"""Signals that ask a job to stop: as an interruption, or as a question that the work asks at places where it may be left."""
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
"""What ends a job: SIGTERM; the signal that one usually asks SLURM to send before the time is up (--signal=USR1@120); and the
alarm as which one of them comes again."""
LOADING = 0.05
"""Seconds after which it does."""


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt; later, while a module is loaded: the library might swallow it, or take the process down."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, LOADING)
            return
        frame = frame.f_back
    for other in WARNINGS:
        signal.signal(other, signal.SIG_IGN)                     # asked once is enough: nothing disturbs the cleaning up
    raise KeyboardInterrupt


def stop_on_signals() -> None:
    """From here on these are what Ctrl-C is; once."""
    for number in WARNINGS:
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:                    # not ignored, as behind `nohup … &`
        signal.signal(signal.SIGINT, _interrupt)


class Stop:
    """Whether the work was asked to stop, for work that may only be left at certain places."""

    def __init__(self) -> None:
        self.asked = self._by_hand = False

    @contextlib.contextmanager
    def on_signals(self) -> Iterator["Stop"]:
        """Within, a signal interrupts nothing, but for a second Ctrl-C, and is told by `asked`. Outside the main thread, which
        alone gets them, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, *WARNINGS)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.asked and number in WARNINGS else handler)

    def _note(self, number: int, frame: object) -> None:
        if self._by_hand and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._by_hand |= number == signal.SIGINT
        self.asked = True
