"""The contract of every CSV: what columns it has, what a cell may hold. Reading checks it; writing is atomic.

In memory a code is an integer with 0 for "no label", an absent text is "", an absent number NaN. Text that a spreadsheet would
run as a formula is written behind an apostrophe, which reading takes off again.
"""
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic, is_inside
from medical_fenlei.tasks import BINARY_TASKS, OUTSIDE
from medical_fenlei.vocabulary import DIAGNOSES, SIDES, UNLABELLED, Side

Kind = Literal["text", "key", "relpath", "side", "code", "flag", "int", "count", "float", "share"]
"""key: text, never empty; relpath: a path below a base folder; code: 1 to 6 or empty; int: never empty; count: an integer that
may be; float: may be; share: from 0 to 1, never empty."""

_FORMULA = re.compile(r"^'*[=+\-@\t\r]")
_ESCAPED = re.compile(r"^'+[=+\-@\t\r]")
_DTYPES: dict[str, str] = {
    "code": "int8", "flag": "bool", "int": "int64", "count": "Int64", "float": "float64", "share": "float64"}

_ALLOWED: dict[str, tuple[Callable[[object], bool], str]] = {
    "key": (lambda v: v != "", "must not be empty"),
    "relpath": (lambda v: is_inside(str(v)), "must stay below its base folder"),
    "side": (lambda v: v in SIDES, "must be left or right"),
    "share": (lambda v: 0 <= cast(float, v) <= 1, "must be 0 to 1"),
    "code": (lambda v: v == UNLABELLED or v in DIAGNOSES, "must be 1 to 6 or empty"),
}


@dataclass(frozen=True)
class Table:
    """One kind of CSV."""

    name: str
    columns: dict[str, Kind]
    more: Kind | None = None
    """What columns beyond those named hold; None where they are ignored."""

    optional: dict[str, Kind] = field(default_factory=dict)
    """Columns that may be missing."""

    unique: tuple[str, ...] = ()
    """Columns that together name a row."""

    def read(self, path: Path) -> pd.DataFrame:
        """The checked table. Raises UserError: no file, no such column, or the first cell that may not be."""
        try:
            raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig",
                              encoding_errors="surrogateescape")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file ({self.name})") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: cannot be read as CSV ({self.name}): {str(error).splitlines()[0]}") from None
        missing = [c for c in self.columns if c not in raw.columns]
        if missing:
            other = next((mark for mark in ";\t" if len(raw.columns) == 1 and mark in raw.columns[0]), "")
            hint = f"; it is divided by {other!r}, expected commas: was it saved by Excel?" if other else ""
            there = ", ".join(c for c in raw.columns if c in self.columns) or "none"     # the others may be a patient's data
            raise UserError(f"{path}: column {missing[0]!r} is missing ({self.name}); of its columns there are: {there}{hint}")
        kinds = self._kinds(raw.columns)
        frame = pd.DataFrame({c: self._parse(raw[c], kind, path) for c, kind in kinds.items()})
        self._check(frame, str(path))
        return frame

    def write(self, path: Path, frame: pd.DataFrame) -> None:
        """Write the table's columns (and further ones, where it has them). Raises UserError if a cell may not be."""
        kinds = self._kinds(frame.columns)
        frame = frame.reset_index(drop=True)[list(kinds)]
        self._check(frame, str(path))
        shown = pd.DataFrame({c: self._show(frame[c], kind) for c, kind in kinds.items()})
        with atomic(path, "w") as file:
            shown.to_csv(file, index=False, lineterminator="\n")

    def empty(self) -> pd.DataFrame:
        return self.frame([])

    def frame(self, rows: Sequence[Mapping[str, object]] | pd.DataFrame) -> pd.DataFrame:
        """A table of these rows with the types of its columns, also where there are none."""
        frame = pd.DataFrame(rows, columns=None if len(rows) else list(self.columns))
        return frame.astype({c: _DTYPES.get(k, "str") for c, k in self._kinds(frame.columns).items()})

    def _kinds(self, present: Iterable[str]) -> dict[str, Kind]:
        present = list(present)
        named = {**self.columns, **{c: kind for c, kind in self.optional.items() if c in present}}
        return {**named, **{c: self.more for c in present if self.more and c not in named}}

    def _parse(self, cells: pd.Series, kind: Kind, path: Path) -> pd.Series:
        if kind not in ("relpath", "text"):                      # folders are called what they are called
            cells = cells.str.strip()
        try:
            if kind == "flag":
                values = cells.str.lower().map({"true": True, "false": False, "1": True, "0": False})
                if values.isna().any():
                    raise ValueError(f"got {cells[values.isna()].iloc[0]!r}, expected true or false")
                return values.astype(bool)
            if kind == "code":
                return cells.where(cells != "", str(UNLABELLED)).astype("int8")
            if kind in ("int", "count", "float", "share"):
                _refuse_words(cells, kind)
                numbers = cells.where(cells != "", "nan").astype("float64")
                return numbers if kind in ("float", "share") else numbers.astype("int64" if kind == "int" else "Int64")
        except (ValueError, OverflowError) as error:
            raise UserError(f"{path}: column {cells.name!r}: {str(error).splitlines()[0]}") from None
        return cells.map(lambda text: text[1:] if _ESCAPED.match(text) else text).astype("str")

    def _show(self, cells: pd.Series, kind: Kind) -> pd.Series:
        if kind == "code":
            return cells.map(lambda code: "" if code == UNLABELLED else str(code))
        if kind in _DTYPES:
            return cells
        return cells.map(lambda text: f"'{text}" if _FORMULA.match(text) else text)

    def _check(self, frame: pd.DataFrame, where: str) -> None:
        import pandera.pandas as pa  # slow to import, so not with the flags

        def column(kind: Kind) -> pa.Column:
            allowed, words = _ALLOWED.get(kind, (None, ""))
            checks = [pa.Check(allowed, element_wise=True, error=words)] if allowed else []
            return pa.Column(_DTYPES.get(kind, "str"), checks, nullable=kind in ("count", "float"))

        schema = pa.DataFrameSchema(
            {c: column(k) for c, k in self._kinds(frame.columns).items()}, unique=list(self.unique) or None
        )
        try:
            schema.validate(frame)
        except pa.errors.SchemaError as error:
            if frame.duplicated(list(self.unique)).any() if self.unique else False:
                row = frame[frame.duplicated(list(self.unique))].iloc[0]
                named = ", ".join(f"{c} {row[c]}" for c in self.unique)
                raise UserError(f"{where}: more than one row for {named} ({self.name})") from None
            cases = error.failure_cases
            first = cases.iloc[0] if isinstance(cases, pd.DataFrame) and len(cases) else None
            if first is None or pd.isna(first["index"]):
                raise UserError(f"{where}: {str(error).splitlines()[0]} ({self.name})") from None
            case = first["failure_case"]
            got = f"row {int(first['index']) + 2}: got {getattr(case, 'item', lambda: case)()!r}, it {error.check.error}"
            raise UserError(f"{where}: column {error.schema.name!r}, {got} ({self.name})") from None


def _refuse_words(cells: pd.Series, kind: Kind) -> None:
    """Raises ValueError with the first cell that is no number of this kind."""
    numbers = pd.to_numeric(cells, errors="coerce").astype("float64")
    wrong = numbers.isna() & ~(cells.str.lower().isin(["", "nan"]) & (kind in ("count", "float")))
    if kind in ("int", "count"):
        wrong |= numbers.notna() & (numbers % 1 != 0)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        expected = "a whole number" if kind in ("int", "count") else "a number"
        raise ValueError(f"row {row + 2}: got {cells.iloc[row]!r}, expected {expected}; was the file cut short, or edited?")


INDEX = Table("index, one row an exam", {
    "exam_id": "key", "date": "text", "label_date": "text", "date_match": "flag", "ambiguous_match": "flag",
    "exam_relpath": "relpath", "series_relpath": "relpath", "n_instances": "int", "left_code": "code", "right_code": "code",
    "series_reason": "text",
}, optional={"right_series_relpath": "relpath"}, unique=("exam_id",))
"""right_series_relpath: of the right ear, where each has a series of its own; series_relpath is then that of the left."""

SPLIT = Table("split, one row an exam", {**INDEX.columns, "patient_key": "text"}, optional=INDEX.optional, unique=("exam_id",))

def series_of(exams: pd.DataFrame, side: Side) -> pd.Series:
    """The series that shows this ear, for rows of `INDEX`, `SPLIT` or `EXAMS`."""
    own = exams.get("right_series_relpath", pd.Series("", exams.index))
    return exams["series_relpath"] if side is Side.LEFT else own.where(own != "", exams.series_relpath)


SERIES = Table("series, one row each", {
    "exam_id": "key", "series_relpath": "relpath", "verdict": "key", "why": "text", "plane": "text", "image_type": "text",
    "manufacturer": "text", "model": "text", "kernel": "text", "transfer_syntax": "text", "files": "int", "images": "int",
    "copies": "int", "slices": "int", "rows": "int", "columns": "int", "pixel_spacing_mm": "float",
    "slice_thickness_mm": "float", "step_mm": "float", "tilt_deg": "float", "height_mm": "float",
    "width_mm": "float", "middle_mm": "float", "notes": "text",
}, unique=("series_relpath",))

HEADER_FACTS: dict[str, Kind] = {
    "manufacturer": "text", "model": "text", "kernel": "text", "transfer_syntax": "text", "rows": "int", "columns": "int",
    "pixel_spacing_mm": "float", "slice_thickness_mm": "float", "slice_increment_mm": "float",
}
SUBGROUP_FACTS: dict[str, Kind] = {"age_years": "count", "sex": "text", "kvp": "float", "study_key": "text"}
"""Of the exam; manifests of an earlier version lack them."""
MANIFEST = Table("manifest, one row an ear", {
    "exam_id": "key", "side": "side", "date": "text", "label_date": "text", "date_match": "flag", "series_relpath": "relpath",
    "n_instances": "int", "label_code": "code", "patient_key": "key", "patient_key_source": "text", **HEADER_FACTS,
    **{f"task_valid__{t.name}": "flag" for t in BINARY_TASKS}, **{f"task_y__{t.name}": "text" for t in BINARY_TASKS},
}, optional=SUBGROUP_FACTS, unique=("exam_id", "side"))

CACHE_INDEX = Table("cache index, one row an ear", {"exam_id": "key", "side": "side", "file": "relpath", "sha256": "key"},
                    unique=("exam_id", "side"))

QA_EARS = Table("quality of cached ears, one row an ear", {
    "exam_id": "key", "side": "side", "score": "float", "why": "text", "confidence": "float", "method": "text",
    "reasons": "text", "padded_share": "float", "histogram_distance": "float", "plane_difference_mm": "float",
    "height_difference_mm": "float", "odd_confidence": "float", "odd_padding": "float", "odd_histogram": "float",
    "odd_plane": "float", "odd_height": "float", "picture": "text",
}, unique=("exam_id", "side"))

_QUANTILES: dict[str, Kind] = {name: "float" for name in ("min", "p10", "median", "p90", "max")}
QA_SCAN_NUMBERS = Table("numbers of the scans, one row a group and parameter", {
    "by": "key", "group": "key", "parameter": "key", "exams": "int", "missing": "int", **_QUANTILES,
}, unique=("by", "group", "parameter"))

QA_SCAN_NAMES = Table("names in the scans, one row a group, parameter and value", {
    "by": "key", "group": "key", "parameter": "key", "value": "text", "exams": "int", "share": "float",
}, unique=("by", "group", "parameter", "value"))

QA_CLASSES = Table("labelled ears, one row a group and code", {
    "by": "key", "value": "text", "label_code": "code", "diagnosis": "key", "ears": "int", "patients": "int", "share": "float",
}, unique=("by", "value", "label_code"))

QA_PEOPLE = Table("patients, one row a group", {
    "by": "key", "group": "key", "exams": "int", "patients": "int", "sex_F": "int", "sex_M": "int", "sex_O": "int",
    "sex_unknown": "int", "age_missing": "int", **{f"age_{name}": kind for name, kind in _QUANTILES.items()},
}, unique=("by", "group"))

QA_MISSING = Table("missing values, one row a column", {"column": "key", "ears": "int", "missing": "int", "share": "float"},
                   unique=("column",))

QA_FINDINGS = Table("what deserves a look", {"kind": "key", "text": "key"})

PREDICTIONS = Table("predictions, one row an ear", {
    "exam_id": "key", "side": "side", "patient_key": "key", "label_code": "code", "y_true": "int", "y_prob": "share",
    "y_pred": "int", "top_slices": "text", "top_slice_weights": "text",
}, more="float", unique=("exam_id", "side"))

ONE_SIDED = Table("exams whose ears differ, one row each, the most suspicious first", {
    "exam_id": "key", "positive_side": "side", "score_positive": "float", "score_other": "float", "lead": "float",
}, unique=("exam_id",))

SUSPECTS = Table("labels to be read again, one row an ear, the most doubtful first", {
    "exam_id": "key", "side": "side", "label_code": "code", "set": "key", "rank": "int", "doubt": "float",
    "surprise": "float", "agreement": "float", "epochs": "count", "first_agreed": "count", "date_match": "flag",
}, unique=("exam_id", "side"))

AUDITS = Table("audits of a run, one row a question", {
    "question": "key", "figure": "key", "estimate": "float", "low": "float", "high": "float", "verdict": "key", "words": "text",
}, unique=("question", "figure"))

ANSWERED = Table("training ears, one row each", {"exam_id": "key", "side": "side", "label_code": "code"},
                 unique=("exam_id", "side"))

SUBGROUPS = Table("figures of parts of a set, one row a part and measure", {
    "by": "key", "value": "key", "ears": "int", "patients": "int", "positive": "count", "metric": "key", "estimate": "float",
    "low": "float", "high": "float", "note": "text",
}, unique=("by", "value", "metric"))

COMPARISON = Table("two networks on the same ears, one row a measure", {
    "metric": "key", "one": "float", "other": "float", "difference": "float", "low": "float", "high": "float", "p": "float",
    "note": "text",
}, unique=("metric",))

EXPLANATIONS = Table("explained ears, one row an ear, method and slice", {
    "exam_id": "key", "side": "side", "label_code": "code", "class_name": "key", "probability": "float", "method": "key",
    "layer": "key", "rank": "int", "slice": "int", "z_mm": "float", "weight": "float", "ranked_by": "key", "peak_k": "count",
    "peak_row": "count", "peak_column": "count", "peak_x_mm": "float", "peak_y_mm": "float", "peak_z_mm": "float",
    "picture": "relpath",
}, unique=("exam_id", "side", "method", "rank"))
"""The peak is that of the method in the whole volume, LPS mm; empty where no voxel speaks for the class."""

FEWSHOT = Table("few-shot scores, one row an ear", {
    "exam_id": "key", "side": "side", "patient_key": "key", "label_code": "code", "y_true": "int",
    "score_prototype": "float", "score_knn": "float", "score_logistic": "float",
}, unique=("exam_id", "side"))

NEIGHBOURS = Table("nearest cases, one row an ear and rank", {
    "exam_id": "key", "side": "side", "label_code": "code", "rank": "int", "neighbour_exam_id": "key", "neighbour_side": "side",
    "neighbour_label_code": "code", "distance": "float",
}, unique=("exam_id", "side", "rank"))

EXAMS = Table("exams to predict, one row each", {"exam_id": "key", "series_relpath": "relpath"},
              optional={"right_series_relpath": "relpath", "left_code": "code", "right_code": "code"}, unique=("exam_id",))

EXAM_IDS = Table("exams, named by exam_id", {"exam_id": "key"})

_OF_A_SIDE: dict[str, Kind] = {
    "label_code": "code", "y_true": "count", "y_prob": "float", "y_pred": "count", "name": "text",
    "top_slices": "text", "top_slice_weights": "text",
}
DUAL_PREDICTIONS = Table("predictions, one row an exam", {
    "exam_id": "key", "patient_key": "text",
    **{f"{side}_{name}": kind for side in SIDES for name, kind in _OF_A_SIDE.items()},
}, more="float", unique=("exam_id",))

ANSWERS = Table("answers for new exams, one row an ear, task and class", {
    "exam_id": "key", "side": "side", "task": "text", "class": "text", "probability": "float", "threshold": "float",
    "decision": "text", "calibrated": "flag", "forced": "text", "refused": "text", "refused_why": "text",
    "quality_flags": "text", "confidence": "float", "method": "text", "padded_share": "float", "manufacturer": "text",
    "kernel": "text",
    "bone_kernel": "text", "slice_increment_mm": "float", "slice_thickness_mm": "float", "pixel_spacing_mm": "float",
    "tilt_deg": "float", "slices": "count", "picture": "text",
}, unique=("exam_id", "side", "task", "class"))
"""task, class, decision and probability are empty of an ear that was refused."""

RUNS = Table("runs of a study, one row a run and task", {
    "run": "key", "pct": "int", "model": "key", "seed": "int", "task": "key", "status": "key", "reason": "text",
}, optional={"best_epoch": "count", "ears": "count", "patients": "count"}, more="float", unique=("run", "task"))

SUMMARY = Table("a study over its seeds, one row a group, task and measure", {
    "pct": "int", "model": "key", "task": "key", "seeds": "int", "metric": "key", "mean": "float", "sd": "float",
    "low": "float", "high": "float", "note": "text",
}, optional={"ensemble": "float", "ensemble_low": "float", "ensemble_high": "float"}, unique=("pct", "model", "task", "metric"))

REJECTS = Table("what could not be used", {"exam_id": "text", "file": "text", "reason": "key", "detail": "text"})


def scan_path(index_csv: Path) -> Path:
    """Where what was read from the headers is kept: beside the index."""
    return index_csv.with_name(f"{index_csv.stem}_scan.jsonl")


def rejects_path(output: Path) -> Path:
    """Where the account of an output's rejects stands: beside it."""
    return output.with_name(f"{output.stem}_rejects.csv")


def counts_path(output: Path) -> Path:
    """Where the counts behind a table stand, as JSON: beside it."""
    return output.with_name(f"{output.stem}_counts.json")


def task_columns(label_code: pd.Series) -> pd.DataFrame:
    """`task_valid__<task>` and `task_y__<task>` (0, 1 or empty) of every binary task for these codes."""
    columns: dict[str, object] = {}
    for task in BINARY_TASKS:
        target = task.targets(label_code.to_numpy(np.int64))
        columns[f"task_valid__{task.name}"] = target != OUTSIDE
        columns[f"task_y__{task.name}"] = np.where(target != OUTSIDE, target.astype(str), "")
    return pd.DataFrame(columns, index=label_code.index)


SETS = ("train", "tune", "val", "test")
WHOLE_MANIFEST = "manifest"
"""A set beside them: every ear of a manifest, whatever its splits; for patients of another hospital, say."""


@dataclass(frozen=True)
class Split:
    """The sets of one amount of training data, as read from `<root>/<pct>pct/`."""

    folder: Path
    sets: dict[str, pd.DataFrame] = field(repr=False)
    by_patient: bool


def read_split(root: Path, pct: int) -> Split:
    """Raises UserError, naming the amounts there are, where this one is missing."""
    folder = root / f"{pct}pct"
    if not (folder / "train.csv").is_file():
        there = sorted(f.name for pattern in ("*pct", "fold_*") for f in root.glob(pattern)) if root.is_dir() else []
        listed = ", ".join(there) or "no splits"
        raise UserError(f"--splits-root {root} --pct {pct}: no {folder}/train.csv; there are: {listed}")
    sets = {name: SPLIT.read(folder / f"{name}.csv") for name in SETS if (folder / f"{name}.csv").is_file()}
    return Split(folder, sets, by_patient=all((s.patient_key != "").all() for s in sets.values()))


def read_splits(root: Path) -> list[Split]:
    """Every amount below a splits folder, smallest first, then those of its folds."""
    amounts = sorted(int(f.name[:-3]) for f in root.glob("*pct") if f.name[:-3].isdigit())
    folds = sorted((f for f in root.glob("fold_*") if f.name[5:].isdigit()), key=lambda f: int(f.name[5:]))
    return [read_split(root, pct) for pct in amounts] + [split for fold in folds for split in read_splits(fold)]


assert set(get_args(Kind)) >= set(_DTYPES) | set(_ALLOWED)
