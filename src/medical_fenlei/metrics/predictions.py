"""Measures of a table of predictions (`tables.PREDICTIONS`), their intervals, and the hard cases. N ears, C classes."""
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import N_RESAMPLES, Interval, Intervals, Measures, PatientBootstrap
from medical_fenlei.metrics.confusion import class_report
from medical_fenlei.metrics.multiclass import MulticlassMeasures
from medical_fenlei.metrics.reliability import ReliabilityMeasures
from medical_fenlei.tasks import OUTSIDE, Task


def class_codes(task: Task) -> list[str]:
    """Return the name of each class in the columns `prob_<name>`: its codes, joined by underscores."""
    return ["_".join(map(str, codes)) for codes in task.classes]


def probabilities(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """Return the probability of each class of the task (N, C)."""
    if task.binary:
        return np.column_stack([1 - predictions.y_prob, predictions.y_prob])
    return predictions[[f"prob_{name}" for name in class_codes(task)]].to_numpy()


def measures_of(predictions: pd.DataFrame, task: Task) -> Measures:
    """Return the measures of these predictions as a function of the ears' weights; ears outside the task have no weight."""
    valid = (predictions.y_true != OUTSIDE).to_numpy()
    known = predictions[valid]
    truth, score = known.y_true.to_numpy(), known.y_prob.to_numpy()
    if not task.binary:
        multiclass = MulticlassMeasures(truth, probabilities(known, task), class_codes(task))
        return lambda weight: multiclass(weight[:, valid])
    ranking, reliability = BinaryMeasures(truth, score, known.y_pred.to_numpy() == 1), ReliabilityMeasures(truth, score)

    def both(weight: np.ndarray) -> dict[str, np.ndarray]:
        own = weight[:, valid]
        return {**ranking(own), **reliability(own)}

    return both


def resampling(ears: pd.DataFrame, *, n_resamples: int = N_RESAMPLES) -> PatientBootstrap:
    """Return the resampling of the patients of these ears: the same ears are resampled alike, whatever is measured of them.

    ears: exam_id, side, patient_key and y_true, in any order.
    """
    order = ears[["exam_id", "side"]].reset_index(drop=True).sort_values(["exam_id", "side"]).index
    return PatientBootstrap(patient=ears.patient_key.to_numpy(), observations=np.argsort(order), classes=ears.y_true.to_numpy(),
                            n_resamples=n_resamples)


def intervals_of(predictions: pd.DataFrame, task: Task, *, n_resamples: int = N_RESAMPLES) -> Intervals:
    """Return every measure of these predictions with its interval, patients resampled."""
    known = predictions[predictions.y_true != OUTSIDE]
    return resampling(known, n_resamples=n_resamples).intervals(measures_of(known, task), groups=groups_behind(known, task))


def intervals_at(
    predictions: pd.DataFrame, task: Task, thresholds: Mapping[str, float], *, n_resamples: int = N_RESAMPLES
) -> dict[str, dict[str, Interval]]:
    """Return the measures of the decisions of a binary task at each threshold, by its name: those of `intervals_of` if the
    predictions were decided there."""
    known, at = predictions[predictions.y_true != OUTSIDE], {}
    bootstrap = resampling(known, n_resamples=n_resamples)
    for name, threshold in thresholds.items():
        decided = known.assign(y_pred=(known.y_prob >= threshold).astype(np.int64))
        measures = BinaryMeasures(decided.y_true.to_numpy(), decided.y_prob.to_numpy(), decided.y_pred.to_numpy() == 1)
        at[name] = bootstrap.intervals(measures.decisions, groups=groups_behind(decided, task)).values
    return at


def groups_behind(known: pd.DataFrame, task: Task) -> dict[str, tuple[np.ndarray, ...]]:
    """Return the groups of ears (each bool (N,)) that each measure needs; without ears of one it is undefined.

    known: `tables.PREDICTIONS` of ears within the task.
    """
    truth, predicted = known.y_true.to_numpy(), known.y_pred.to_numpy()
    every = np.ones(len(known), bool)
    groups: dict[str, tuple[np.ndarray, ...]] = {name: (every,) for name in ("accuracy", "brier", "calibration_error")}
    endings = {"": 1} if task.binary else {f"_{name}": c for c, name in enumerate(class_codes(task))}
    for ending, c in endings.items():
        one, rest = truth == c, truth != c
        both = ("auroc", "auprc", "sensitivity_at_95_specificity", "specificity_at_95_sensitivity", "balanced_accuracy",
                "calibration_slope", "calibration_intercept")
        groups |= {f"{name}{ending}": (one, rest) for name in both}
        groups |= {f"sensitivity{ending}": (one,), f"specificity{ending}": (rest,), f"f1{ending}": (one,),
                   f"ppv{ending}": (predicted == c,), f"npv{ending}": (predicted != c,)}
    if not task.binary:
        occurring = tuple(truth == c for c in np.unique(truth))
        groups |= {name: occurring for name in ("auroc", "auprc", "macro_f1", "macro_recall")}
    return groups


def groups_of_all(predictions: Sequence[pd.DataFrame], task: Task) -> dict[str, tuple[np.ndarray, ...]]:
    """Return the groups that a measure of several predictions of the same ears needs, such as their mean or difference."""
    each = [groups_behind(known, task) for known in predictions]
    return {name: tuple(group for groups in each for group in groups[name]) for name in each[0]}


def differences_of(one: pd.DataFrame, other: pd.DataFrame, task: Task, *, n_resamples: int) -> Intervals:
    """Return the difference of every measure, `other` minus `one`, for two predictions of the same ears in the same order.

    Both are measured on the same resamples. Raises ValueError if the ears differ.
    """
    names = ["exam_id", "side", "y_true"]
    if not one[names].reset_index(drop=True).equals(other[names].reset_index(drop=True)):
        raise ValueError("got predictions of different ears, or in another order, expected the same")
    pair = [frame[frame.y_true != OUTSIDE] for frame in (one, other)]
    first, second = (measures_of(frame, task) for frame in pair)

    def difference(weight: np.ndarray) -> dict[str, np.ndarray]:
        before, after = first(weight), second(weight)
        return {name: after[name] - before[name] for name in before}

    measured = first(np.ones((1, len(pair[0]))))
    return resampling(pair[0], n_resamples=n_resamples).intervals(
        difference, scales=dict.fromkeys(measured, "identity"), groups=groups_of_all(pair, task))


def report_of(predictions: pd.DataFrame, task: Task) -> dict[str, Any]:
    """Return the `class_report` of the ears within the task, by class name."""
    known = predictions[predictions.y_true != OUTSIDE]
    return class_report(known.y_true.to_numpy(), known.y_pred.to_numpy(), task.class_names)


def measures_over(predictions: Mapping[str, pd.DataFrame], tasks: Sequence[Task]) -> tuple[dict[str, float], dict[str, Any]]:
    """Return every measure of one or several tasks, and the report of each task.

    predictions: by task. `loss` is the mean negative log-likelihood of all targets. With several tasks the measures are named
    `<task>_<name>`; `<name>` is the mean over the tasks where it is defined.
    """
    each, reports, losses = {}, {}, []
    for task in tasks:
        frame = predictions[task.name]
        nll = negative_log_likelihood(frame, task)
        losses.append(nll[~np.isnan(nll)])
        report = report_of(frame, task)
        each[task.name] = {
            **{name: float(value[0]) for name, value in measures_of(frame, task)(np.ones((1, len(frame)))).items()},
            **{f"macro_{name}": value for name, value in report["macro"].items()}, "accuracy": report["accuracy"]}
        reports[task.name] = {"loss": float(losses[-1].mean()) if len(losses[-1]) else math.nan, **report}
    loss = float(np.concatenate(losses).mean())
    if len(tasks) == 1:
        return {**each[tasks[0].name], "loss": loss}, reports[tasks[0].name]
    names = dict.fromkeys(name for measured in each.values() for name in measured)
    values = {name: [measured[name] for measured in each.values() if not math.isnan(measured.get(name, math.nan))]
              for name in names}
    means = {name: float(np.mean(own)) if own else math.nan for name, own in values.items()}
    by_task = {f"{task}_{name}": value for task, measured in each.items() for name, value in measured.items()}
    return {**means, **by_task, "loss": loss}, {"loss": loss, "tasks": reports}


def negative_log_likelihood(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """Return -ln of the probability of the true class (N,); NaN for ears outside the task."""
    truth = predictions.y_true.to_numpy()
    given = probabilities(predictions, task)[np.arange(len(truth)), np.maximum(truth, 0)]
    return np.where(truth == OUTSIDE, np.nan, -np.log(np.maximum(given, 1e-12)))


def hard_cases(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the wrong predictions, the most confident first, with their negative log-likelihood as `nll`."""
    frame = predictions.assign(nll=negative_log_likelihood(predictions, task))
    wrong = frame[(frame.y_true != OUTSIDE) & (frame.y_true != frame.y_pred)]
    return wrong.sort_values("nll", ascending=False, kind="stable")
