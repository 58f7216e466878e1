"""The outcome of one item of a map: its value, or the reason why there is none."""
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from medical_fenlei.errors import Rejected
from medical_fenlei.signals import raise_if_stopped

Item = TypeVar("Item")
Value = TypeVar("Value")

UNEXPECTED, DIED, TIMED_OUT = "unexpected_error", "process_died", "timed_out"
"""Reasons beside those of `Rejected`: another exception, the end of the worker process, no result within the time limit."""


@dataclass(frozen=True)
class Outcome(Generic[Item, Value]):
    """The outcome of one item: a value, or a reason with its detail."""

    item: Item
    """The item."""

    value: Value | None = None
    """What the function returned."""

    reason: str = ""
    """A short code that can be counted; "" for a value."""

    detail: str = ""
    """What was got and what was expected, without patient data."""

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return not self.reason


def attempt(function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    """Call `function`; an exception becomes the outcome's reason.

    Of an unexpected exception only type and position are kept: its message may quote patient data. Raises
    KeyboardInterrupt if a signal asked for a stop meanwhile, which is no fault of the item.
    """
    raise_if_stopped()
    outcome = _outcome(function, item)
    raise_if_stopped()
    return outcome


def _outcome(function: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    try:
        return Outcome(item, value=function(item))
    except Rejected as rejected:
        return Outcome(item, reason=rejected.reason, detail=rejected.detail)
    except Exception as error:                                   # one bad item must not end a batch; rejects list the reason
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(item, reason=UNEXPECTED, detail=f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}")
