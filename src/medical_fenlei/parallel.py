"""One map over many items: progress, worker processes, and a reason for every item that failed."""
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from medical_fenlei.errors import Rejected

Item = TypeVar("Item")
Value = TypeVar("Value")

UNEXPECTED = "unexpected_error"


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
    return attempt(function, item)


def map_items(
    function: Callable[[Item], Value], items: Iterable[Item], *, workers: int, label: str
) -> Iterator[Outcome[Item, Value]]:
    """Outcomes in the order of the items, as they are done, with a progress bar on a terminal.

    workers: processes; 0 or 1 works in this one.
    """
    from tqdm import tqdm

    todo = list(items)
    workers = min(workers, len(todo))
    if workers <= 1:
        outcomes: Iterable[Outcome[Item, Value]] = map(partial(attempt, function), todo)
    else:
        from joblib import Parallel, delayed

        call = delayed(partial(_attempt_in, os.getcwd(), function))
        outcomes = Parallel(n_jobs=workers, return_as="generator")(call(item) for item in todo)
    yield from tqdm(outcomes, total=len(todo), desc=label, unit="", file=sys.stderr, disable=None, leave=False)
