"""What a table of predictions (`tables.PREDICTIONS`) says: probabilities, measures, the cases that went wrong."""
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Intervals, Measures, patient_intervals
from medical_fenlei.metrics.confusion import class_report
from medical_fenlei.metrics.multiclass import MulticlassMeasures
from medical_fenlei.metrics.reliability import ReliabilityMeasures
from medical_fenlei.tasks import OUTSIDE, Task

SEED = 42
"""Of the resampling: the same predictions give the same intervals."""


def class_codes(task: Task) -> list[str]:
    """The codes of each class, as in the columns `prob_<code>`."""
    return ["_".join(map(str, codes)) for codes in task.classes]


def probabilities(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """(N, C), the probability of each class of the task."""
    if task.binary:
        return np.column_stack([1 - predictions.y_prob, predictions.y_prob])
    return predictions[[f"prob_{name}" for name in class_codes(task)]].to_numpy()


def measures_of(predictions: pd.DataFrame, task: Task) -> Measures:
    """The numbers of these predictions as a function of the ears' weights. Rows outside the task weigh nothing."""
    valid = (predictions.y_true != OUTSIDE).to_numpy()
    known = predictions[valid]
    truth, score = known.y_true.to_numpy(), known.y_prob.to_numpy()
    if not task.binary:
        several = MulticlassMeasures(truth, probabilities(known, task), class_codes(task))
        return lambda weight: several(weight[:, valid])
    ranking, reliability = BinaryMeasures(truth, score, known.y_pred.to_numpy() == 1), ReliabilityMeasures(truth, score)

    def both(weight: np.ndarray) -> dict[str, np.ndarray]:
        own = weight[:, valid]
        return {**ranking(own), **reliability(own)}

    return both


def intervals_of(predictions: pd.DataFrame, task: Task, *, draws: int) -> Intervals:
    """Each of the measures with its interval, patients resampled."""
    known = predictions[predictions.y_true != OUTSIDE]
    content = np.column_stack([known.y_true, probabilities(known, task), known.y_pred])
    return patient_intervals(measures_of(known, task), known.patient_key.to_numpy(), content, seed=SEED, draws=draws,
                             classes=known.y_true.to_numpy(), shares_of=shares_of(known, task))


def shares_of(known: pd.DataFrame, task: Task) -> dict[str, np.ndarray]:
    """Bool (N,), of each measure that is a share of some of the ears: which."""
    truth, called = known.y_true.to_numpy(), known.y_pred.to_numpy()
    endings = {"": 1} if task.binary else {f"_{name}": c for c, name in enumerate(class_codes(task))}
    return {f"{name}{ending}": ears for ending, c in endings.items() for name, ears in (
        ("sensitivity", truth == c), ("specificity", truth != c), ("ppv", called == c), ("npv", called != c))}


def differences_of(one: pd.DataFrame, other: pd.DataFrame, task: Task, *, draws: int) -> Intervals:
    """How much more each measure is in other predictions of the same ears, in the same order: both are resampled together.

    Raises ValueError if the ears are not the same.
    """
    names = ["exam_id", "side", "y_true"]
    if not one[names].reset_index(drop=True).equals(other[names].reset_index(drop=True)):
        raise ValueError("got predictions of different ears, or in another order, expected the same")
    pair = [frame[frame.y_true != OUTSIDE] for frame in (one, other)]
    first, second = (measures_of(frame, task) for frame in pair)

    def difference(weight: np.ndarray) -> dict[str, np.ndarray]:
        before, after = first(weight), second(weight)
        return {name: after[name] - before[name] for name in before}

    content = np.column_stack([pair[0].y_true, *(probabilities(frame, task) for frame in pair)])
    measured = tuple(first(np.ones((1, len(content)))))
    return patient_intervals(difference, pair[0].patient_key.to_numpy(), content, seed=SEED, draws=draws,
                             classes=pair[0].y_true.to_numpy(), unbounded=measured, ratios=(), one_sided=())


def report_of(predictions: pd.DataFrame, task: Task) -> dict[str, Any]:
    """`class_report` of the ears that the task concerns, classes under their names."""
    known = predictions[predictions.y_true != OUTSIDE]
    return class_report(known.y_true.to_numpy(), known.y_pred.to_numpy(), task.class_names)


def measures_over(predictions: Mapping[str, pd.DataFrame], tasks: Sequence[Task]) -> tuple[dict[str, float], dict[str, Any]]:
    """Every measure of one task or several, and the report of each.

    predictions: by task. `loss` is the mean surprise of all targets. Of several tasks a measure stands under `<task>_<name>`,
    and under its own name the mean over those tasks where it is defined.
    """
    each, reports, surprises = {}, {}, []
    for task in tasks:
        frame = predictions[task.name]
        own = surprise(frame, task)
        surprises.append(own[~np.isnan(own)])
        report = report_of(frame, task)
        each[task.name] = {
            **{name: float(value[0]) for name, value in measures_of(frame, task)(np.ones((1, len(frame)))).items()},
            **{f"macro_{name}": value for name, value in report["macro"].items()}, "accuracy": report["accuracy"]}
        reports[task.name] = {"loss": float(surprises[-1].mean()) if len(surprises[-1]) else math.nan, **report}
    loss = float(np.concatenate(surprises).mean())
    if len(tasks) == 1:
        return {**each[tasks[0].name], "loss": loss}, reports[tasks[0].name]
    names = dict.fromkeys(name for measured in each.values() for name in measured)
    values = {name: [measured[name] for measured in each.values() if not math.isnan(measured.get(name, math.nan))]
              for name in names}
    means = {name: float(np.mean(own)) if own else math.nan for name, own in values.items()}
    apart = {f"{task}_{name}": value for task, measured in each.items() for name, value in measured.items()}
    return {**means, **apart, "loss": loss}, {"loss": loss, "tasks": reports}


def surprise(predictions: pd.DataFrame, task: Task) -> np.ndarray:
    """(N,), -ln of the probability that was given to the truth; NaN where the task does not concern the ear."""
    truth = predictions.y_true.to_numpy()
    given = probabilities(predictions, task)[np.arange(len(truth)), np.maximum(truth, 0)]
    return np.where(truth == OUTSIDE, np.nan, -np.log(np.maximum(given, 1e-12)))


def hard_cases(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Those that are wrong, the most confident first, with `surprise`."""
    frame = predictions.assign(surprise=surprise(predictions, task))
    wrong = frame[(frame.y_true != OUTSIDE) & (frame.y_true != frame.y_pred)]
    return wrong.sort_values("surprise", ascending=False, kind="stable")
