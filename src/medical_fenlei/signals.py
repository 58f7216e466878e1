"""Signals that ask a job to stop: as a KeyboardInterrupt, or as a flag that the work checks where it can be left.

An interrupt can be lost: Python drops what is raised in a destructor, and libraries catch more than is theirs. So the signal is
noted as well, and the interrupt is raised again: at the next item (`raise_if_stopped`), or as soon as the one before is gone.
"""
import contextlib
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask for a stop, as Ctrl-C does: SIGTERM; SIGUSR1, which SLURM usually sends before the time limit
(--signal=USR1@120)."""
RETRY_SECONDS = 0.05
"""How long after a signal it is checked, by SIGALRM, whether its interrupt arrived."""


class Interrupted(KeyboardInterrupt):
    """The interrupt of a signal."""


class _Noted:
    """The signal that came and was not handled yet."""

    asked = False
    raised: "weakref.ref[Interrupted] | None" = None
    """The interrupt that was raised last; dead if somebody dropped it."""


def stop_on_signals() -> None:
    """Make the signals that ask for a stop raise KeyboardInterrupt, as Ctrl-C does. Those that are ignored stay ignored."""
    stop_is_handled()
    for number in _heeded(ASKING):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:                    # not ignored, as behind `nohup … &`
        signal.signal(signal.SIGINT, _interrupt)
    if sys.unraisablehook is not _drop_interrupts:
        _drop_interrupts.others = sys.unraisablehook  # type: ignore[attr-defined]
        sys.unraisablehook = _drop_interrupts


def raise_if_stopped() -> None:
    """Raise KeyboardInterrupt if a signal asked for a stop and nobody handled it yet. In other threads nothing happens."""
    if _Noted.asked and threading.current_thread() is threading.main_thread():
        _raise()


def stop_is_handled() -> bool:
    """Return whether a signal asked for a stop, and forget it: no interrupt is raised for it any more."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    asked, _Noted.asked = _Noted.asked, False
    return asked


def _heeded(numbers: tuple[signal.Signals, ...]) -> list[signal.Signals]:
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, but not during an import: the library might swallow it, or crash the process."""
    on_its_way = _Noted.raised is not None and _Noted.raised() is not None
    if number == signal.SIGALRM and _Noted.asked and on_its_way:
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
        return
    _Noted.asked = True
    for other in ASKING:
        signal.signal(other, signal.SIG_IGN)                     # a second signal must not disturb the cleanup
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
            return
        frame = frame.f_back
    _raise()


def _raise() -> None:
    interrupt = Interrupted()
    _Noted.raised = weakref.ref(interrupt)
    signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
    try:
        raise interrupt
    finally:
        del interrupt                                            # or its own traceback would keep it alive


def _drop_interrupts(lost: Any) -> None:
    """Say nothing of an interrupt in a destructor, which is raised again; leave other exceptions to the hook before."""
    if not issubclass(lost.exc_type, Interrupted):
        _drop_interrupts.others(lost)  # type: ignore[attr-defined]


class StopRequest:
    """Whether the work was asked to stop, for work that can only be left at certain points."""

    def __init__(self) -> None:
        self.received = self._by_hand = False

    @contextlib.contextmanager
    def on_signals(self) -> Iterator["StopRequest"]:
        """Make signals set `received` inside the block instead of interrupting it; a second Ctrl-C still interrupts.

        Outside the main thread, which alone receives signals, nothing changes; nor for signals that are ignored.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        heeded = _heeded((signal.SIGINT, *ASKING, signal.SIGALRM))
        before = {number: signal.signal(number, self._note) for number in heeded}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.received and number in ASKING else handler)

    def _note(self, number: int, frame: object) -> None:
        if self._by_hand and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._by_hand |= number == signal.SIGINT
        self.received = True
