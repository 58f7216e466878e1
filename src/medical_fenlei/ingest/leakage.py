"""Does any patient stand on both sides of a split?"""
from collections.abc import Iterable

import pandas as pd

from medical_fenlei.tables import Split


def exams_per_patient(manifest: pd.DataFrame) -> pd.DataFrame:
    """patient_key, exams (ids) of every patient with more than one exam."""
    exams = manifest.drop_duplicates("exam_id").groupby("patient_key", sort=False).exam_id
    several = exams.agg(lambda ids: sorted(ids)).loc[lambda lists: lists.map(len) > 1]
    table = pd.DataFrame({"patient_key": several.index, "n_exams": several.map(len).to_numpy(),
                          "exam_ids": several.map("; ".join).to_numpy()})
    return table.sort_values("exam_ids", ignore_index=True)


def shared_patients(manifest: pd.DataFrame, splits: Iterable[Split]) -> pd.DataFrame:
    """One row a patient that stands in several sets of one split: split, by_patient, patient_key, sets, exam_ids.

    An exam that the manifest does not know is its own patient.
    """
    patient = manifest.drop_duplicates("exam_id").set_index("exam_id").patient_key
    rows = []
    for split in splits:
        members = pd.concat([frame[["exam_id"]].assign(set=name) for name, frame in split.sets.items()], ignore_index=True)
        members["patient_key"] = members.exam_id.map(patient).fillna(members.exam_id)
        for key, theirs in members.groupby("patient_key", sort=False):
            if theirs.set.nunique() > 1:
                rows.append({
                    "split": str(split.folder), "by_patient": split.by_patient, "patient_key": key,
                    "sets": "; ".join(dict.fromkeys(theirs.set)), "exam_ids": "; ".join(sorted(set(theirs.exam_id))),
                })
    return pd.DataFrame(rows, columns=["split", "by_patient", "patient_key", "sets", "exam_ids"])
