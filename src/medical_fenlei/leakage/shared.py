"""Does any patient, exam or scan stand on both sides of a split?

The same scan under several names is known by marks: `exam_id, evidence, mark`, where exams with the same mark hold the same.
`analysis/same_pixels` makes them from pixels, `study_marks` from the manifest.
"""
from collections.abc import Iterable, Sequence

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
    patient = _patients(manifest)
    rows = []
    for split in splits:
        members = _members(split)
        members["patient_key"] = members.exam_id.map(patient).fillna(members.exam_id)
        for key, theirs in members.groupby("patient_key", sort=False):
            if theirs.set.nunique() > 1:
                rows.append({
                    "split": str(split.folder), "by_patient": split.by_patient, "patient_key": key,
                    "sets": "; ".join(dict.fromkeys(theirs.set)), "exam_ids": "; ".join(sorted(set(theirs.exam_id))),
                })
    return pd.DataFrame(rows, columns=["split", "by_patient", "patient_key", "sets", "exam_ids"])


def shared_exams(splits: Iterable[Split]) -> pd.DataFrame:
    """One row an exam that stands in several sets of one split, by patient or not: split, exam_id, sets."""
    rows = []
    for split in splits:
        for exam, sets in _members(split).groupby("exam_id").set:
            if sets.nunique() > 1:
                rows.append({"split": str(split.folder), "exam_id": exam, "sets": "; ".join(dict.fromkeys(sets))})
    return pd.DataFrame(rows, columns=["split", "exam_id", "sets"])


def study_marks(manifest: pd.DataFrame) -> pd.DataFrame:
    """Marks of exams that say themselves to be one study; none, where a manifest of an earlier version does not know."""
    exams = manifest.drop_duplicates("exam_id").reindex(columns=["exam_id", "study_key"]).dropna()
    return exams[exams.study_key != ""].rename(columns={"study_key": "mark"}).assign(evidence="study")


def shared_marks(marks: pd.DataFrame, manifest: pd.DataFrame, splits: Sequence[Split]) -> pd.DataFrame:
    """One row for exams that hold the same, and a split that parts them: leak, evidence, exam_ids, patient_keys, split, sets.

    It is a leak where a split by patient parts them; and where they go under different patients, unless every split that knows
    them keeps them in one set, by luck. Else they are only counted twice.
    """
    patient = _patients(manifest)
    members = [(split, _members(split)) for split in splits]
    known = pd.concat([manifest.exam_id, *(own.exam_id for _, own in members)])
    marks = marks[marks.exam_id.isin(known)]                     # a cache may hold exams of an earlier collection
    several = marks.groupby(["evidence", "mark"]).exam_id.transform("nunique") > 1
    alike: dict[tuple[str, ...], set[str]] = {}
    for (evidence, _), own in marks[several].groupby(["evidence", "mark"], sort=False):
        alike.setdefault(tuple(sorted(own.exam_id.unique())), set()).add(str(evidence))
    rows = []
    for exams, kinds in sorted(alike.items()):
        keys = list(dict.fromkeys(str(patient.get(exam, exam)) for exam in exams))
        row = {"evidence": "; ".join(sorted(kinds)), "exam_ids": "; ".join(exams), "patient_keys": "; ".join(keys)}
        theirs = [(split, own[own.exam_id.isin(exams)]) for split, own in members]
        parted = [(split, own) for split, own in theirs if own.set.nunique() > 1]
        together = any(own.exam_id.nunique() > 1 for _, own in theirs)
        for split, own in parted:
            rows.append({"leak": split.by_patient or len(keys) > 1, **row, "split": str(split.folder),
                         "sets": "; ".join(dict.fromkeys(own.set))})
        if not parted:
            rows.append({"leak": len(keys) > 1 and not together, **row, "split": "", "sets": ""})
    return pd.DataFrame(rows, columns=["leak", "evidence", "exam_ids", "patient_keys", "split", "sets"]).astype({"leak": bool})


def _patients(manifest: pd.DataFrame) -> "pd.Series[str]":
    return manifest.drop_duplicates("exam_id").set_index("exam_id").patient_key


def _members(split: Split) -> pd.DataFrame:
    """exam_id, set."""
    return pd.concat([frame[["exam_id"]].assign(set=name) for name, frame in split.sets.items()], ignore_index=True)
