"""Evaluate a trained network on one set of ears: calibrated predictions, every measure with its interval, and subgroups."""
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.selection import set_label
from medical_fenlei.evaluation.subgroups import subgroups_of
from medical_fenlei.external_cohort import ExternalCohort, is_cohort
from medical_fenlei.metrics.bootstrap import N_RESAMPLES, Interval, Intervals
from medical_fenlei.metrics.predictions import intervals_at, intervals_of
from medical_fenlei.set_sizes import SetSize, larger_set
from medical_fenlei.tasks import OUTSIDE, Task, with_task_name
from medical_fenlei.trained.calibration import TaskCalibration
from medical_fenlei.trained.network import TrainedNetwork


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The results of one task on one set."""

    task: Task
    """The task that was evaluated."""

    set_name: str
    """train, tune, val, test, manifest or a cohort, with `_first<n>` appended for `--limit` n."""

    label: str
    """Suffix of the file names: the set and, for a network with several tasks, the task."""

    checkpoint: str
    """Name of the checkpoint's file."""

    checkpoint_epoch: int
    """Epoch in which the checkpoint was saved."""

    predictions: pd.DataFrame
    """`tables.PREDICTIONS` of the ears within the task, calibrated."""

    calibration: TaskCalibration
    """The temperature and thresholds that were applied."""

    intervals: Intervals
    """Every measure with its interval."""

    operating_points: dict[str, dict[str, Interval]]
    """The measures of the decisions at each operating point; empty for a task with several classes."""

    subgroups: pd.DataFrame
    """Measures of the subgroups, a `tables.SUBGROUPS`."""

    rejects: pd.DataFrame
    """Ears that could not be prepared, a `tables.REJECTS`."""

    warnings: tuple[str, ...]
    """Reasons to distrust the figures."""

    hashes: Mapping[str, str | None]
    """SHA-256 of each table that was read, and the key of the cache."""

    n_resamples: int
    """Resamples of every interval."""

    cohort: ExternalCohort | None = None
    """Where the data of a cohort with a name are; None for others."""

    @cached_property
    def id(self) -> str:
        """What all files of this evaluation carry: the same for the same figures of the same ears, and different otherwise."""
        parts = (self.task.name, self.label, self.checkpoint_epoch, asdict(self.calibration), self.n_resamples, self.intervals,
                 self.operating_points, *(frame.to_csv(index=False) for frame in (self.predictions, self.subgroups)))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def ears(self) -> int:
        """Number of ears."""
        return len(self.predictions)

    @property
    def per_class(self) -> dict[str, int]:
        """Number of ears of each class."""
        names = ("negative", "positive") if self.task.binary else [f"of code {codes[0]}" for codes in self.task.classes]
        return {name: int((self.predictions.y_true == c).sum()) for c, name in enumerate(names)}


def evaluate(
    network: TrainedNetwork, data: DataConfig, set_name: str, *, batch_size: int | None = None, n_resamples: int = N_RESAMPLES,
    calibrated: bool = False, point: str | None = None,
) -> list[Evaluation]:
    """Evaluate each task that the data settings name on one set. A task without an ear in the set has measures of NaN.

    set_name: a set of the split, or a cohort without the patients that the network was fitted on. calibrated: apply the
    network's calibration if there is one. point: the operating point that decides, instead of the calibration's choice. Raises
    UserError if the network lacks a task, the set is missing or has no ear, or some of its ears served to train the network, to
    choose its epoch or to fit its calibration.
    """
    tasks = network.select_tasks(data)
    ears = network.open_set(data, set_name, tasks)
    _refuse_seen(network, ears.ears, set_name, calibrated=calibrated)
    predictions = network.predict(ears.dataset, batch_size=batch_size)
    calibrations = network.calibrations(tasks, calibrated=calibrated, point=point)
    manifest, label = tables.MANIFEST.read(data.manifest_csv), set_label(set_name, data)
    results = []
    for task in tasks:
        calibration = calibrations[task.name]
        found = calibration.apply(predictions[task.name], task)
        found = ears.with_images(found[found.y_true != OUTSIDE].reset_index(drop=True))
        results.append(Evaluation(
            task=task, set_name=label, label=with_task_name(label, task, network.tasks),
            checkpoint=network.path.name, checkpoint_epoch=network.checkpoint.epoch, predictions=found,
            calibration=calibration, n_resamples=n_resamples,
            intervals=intervals_of(found, task, n_resamples=n_resamples),
            operating_points=intervals_at(found, task, calibration.points, n_resamples=n_resamples) if task.binary else {},
            subgroups=subgroups_of(found, manifest, task, n_resamples=n_resamples), rejects=ears.rejects,
            warnings=(*ears.notes, *_set_warnings(set_name, data), *_unchecked(network), *_size_warnings(set_name, found, task),
                      *_calibration_warnings(calibration)),
            hashes=ears.hashes, cohort=ears.cohort))
    return results


def _refuse_seen(network: TrainedNetwork, ears: pd.DataFrame, set_name: str, *, calibrated: bool) -> None:
    """Raise UserError if some of these ears served to train the network, to choose its epoch or to fit its calibration.

    The train and tune sets can be evaluated if they are named; their figures then carry a warning. A cohort was opened without
    such patients: the ids of its exams are not those of the run's.
    """
    if is_cohort(set_name):
        return
    if set_name != "train":                                      # what no flag allows comes before what --uncalibrated does
        network.refuse_if_trained_on(ears.exam_id, f"--split {set_name}")
    if set_name != "tune":
        network.refuse_if_epoch_chosen_on(ears.exam_id, f"--split {set_name}")
    if calibrated and network.calibration is not None:
        network.calibration.refuse_if_fitted_on(ears)


def _unchecked(network: TrainedNetwork) -> list[str]:
    """A warning if it is not known which exams served to train the network, or to choose its epoch."""
    unknown = [what for what, known in (("train the network", network.training_exams()),
                                        ("choose its epoch", network.split_exams("train", "tune"))) if not known]
    return [f"it is not known which exams served to {' and to '.join(unknown)}, so that it could not be checked whether some "
            f"of these are among them: {network.run.folder} has no answers/ears.csv, or its split is gone"] if unknown else []


def _set_warnings(set_name: str, data: DataConfig) -> list[str]:
    """Warnings about figures of this set, whatever the network."""
    warnings = {"train": ["the network was fitted on this set: these figures say nothing about new patients"],
                "tune": ["the epoch was chosen on this set: these figures are optimistic"]}.get(set_name, [])
    if data.limit is not None:
        warnings.append(f"only the first {data.limit} exams: not the figures of the whole set")
    return warnings


def _size_warnings(set_name: str, ears: pd.DataFrame, task: Task) -> list[str]:
    """What makes a set that reports larger, if it is too small for the intervals (which say so themselves)."""
    small = set_name not in ("train", "tune") and SetSize.of(ears, task).warning(set_name)
    return [f"remedy for the few patients of the {set_name} set: {larger_set(set_name)}"] if small else []


def _calibration_warnings(calibration: TaskCalibration) -> list[str]:
    notes = f"temperature {calibration.note}" if calibration.note else "", calibration.point_note
    return [note for note in notes if note]
