"""Does the test leak into the training? Patients, exams and pixels that several sets of a split, or two hospitals, share."""
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.audits.audit import Audit
from medical_fenlei.config import DataConfig
from medical_fenlei.leakage.report import LeakageReport
from medical_fenlei.leakage.same_pixels import cache_folders, cached_marks
from medical_fenlei.leakage.shared import study_marks
from medical_fenlei.leakage.two_manifests import SharedPatients

QUESTION = "Does the test leak into the training?"


def audit_shared_patients(shared: SharedPatients) -> Audit:
    """Count the ears of a cohort that are left out since the network was fitted on their patients; say what is not known."""
    out = int(shared.ears.sum())
    found = shared.describe() or "no patient of the cohort is one that the network was fitted on"
    return Audit(question=QUESTION, figure="ears of patients that the network was fitted on, left out", estimate=float(out),
                 verdict="undecided" if shared.unknown else "ok", explanation="; ".join([found, *shared.unknown]))


def audit_leakage(data: DataConfig, cache_key: str) -> Audit:
    """Count the patients, exams and scans that several sets of the run's split share, or that occur under several patients.

    cache_key: the cache whose pixels are compared. Raises UserError if a table cannot be read.
    """
    manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.read_split(data.splits_root, data.pct)
    caches = [folder for folder in cache_folders(data.cache_dir) if folder.name == cache_key]
    marks = pd.concat([study_marks(manifest), *(cached_marks(cache, manifest) for cache in caches)], ignore_index=True)
    counts = LeakageReport.of(manifest, [split], marks).counts()
    leaks = sum(counts.values())
    explanation = ", ".join(f"{count} {what}" for what, count in counts.items())
    if not split.by_patient:
        explanation += "; the split divides exams, not patients"
    if leaks:
        explanation += "; check_patient_leakage names them"
    return Audit(question=QUESTION, figure="patients, exams and scans in several sets",
                 estimate=float(leaks), verdict="wrong" if leaks else "ok", explanation=explanation)
