"""The table and the page of a study: every run, and over the seeds of each group mean, spread, an interval that resamples
patients, and what the mean of the networks' probabilities does."""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.data.sources import set_label
from medical_fenlei.errors import UserError
from medical_fenlei.experiments.page import write_study_page
from medical_fenlei.experiments.study import REPORTED, Job, Study
from medical_fenlei.files import write_text
from medical_fenlei.metrics.binary import THRESHOLD
from medical_fenlei.metrics.bootstrap import Intervals, patient_intervals
from medical_fenlei.metrics.predictions import SEED, class_codes, intervals_of, measures_of, probabilities
from medical_fenlei.run_report.page import write_page
from medical_fenlei.runs import Run
from medical_fenlei.tasks import Task, find_tasks, named_apart

SHOWN = ("auroc", "auprc", "macro_f1", "macro_recall", "accuracy", "sensitivity", "specificity", "f1")
"""Measures of the Markdown table, those of them that the task has."""

Group = tuple[int, str]
"""Amount of training data in percent, and the network's name."""

OverSeeds = tuple[Intervals, dict[str, float], Intervals]
"""Each measure's interval, its standard deviation over networks, and the interval of the networks' mean."""


def group_of(job: Job) -> Group:
    model = job.config.model
    return job.config.data.pct, model.backbone if job.config.data.sample == "ear" else model.model


def summarize(study: Study) -> list[Path]:
    """Write `runs.csv` (every run and task: status, reason, best epoch, measures), `summary.csv` (a row a group, task and
    measure), `index.html` and `summary.md`; returns the files. Runs that are not done stand in `runs.csv` with empty measures.
    The page of each run that is done is written again, since it shows the study."""
    state, tasks = study.state(), find_tasks(study.jobs[0].config.data.label_task)
    runs = pd.DataFrame([_row(job, task, state.get(job.name, {})) for job in study.jobs for task in tasks])
    groups: dict[Group, list[Job]] = {}
    for job in study.jobs:
        if state.get(job.name, {}).get("status") == "done":
            groups.setdefault(group_of(job), []).append(job)
    found = {task: {group: _of_group([_predictions(job, task) for job in jobs], task) for group, jobs in groups.items()}
             for task in tasks}
    rows = [{"pct": pct, "model": model, "task": task.name, "seeds": len(groups[pct, model]), "metric": name,
             "mean": interval.estimate, "sd": spread[name], "low": interval.low, "high": interval.high,
             "ensemble": together.values[name].estimate, "ensemble_low": together.values[name].low,
             "ensemble_high": together.values[name].high, "note": interval.reason}
            for task, of_task in found.items() for (pct, model), (intervals, spread, together) in of_task.items()
            for name, interval in intervals.values.items()]
    files = [study.folder / name for name in ("runs.csv", "summary.csv", "index.html", "summary.md")]
    tables.RUNS.write(files[0], tables.RUNS.frame(runs))
    tables.SUMMARY.write(files[1], tables.SUMMARY.frame(rows))
    warnings = sorted({text for of_task in found.values() for intervals, *_ in of_task.values() for text in intervals.warnings})
    if len({_decided(job, task) for jobs in groups.values() for job in jobs for task in tasks if task.binary}) > 1:
        warnings.insert(0, "some runs were evaluated with a calibration, or at an operating point, that others were not")
    write_study_page(files[2], tables.RUNS.frame(runs), tables.SUMMARY.frame(rows), warnings)
    write_text(files[3], _markdown(found, runs))
    for job in (job for jobs in groups.values() for job in jobs):
        write_page(Run(job.folder))
    return files


def _of_group(predictions: Sequence[pd.DataFrame], task: Task) -> OverSeeds:
    intervals, spread = over_seeds(predictions, task)
    return intervals, spread, intervals_of(ensemble(predictions, task), task, draws=2000)


def ensemble(predictions: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """`tables.PREDICTIONS` of several networks as one: the mean of their probabilities, decided at 0.5 or by the greatest.

    Raises UserError if they are not of the same ears.
    """
    ordered = _same_ears(predictions)
    each = np.mean([probabilities(frame, task) for frame in ordered], axis=0)
    one = ordered[0].assign(top_slices="", top_slice_weights="")
    if task.binary:
        return one.assign(y_prob=each[:, 1], y_pred=(each[:, 1] >= THRESHOLD).astype(np.int64))
    columns = {f"prob_{name}": p for name, p in zip(class_codes(task), each.T, strict=True)}
    return one.assign(y_prob=each.max(1), y_pred=each.argmax(1), **columns)


def _same_ears(predictions: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    names = ["exam_id", "side"]
    ordered = [frame.sort_values(names).reset_index(drop=True) for frame in predictions]
    if any(not frame[names].equals(ordered[0][names]) for frame in ordered):
        raise UserError("the runs were not measured on the same ears; evaluate them again on one split")
    return ordered


def over_seeds(predictions: Sequence[pd.DataFrame], task: Task) -> tuple[Intervals, dict[str, float]]:
    """Of the mean over several networks on the same ears: each measure's interval, and its standard deviation over networks.

    Patients are resampled once for all networks, so the interval is that of new patients; the deviation (n - 1, NaN for one
    network) is that of new seeds. Raises UserError if the networks were not measured on the same ears.
    """
    ordered = _same_ears(predictions)
    measured = [measures_of(frame, task) for frame in ordered]

    def mean(weight: np.ndarray) -> dict[str, np.ndarray]:
        each = [measures(weight) for measures in measured]
        return {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}

    content = np.column_stack([ordered[0].y_true, *(probabilities(frame, task) for frame in ordered)])
    intervals = patient_intervals(mean, ordered[0].patient_key.to_numpy(), content, seed=SEED,
                                  classes=ordered[0].y_true.to_numpy())
    one = np.ones((1, len(content)))
    values = [measures(one) for measures in measured]
    spread = {name: float(np.std([v[name][0] for v in values], ddof=1)) if len(values) > 1 else float("nan")
              for name in values[0]}
    return intervals, spread


def _predictions(job: Job, task: Task) -> pd.DataFrame:
    return tables.PREDICTIONS.read(_report(job, task, "predictions", "csv"))


def _report(job: Job, task: Task, stem: str, ending: str) -> Path:
    label = named_apart(set_label(REPORTED, job.config.data), task, find_tasks(job.config.data.label_task))
    return job.folder / "reports" / f"{stem}_{label}.{ending}"


def _decided(job: Job, task: Task) -> tuple[bool, str]:
    """Whether a run was evaluated with a calibration, and at which operating point."""
    said = json.loads(_report(job, task, "metrics", "json").read_text(encoding="utf-8"))
    return bool(said.get("calibrated")), str(said.get("calibration", {}).get("point", ""))


def _row(job: Job, task: Task, state: dict[str, Any]) -> dict[str, object]:
    pct, model = group_of(job)
    row: dict[str, object] = {"run": job.name, "pct": pct, "model": model, "seed": job.config.training.seed, "task": task.name,
                              "status": state.get("status", "waiting"), "reason": state.get("reason", "")}
    if row["status"] != "done":
        return row
    said = json.loads(_report(job, task, "metrics", "json").read_text(encoding="utf-8"))
    estimates = {name: np.nan if found["estimate"] is None else found["estimate"] for name, found in said["metrics"].items()}
    return {**row, "best_epoch": said["epoch"], "ears": said["ears"], "patients": said["patients"], **estimates}


def _markdown(found: Mapping[Task, Mapping[Group, OverSeeds]], runs: pd.DataFrame) -> str:
    lines: list[str] = []
    done, warnings = runs[runs.status == "done"], set()
    for task, of_task in found.items():
        names = [name for name in SHOWN if any(name in intervals.values for intervals, *_ in of_task.values())]
        lines += [f"# {task.name}: mean ± standard deviation over seeds (95 % interval of the mean, patients resampled)", "",
                  "| pct | model | seeds | " + " | ".join(names) + " |", "|" + "---|" * (3 + len(names))]
        for (pct, model), (intervals, spread, together) in of_task.items():
            seeds = int(((done.pct == pct) & (done.model == model) & (done.task == task.name)).sum())
            cells = [f"{i.estimate:.3f} ± {spread[name]:.3f} ({i.low:.3f} to {i.high:.3f})" if seeds > 1 else
                     f"{i.estimate:.3f} ({i.low:.3f} to {i.high:.3f})" for name, i in ((n, intervals.values[n]) for n in names)]
            lines.append(f"| {pct} | {model} | {seeds} | " + " | ".join(cells) + " |")
            if seeds > 1:
                cells = [f"{i.estimate:.3f} ({i.low:.3f} to {i.high:.3f})" for i in (together.values[name] for name in names)]
                lines.append(f"| {pct} | {model} | ensemble of {seeds} | " + " | ".join(cells) + " |")
            warnings |= {*intervals.warnings}
        lines.append("")
    failed = runs[runs.status != "done"].drop_duplicates("run")
    lines += [*(f"- {text}" for text in sorted(warnings)), *(f"- {r.run}: {r.status} {r.reason}" for r in failed.itertuples())]
    return "\n".join(lines).rstrip() + "\n"
