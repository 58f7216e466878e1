"""The tables and the page of a study: every run, and every group of seeds (`experiments/seeds.py`)."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.data.selection import set_label
from medical_fenlei.evaluation.like_with_like import METRICS, PREDICTIONS, Evaluated, evaluated_by, read_metrics, refuse_unlike
from medical_fenlei.experiments.page import write_study_page
from medical_fenlei.experiments.seeds import SeedSummary, summarize_seeds
from medical_fenlei.experiments.study import REPORTED_SET, Job, Study
from medical_fenlei.files import write_text
from medical_fenlei.metrics.binary import THRESHOLD
from medical_fenlei.metrics.interval_table import interval_words
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


class EvaluatedJob(NamedTuple):
    """The evaluation of a job for one task."""

    predictions: pd.DataFrame
    """`tables.PREDICTIONS`."""

    metrics: dict[str, Any]
    """`metrics_<label>.json`."""

    evaluated: Evaluated
    """How it was evaluated."""

    @classmethod
    def read(cls, job: Job, task: Task) -> "EvaluatedJob":
        """Read it. Raises UserError if its files are of different evaluations."""
        label = with_task_name(set_label(REPORTED_SET, job.config.data), task, find_tasks(job.config.data.label_task))
        reports = Run(job.folder).reports
        predictions = tables.read_predictions(reports / f"{PREDICTIONS}{label}.csv", task)
        metrics = read_metrics(reports / f"{METRICS}{label}.json", predictions)
        return cls(predictions, metrics, evaluated_by(metrics, reports))

    @property
    def threshold(self) -> float:
        """Probability from which an ear is predicted positive."""
        calibration = self.metrics["calibration"]
        return float(calibration["points"].get(calibration["point"], THRESHOLD))


def summarize(study: Study) -> list[Path]:
    """Write `runs.csv`, `summary.csv`, `index.html` and `summary.md` of a study; return these files.

    `runs.csv` has a row per run and task, with empty measures for a run that is not done; `summary.csv` has a row per group,
    task and measure. The page of each run that is done is written again, since it shows the study. Raises UserError if runs
    were evaluated with and without a calibration, or at different operating points.
    """
    tasks, done = find_tasks(study.jobs[0].config.data.label_task), study.done()
    evaluated = {(job.name, task.name): EvaluatedJob.read(job, task) for job in done for task in tasks}
    for task in tasks:
        refuse_unlike([evaluated[job.name, task.name].evaluated for job in done], "run the study again with --summarize")
    groups: dict[Group, list[Job]] = {}
    for job in done:
        groups.setdefault(group_of(job), []).append(job)
    seeds = {(task, group): _summarized([evaluated[job.name, task.name] for job in jobs], task)
             for task in tasks for group, jobs in groups.items()}
    runs = tables.RUNS.frame(_run_rows(study, tasks, evaluated))
    summary = tables.SUMMARY.frame([row for (task, group), found in seeds.items()
                                    for row in _summary_rows(task, group, len(groups[group]), found)])
    interval_warnings = sorted({text for found in seeds.values() for text in found.mean.warnings})
    states = {task.name: own.evaluated.state for (_, name), own in evaluated.items() for task in tasks if task.name == name}

    runs_csv, summary_csv, page, markdown = files = [
        study.folder / name for name in ("runs.csv", "summary.csv", "index.html", "summary.md")]
    tables.RUNS.write(runs_csv, runs)
    tables.SUMMARY.write(summary_csv, summary)
    write_study_page(page, runs, summary, states, interval_warnings)
    write_text(markdown, _markdown(states, summary, runs, interval_warnings))
    for job in done:
        write_page(Run(job.folder))
    return files


def _summarized(jobs: Sequence[EvaluatedJob], task: Task) -> SeedSummary:
    return summarize_seeds([job.predictions for job in jobs], task, thresholds=[job.threshold for job in jobs],
                           n_resamples=max(job.metrics["resamples"] for job in jobs))


def _run_rows(
    study: Study, tasks: Sequence[Task], evaluated: Mapping[tuple[str, str], EvaluatedJob]
) -> list[dict[str, object]]:
    """Rows of `tables.RUNS`."""
    state, rows = study.state(), []
    for job in study.jobs:
        recorded = state.get(job.name, {})
        for task in tasks:
            row = {"run": job.name, **group_of(job)._asdict(), "seed": job.config.training.seed, "task": task.name,
                   "status": recorded.get("status", "waiting"), "reason": recorded.get("reason", ""), "evaluation": ""}
            if row["status"] == "done":
                metrics = evaluated[job.name, task.name].metrics
                row |= {"best_epoch": metrics["epoch"], "ears": metrics["ears"], "patients": metrics["patients"],
                        "evaluation": metrics["evaluation"]}
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
            "ensemble_high": ensemble.high, "support": mean.support, "note": mean.reason})
    return rows


def _markdown(states: Mapping[str, str], summary: pd.DataFrame, runs: pd.DataFrame, warnings: Sequence[str]) -> str:
    """A table per task, then the warnings, then the runs that are not done. states: how the networks decide, by task."""
    lines: list[str] = []
    for task, state in states.items():
        rows = summary[summary.task == task]
        measures = [name for name in MARKDOWN_MEASURES if name in set(rows.metric)]
        lines += [f"# {task}: mean ± standard deviation over seeds (95 % interval of the mean, patients resampled)", "",
                  f"Networks {state}.", "",
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
    each: list[Any] = [rows.loc[name] for name in measures]
    spread = [f" ± {r['sd']:.3f}" if seeds > 1 else "" for r in each]
    cells = [f"{r['mean']:.3f}{sd} ({interval_words(r['low'], r['high'])})" for r, sd in zip(each, spread, strict=True)]
    lines = [f"| {pct} | {model} | {seeds} | " + " | ".join(cells) + " |"]
    if seeds > 1:
        cells = [f"{r['ensemble']:.3f} ({interval_words(r['ensemble_low'], r['ensemble_high'])})" for r in each]
        lines.append(f"| {pct} | {model} | ensemble of {seeds} | " + " | ".join(cells) + " |")
    return lines
