"""What does a network learn from wrong labels? It should be nothing."""
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.audits.audit import Audit
from medical_fenlei.config import DataConfig, RunConfig, decisive_settings
from medical_fenlei.errors import UserError
from medical_fenlei.evaluation.evaluate import evaluate
from medical_fenlei.metrics.bootstrap import SEED
from medical_fenlei.run_report.page import write_training_report
from medical_fenlei.runs import Run
from medical_fenlei.tasks import Task
from medical_fenlei.trained.network import TrainedNetwork, open_network
from medical_fenlei.training.run import resume_run, start_run
from medical_fenlei.vocabulary import UNLABELLED, Side

WrongLabels = Literal["shuffled", "exchanged"]
"""shuffled: among all ears; exchanged: between the left and the right ear of each exam."""


def with_wrong_labels(manifest: pd.DataFrame, exams: set[str], how: WrongLabels) -> pd.DataFrame:
    """Return the manifest with wrong labels for the labelled ears of these exams."""
    changed = manifest.copy()
    chosen = changed.exam_id.isin(exams) & (changed.label_code > UNLABELLED)
    if how == "shuffled":
        changed.loc[chosen, "label_code"] = np.random.default_rng(SEED).permutation(changed.label_code[chosen])
    else:
        code = changed.set_index(["exam_id", "side"]).label_code
        opposite = changed.side.map({str(side): str(side.other) for side in Side})
        exchanged = [code.get(ear, UNLABELLED) for ear in zip(changed.exam_id, opposite, strict=True)]
        changed.loc[chosen, "label_code"] = pd.Series(exchanged, index=changed.index, dtype="int8")[chosen]
    return tables.MANIFEST.frame(changed.assign(**tables.task_columns(changed.label_code)))


def audit_retraining(
    network: TrainedNetwork, data: DataConfig, set_name: str, task: Task, how: WrongLabels, *, n_resamples: int
) -> Audit:
    """Train a network with the run's settings on wrong labels, and measure its AUROC against the true labels of a set.

    The new run stands beside the network's run, as `<run>_<how>`; it is resumed if it was interrupted. Raises UserError if that
    folder holds a run with other settings.
    """
    question, figure = f"Can anything be learnt from {how} labels?", "AUROC against the true ones"
    retrained = _train_on_wrong_labels(network, data, how)
    (result,) = evaluate(retrained, replace(data, label_task=task.name), set_name, n_resamples=n_resamples)
    luck = ("more than chance, although its labels were wrong; a single network that fits noise may do so by luck: try other "
            "seeds")
    return Audit.from_interval(question, figure, result.intervals.values["auroc"], thresholds="wrong labels",
                               patients=result.intervals.patients, explanation={"look": luck, "ok": "chance"})


def _train_on_wrong_labels(network: TrainedNetwork, data: DataConfig, how: WrongLabels) -> TrainedNetwork:
    run = Run(network.run.folder.with_name(f"{network.run.folder.name}_{how}"))
    manifest_csv = run.folder / f"manifest_{how}.csv"
    config = replace(network.config, data=replace(data, manifest_csv=manifest_csv,
                                                  label_task=network.config.data.label_task))
    if run.config_json.is_file():
        started = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
        if decisive_settings(started) != decisive_settings(config):
            raise UserError(f"{run.folder}: holds a run with other settings; remove it")
        resume_run(run.folder, kind=config.kind, report=write_training_report)
    else:
        manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.read_split(data.splits_root, data.pct)
        exams = {exam for name in ("train", "tune") if name in split.sets for exam in split.sets[name].exam_id}
        tables.MANIFEST.write(manifest_csv, with_wrong_labels(manifest, exams, how))
        start_run(config, run.folder, report=write_training_report)
    return open_network(run.checkpoint("best"), kind=config.kind, device=network.compute.device.type)
