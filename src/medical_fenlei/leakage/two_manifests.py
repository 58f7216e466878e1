"""Is a patient of one manifest a patient of another?

Two hospitals number their patients and exams on their own, so that an equal id says nothing by itself. Evidence is what no two
hospitals share by chance: the same images, the same study, or the same name with the same birth date.
"""
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei.vocabulary import plural


@dataclass(frozen=True)
class SharedPatients:
    """Which ears of a manifest are of patients of another one, and what cannot be known about it."""

    ears: "pd.Series[bool]"
    """Mask over the rows of the manifest."""

    by_evidence: dict[str, int]
    """Number of these patients by the evidence, the strongest of each; empty within one manifest."""

    unknown: tuple[str, ...] = ()
    """Sentences on what the manifests do not decide; the ears in question are not in the mask."""

    def knowing(self, gone: Collection[str], manifest_csv: Path) -> "SharedPatients":
        """Return the same with a sentence on the fitted exams that are gone from the manifest, so that nobody knows of whom."""
        return self if not gone else replace(self, unknown=(*self.unknown, (
            f"{len(gone)} exams that the network was fitted on are not in {manifest_csv}: their patients are not known, none "
            "is left out for them")))

    def describe(self) -> str:
        """Return how many ears are of shared patients, and by which evidence; "" if there is none."""
        if not self.ears.any():
            return ""
        number = int(self.ears.sum())
        by = ", ".join(f"{count} by {evidence}" for evidence, count in self.by_evidence.items())
        return (f"{plural(number, 'ear')} of patients that the network was fitted on {'is' if number == 1 else 'are'} left out"
                + (f" (patients: {by})" if by else ""))


def patients_of_one_manifest(ears: pd.DataFrame, fitted: pd.DataFrame) -> SharedPatients:
    """Return the ears whose patient or exam is among the fitted ears, both rows of the same manifest: its keys decide."""
    same = ears.patient_key.isin(fitted.patient_key) | ears.exam_id.isin(fitted.exam_id)
    return SharedPatients(same, {})


def patients_in_common(ears: pd.DataFrame, fitted: pd.DataFrame, same_pixels: Collection[str] = ()) -> SharedPatients:
    """Return the ears whose patient is one of the fitted ears', by evidence beyond an id.

    ears, fitted: rows of two manifests. same_pixels: exams of `ears` that hold the same cached pixels as a fitted exam. Ids
    count where they are of one hospital, which shows where more of the shared ids are confirmed by other evidence than
    contradicted by name, birth date or sex.
    """
    evidence = {"the same images": ears.exam_id.isin(same_pixels) | _images(ears).isin(_known(_images(fitted))),
                "the same study": _studies(ears).isin(_known(_studies(fitted))),
                "name and birth date": _same_person(ears, fitted)}
    by_evidence, found = {}, pd.Series(False, ears.index)
    for name, rows in evidence.items():
        new = ears.patient_key.isin(ears.patient_key[rows]) & ~found
        by_evidence[name], found = ears.patient_key[new].nunique(), found | new
    same_id = ears.patient_key.isin(fitted.patient_key)
    contradicted = same_id & ears.patient_key.isin(_contradicted(ears, fitted))
    if _patients(ears, same_id & found & ~contradicted) > _patients(ears, contradicted):
        by_evidence["patient id"], found = _patients(ears, same_id & ~found), found | same_id
    left = same_id & ~found & ~contradicted
    unknown = [] if not left.any() else [
        f"{_patients(ears, left)} patients share the id of a patient that the network was fitted on; neither name and birth "
        "date, study nor images tell whether it is the same person: they are kept"]
    if not _comparable(ears, fitted):
        unknown.append("the patients of this manifest were hashed with another key than those of the run, so that only equal "
                       "images show who is in both; build_manifest_ears --patient-key-file makes hashes that can be compared")
    return SharedPatients(found, {name: number for name, number in by_evidence.items() if number}, tuple(unknown))


def unknown_patients(ears: pd.DataFrame, why: str) -> SharedPatients:
    """Return that no ear is known to be of a patient that the network was fitted on, since these are not known."""
    return SharedPatients(pd.Series(False, ears.index), {}, (
        f"whether the network was fitted on some of these patients cannot be known here ({why}): none is left out",))


def _images(manifest: pd.DataFrame) -> pd.Series:
    """The part of each series' digest that covers its images, whatever the times of their files; "" where unknown."""
    return _column(manifest, "series_digest").str.partition("-")[0]


def _studies(manifest: pd.DataFrame) -> pd.Series:
    """The keyed hash of each row's StudyInstanceUID; "" where it is unknown."""
    return _column(manifest, "study_key").where(_column(manifest, "study_key_source") == "study_uid", "")


def _same_person(ears: pd.DataFrame, fitted: pd.DataFrame) -> "pd.Series[bool]":
    """Mask of the ears whose name and birth date are those of a fitted ear of no other sex."""
    known = _persons(fitted)
    sexes = known.groupby("key").sex.agg(lambda own: "".join(sorted(set(own) & {"F", "M"})))
    own = _persons(ears)
    both = own.key.map(sexes)
    agree = np.array([isinstance(theirs, str) and len({sex, *theirs} & {"F", "M"}) < 2
                      for sex, theirs in zip(own.sex, both, strict=True)], bool)
    return pd.Series(ears.index.isin(own.row[agree]), ears.index)


def _persons(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row for each form of a name with its birth date: key, sex, patient_key and row.

    A key that several patients of one manifest have was no evidence there, and is none here: a constant of the export.
    """
    keys = _column(manifest, "person_keys").str.split(";")
    of_name = _column(manifest, "patient_key_source") == "name_birth_date"
    keys = pd.Series([{*own, key if by_name else ""} - {""} for own, key, by_name
                      in zip(keys, manifest.patient_key, of_name, strict=True)], manifest.index)
    long = pd.DataFrame({"key": keys, "sex": _column(manifest, "sex"), "patient_key": manifest.patient_key,
                         "row": manifest.index}).explode("key").dropna(subset="key")
    return long[long.groupby("key").patient_key.transform("nunique") == 1] if len(long) else long


def _contradicted(ears: pd.DataFrame, fitted: pd.DataFrame) -> set[str]:
    """Patient keys that both manifests have, of people who differ in name with birth date, or in sex."""
    def sets(table: pd.DataFrame, column: str) -> dict[str, set[str]]:
        return {str(key): {*own} for key, own in table.groupby("patient_key")[column]}

    def differ(one: dict[str, set[str]], other: dict[str, set[str]]) -> set[str]:
        return {key for key in one.keys() & other.keys() if not one[key] & other[key]}

    persons, others = _persons(ears), _persons(fitted)
    sexes, other_sexes = (own[_column(own, "sex").isin(["F", "M"])] for own in (ears, fitted))
    by_name = differ(sets(persons, "key"), sets(others, "key"))
    return by_name | (differ(sets(sexes, "sex"), sets(other_sexes, "sex")) if len(sexes) and len(other_sexes) else set())


def _comparable(ears: pd.DataFrame, fitted: pd.DataFrame) -> bool:
    """Whether the keyed hashes of two manifests can be equal, as far as they tell."""
    one, other = ({*_column(manifest, "hashed_with")} - {""} for manifest in (ears, fitted))
    return not one or not other or bool(one & other)


def _patients(ears: pd.DataFrame, rows: "pd.Series[bool]") -> int:
    return ears.patient_key[rows].nunique()


def _known(values: pd.Series) -> set[str]:
    return {*values} - {""}


def _column(manifest: pd.DataFrame, name: str) -> pd.Series:
    """A column of text, empty where a manifest of an earlier version lacks it."""
    return manifest.get(name, pd.Series("", manifest.index)).fillna("").astype("str")
