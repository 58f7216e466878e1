"""Exams instead of ears: which ears an index of exams has, and their predictions side by side."""
import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import SIDES, UNLABELLED


def side_by_side(exams: pd.DataFrame, predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """`tables.DUAL_PREDICTIONS`, a row an exam in the order given; empty where an ear could not be predicted.

    Every class has its probability, `<side>_prob_<codes>`, in binary tasks too.
    """
    names = np.array(task.class_names)
    each = pd.DataFrame(probabilities(predictions, task), predictions.index, [f"prob_{c}" for c in class_codes(task)])
    known = predictions.y_true.where(predictions.y_true != OUTSIDE).astype("Int64")
    frame = predictions.drop(columns=list(each.columns), errors="ignore").join(each)
    frame = frame.assign(y_true=known, name=names[predictions.y_pred.to_numpy()])
    wide = exams[["exam_id"]]
    for side in SIDES:
        own = frame[frame.side == str(side)].drop(columns=["side", "patient_key", "label_code"])
        own = own.set_index("exam_id").add_prefix(f"{side}_")
        wide = wide.join(own, on="exam_id", validate="one_to_one")
        labels = exams.get(f"{side}_code", pd.Series(UNLABELLED, exams.index)).to_numpy()
        texts = {f"{side}_{name}": wide[f"{side}_{name}"].fillna("") for name in ("name", "top_slices", "top_slice_weights")}
        wide = wide.assign(**{f"{side}_label_code": labels}, **texts)
    key = dict(zip(frame.exam_id, frame.patient_key, strict=True))
    return tables.DUAL_PREDICTIONS.frame(wide.assign(patient_key=[key.get(exam, "") for exam in exams.exam_id]))
