"""The manifest: one row per ear, with its series, its header facts, its label and its patient."""
import functools
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.dicom.exam_facts import read_exam_facts
from medical_fenlei.dicom.identity import read_identity
from medical_fenlei.dicom.volume import inside
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.ingest.patient_links import PatientLinks, link_patients
from medical_fenlei.ingest.patients import ExamPatient, key_mark, patient_evidence, study_key
from medical_fenlei.ingest.person import are_different
from medical_fenlei.ingest.scan import SeriesScan, scan_exams
from medical_fenlei.ingest.study_doubts import constant_uids
from medical_fenlei.parallel import Workers, map_items
from medical_fenlei.vocabulary import SIDES, Side, plural, vendor

MANY_EXAMS = 20
"""A patient with more exams than this may be several people."""

_Exam = Mapping[Hashable, Any]
"""A row of `tables.INDEX`."""


class _Rejects:
    """Rows of `tables.REJECTS`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def add(self, exam_id: str, file: str, reason: str, detail: str) -> None:
        """Append a row."""
        self.rows.append({"exam_id": exam_id, "file": file, "reason": reason, "detail": detail})


@dataclass(frozen=True)
class _Scans:
    """Kept or new scans of the exam folders of an index."""

    series: dict[str, SeriesScan]
    """Series by path below the base."""

    to_identify: dict[str, list[str]]
    """First and last file of every series, and those whose patient is stated otherwise, by exam folder."""

    failed: dict[str, tuple[str, str]]
    """(reason, detail) of folders that could not be read."""


@dataclass(frozen=True)
class Manifest:
    """The ears of an index with their patients, and what was left out."""

    table: pd.DataFrame
    """`tables.MANIFEST`."""

    rejects: pd.DataFrame
    """`tables.REJECTS`."""

    patients: PatientLinks

    def refuse_if_empty(self, out_csv: Path) -> None:
        """Raise UserError, with the reasons and the first detail, if there is no ear, so that an earlier manifest stays."""
        if self.table.empty:
            reasons = ", ".join(f"{number} {reason}" for reason, number in self.rejects.reason.value_counts().items())
            first = self.rejects.iloc[0]
            raise UserError(f"--out-csv {out_csv}: not written, since it would hold no ear: {reasons} (first {first.exam_id}: "
                            f"{first.file}: {first.detail})")


def check_index_and_tree(index: pd.DataFrame, *, index_csv: Path, dicom_base: Path) -> None:
    """Raise UserError, with a folder of either, if the base holds none of the exam folders of a `tables.INDEX`.

    To be called before anything is written, so that an earlier manifest stays.
    """
    if not any((dicom_base / folder).exists() for folder in index.exam_relpath):
        there = next((f"; the first entry here is {path.name!r}" for path in sorted(dicom_base.iterdir())), "; it is empty")
        raise UserError(f"--dicom-base {dicom_base}: holds none of the {plural(len(index), 'exam folder')} of --index-csv "
                        f"{index_csv}, which are like {index.exam_relpath.iloc[0]!r}{there}; name the --dicom-base that "
                        "build_index read")


def build_manifest(index: pd.DataFrame, *, base: Path, scan_file: Path, key: bytes, workers: Workers) -> Manifest:
    """Return the manifest of an index; exams without a usable series are rejects.

    scan_file: scans kept for the index, so that only exams with changed files are read again; key: key of the patient hashes.
    """
    rejects = _Rejects()
    exams = {str(row["exam_id"]): row for row in index.to_dict("records")}
    wanted = _wanted_series(index, exams, base, rejects)
    scans = _scan([exams[exam_id]["exam_relpath"] for exam_id in wanted], base=base, scan_file=scan_file, workers=workers)
    found = _found_series(wanted, exams, scans, rejects)

    read: dict[str, tuple[ExamPatient, dict[str, Any]]] = {}
    to_read = [(exam_id, tuple(dict.fromkeys([of_side[Side.LEFT].first,
                                              *scans.to_identify[exams[exam_id]["exam_relpath"]]])))
               for exam_id, of_side in found.items()]
    constant = constant_uids({exam_id: list(of_side.values()) for exam_id, of_side in found.items()})
    separate = frozenset(exam_id for exam_id, of_side in found.items()
                         if {facts.study_uid for facts in of_side.values()} & constant)
    for outcome in map_items(functools.partial(_patient_facts, base, key, separate), to_read, workers=workers,
                             label="patients"):
        exam_id, files = outcome.item
        if outcome.value is None:
            rejects.add(exam_id, files[0], outcome.reason, outcome.detail)
            continue
        read[exam_id] = outcome.value
    patients = link_patients(patient for patient, _ in read.values())
    rows: list[dict[str, object]] = []
    for exam_id, (_, facts) in read.items():
        exam = exams[exam_id]
        patient = dict(zip(("patient_key", "patient_key_source"), patients.keys[exam_id], strict=True))
        shared = {name: exam[name] for name in ("date", "label_date", "date_match")}
        rows += [{"exam_id": exam_id, "side": str(side), **shared, **patient, **facts, **header_facts(found[exam_id][side]),
                  "label_code": exam[f"{side}_code"], "series_digest": found[exam_id][side].digest} for side in SIDES]
    if not rows:
        return Manifest(tables.MANIFEST.empty(), tables.REJECTS.frame(rejects.rows), patients)
    ears = pd.DataFrame(rows)
    table = pd.concat([ears, tables.task_columns(ears.label_code)], axis=1)
    return Manifest(tables.MANIFEST.frame(table), tables.REJECTS.frame(rejects.rows), patients)


def _wanted_series(index: pd.DataFrame, exams: Mapping[str, _Exam], base: Path, rejects: _Rejects
                   ) -> dict[str, dict[Side, str]]:
    """Return the series of each side of each exam that has one and lies below the base; the other exams become rejects."""
    left, right = (tables.series_of(index, side) for side in (Side.LEFT, Side.RIGHT))
    wanted = {}
    for (exam_id, exam), left_series, right_series in zip(exams.items(), left, right, strict=True):
        try:
            inside(base, exam["exam_relpath"])
        except Rejected as rejected:
            rejects.add(exam_id, exam["exam_relpath"], rejected.reason, rejected.detail)
            continue
        if exam["series_relpath"]:
            wanted[exam_id] = {Side.LEFT: left_series, Side.RIGHT: right_series}
        else:
            rejects.add(exam_id, exam["exam_relpath"], "no_series", exam["series_reason"])
    return wanted


def _scan(folders: Iterable[str], *, base: Path, scan_file: Path, workers: Workers) -> _Scans:
    scans = _Scans({}, {}, {})
    for outcome, _ in scan_exams(base, list(dict.fromkeys(folders)), scan_file, workers=workers):
        if outcome.value is None:
            scans.failed[outcome.item] = outcome.reason, outcome.detail
        series = outcome.value.series if outcome.value else ()
        scans.series.update({facts.relpath: facts for facts in series})
        scans.to_identify[outcome.item] = [
            file for facts in series if facts.refused != "named_path"
            for file in (facts.first, facts.last, *facts.other_people)]
    return scans


def _found_series(wanted: Mapping[str, Mapping[Side, str]], exams: Mapping[str, _Exam], scans: _Scans, rejects: _Rejects
                  ) -> dict[str, dict[Side, SeriesScan]]:
    """Return the scans of the wanted series; exams that could not be read or lack a series become rejects."""
    found = {}
    for exam_id, of_side in wanted.items():
        folder = exams[exam_id]["exam_relpath"]
        missing = [relpath for relpath in of_side.values() if relpath not in scans.series or not scans.series[relpath].slices]
        if folder in scans.failed:
            rejects.add(exam_id, folder, *scans.failed[folder])
        elif missing:
            rejects.add(exam_id, missing[0], "missing_series", "it is gone or has changed: build the index again")
        else:
            found[exam_id] = {side: scans.series[relpath] for side, relpath in of_side.items()}
    return found


def _patient_facts(base: Path, key: bytes, separate: frozenset[str], exam: tuple[str, tuple[str, ...]]
                   ) -> tuple[ExamPatient, dict[str, Any]]:
    """Return the patient, `tables.SUBGROUP_FACTS` and `tables.PERSON_FACTS` from the first of these files of an exam.

    The files are the first and the last image of each series, and one for every other statement of its patient. Raises Rejected
    (several_patients) if they are of different people: a series, or a part of one, lies in the wrong exam. separate: exams
    whose StudyInstanceUID is a constant of the export.
    """
    exam_id, (file, *others) = exam
    path = inside(base, file)
    identity = read_identity(path)
    for other in others:
        if are_different(identity, read_identity(inside(base, other))):
            raise Rejected("several_patients", f"{other} is of another patient than {file}: take out what is not the exam's")
    facts = read_exam_facts(path)
    patient, study_uid = patient_evidence(identity, exam_id, key, facts.sex), "" if exam_id in separate else facts.study_uid
    return patient, {
        "age_years": facts.age_years, "sex": facts.sex, "kvp": facts.kvp, "study_key": study_key(study_uid, exam_id, key),
        "person_keys": ";".join(patient.person_keys), "study_key_source": "study_uid" if study_uid else "exam_id",
        "hashed_with": key_mark(key)}


def header_facts(series: SeriesScan) -> dict[str, Any]:
    """Return the path of a series, its number of images, and its `tables.HEADER_FACTS`."""
    return {
        "series_relpath": series.relpath, "n_instances": series.images, "manufacturer": vendor(series.manufacturer),
        "model": series.model, "kernel": "/".join(filter(None, series.kernel.split("\\"))),
        "transfer_syntax": series.transfer_syntax, "rows": series.rows, "columns": series.columns,
        "pixel_spacing_mm": _length(series.pixel_spacing), "slice_thickness_mm": _length(series.slice_thickness),
        "slice_increment_mm": _length(series.slice_spacing),
    }


def _length(mm: float | None) -> float | None:
    """A length from a header; None where none is stated, or none that a scan can have."""
    return mm if mm is not None and 0 <= mm <= tables.LONGEST_MM else None


def count_manifest(manifest: pd.DataFrame, rejects: pd.DataFrame) -> dict[str, int]:
    """Return the number of exams, ears and patients of `tables.MANIFEST`, and of exams among its rejects."""
    return {"exams": manifest.exam_id.nunique(), "exams left out": rejects.exam_id.nunique(), "ears": len(manifest),
            "labelled ears": int((manifest.label_code > 0).sum()), "patients": manifest.patient_key.nunique()}


def doubtful_patients(manifest: pd.DataFrame) -> list[list[str]]:
    """Return the exams of each patient who can hardly be one person: of both sexes, or with more than MANY_EXAMS exams.

    A PatientID such as ANONYMOUS merges many people.
    """
    exams = manifest[manifest.patient_key_source != "exam_id"].drop_duplicates("exam_id").groupby("patient_key", sort=False)
    return [sorted(own.exam_id) for _, own in exams if {"F", "M"} <= set(own.get("sex", ())) or len(own) > MANY_EXAMS]
