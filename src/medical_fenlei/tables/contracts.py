"""Every table that the package reads or writes, and the paths of files that belong to another file."""
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei.tables.schema import Kind, Table
from medical_fenlei.tasks import BINARY_TASKS, OUTSIDE
from medical_fenlei.vocabulary import SIDES, Side

INDEX = Table("index, one row per exam", {
    "exam_id": "key", "date": "text", "label_date": "text", "date_match": "flag", "ambiguous_match": "flag",
    "exam_relpath": "relpath", "series_relpath": "relpath", "n_instances": "int", "left_code": "code", "right_code": "code",
    "series_reason": "text",
}, optional={"right_series_relpath": "relpath"}, unique=("exam_id",), made_by="build_index")
"""right_series_relpath: series of the right ear if each ear has its own; series_relpath is then the series of the left ear."""
SPLIT = Table("split, one row per exam", {**INDEX.columns, "patient_key": "text"}, optional=INDEX.optional, unique=("exam_id",))
SERIES = Table("series, one row per series", {
    "exam_id": "key", "series_relpath": "relpath", "verdict": "key", "why": "text", "plane": "text", "image_type": "text",
    "manufacturer": "text", "model": "text", "kernel": "text", "transfer_syntax": "text", "files": "int", "images": "int",
    "copies": "int", "slices": "int", "rows": "int", "columns": "int", "pixel_spacing_mm": "float",
    "slice_thickness_mm": "float", "slice_spacing_mm": "float", "tilt_deg": "float", "z_coverage_mm": "float",
    "x_coverage_mm": "float", "x_centre_mm": "float", "notes": "text",
}, unique=("series_relpath",))

HEADER_FACTS: dict[str, Kind] = {
    "manufacturer": "text", "model": "text", "kernel": "text", "transfer_syntax": "text", "rows": "int", "columns": "int",
    "pixel_spacing_mm": "mm", "slice_thickness_mm": "mm", "slice_increment_mm": "mm",
}
"""Columns about the series."""
SUBGROUP_FACTS: dict[str, Kind] = {"age_years": "age", "sex": "text", "kvp": "float", "study_key": "text"}
"""Columns about the exam, for subgroups; manifests of earlier versions lack them."""
PERSON_FACTS: dict[str, Kind] = {"person_keys": "text", "study_key_source": "text", "hashed_with": "text"}
"""Columns that tell whether exams of two manifests are of one person; manifests of earlier versions lack them. person_keys:
keyed hashes of every form of the name with the birth date, `;` between; study_key_source: study_uid or exam_id; hashed_with: a
mark of the key of all these hashes."""
MANIFEST = Table("manifest, one row per ear", {
    "exam_id": "key", "side": "side", "date": "text", "label_date": "text", "date_match": "flag", "series_relpath": "relpath",
    "n_instances": "int", "label_code": "code", "patient_key": "key", "patient_key_source": "text", **HEADER_FACTS,
    **{f"task_valid__{t.name}": "flag" for t in BINARY_TASKS}, **{f"task_y__{t.name}": "text" for t in BINARY_TASKS},
}, optional={**SUBGROUP_FACTS, "series_digest": "text", **PERSON_FACTS}, unique=("exam_id", "side"),
    made_by="build_manifest_ears")
"""series_digest: digest of the images of the series, with which cached ears are compared; earlier versions lack it."""
LINKED_PATIENTS = Table("exams of one patient, one row per pair that was linked, or was not although some evidence agrees", {
    "exam_id": "key", "other_exam_id": "key", "evidence": "key", "linked": "flag", "why": "text",
})
"""Exams whose patients are linked through several pairs have one patient_key in the manifest."""
CACHE_INDEX = Table("cache index, one row per ear", {"exam_id": "key", "side": "side", "file": "relpath", "sha256": "key"},
                    unique=("exam_id", "side"))

QA_EARS = Table("quality of cached ears, one row per ear", {
    "exam_id": "key", "side": "side", "score": "float", "why": "text", "confidence": "float", "method": "text",
    "reasons": "text", "padded_share": "float", "histogram_distance": "float", "plane_difference_mm": "float",
    "height_difference_mm": "float", "anatomy_apart_mm": "float", "odd_confidence": "float", "odd_padding": "float",
    "odd_histogram": "float",
    "odd_plane": "float", "odd_height": "float", "odd_anatomy": "float", "picture": "text",
}, unique=("exam_id", "side"))
_QUANTILES: dict[str, Kind] = {name: "float" for name in ("min", "p10", "median", "p90", "max")}
QA_SCAN_NUMBERS = Table("numbers of the scans, one row per group and parameter", {
    "by": "key", "group": "key", "parameter": "key", "exams": "int", "missing": "int", **_QUANTILES,
}, unique=("by", "group", "parameter"))
QA_SCAN_NAMES = Table("names in the scans, one row per group, parameter and value", {
    "by": "key", "group": "key", "parameter": "key", "value": "text", "exams": "int", "share": "float",
}, unique=("by", "group", "parameter", "value"))
QA_CLASSES = Table("labelled ears, one row per group and code", {
    "by": "key", "value": "text", "label_code": "code", "diagnosis": "key", "ears": "int", "patients": "int", "share": "float",
}, unique=("by", "value", "label_code"))
QA_PEOPLE = Table("patients, one row per group", {
    "by": "key", "group": "key", "exams": "int", "patients": "int", "sex_F": "int", "sex_M": "int", "sex_O": "int",
    "sex_unknown": "int", "age_missing": "int", **{f"age_{name}": kind for name, kind in _QUANTILES.items()},
}, unique=("by", "group"))
QA_MISSING = Table("missing values, one row per column", {"column": "key", "ears": "int", "missing": "int", "share": "float"},
                   unique=("column",))
QA_FINDINGS = Table("findings that deserve a look", {"kind": "key", "text": "key"})

PREDICTIONS = Table("predictions, one row per ear", {
    "exam_id": "key", "side": "side", "patient_key": "key", "label_code": "code", "y_true": "int", "y_prob": "share",
    "y_pred": "int", "top_slices": "text", "top_slice_weights": "text",
}, optional={"top_images": "text", "evaluation": "text"}, more="float", unique=("exam_id", "side"),
   made_by="eval_ear2d or eval_dual")
"""top_images: the `SourceImage` of each of top_slices, `;` between; predictions of earlier versions lack it."""

ONE_SIDED = Table("exams whose ears differ, one row per exam, the most suspicious first", {
    "exam_id": "key", "positive_side": "side", "score_positive": "float", "score_other": "float", "lead": "float",
}, unique=("exam_id",))
SUSPECTS = Table("labels to be read again, one row per ear, the most doubtful first", {
    "exam_id": "key", "side": "side", "label_code": "code", "set": "key", "rank": "int", "doubt": "float",
    "nll": "float", "agreement": "float", "epochs": "count", "first_agreed": "count", "date_match": "flag",
}, unique=("exam_id", "side"))
AUDITS = Table("audits of a run, one row per question and figure", {
    "question": "key", "figure": "key", "estimate": "float", "low": "float", "high": "float", "verdict": "key",
    "patients_to_decide": "count", "words": "text",
}, unique=("question", "figure"))
TRAINING_EARS = Table("training ears, one row per ear", {"exam_id": "key", "side": "side", "label_code": "code"},
                      unique=("exam_id", "side"))

SUBGROUPS = Table("subgroups of a set, one row per subgroup and metric", {
    "by": "key", "value": "key", "ears": "int", "patients": "int", "positive": "count", "metric": "key", "estimate": "float",
    "low": "float", "high": "float", "note": "text",
}, optional={"support": "count", "evaluation": "text"}, unique=("by", "value", "metric"))
"""support: patients of the smallest group of ears that the measure needs."""
RESULTS = Table("results of an evaluation, one row per operating point and metric", {
    "task": "key", "set": "key", "ears": "int", "patients": "int", "point": "text", "threshold": "float", "metric": "key",
    "measure": "key", "estimate": "float", "low": "float", "high": "float", "support": "count", "note": "text",
    "evaluation": "key",
}, unique=("point", "metric"), made_by="eval_ear2d")
"""point: empty for the measures as the evaluation decided; threshold: that of the operating point."""
COMPARISON = Table("two networks on the same ears, one row per metric", {
    "metric": "key", "first": "float", "second": "float", "difference": "float", "low": "float", "high": "float", "p": "float",
    "note": "text",
}, optional={"support": "count", **{f"{network}_{end}": "float" for network in ("first", "second") for end in ("low", "high")}},
   unique=("metric",))

EXPLANATIONS = Table("explained ears, one row per ear, method and slice", {
    "exam_id": "key", "side": "side", "label_code": "code", "class_name": "key", "probability": "float", "method": "key",
    "layer": "key", "rank": "int", "slice": "int", "z_mm": "float", "image": "count", "image_z_mm": "float", "weight": "float",
    "ranked_by": "key", "peak_k": "count", "peak_row": "count", "peak_column": "count", "peak_x_mm": "float",
    "peak_y_mm": "float", "peak_z_mm": "float",
    "picture": "relpath",
}, unique=("exam_id", "side", "method", "rank"))
"""image, image_z_mm: the image nearest to the slice (`source_images`).
peak_*: where the map is highest in the whole volume (LPS, mm); empty if no voxel speaks for the class."""
FEWSHOT = Table("few-shot scores, one row per ear", {
    "exam_id": "key", "side": "side", "patient_key": "key", "label_code": "code", "y_true": "int",
    "score_prototype": "float", "score_knn": "float", "score_logistic": "float",
}, unique=("exam_id", "side"))
NEIGHBORS = Table("nearest cases, one row per ear and rank", {
    "exam_id": "key", "side": "side", "label_code": "code", "rank": "int", "neighbor_exam_id": "key", "neighbor_side": "side",
    "neighbor_label_code": "code", "distance": "float",
}, unique=("exam_id", "side", "rank"))

EXAMS = Table("exams to predict, one row per exam", {"exam_id": "key", "series_relpath": "relpath"},
              optional={"right_series_relpath": "relpath", "left_code": "code", "right_code": "code"}, unique=("exam_id",),
              made_by="build_index")
EXAM_IDS = Table("list of exams", {"exam_id": "key"})
_OF_A_SIDE: dict[str, Kind] = {
    "label_code": "code", "y_true": "count", "y_prob": "float", "y_pred": "count", "name": "text",
    "top_slices": "text", "top_slice_weights": "text",
}
DUAL_PREDICTIONS = Table("predictions, one row per exam", {
    "exam_id": "key", "patient_key": "text",
    **{f"{side}_{name}": kind for side in SIDES for name, kind in _OF_A_SIDE.items()},
}, optional={f"{side}_top_images": "text" for side in SIDES}, more="float", unique=("exam_id",))
NEW_EXAM_ANSWERS = Table("answers for new exams, one row per ear, task and class", {
    "exam_id": "key", "side": "side", "task": "text", "class": "text", "probability": "float", "threshold": "float",
    "decision": "text", "calibrated": "flag", "forced": "text", "refused": "text", "refused_why": "text",
    "quality_flags": "text", "confidence": "float", "method": "text", "padded_share": "float", "manufacturer": "text",
    "kernel": "text", "bone_kernel": "text", "slice_increment_mm": "float", "slice_thickness_mm": "float",
    "pixel_spacing_mm": "float", "tilt_deg": "float", "slices": "count", "top_images": "text", "picture": "text",
}, unique=("exam_id", "side", "task", "class"))
"""task, class, probability and decision are empty for an ear that was refused."""

RUNS = Table("runs of a study, one row per run and task", {
    "run": "key", "pct": "int", "model": "key", "seed": "int", "task": "key", "status": "key", "reason": "text",
}, optional={"best_epoch": "count", "ears": "count", "patients": "count", "evaluation": "text"}, more="float",
   unique=("run", "task"))
SUMMARY = Table("a study over its seeds, one row per group, task and metric", {
    "pct": "int", "model": "key", "task": "key", "seeds": "int", "metric": "key", "mean": "float", "sd": "float",
    "low": "float", "high": "float", "note": "text",
}, optional={"ensemble": "float", "ensemble_low": "float", "ensemble_high": "float", "support": "count"},
   unique=("pct", "model", "task", "metric"))

REJECTS = Table("rejects, one row per file, series or ear that could not be used", {
    "exam_id": "text", "file": "text", "reason": "key", "detail": "text",
})


INDEX_STEM = "dataset_index"
"""Stem of the index that build_index writes where no other name is asked for."""


def series_of(exams: pd.DataFrame, side: Side) -> pd.Series:
    """The series that shows the ear of this side, for each row of `INDEX`, `SPLIT` or `EXAMS`."""
    own = exams.get("right_series_relpath", pd.Series("", exams.index))
    return exams["series_relpath"] if side is Side.LEFT else own.where(own != "", exams.series_relpath)


def first_exams(rows: pd.DataFrame, number: int | None) -> pd.DataFrame:
    """The rows of the first exams, in their order of appearance; every row if `number` is None."""
    return rows[rows.exam_id.isin(rows.exam_id.unique()[:number])]


def is_of_evaluation(rows: pd.DataFrame, evaluation: str) -> bool:
    """Whether all rows of a `PREDICTIONS` or `SUBGROUPS` carry this id of an evaluation; without rows none differs."""
    return rows.empty or ("evaluation" in rows and bool((rows.evaluation == evaluation).all()))


def scan_path(index_csv: Path) -> Path:
    """The file beside an index that keeps what was read from the headers."""
    return index_csv.with_name(f"{index_csv.stem}_scan.jsonl")


def series_report_path(index_csv: Path) -> Path:
    """The table beside an index of all series; that of an index with another name than the default has its stem in front."""
    return index_csv.with_name("series_report.csv" if index_csv.stem == INDEX_STEM else f"{index_csv.stem}_series_report.csv")


def rejects_path(output: Path) -> Path:
    """The table beside an output that lists its rejects."""
    return output.with_name(f"{output.stem}_rejects.csv")


def linked_patients_path(output: Path) -> Path:
    """The table beside a manifest that lists which exams were linked as one patient's, and why."""
    return output.with_name(f"{output.stem}_linked_patients.csv")


def counts_path(output: Path) -> Path:
    """The JSON file beside a table that keeps the counts behind it."""
    return output.with_name(f"{output.stem}_counts.json")


def task_columns(label_code: pd.Series) -> pd.DataFrame:
    """The columns `task_valid__<task>` and `task_y__<task>` (0, 1 or empty) of every binary task, for integer codes."""
    columns: dict[str, object] = {}
    for task in BINARY_TASKS:
        target = task.targets(label_code.to_numpy(np.int64))
        columns[f"task_valid__{task.name}"] = target != OUTSIDE
        columns[f"task_y__{task.name}"] = np.where(target != OUTSIDE, target.astype(str), "")
    return pd.DataFrame(columns, index=label_code.index)
