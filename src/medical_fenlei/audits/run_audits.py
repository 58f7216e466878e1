"""All audits of a run, and their files."""
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.audits import checks as audits
from medical_fenlei.audits import doubtful_labels
from medical_fenlei.audits.checks import Audit, binary_view
from medical_fenlei.audits.exchanged_sides import exchanged_sides
from medical_fenlei.audits.robustness import Change, robustness
from medical_fenlei.config import DataConfig, RunConfig, deciding
from medical_fenlei.data.sources import find_ears
from medical_fenlei.errors import UserError
from medical_fenlei.evaluation.evaluate import evaluate
from medical_fenlei.files import write_json
from medical_fenlei.log import LOG
from medical_fenlei.metrics.predictions import SEED
from medical_fenlei.pages.plots import plot_forest
from medical_fenlei.run_report.page import write_training_report
from medical_fenlei.runs import Run, versions
from medical_fenlei.tasks import Task
from medical_fenlei.trained.network import Trained, open_trained
from medical_fenlei.training.dynamics import read_answers
from medical_fenlei.training.predict import tables_of
from medical_fenlei.training.run import resume_run, start_run
from medical_fenlei.vocabulary import UNLABELLED

Wrong = Literal["shuffled", "exchanged"]


@dataclass(frozen=True)
class Audited:
    audits: list[Audit]
    files: list[Path]


def audit_run(
    trained: Trained, data: DataConfig, set_name: str, *, batch_size: int | None = None, draws: int = 2000,
    retrain: bool = False,
) -> Audited:
    """Of the network's first task that the data names. Raises UserError as `find_ears` does."""
    task, store, reports = trained.chosen(data)[0], trained.store(data), trained.run.reports
    sets = ("train", set_name)
    sources = find_ears(data, store, (task,), sets)
    placement = sources.placement(store, trained.arithmetic.device)
    datasets = {name: own for name in sets if (own := sources.dataset(store, name, placement)) is not None}
    if set_name not in datasets:
        raise UserError(f"--split {set_name}: {data.splits_root} --pct {data.pct} has no ears there for {task.name}")
    dataset = datasets[set_name]
    if set_name != "train":
        trained.refuse_trained_on(dataset.ears_in_order.exam_id, f"--split {set_name}")
    manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.read_split(data.splits_root, data.pct)
    answers = {name: trained.infer(each, batch_size=batch_size) for name, each in datasets.items()}
    ears = binary_view(tables_of(answers[set_name], dataset.ears_in_order, trained.tasks)[task.name], task)
    sides, one_sided = exchanged_sides(ears, draws=draws)
    found = [
        sides, *audits.metadata_baseline(ears, manifest, task, list(split.sets["train"].exam_id), draws=draws),
        audits.other_ear(ears, draws=draws), audits.shuffled_labels(ears), audits.leakage(data, store.folder.name),
    ]
    held, changed = robustness(trained, dataset, task, draws=draws, batch_size=batch_size, progress=_progress)
    found += held
    embedded = [each.ears_in_order.assign(set=name) for name, each in datasets.items()]
    list_of_labels = doubtful(trained, task, pd.concat(embedded, ignore_index=True),
                              np.concatenate([each.embedding for each in answers.values()]), manifest)
    patient_of = manifest.drop_duplicates("exam_id").set_index("exam_id").patient_key
    found.append(doubtful_labels.by_date(list_of_labels, patient_of, draws=draws))
    if retrain:
        found.append(trained_wrongly(trained, data, set_name, task, "shuffled", draws=draws))
    names = "audits.json", "audits.csv", "audits.png", "one_sided_exams.csv", "labels_to_read_again.csv"
    files = [reports / name for name in names]
    write_json(files[0], {"task": task.name, "set": set_name, "epoch": trained.checkpoint.epoch,
                          "audits": [asdict(audit) for audit in found], "data": sources.hashes, "versions": versions()})
    tables.AUDITS.write(files[1], tables.AUDITS.frame([asdict(audit) for audit in found]))
    plot_forest(files[2], changed, title=f"{task.name}, {set_name}: AUROC when the scans are changed")
    tables.ONE_SIDED.write(files[3], one_sided)
    tables.SUSPECTS.write(files[4], list_of_labels)
    return Audited(found, files)


def _progress(changes: dict[str, Change]) -> list[tuple[str, Change]]:
    from tqdm import tqdm

    return tqdm(changes.items(), desc="changed scans", unit="", disable=None, leave=False)  # type: ignore[return-value]


def doubtful(
    trained: Trained, task: Task, ears: pd.DataFrame, embedding: np.ndarray, manifest: pd.DataFrame
) -> pd.DataFrame:
    """`tables.SUSPECTS` of ears (manifest rows, and their `set`) with their embeddings (N, D)."""
    doubt = doubtful_labels.out_of_sample(embedding, task.targets(ears.label_code.to_numpy()), ears.patient_key.to_numpy())
    ears = ears.assign(doubt=doubt)[["exam_id", "side", "label_code", "doubt", "set"]]
    doubts = {str(name): own.drop(columns="set").reset_index(drop=True) for name, own in ears.groupby("set", sort=False)}
    return doubtful_labels.suspects(doubts, _over_epochs(trained, task), manifest)


def _over_epochs(trained: Trained, task: Task) -> pd.DataFrame | None:
    try:
        ears, answers = read_answers(trained.run)
    except UserError as error:
        LOG.warning("%s", f"{error}; labels are judged without what was answered in training")
        return None
    if answers.shape[2] != sum(own.outputs for own in trained.tasks):
        raise UserError(f"{trained.run.answers}: got {answers.shape[2]} outputs, the checkpoint has other tasks")
    return doubtful_labels.over_epochs(ears, answers[:, :, trained.columns(task)], task)


def wrong_labels(manifest: pd.DataFrame, exams: set[str], how: Wrong) -> pd.DataFrame:
    """The manifest with the labels of these exams shuffled among their ears, or exchanged between left and right."""
    changed = manifest.copy()
    mine = changed.exam_id.isin(exams) & (changed.label_code > UNLABELLED)
    if how == "shuffled":
        changed.loc[mine, "label_code"] = np.random.default_rng(SEED).permutation(changed.label_code[mine])
    else:
        other = changed.set_index(["exam_id", "side"]).label_code
        opposite = changed.side.map({"left": "right", "right": "left"})
        there = [other.get(key, UNLABELLED) for key in zip(changed.exam_id, opposite, strict=True)]
        changed.loc[mine, "label_code"] = pd.Series(there, index=changed.index, dtype="int8")[mine]
    return tables.MANIFEST.frame(changed.assign(**tables.task_columns(changed.label_code)))


def trained_wrongly(trained: Trained, data: DataConfig, set_name: str, task: Task, how: Wrong, *, draws: int) -> Audit:
    """AUROC against the true labels of a set, of a network with the run's settings that was fitted to wrong ones.

    It is trained beside the run, `<run>_<how>`, and goes on where it was stopped. Raises UserError if another run is there.
    """
    folder = trained.run.folder.with_name(f"{trained.run.folder.name}_{how}")
    split, manifest = tables.read_split(data.splits_root, data.pct), tables.MANIFEST.read(data.manifest_csv)
    exams = {exam for name in ("train", "tune") if name in split.sets for exam in split.sets[name].exam_id}
    run, csv = Run(folder), folder / f"manifest_{how}.csv"
    config = replace(trained.config, data=replace(data, manifest_csv=csv, label_task=trained.config.data.label_task))
    if run.config_json.is_file():
        before = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
        if deciding(before) != deciding(config):
            raise UserError(f"{folder}: holds a run with other settings; remove it")
        resume_run(folder, kind=config.kind, report=write_training_report)
    else:
        tables.MANIFEST.write(csv, wrong_labels(manifest, exams, how))
        start_run(config, folder, report=write_training_report)
    other = open_trained(run.checkpoint("best"), kind=config.kind, device=trained.arithmetic.device.type)
    (result,) = evaluate(other, replace(data, label_task=task.name), set_name, draws=draws)
    i = result.intervals.values["auroc"]
    learnt = i.low > 0.5
    question = f"Can anything be learnt from {how} labels?"
    words = ("more than chance, though its labels were not true; one network that fits noise may, by luck: try other seeds"
             if learnt else "chance")
    verdict: audits.Verdict = "undecided" if np.isnan(i.low) else "look" if learnt else "ok"
    return Audit(question, "AUROC against the true ones", *i[:3], verdict, i.reason or words)
