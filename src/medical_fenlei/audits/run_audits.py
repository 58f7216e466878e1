"""All audits of a run, and their files."""
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.audits.audit import Audit, binary_view
from medical_fenlei.audits.chance import audit_chance
from medical_fenlei.audits.doubtful_labels import audit_dates, rank_doubtful_labels
from medical_fenlei.audits.exchanged_sides import audit_sides
from medical_fenlei.audits.retraining import audit_retraining
from medical_fenlei.audits.robustness import audit_robustness
from medical_fenlei.audits.shortcuts import audit_metadata, audit_other_ear
from medical_fenlei.audits.split_leakage import audit_leakage, audit_shared_patients
from medical_fenlei.audits.verdicts import THRESHOLDS, count_verdicts
from medical_fenlei.config import DataConfig
from medical_fenlei.data.selection import empty_set
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import is_cohort
from medical_fenlei.files import write_json
from medical_fenlei.pages.plots import plot_forest
from medical_fenlei.runs import versions
from medical_fenlei.tasks import Task
from medical_fenlei.trained.ear_set import EarSet
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.predict import InferenceResult, prediction_tables


@dataclass(frozen=True)
class AuditedRun:
    """The audits of a run, and their files."""

    audits: list[Audit]
    """The answer to every question."""

    files: list[Path]
    """The files that hold the answers."""


def audit_run(
    network: TrainedNetwork, data: DataConfig, set_name: str, *, batch_size: int | None = None, n_resamples: int = 2000,
    retrain: bool = False,
) -> AuditedRun:
    """Answer every question about the first task that the data settings name, and write the answers to the run's reports.

    set_name: the set or the cohort to audit; labels are judged in the training set too, unless it is a cohort. retrain: also
    train once more on shuffled labels. Raises UserError if the set has no ear, or the network was trained on some of its exams.
    """
    task = network.select_tasks(data)[0]
    sets = _open_sets(network, data, set_name, task)
    manifest = tables.MANIFEST.read(data.manifest_csv)
    results = {name: network.infer(ears.dataset, batch_size=batch_size) for name, ears in sets.items()}
    audited = sets[set_name]
    ears = binary_view(prediction_tables(results[set_name], audited.ears_in_order, network.tasks)[task.name], task)

    sides, one_sided = audit_sides(ears, n_resamples=n_resamples)
    robustness, aurocs = audit_robustness(network, audited.dataset, task, n_resamples=n_resamples, batch_size=batch_size)
    suspects = _rank_labels(network, task, sets, results, manifest)
    audits = [
        sides,
        *audit_metadata(ears, manifest, task, _training_rows(network, data, manifest, set_name), n_resamples=n_resamples),
        audit_other_ear(ears, n_resamples=n_resamples),
        audit_chance(ears),
        audit_shared_patients(audited.shared) if audited.shared else audit_leakage(data, audited.store.folder.name),
        *robustness,
        audit_dates(suspects, _patient_of_exam(manifest), n_resamples=n_resamples),
    ]
    if retrain:
        audits.append(audit_retraining(network, data, set_name, task, "shuffled", n_resamples=n_resamples))

    head = {"task": task.name, "set": set_name, "epoch": network.checkpoint.epoch, "data": audited.hashes}
    files = _write(network.run.reports, head, audits, aurocs, one_sided, suspects)
    return AuditedRun(audits, files + ([audited.cohort.write(network.run.reports)] if audited.cohort else []))


def _open_sets(network: TrainedNetwork, data: DataConfig, set_name: str, task: Task) -> dict[str, EarSet]:
    """The training set, if it has ears, and the audited set; a cohort alone."""
    sets = network.open_sets(data, (set_name,) if is_cohort(set_name) else ("train", set_name), (task,))
    if set_name not in sets:
        raise empty_set(data, set_name, (task,))
    if set_name != "train" and not is_cohort(set_name):
        network.refuse_if_trained_on(sets[set_name].ears.exam_id, f"--split {set_name}")
    return sets


def _training_rows(network: TrainedNetwork, data: DataConfig, manifest: pd.DataFrame, set_name: str) -> pd.DataFrame:
    """Manifest rows of the training set: for a cohort those of the run's own manifest; none where its tables are gone."""
    try:
        own = network.config.data if is_cohort(set_name) else data
        manifest = tables.MANIFEST.read(own.manifest_csv) if is_cohort(set_name) else manifest
        return manifest[manifest.exam_id.isin(tables.read_split(own.splits_root, own.pct).sets["train"].exam_id)]
    except UserError:
        if not is_cohort(set_name):
            raise
        return manifest[:0]


def _rank_labels(
    network: TrainedNetwork, task: Task, sets: Mapping[str, EarSet], results: Mapping[str, InferenceResult],
    manifest: pd.DataFrame,
) -> pd.DataFrame:
    """`tables.SUSPECTS` of all ears of these sets."""
    ears = pd.concat([own.ears_in_order.assign(set=name) for name, own in sets.items()], ignore_index=True)
    embedding = np.concatenate([results[name].embedding for name in sets])
    return rank_doubtful_labels(network, task, ears, embedding, manifest)


def _patient_of_exam(manifest: pd.DataFrame) -> pd.Series:
    return manifest.drop_duplicates("exam_id").set_index("exam_id").patient_key


def _write(
    folder: Path, head: Mapping[str, Any], audits: Sequence[Audit], aurocs: pd.DataFrame, one_sided: pd.DataFrame,
    suspects: pd.DataFrame,
) -> list[Path]:
    names = "audits.json", "audits.csv", "audits.png", "one_sided_exams.csv", "labels_to_read_again.csv"
    of_cohort = f"_{head['set']}" if is_cohort(head["set"]) else ""
    json, csv, png, sides, labels = files = [(folder / name).with_stem(f"{Path(name).stem}{of_cohort}") for name in names]
    rows = [audit.to_row() for audit in audits]
    told = {"id": hashlib.sha256(repr((head, rows)).encode()).hexdigest()[:16], **head,
            "verdicts": count_verdicts([audit.verdict for audit in audits])}
    thresholds = {name: asdict(law) for name, law in THRESHOLDS.items()}
    write_json(json, {**told, "audits": rows, "thresholds": thresholds, "versions": versions()})
    tables.AUDITS.write(csv, tables.AUDITS.frame(rows))
    plot_forest(png, aurocs, title=f"{head['task']}, {head['set']}: AUROC when the scans are changed", evaluation=told["id"])
    tables.ONE_SIDED.write(sides, one_sided)
    tables.SUSPECTS.write(labels, suspects)
    return files
