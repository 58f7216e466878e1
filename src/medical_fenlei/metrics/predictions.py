"""What a table of predictions (`tables.PREDICTIONS`) says: probabilities, measures, the cases that went wrong."""
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Intervals, Measures, patient_intervals
from medical_fenlei.metrics.confusion import class_report
from medical_fenlei.metrics.multiclass import MulticlassMeasures
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
    if task.binary:
        measures: Measures = BinaryMeasures(known.y_true.to_numpy(), known.y_prob.to_numpy())
    else:
        measures = MulticlassMeasures(known.y_true.to_numpy(), probabilities(known, task), class_codes(task))
    return lambda weight: measures(weight[:, valid])


def intervals_of(predictions: pd.DataFrame, task: Task, *, draws: int) -> Intervals:
    """Each of the measures with its interval, patients resampled."""
    content = np.column_stack([predictions.y_true, probabilities(predictions, task)])
    patient = predictions.patient_key.to_numpy()
    return patient_intervals(measures_of(predictions, task), patient, content, seed=SEED, draws=draws)


def report_of(predictions: pd.DataFrame, task: Task) -> dict[str, Any]:
    """`class_report` of the ears that the task concerns, classes under their names."""
    known = predictions[predictions.y_true != OUTSIDE]
    return class_report(known.y_true.to_numpy(), known.y_pred.to_numpy(), task.class_names)


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
