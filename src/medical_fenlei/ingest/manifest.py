"""The manifest: one row an ear, with its series, the facts of its headers, its label and its patient."""
import functools
from pathlib import Path
from typing import Any

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.dicom.exam_facts import read_exam_facts
from medical_fenlei.dicom.header import read_identity
from medical_fenlei.dicom.volume import inside
from medical_fenlei.errors import Rejected
from medical_fenlei.ingest.patients import contradict, patient_key, study_key
from medical_fenlei.ingest.scan import SeriesScan, scan_exams
from medical_fenlei.parallel import Workers, map_items
from medical_fenlei.vocabulary import SIDES, Side, vendor


def build_manifest(
    index: pd.DataFrame, *, base: Path, scan_file: Path, key: bytes, workers: Workers
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Manifest and rejects of an index (`tables.MANIFEST`, `tables.REJECTS`); exams without a usable series are rejects.

    scan_file: what was read for the index, so that only exams whose files have changed are read again.
    """
    rejects: list[dict[str, object]] = []

    def reject(exam_id: str, file: str, reason: str, detail: str) -> None:
        rejects.append({"exam_id": exam_id, "file": file, "reason": reason, "detail": detail})

    rows_of = {str(row["exam_id"]): row for row in index.to_dict("records")}
    wanted: dict[str, dict[Side, str]] = {}
    for (exam_id, row), of_side in zip(rows_of.items(), _each_side(index), strict=True):
        try:
            inside(base, row["exam_relpath"])
        except Rejected as rejected:
            reject(exam_id, row["exam_relpath"], rejected.reason, rejected.detail)
            continue
        if row["series_relpath"]:
            wanted[exam_id] = of_side
        else:
            reject(exam_id, row["exam_relpath"], "no_series", row["series_reason"])
    folders = list(dict.fromkeys(rows_of[exam_id]["exam_relpath"] for exam_id in wanted))
    known: dict[str, SeriesScan] = {}
    beside: dict[str, list[str]] = {}
    unread: dict[str, tuple[str, str]] = {}
    for scanned, _ in scan_exams(base, folders, scan_file, workers=workers):
        series = scanned.value.series if scanned.value else ()
        if scanned.value is None:
            unread[scanned.item] = scanned.reason, scanned.detail
        known |= {facts.relpath: facts for facts in series}
        beside[scanned.item] = [file for facts in series for file in (facts.first, facts.last)]
    found: dict[str, dict[Side, SeriesScan]] = {}
    for exam_id, of_side in wanted.items():
        missing = [relpath for relpath in of_side.values() if relpath not in known or not known[relpath].slices]
        if (folder := rows_of[exam_id]["exam_relpath"]) in unread:
            reject(exam_id, folder, *unread[folder])
        elif missing:
            reject(exam_id, missing[0], "missing_series", "not there any more, or not as it was: build the index again")
        else:
            found[exam_id] = {side: known[relpath] for side, relpath in of_side.items()}

    rows: list[dict[str, object]] = []
    persons = [(exam_id, tuple(dict.fromkeys([of_side[Side.LEFT].first, *beside[rows_of[exam_id]["exam_relpath"]]])))
               for exam_id, of_side in found.items()]
    for outcome in map_items(functools.partial(_person, base, key), persons, workers=workers, label="patients"):
        exam_id, files = outcome.item
        if outcome.value is None:
            reject(exam_id, files[0], outcome.reason, outcome.detail)
            continue
        exam = rows_of[exam_id]
        shared = {name: exam[name] for name in ("date", "label_date", "date_match")}
        rows += [{"exam_id": exam_id, "side": str(side), **shared, **outcome.value, **header_facts(found[exam_id][side]),
                  "label_code": exam[f"{side}_code"]} for side in SIDES]
    if not rows:
        return tables.MANIFEST.empty(), tables.REJECTS.frame(rejects)
    ears = pd.DataFrame(rows)
    table = pd.concat([ears, tables.task_columns(ears.label_code)], axis=1)
    return tables.MANIFEST.frame(table), tables.REJECTS.frame(rejects)


def _each_side(index: pd.DataFrame) -> list[dict[Side, str]]:
    """The series of each side of each exam."""
    left, right = (tables.series_of(index, side) for side in (Side.LEFT, Side.RIGHT))
    return [{Side.LEFT: one, Side.RIGHT: other} for one, other in zip(left, right, strict=True)]


MANY_EXAMS = 20
"""A patient with more of them may be several."""


def doubtful_patients(manifest: pd.DataFrame) -> list[list[str]]:
    """Exams of one patient that can hardly be of one person: of both sexes, or more than MANY_EXAMS.

    A PatientID such as ANONYMOUS makes one person of many.
    """
    exams = manifest[manifest.patient_key_source != "exam_id"].drop_duplicates("exam_id").groupby("patient_key", sort=False)
    return [sorted(own.exam_id) for _, own in exams if {"F", "M"} <= set(own.get("sex", ())) or len(own) > MANY_EXAMS]


def _person(base: Path, key: bytes, exam: tuple[str, tuple[str, ...]]) -> dict[str, Any]:
    """Who was examined, and `tables.SUBGROUP_FACTS`, from the first of these files.

    Raises Rejected (several_patients) where another of them is of somebody else: a series, or half of one, that lies in the
    wrong exam. The lowest and the highest image of each series are looked at, and no image between them.
    """
    exam_id, (file, *others) = exam
    path = inside(base, file)
    identity = read_identity(path)
    for other in others:
        if contradict(identity, read_identity(inside(base, other))):
            raise Rejected("several_patients", f"{other} is of another patient than {file}: take out what is not the exam's")
    who, source = patient_key(identity, exam_id, key)
    facts = read_exam_facts(path)
    return {"patient_key": who, "patient_key_source": source, "age_years": facts.age_years, "sex": facts.sex, "kvp": facts.kvp,
            "study_key": study_key(facts.study_uid, exam_id, key)}


def header_facts(series: SeriesScan) -> dict[str, Any]:
    """Which series, how many images, and its `tables.HEADER_FACTS`."""
    return {
        "series_relpath": series.relpath, "n_instances": series.images, "manufacturer": vendor(series.manufacturer),
        "model": series.model, "kernel": "/".join(filter(None, series.kernel.split("\\"))),
        "transfer_syntax": series.transfer_syntax, "rows": series.rows, "columns": series.columns,
        "pixel_spacing_mm": series.pixel_spacing, "slice_thickness_mm": series.slice_thickness,
        "slice_increment_mm": series.step,
    }
