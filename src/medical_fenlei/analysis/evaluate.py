"""A trained network on one set of ears: predictions, every measure with its interval, the cases that went wrong."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.analysis.predict import hard_cases, measures_of, predict, probabilities
from medical_fenlei.analysis.trained import Trained
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import find_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.files import write_json
from medical_fenlei.metrics.bootstrap import Intervals, patient_intervals
from medical_fenlei.runs import versions
from medical_fenlei.tasks import Task
from medical_fenlei.training.config import DataConfig

SEED = 42
"""Of the resampling: the same predictions give the same intervals."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured on one set."""

    task: Task
    set_name: str
    checkpoint_epoch: int
    predictions: pd.DataFrame
    """`tables.PREDICTIONS`."""

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

    def table(self) -> pd.DataFrame:
        """metric, estimate, low, high, note: a row a measure, as text."""
        return pd.DataFrame([{"metric": name, "estimate": f"{i.estimate:.3f}", "95 % interval": f"{i.low:.3f} to {i.high:.3f}",
                              "note": i.reason} for name, i in self.intervals.values.items()])


def evaluate(trained: Trained, data: DataConfig, set_name: str, *, batch_size: int, draws: int) -> Evaluation:
    """Raises UserError if the split has no such set, or no ear of it takes part in the task."""
    store = EarStore(data.cache_dir, trained.config.ears)
    sources = find_ears(data, store, trained.task, (set_name,))
    frame = sources.ears.get(set_name)
    if frame is None or frame.empty:
        raise UserError(f"--split {set_name}: {data.splits_root} --pct {data.pct} has no ears there for {trained.task.name}")
    predictions = predict(trained.model, EarDataset(store, frame), trained.task, augment=trained.config.augment,
                          arithmetic=trained.arithmetic, batch_size=batch_size)
    content = np.column_stack([predictions.y_true, probabilities(predictions, trained.task)])
    intervals = patient_intervals(measures_of(predictions, trained.task), predictions.patient_key.to_numpy(), content,
                                  seed=SEED, draws=draws)
    warnings = []
    if set_name == "train":
        warnings.append("the network was fitted on this set: these figures say nothing about new patients")
    if set_name == "tune":
        warnings.append("the epoch was chosen on this set: these figures are too good")
    return Evaluation(trained.task, set_name, trained.checkpoint.epoch, predictions, intervals, sources.rejects,
                      tuple(warnings), sources.hashes)


def write_reports(result: Evaluation, folder: Path) -> list[Path]:
    """Predictions, metrics and hard cases; returns the files."""
    def named(stem: str, ending: str) -> Path:
        return folder / f"{stem}_{result.set_name}.{ending}"

    csv, metrics, hard = named("predictions", "csv"), named("metrics", "json"), named("hard_cases", "csv")
    tables.PREDICTIONS.write(csv, result.predictions)
    write_json(metrics, {
        "task": result.task.name, "set": result.set_name, "epoch": result.checkpoint_epoch, "ears": result.ears,
        "patients": result.intervals.patients, "per_class": result.per_class,
        "metrics": {name: interval._asdict() for name, interval in result.intervals.values.items()},
        "warnings": [*result.intervals.warnings, *result.warnings], "data": result.hashes, "versions": versions(),
    })
    tables.PREDICTIONS.write(hard, hard_cases(result.predictions, result.task))
    return [csv, metrics, hard]
