"""A trained network on one set of ears: predictions, every measure with its interval, subgroups, the cases that went wrong."""
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.sources import find_ears, set_label
from medical_fenlei.errors import UserError
from medical_fenlei.evaluation.subgroups import subgroups_of
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Interval, Intervals, patient_intervals
from medical_fenlei.metrics.predictions import SEED, intervals_of, shares_of
from medical_fenlei.tables import WHOLE_MANIFEST
from medical_fenlei.tasks import OUTSIDE, Task, named_apart
from medical_fenlei.trained.calibration import Calibration, Fitted, uncalibrated
from medical_fenlei.trained.network import Trained

AT_A_POINT = ("sensitivity", "specificity", "ppv", "npv", "f1", "balanced_accuracy")
"""Measures that an operating point decides."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one task on one set."""

    task: Task
    set_name: str
    """train, tune, val, test or manifest, and whether only its first ears were taken."""

    label: str
    """What stands behind the stem of each file: the set, and of a network with several tasks the task."""

    checkpoint_epoch: int
    predictions: pd.DataFrame
    """`tables.PREDICTIONS` of the ears that the task concerns, calibrated."""

    fitted: Fitted
    """The temperature and the thresholds that were applied."""

    calibrated: bool
    """Whether they were fitted, or are those of a network that has none."""

    intervals: Intervals
    points: dict[str, dict[str, Interval]]
    """Of each operating point each of AT_A_POINT; none for several classes."""

    subgroups: pd.DataFrame
    """`tables.SUBGROUPS`."""

    rejects: pd.DataFrame
    warnings: tuple[str, ...]
    hashes: Mapping[str, str | None]

    @property
    def ears(self) -> int:
        return len(self.predictions)

    @property
    def per_class(self) -> dict[str, int]:
        names = ("negative", "positive") if self.task.binary else [f"of code {codes[0]}" for codes in self.task.classes]
        return {name: int((self.predictions.y_true == c).sum()) for c, name in enumerate(names)}


def table_of(intervals: Intervals) -> pd.DataFrame:
    """metric, estimate, 95 % interval, note: a row a measure, as text."""
    return pd.DataFrame([{"metric": name, "estimate": f"{i.estimate:.3f}", "95 % interval": f"{i.low:.3f} to {i.high:.3f}",
                          "note": i.reason} for name, i in intervals.values.items()])


def evaluate(
    trained: Trained, data: DataConfig, set_name: str, *, batch_size: int | None = None, draws: int = 2000,
    calibration: Calibration | None = None, point: str | None = None,
) -> list[Evaluation]:
    """Of each task that the data names. A task without an ear there, beside others that have some, has measures of NaN.

    set_name: of the split, or WHOLE_MANIFEST, of which patients that the network was fitted on are left out. calibration: is
    applied to the probabilities; point: which of its operating points decides (its own by default). Raises UserError if it is
    none of the network's tasks, there is no such set, no ear of it takes part in any task, or the calibration was fitted on
    some of it.
    """
    tasks, store = trained.chosen(data), trained.store(data)
    sources = find_ears(data, store, tasks, (set_name,))
    warnings = []
    if set_name == WHOLE_MANIFEST:
        mine = _fitted_on(trained, sources.ears[set_name])
        sources = replace(sources, ears={set_name: sources.ears[set_name][~mine]})
        if mine.any():
            warnings.append(f"{int(mine.sum())} ears of patients that the network was fitted on are left out")
    dataset = sources.dataset(store, set_name, sources.placement(store, trained.arithmetic.device))
    if dataset is None:
        raise UserError(f"--split {set_name}: {data.splits_root} --pct {data.pct} has no ears there for "
                        + ", ".join(task.name for task in tasks))
    if calibration is not None:
        calibration.refuse(dataset.ears_in_order)
    if set_name != "train":
        trained.refuse_trained_on(dataset.ears_in_order.exam_id, f"--split {set_name}")
    if set_name != "tune" and (chosen := trained.own_exams("tune") & set(dataset.ears_in_order.exam_id)):
        raise UserError(f"--split {set_name}: the network's epoch was chosen on {len(chosen)} of its exams ({min(chosen)}, "
                        "say): these are not the splits of its run")
    predictions = trained.predict(dataset, batch_size=batch_size)
    if set_name == "train":
        warnings.append("the network was fitted on this set: these figures say nothing about new patients")
    if set_name == "tune":
        warnings.append("the epoch was chosen on this set: these figures are too good")
    if data.limit is not None:
        warnings.append(f"only the first {data.limit}: not the figures of the set")
    name, results, manifest = set_label(set_name, data), [], tables.MANIFEST.read(data.manifest_csv)
    known = uncalibrated(tasks) | (calibration.tasks if calibration else {})
    for task in tasks:
        fitted = known[task.name] if point is None or not task.binary else known[task.name].at(point)
        found = fitted.applied(predictions[task.name], task)
        own = found[found.y_true != OUTSIDE].reset_index(drop=True)
        doubts = (f"temperature {fitted.note}",) if fitted.note else ()
        results.append(Evaluation(
            task, name, named_apart(name, task, trained.tasks), trained.checkpoint.epoch, own, fitted,
            calibration is not None and task.name in calibration.tasks, intervals_of(own, task, draws=draws),
            at_points(own, fitted, task, draws=draws) if task.binary else {}, subgroups_of(own, manifest, task, draws=draws),
            sources.rejects, (*warnings, *doubts), sources.hashes))
    return results


def _fitted_on(trained: Trained, ears: pd.DataFrame) -> np.ndarray:
    """Which of these manifest rows are of a patient whom the network was fitted or chosen on, as its own tables say (N,)."""
    own = trained.config.data
    try:
        split, manifest = tables.read_split(own.splits_root, own.pct), tables.MANIFEST.read(own.manifest_csv)
    except UserError as error:
        raise UserError(f"--split {WHOLE_MANIFEST}: who the network was fitted on cannot be told ({error})") from None
    exams = {*trained.fitted_exams()}
    exams.update(exam for name in ("train", "tune") if name in split.sets for exam in split.sets[name].exam_id)
    people = manifest.patient_key[manifest.exam_id.isin(exams)]
    mine: np.ndarray = (ears.exam_id.isin(exams) | ears.patient_key.isin(people)).to_numpy()
    return mine


def at_points(predictions: pd.DataFrame, fitted: Fitted, task: Task, *, draws: int) -> dict[str, dict[str, Interval]]:
    """Each of AT_A_POINT with its interval at every operating point of a binary task."""
    truth, score = predictions.y_true.to_numpy(), predictions.y_prob.to_numpy()
    found = {}
    for name, threshold in fitted.points.items():
        measures = BinaryMeasures(truth, score, score >= threshold)
        intervals = patient_intervals(measures.decided, predictions.patient_key.to_numpy(), np.column_stack([truth, score]),
                                      seed=SEED, draws=draws, classes=truth,
                                      shares_of=shares_of(predictions.assign(y_pred=(score >= threshold).astype(int)),
                                                          task))
        found[name] = {measure: intervals.values[measure] for measure in AT_A_POINT}
    return found
