"""The tables and the page of a study: every run, and every group of seeds (`experiments/seeds.py`)."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.data.sources import set_label
from medical_fenlei.errors import UserError
from medical_fenlei.experiments.page import write_study_page
from medical_fenlei.experiments.seeds import SeedSummary, summarize_seeds
from medical_fenlei.experiments.study import REPORTED_SET, Job, Study
from medical_fenlei.files import write_text
from medical_fenlei.run_report.page import write_page
from medical_fenlei.runs import Run
from medical_fenlei.tasks import Task, find_tasks, with_task_name

MARKDOWN_MEASURES = ("auroc", "auprc", "macro_f1", "macro_recall", "accuracy", "sensitivity", "specificity", "f1")
"""Measures of the Markdown table, if the task has them."""


class Group(NamedTuple):
    """The runs that differ by their seed only."""

    pct: int
    """Amount of training data, percent."""

    model: str
    """Name of the network."""


def group_of(job: Job) -> Group:
    """Return the group of a job."""
    model = job.config.model
    return Group(job.config.data.pct, model.backbone if job.config.data.sample == "ear" else model.model)


def summarize(study: Study) -> list[Path]:
    """Write `runs.csv`, `summary.csv`, `index.html` and `summary.md` of a study; return these files.

    `runs.csv` has a row per run and task, with empty measures for a run that is not done; `summary.csv` has a row per group,
    task and measure. The page of each run that is done is written again, since it shows the study.
    """
    tasks, done = find_tasks(study.jobs[0].config.data.label_task), study.done()
    groups: dict[Group, list[Job]] = {}
    for job in done:
        groups.setdefault(group_of(job), []).append(job)
    seeds = {(task, group): summarize_seeds([_predictions(job, task) for job in jobs], task)
             for task in tasks for group, jobs in groups.items()}
    runs = tables.RUNS.frame(_run_rows(study, tasks))
    summary = tables.SUMMARY.frame([row for (task, group), found in seeds.items()
                                    for row in _summary_rows(task, group, len(groups[group]), found)])
    interval_warnings = sorted({text for found in seeds.values() for text in found.mean.warnings})

    runs_csv, summary_csv, page, markdown = files = [
        study.folder / name for name in ("runs.csv", "summary.csv", "index.html", "summary.md")]
    tables.RUNS.write(runs_csv, runs)
    tables.SUMMARY.write(summary_csv, summary)
    write_study_page(page, runs, summary, [*_calibration_warnings(done, tasks), *interval_warnings])
    write_text(markdown, _markdown(tasks, summary, runs, interval_warnings))
    for job in done:
        write_page(Run(job.folder))
    return files


def _report(job: Job, task: Task, stem: str, ending: str) -> Path:
    """A file of the job's evaluation."""
    label = with_task_name(set_label(REPORTED_SET, job.config.data), task, find_tasks(job.config.data.label_task))
    return Run(job.folder).reports / f"{stem}_{label}.{ending}"


def _predictions(job: Job, task: Task) -> pd.DataFrame:
    return tables.read_predictions(_report(job, task, "predictions", "csv"), task)


def _metrics(job: Job, task: Task) -> dict[str, Any]:
    path = _report(job, task, "metrics", "json")
    try:
        return dict(tables.METRICS.read(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, although {job.name} is done; evaluate it again: eval_ear2d --checkpoint "
                        f"{Run(job.folder).checkpoint('best')}") from None


def _run_rows(study: Study, tasks: Sequence[Task]) -> list[dict[str, object]]:
    """Rows of `tables.RUNS`."""
    state, rows = study.state(), []
    for job in study.jobs:
        recorded = state.get(job.name, {})
        for task in tasks:
            row = {"run": job.name, **group_of(job)._asdict(), "seed": job.config.training.seed, "task": task.name,
                   "status": recorded.get("status", "waiting"), "reason": recorded.get("reason", "")}
            if row["status"] == "done":
                metrics = _metrics(job, task)
                row |= {"best_epoch": metrics["epoch"], "ears": metrics["ears"], "patients": metrics["patients"]}
                row |= {name: np.nan if found["estimate"] is None else found["estimate"]
                        for name, found in metrics["metrics"].items()}
            rows.append(row)
    return rows


def _summary_rows(task: Task, group: Group, seeds: int, found: SeedSummary) -> list[dict[str, object]]:
    """Rows of `tables.SUMMARY`."""
    rows: list[dict[str, object]] = []
    for name, mean in found.mean.values.items():
        ensemble = found.ensemble.values[name]
        rows.append({
            **group._asdict(), "task": task.name, "seeds": seeds, "metric": name, "mean": mean.estimate, "sd": found.sd[name],
            "low": mean.low, "high": mean.high, "ensemble": ensemble.estimate, "ensemble_low": ensemble.low,
            "ensemble_high": ensemble.high, "note": mean.reason})
    return rows


def _calibration_warnings(done: Sequence[Job], tasks: Sequence[Task]) -> list[str]:
    """A warning if runs were evaluated with and without a calibration, or at different operating points."""
    decided = {(bool(metrics.get("calibrated")), str(metrics.get("calibration", {}).get("point", "")))
               for metrics in (_metrics(job, task) for job in done for task in tasks if task.binary)}
    if len(decided) < 2:
        return []
    return ["some runs were evaluated with a calibration, or at an operating point, that others were not"]


def _markdown(tasks: Sequence[Task], summary: pd.DataFrame, runs: pd.DataFrame, warnings: Sequence[str]) -> str:
    """A table per task, then the warnings, then the runs that are not done."""
    lines: list[str] = []
    for task in tasks:
        rows = summary[summary.task == task.name]
        measures = [name for name in MARKDOWN_MEASURES if name in set(rows.metric)]
        lines += [f"# {task.name}: mean ± standard deviation over seeds (95 % interval of the mean, patients resampled)", "",
                  "| pct | model | seeds | " + " | ".join(measures) + " |", "|" + "---|" * (3 + len(measures))]
        for _, own in rows.groupby(["pct", "model"], sort=False):
            lines += _markdown_rows(own.set_index("metric"), measures)
        lines.append("")
    unfinished = runs[runs.status != "done"].drop_duplicates("run")
    lines += [*(f"- {text}" for text in warnings), *(f"- {r.run}: {r.status} {r.reason}" for r in unfinished.itertuples())]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_rows(rows: pd.DataFrame, measures: Sequence[str]) -> list[str]:
    """The rows of a group: of its seeds and, of several, of the ensemble. rows: `tables.SUMMARY`, indexed by measure."""
    pct, model, seeds = rows[["pct", "model", "seeds"]].iloc[0]
    each = [rows.loc[name] for name in measures]
    spread = [f" ± {r['sd']:.3f}" if seeds > 1 else "" for r in each]
    cells = [f"{r['mean']:.3f}{sd} ({r['low']:.3f} to {r['high']:.3f})" for r, sd in zip(each, spread, strict=True)]
    lines = [f"| {pct} | {model} | {seeds} | " + " | ".join(cells) + " |"]
    if seeds > 1:
        cells = [f"{r['ensemble']:.3f} ({r['ensemble_low']:.3f} to {r['ensemble_high']:.3f})" for r in each]
        lines.append(f"| {pct} | {model} | ensemble of {seeds} | " + " | ".join(cells) + " |")
    return lines
