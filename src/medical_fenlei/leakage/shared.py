"""Patients, exams and scans that are shared by several sets of a split.

Marks identify scans under several exam ids: a table `exam_id, evidence, mark`, in which exams with the same mark hold the same
scan. `same_pixels` makes marks from pixels, `study_marks` from the manifest.
"""
from collections.abc import Iterable, Sequence

import pandas as pd

from medical_fenlei.tables import Split


def exams_per_patient(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return patient_key, n_exams and exam_ids of every patient with more than one exam."""
    exams = manifest.drop_duplicates("exam_id").groupby("patient_key", sort=False).exam_id
    several = exams.agg(lambda ids: sorted(ids)).loc[lambda lists: lists.map(len) > 1]
    table = pd.DataFrame({"patient_key": several.index, "n_exams": several.map(len).to_numpy(),
                          "exam_ids": several.map("; ".join).to_numpy()})
    return table.sort_values("exam_ids", ignore_index=True)


def shared_patients(manifest: pd.DataFrame, splits: Iterable[Split]) -> pd.DataFrame:
    """Return the patients in several sets of a split: split, patient_key, sets, exam_ids.

    An exam that the manifest does not hold counts as a patient of its own.
    """
    patient = _patients(manifest)
    rows = []
    for split in splits:
        members = _members(split)
        members["patient_key"] = members.exam_id.map(patient).fillna(members.exam_id)
        for key, own in members.groupby("patient_key", sort=False):
            if own.set.nunique() > 1:
                rows.append({"split": str(split.folder), "patient_key": key, "sets": "; ".join(dict.fromkeys(own.set)),
                             "exam_ids": "; ".join(sorted(set(own.exam_id)))})
    return pd.DataFrame(rows, columns=["split", "patient_key", "sets", "exam_ids"])


def describe_parted_patients(manifest: pd.DataFrame, split: Split) -> str:
    """Return a warning about the patients that a split parts, or "" where it parts none."""
    parted = shared_patients(manifest, [split])
    if parted.empty:
        return ""
    first = parted.iloc[0]
    return (f"{len(parted)} patients are in several sets of {split.folder} (first: exams {first.exam_ids}, in {first.sets}), "
            "so that figures are too good; make_splits_dual keeps each patient in one set, unless --by-exam asks otherwise")


def shared_exams(splits: Iterable[Split]) -> pd.DataFrame:
    """Return the exams in several sets of a split, by patient or not: split, exam_id, sets."""
    rows = []
    for split in splits:
        for exam, sets in _members(split).groupby("exam_id").set:
            if sets.nunique() > 1:
                rows.append({"split": str(split.folder), "exam_id": exam, "sets": "; ".join(dict.fromkeys(sets))})
    return pd.DataFrame(rows, columns=["split", "exam_id", "sets"])


def study_marks(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return marks of exams by their study; empty for a manifest of an earlier version, which has no study_key."""
    exams = manifest.drop_duplicates("exam_id").reindex(columns=["exam_id", "study_key"]).dropna()
    return exams[exams.study_key != ""].rename(columns={"study_key": "mark"}).assign(evidence="study")


def shared_marks(marks: pd.DataFrame, manifest: pd.DataFrame, splits: Sequence[Split]) -> pd.DataFrame:
    """Return the exams that hold the same scan, one row per group and split that separates it.

    Columns: leak, evidence, exam_ids, patient_keys, split, sets. A group is a leak if a split by patient separates it. It is
    also one if its exams have different patients, unless every split that holds them keeps them in one set by chance.
    Otherwise the scan is only counted twice.
    """
    patient = _patients(manifest)
    members = [(split, _members(split)) for split in splits]
    known = pd.concat([manifest.exam_id, *(own.exam_id for _, own in members)])
    rows = []
    for exams, evidence in _same_scans(marks[marks.exam_id.isin(known)]):    # a cache may hold exams of earlier collections
        keys = list(dict.fromkeys(str(patient.get(exam, exam)) for exam in exams))
        row = {"evidence": "; ".join(evidence), "exam_ids": "; ".join(exams), "patient_keys": "; ".join(keys)}
        in_splits = [(split, own[own.exam_id.isin(exams)]) for split, own in members]
        separated = [(split, own) for split, own in in_splits if own.set.nunique() > 1]
        together = any(own.exam_id.nunique() > 1 for _, own in in_splits)
        for split, own in separated:
            rows.append({"leak": split.by_patient or len(keys) > 1, **row, "split": str(split.folder),
                         "sets": "; ".join(dict.fromkeys(own.set))})
        if not separated:
            rows.append({"leak": len(keys) > 1 and not together, **row, "split": "", "sets": ""})
    return pd.DataFrame(rows, columns=["leak", "evidence", "exam_ids", "patient_keys", "split", "sets"]).astype({"leak": bool})


def _same_scans(marks: pd.DataFrame) -> list[tuple[tuple[str, ...], list[str]]]:
    """Return (exam ids, kinds of evidence) of each group of exams that share a mark, sorted."""
    several = marks.groupby(["evidence", "mark"]).exam_id.transform("nunique") > 1
    groups: dict[tuple[str, ...], set[str]] = {}
    for (evidence, _), own in marks[several].groupby(["evidence", "mark"], sort=False):
        groups.setdefault(tuple(sorted(own.exam_id.unique())), set()).add(str(evidence))
    return [(exams, sorted(evidence)) for exams, evidence in sorted(groups.items())]


def _patients(manifest: pd.DataFrame) -> "pd.Series[str]":
    """Return the patient key by exam id."""
    return manifest.drop_duplicates("exam_id").set_index("exam_id").patient_key


def _members(split: Split) -> pd.DataFrame:
    """Return exam_id and set of every exam of a split."""
    return pd.concat([frame[["exam_id"]].assign(set=name) for name, frame in split.sets.items()], ignore_index=True)
