"""The ears of exams that a table lists, without a manifest."""
import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.vocabulary import SIDES, UNLABELLED


def ears_of(exams: pd.DataFrame, patient_of: dict[str, str]) -> pd.DataFrame:
    """Both ears of each exam of `tables.EXAMS`: exam_id, side, series_relpath, label_code, patient_key.

    patient_of: patient keys by exam id; an exam that is not in it stands for a patient of its own.
    """
    unknown = pd.Series(UNLABELLED, exams.index)
    key = [patient_of.get(exam, exam) for exam in exams.exam_id]
    ears = pd.concat([exams[["exam_id"]].assign(
        side=str(side), series_relpath=tables.series_of(exams, side),
        label_code=exams.get(f"{side}_code", unknown).astype(np.int8), patient_key=key) for side in SIDES])
    return ears.sort_index(kind="stable").reset_index(drop=True)
