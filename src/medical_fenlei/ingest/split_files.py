"""The files of a split: the exams that it divides are read from index and manifest, its sets and statistics are written."""
import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.errors import UserError
from medical_fenlei.exclusive import only_writer_in
from medical_fenlei.files import whole_folder, write_json
from medical_fenlei.ingest.split_spec import SplitSpec
from medical_fenlei.ingest.split_statistics import largest_deviation, set_statistics, sets_with_too_few, small_sets
from medical_fenlei.ingest.splits import Sets, make_splits, validation_exams
from medical_fenlei.log import LOG
from medical_fenlei.vocabulary import SETS

FILES = (*(f"{name}.csv" for name in SETS), "stats.json")
"""Names of the files in the folder of a split."""


@dataclass(frozen=True, kw_only=True)
class ExamsToDivide:
    """The exams that a split divides."""

    exams: pd.DataFrame
    """Rows of `tables.INDEX` with a label and a series."""

    patients: dict[str, str] | None
    """Patient key by exam id; None to divide by exam."""

    val_exams: set[str]
    """Exams of an earlier validation set; empty if a new one is to be drawn."""


def manifest_of_patients(manifest_csv: Path, *, required: bool) -> Path | None:
    """Return the manifest if it is there, else None with a warning that patients are unknown.

    Raises UserError if it is required and missing.
    """
    if manifest_csv.is_file() or required:
        return manifest_csv                                      # a missing one is named when it is read
    LOG.warning("there is no %s, so that patients are unknown and exams are divided: a patient may be in several sets, and "
                "figures are then too good; build_manifest_ears writes it (--by-exam: as you wish)", manifest_csv)
    return None


def read_exams_to_divide(index_csv: Path, manifest_csv: Path | None, val_from: Path | None) -> ExamsToDivide:
    """Read the exams of an index that have a label and a series, and log how many there are.

    manifest_csv: manifest with the patients, None to divide by exam; exams that it does not hold are left out. Raises UserError
    if nothing is left to divide, or if no exam of `val_from` is usable.
    """
    index = tables.INDEX.read(index_csv)
    unlabelled = (index.left_code == 0) & (index.right_code == 0)
    usable = index[~unlabelled & (index.series_relpath != "")]
    LOG.info("%d exams: %d without any label, %d labelled but without a series, %d labelled and with a series", len(index),
             unlabelled.sum(), len(index) - unlabelled.sum() - len(usable), len(usable))
    patients: dict[str, str] | None = None
    if manifest_csv is not None:
        manifest = tables.MANIFEST.read(manifest_csv)
        patients = dict(zip(manifest.exam_id, manifest.patient_key, strict=True))
        if len(usable) and not usable.exam_id.isin(list(patients)).any():
            raise UserError(f"--manifest-csv {manifest_csv}: holds none of the {len(usable)} exams of {index_csv}: it belongs "
                            "to another index; build it again, or divide exams with --by-exam")
        usable = _with_patient(usable, patients, manifest_csv)
    if usable.empty:
        raise UserError(f"--index-csv {index_csv}: no exam with a label and a series to divide")
    val_exams = set(validation_exams(val_from)) if val_from else set()
    if val_from:
        known = val_exams & set(usable.exam_id)
        if not known:
            raise UserError(f"--val-from {val_from}: none of its {len(val_exams)} exams is usable in {index_csv}")
        LOG.info("%d exams of %s validate, %d more are no longer usable", len(known), val_from, len(val_exams - known))
    return ExamsToDivide(exams=usable, patients=patients, val_exams=val_exams)


def _with_patient(exams: pd.DataFrame, patients: Collection[str], manifest_csv: Path) -> pd.DataFrame:
    """Return the exams that the manifest holds, and warn about the others."""
    unknown = exams[~exams.exam_id.isin(list(patients))]
    if len(unknown):
        LOG.warning("%d exams are left out, since %s does not hold them; %s may say why, else it belongs to another index: "
                    "%s%s", len(unknown), manifest_csv, tables.rejects_path(manifest_csv).name,
                    ", ".join(unknown.exam_id[:5]), ", …" if len(unknown) > 5 else "")
    return exams.drop(unknown.index)


def write_splits(divided: ExamsToDivide, spec: SplitSpec, out_dir: Path, *, enforce_minimum: bool) -> list[Path]:
    """Divide the exams, write `<pct>pct/{train,tune,val,test}.csv` and `stats.json`, and return the folders written.

    With folds each has a folder of its own, `fold_<n>/`. enforce_minimum: if a set has fewer ears of a class than
    `min_per_class`, raise UserError and write nothing; otherwise this is a warning. Raises UserError if another process writes
    there.
    """
    folds = make_splits(divided.exams, divided.patients, spec, val_exams=divided.val_exams)
    roots = [out_dir / f"fold_{nth}" if spec.folds else out_dir for nth in range(len(folds))]
    _check_minimum(dict(zip(roots, folds, strict=True)), spec.min_per_class, enforce=enforce_minimum)
    with only_writer_in("--out-dir", out_dir), contextlib.ExitStack() as complete:  # all, before the first takes its place
        written = [folder for root, splits in zip(roots, folds, strict=True)
                   for folder in _write(root, splits, divided, spec, complete)]
    if older := {split.folder for split in tables.read_splits(out_dir)} - set(written):
        LOG.warning("left from an earlier call, and not part of this split: %s", ", ".join(sorted(map(str, older))))
    return written


def _check_minimum(splits_of: Mapping[Path, Mapping[int, Sets]], least: int, *, enforce: bool) -> None:
    lacking = [f"{what} of {root}" for root, splits in splits_of.items() for what in sets_with_too_few(splits, least)]
    if not lacking:
        return
    listed = "; ".join(lacking[:5]) + (f"; and {len(lacking) - 5} more" if len(lacking) > 5 else "")
    if enforce:
        raise UserError(f"--min-per-class {least}: {listed}; ask for fewer ears or fewer sets")
    LOG.warning("too few ears of a class (at least %d needed): %s", least, listed)


def _write(root: Path, splits: Mapping[int, Sets], divided: ExamsToDivide, spec: SplitSpec, complete: contextlib.ExitStack
           ) -> Iterator[Path]:
    """Write the amounts of one split, log the size of its sets, and yield their folders, which appear when `complete` ends."""
    used: dict[str, Any] = {**settings.to_json(spec), **({} if spec.uses_val_ratio else {"val_ratio": None})}
    for pct, sets in splits.items():
        folder = root / f"{pct}pct"
        beside = complete.enter_context(whole_folder(folder, FILES))
        for name, exams in sets.items():
            if name == "test" and not spec.test_ratio:
                continue
            keys = exams.exam_id.map(divided.patients) if divided.patients is not None else ""
            tables.SPLIT.write(beside / f"{name}.csv", exams.assign(patient_key=keys))
        numbers, deviation = set_statistics(sets, divided.patients), largest_deviation(sets)
        small = small_sets(sets, divided.patients)
        write_json(beside / "stats.json", {
            "by_patient": divided.patients is not None, "settings": used, "sets": numbers, "largest_deviation": deviation,
            "too_small": small,
        })
        shown = pd.json_normalize([{"set": name, **own} for name, own in numbers.items() if own["exams"]])
        LOG.info("%s:\n%s", folder, shown.to_string(index=False))
        if deviation:
            LOG.info("largest deviation of a class's share: %s percentage points, code %d, between %s and %s",
                     deviation["points"], deviation["code"], *deviation["sets"])
        for name, warning in small.items():
            if name == "train" or pct == max(splits):            # the other sets are the same for all amounts
                LOG.warning("%s: %s", folder, warning)
        yield folder
