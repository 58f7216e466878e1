"""Predictions by exam instead of by ear: both ears side by side."""
import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import SIDES, UNLABELLED, Side

TEXTS = ("name", "top_slices", "top_slice_weights", "top_images")
"""Columns of text, empty for an ear without a prediction."""


def side_by_side(exams: pd.DataFrame, predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return a `tables.DUAL_PREDICTIONS`: one row per exam in the order given, empty for an ear without a prediction.

    exams: `tables.EXAMS`; predictions: `tables.PREDICTIONS` of the task. Every class has a probability,
    `<side>_prob_<codes>`, for binary tasks too.
    """
    ears = _with_every_class(predictions, task)
    wide = exams[["exam_id"]]
    for side in SIDES:
        own = ears[ears.side == str(side)].drop(columns=["side", "patient_key", "label_code"])
        own = own.set_index("exam_id").add_prefix(f"{side}_")
        wide = wide.join(own, on="exam_id", validate="one_to_one")
        texts = {f"{side}_{name}": wide[f"{side}_{name}"].fillna("") for name in TEXTS if name in ears}
        wide = wide.assign(**{f"{side}_label_code": _codes(exams, side)}, **texts)
    patient_of = dict(zip(ears.exam_id, ears.patient_key, strict=True))
    return tables.DUAL_PREDICTIONS.frame(wide.assign(patient_key=[patient_of.get(exam, "") for exam in exams.exam_id]))


def _with_every_class(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The predictions with the probability of every class, the predicted class's name, and y_true missing outside the task."""
    columns = [f"prob_{codes}" for codes in class_codes(task)]
    probability = pd.DataFrame(probabilities(predictions, task), predictions.index, columns)
    names = np.array(task.class_names)[predictions.y_pred.to_numpy()]
    known = predictions.y_true.where(predictions.y_true != OUTSIDE).astype("Int64")
    return predictions.drop(columns=columns, errors="ignore").join(probability).assign(y_true=known, name=names)


def _codes(exams: pd.DataFrame, side: Side) -> np.ndarray:
    """Label codes (N,) of this side's ears; UNLABELLED without a label."""
    codes: np.ndarray = exams.get(f"{side}_code", pd.Series(UNLABELLED, exams.index)).to_numpy()
    return codes
