"""A trained network on one set of ears: predictions, every measure with its interval, the cases that went wrong."""
from dataclasses import dataclass

import pandas as pd

from medical_fenlei.analysis.trained import Trained
from medical_fenlei.data.sources import find_ears
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.bootstrap import Intervals
from medical_fenlei.metrics.predictions import intervals_of
from medical_fenlei.tasks import OUTSIDE, Task, named_apart
from medical_fenlei.training.config import DataConfig


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one task on one set."""

    task: Task
    set_name: str
    """train, tune, val or test, and whether only its first ears were taken."""

    label: str
    """What stands behind the stem of each file: the set, and of a network with several tasks the task."""

    checkpoint_epoch: int
    predictions: pd.DataFrame
    """`tables.PREDICTIONS` of the ears that the task concerns."""

    intervals: Intervals
    rejects: pd.DataFrame
    warnings: tuple[str, ...]
    hashes: dict[str, str | None]

    @property
    def ears(self) -> int:
        return len(self.predictions)

    @property
    def per_class(self) -> dict[str, int]:
        names = ("negative", "positive") if self.task.binary else [f"of code {codes[0]}" for codes in self.task.classes]
        return {name: int((self.predictions.y_true == c).sum()) for c, name in enumerate(names)}


def set_label(set_name: str, data: DataConfig) -> str:
    """The set as reports call it: with `--limit` they say so."""
    return set_name if data.limit is None else f"{set_name}_first{data.limit}"


def table_of(intervals: Intervals) -> pd.DataFrame:
    """metric, estimate, 95 % interval, note: a row a measure, as text."""
    return pd.DataFrame([{"metric": name, "estimate": f"{i.estimate:.3f}", "95 % interval": f"{i.low:.3f} to {i.high:.3f}",
                          "note": i.reason} for name, i in intervals.values.items()])


def evaluate(
    trained: Trained, data: DataConfig, set_name: str, *, batch_size: int | None = None, draws: int = 2000
) -> list[Evaluation]:
    """Of each task that the data names. A task without an ear there, beside others that have some, has measures of NaN.

    Raises UserError if it is none of the network's tasks, the split has no such set, or no ear of it takes part in any task.
    """
    tasks, store = trained.chosen(data), trained.store(data)
    sources = find_ears(data, store, tasks, (set_name,))
    dataset = sources.dataset(store, set_name, sources.placement(store, trained.arithmetic.device))
    if dataset is None:
        raise UserError(f"--split {set_name}: {data.splits_root} --pct {data.pct} has no ears there for "
                        + ", ".join(task.name for task in tasks))
    predictions = trained.predict(dataset, batch_size=batch_size)
    warnings = []
    if set_name == "train":
        warnings.append("the network was fitted on this set: these figures say nothing about new patients")
    if set_name == "tune":
        warnings.append("the epoch was chosen on this set: these figures are too good")
    if data.limit is not None:
        warnings.append(f"only the first {data.limit}: not the figures of the set")
    name, results = set_label(set_name, data), []
    for task in tasks:
        found = predictions[task.name]
        own = found[found.y_true != OUTSIDE].reset_index(drop=True)
        results.append(Evaluation(
            task, name, named_apart(name, task, trained.tasks), trained.checkpoint.epoch, own,
            intervals_of(own, task, draws=draws), sources.rejects, tuple(warnings), sources.hashes))
    return results
