"""The leakage check: reads its inputs, logs what it checks and what it cannot, and reports what is shared."""
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.leakage.inputs import LeakageInputs
from medical_fenlei.leakage.report import LeakageReport
from medical_fenlei.leakage.same_pixels import cached_marks, decoded_marks
from medical_fenlei.leakage.shared import exams_per_patient, study_marks
from medical_fenlei.log import LOG
from medical_fenlei.near_names import near_paths
from medical_fenlei.tables import Split


def check_leakage(inputs: LeakageInputs, *, dicom_base: Path | None, workers: int) -> tuple[LeakageReport, pd.DataFrame]:
    """Check splits for leakage, and return the report and `tables.REJECTS` of series that cannot be decoded.

    dicom_base: folder of the series whose middle slices are decoded, or None to decode nothing. Raises UserError if manifest
    and splits are of different indices.
    """
    if dicom_base is not None and not dicom_base.is_dir():
        raise UserError(f"--dicom-base {dicom_base}: no such folder{near_paths('folder', dicom_base)}; --pixels decodes the "
                        "series in it")
    manifest = tables.MANIFEST.read(inputs.manifest_csv)
    several = exams_per_patient(manifest)
    LOG.info("%d patients, %d with several exams", manifest.patient_key.nunique(), len(several))
    if len(several):
        LOG.info("%s", several.to_string(index=False))
    LOG.info("splits checked: %s", ", ".join(str(split.folder) for split in inputs.splits) or "none yet")
    _check_index(manifest, inputs.splits, inputs.manifest_csv)
    marks, rejects = _collect_marks(manifest, inputs, dicom_base=dicom_base, workers=workers)
    return LeakageReport.of(manifest, inputs.splits, marks), rejects


def _check_index(manifest: pd.DataFrame, splits: Sequence[Split], manifest_csv: Path) -> None:
    """Warn about exams of the splits that the manifest lacks. Raises UserError if it lacks them all."""
    exams = {exam for split in splits for frame in split.sets.values() for exam in frame.exam_id}
    if exams and exams.isdisjoint(manifest.exam_id):
        raise UserError(f"--manifest-csv {manifest_csv}: holds none of the exams of these splits: it belongs to another index")
    if unknown := sorted(exams - set(manifest.exam_id)):
        LOG.warning("%d exams of these splits are not in %s, so that their patients are unknown: %s%s", len(unknown),
                    manifest_csv, ", ".join(unknown[:5]), ", …" if len(unknown) > 5 else "")


def _collect_marks(
    manifest: pd.DataFrame, inputs: LeakageInputs, *, dicom_base: Path | None, workers: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the marks by which exams are known to hold the same scan, and `tables.REJECTS`."""
    exams = set(manifest.exam_id)
    marks, rejects = [study_marks(manifest)], tables.REJECTS.empty()
    LOG.info("studies checked: %d of %d exams%s", len(marks[0]), len(exams),
             "" if len(marks[0]) else "; a manifest of an earlier version has no studies, build it again")
    for cache in inputs.caches:
        marks.append(cached_marks(cache, manifest))
        LOG.info("cached pixels checked: %d of %d exams, %s", len(exams & set(marks[-1].exam_id)), len(exams), cache)
    if not inputs.caches:
        LOG.info("cached pixels not checked: no cache in %s", inputs.cache_dir)
    if dicom_base is None:
        LOG.info("decoded pixels not checked: add --pixels to check them")
    else:
        series = manifest[manifest.series_relpath != ""].drop_duplicates(["exam_id", "series_relpath"])
        decoded, rejects = decoded_marks(series, dicom_base=dicom_base, workers=workers)
        LOG.info("decoded pixels checked: %d of %d exams", decoded.exam_id.nunique(), len(exams))
        marks.append(decoded)
    return pd.concat(marks, ignore_index=True), rejects
