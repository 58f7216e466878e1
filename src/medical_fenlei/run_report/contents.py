"""What the page of a run shows, as plain values: `report.json`."""
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.config import RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import cohorts_of
from medical_fenlei.metrics.predictions import negative_log_likelihood, probabilities
from medical_fenlei.pages.plots import evaluation_of
from medical_fenlei.run_report.case_pictures import shows
from medical_fenlei.run_report.data_section import cohort_sections, data_section
from medical_fenlei.run_report.side_by_side import compare_side_by_side
from medical_fenlei.runs import CHOSEN_BY, Run
from medical_fenlei.tasks import Task, find_task, find_tasks
from medical_fenlei.trained.home import at_home
from medical_fenlei.vocabulary import SETS, WHOLE_MANIFEST


def report_contents(run: Run) -> dict[str, Any]:
    """Return the contents of `report.json`. Raises UserError if the folder is not a run."""
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    metrics = {label: dict(tables.METRICS.read(path)) for label, path in _metrics_files(run).items()}
    evaluations = {label: _evaluation(run, label, own) for label, own in metrics.items() if "evaluation" in own}
    audits = _audits(run)
    cohorts = {own.name: _audits(run, own.name) for own in cohorts_of(run.reports)}
    return {
        "run": run.folder.resolve().name, "kind": config.kind,
        "tasks": [_task(task) for task in find_tasks(config.data.label_task)],
        "settings": run.read_settings(), "data": run.read_hashes(), "versions": run.read_versions(), "trained": _training(run),
        **data_section(at_home(config, run).data, run.reports, evaluations),
        "cohorts": cohort_sections(run.reports, config.data, evaluations),
        "side_by_side": compare_side_by_side(evaluations), "evaluations": evaluations,
        "outdated": sorted(metrics.keys() - evaluations.keys()),
        "audits": audits, "audits_differ": _differing_evaluations(audits, evaluations), **_study(run, metrics),
        "cohort_audits": {name: own | {"differ": _differing_evaluations(own, evaluations)}
                          for name, own in cohorts.items() if own["audits"]},
    }


def _task(task: Task) -> dict[str, Any]:
    return {"name": task.name, "alias": task.alias,
            "classes": dict(zip(task.class_names, map(list, task.classes), strict=True))}


def _training(run: Run) -> dict[str, Any]:
    epochs = list(run.read_metrics())
    return {"epochs": len(epochs), "best": epochs[-1].get("best_epoch", 0) if epochs else 0,
            "chosen_by": epochs[-1].get(CHOSEN_BY, "") if epochs else "",
            "seconds": sum(epoch["seconds"] for epoch in epochs)}


def _metrics_files(run: Run) -> dict[str, Path]:
    """The metrics of each evaluation, by label: of test, val, then of cohorts and of WHOLE_MANIFEST, tune and train."""
    files = {path.stem.removeprefix("metrics_"): path for path in run.reports.glob("metrics_*.json")}
    places = {"test": 0, "val": 1, WHOLE_MANIFEST: 3, "tune": 4, "train": 5}

    def place(label: str) -> tuple[int, str]:
        return next((at for name, at in places.items() if f"{label}_".startswith(f"{name}_")), 2), label

    return {label: files[label] for label in sorted(files, key=place)}


def _evaluation(run: Run, label: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation, its subgroups, cases and plots.

    `left_out` names the files that are missing or carry the id of another evaluation: a kill may come between two files.
    """
    def named(stem: str, ending: str) -> Path:
        return run.reports / f"{stem}_{label}.{ending}"

    own, task = str(metrics["evaluation"]), find_task(str(metrics["task"]))
    csv, forest, curves, subgroups, results = (named("predictions", "csv"), named("subgroups", "png"), named("curves", "png"),
                                               named("subgroups", "csv"), named("results", "csv"))
    readers: dict[Path, Callable[[Path], pd.DataFrame]] = {
        csv: partial(tables.read_predictions, task=task), subgroups: tables.SUBGROUPS.read,
        results: tables.RESULTS.read}
    tables_read = {path: read(path) for path, read in readers.items() if path.is_file()}
    found = {path for path, rows in tables_read.items() if tables.is_of_evaluation(rows, own)}
    found |= {path for path in (curves, forest) if path.is_file() and evaluation_of(path) == own}
    drawn = named("explanations", "png").with_suffix("")
    cases = _cases(tables_read[csv], task, drawn) if csv in found else []
    others = sum(case["picture"] is None for case in cases)
    return {
        **metrics, "subgroups": _records(tables_read[subgroups]) if subgroups in found else [], "cases": cases,
        "results": [results.name, results.with_suffix(".md").name] if results in found else [],
        "plots": {stem: path.name for stem, path in (("curves", curves), ("subgroups", forest)) if path in found},
        "left_out": [*(path.name for path in (csv, curves, subgroups, forest, results) if path not in found),
                     *([f"{others} pictures of {drawn.name}"] if others else [])]}


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values, without the id of their evaluation."""
    plain: list[dict[str, Any]] = json.loads(rows.drop(columns="evaluation", errors="ignore").to_json(orient="records"))
    return plain


def _cases(ears: pd.DataFrame, task: Task, drawn: Path) -> list[dict[str, Any]]:
    """One entry per ear, the greatest negative log-likelihood first, without the patient. ears: `tables.PREDICTIONS`.

    `picture` is the name of its explanation in the folder `drawn`, "" if there is none, None if it shows another evaluation.
    """
    ears = ears.assign(nll=negative_log_likelihood(ears, task), wrong=ears.y_true != ears.y_pred)
    ears = ears.sort_values("nll", ascending=False, kind="stable").drop(columns="patient_key")
    cases, names = _records(ears), [name.replace("_", " ") for name in task.class_names]
    for case, each in zip(cases, probabilities(ears, task).tolist(), strict=True):
        path = drawn / f"{case['exam_id']}_{case['side']}.png"
        same = path.is_file() and shows(path, dict(zip(task.class_names, each, strict=True)))
        case |= {"label": names[case["y_true"]], "predicted": names[case["y_pred"]],
                 "picture": path.name if same else None if path.is_file() else ""}
    return cases


def _audits(run: Run, cohort: str = "") -> dict[str, Any]:
    """The audits of the run's own set, or of a cohort; `plot` is "" if the plot is missing or of others (`plot_differs`)."""
    stem = f"audits_{cohort}" if cohort else "audits"
    path, plot = run.reports / f"{stem}.json", run.reports / f"{stem}.png"
    audits = dict(tables.AUDITS_JSON.read(path)) if path.is_file() else {"audits": []}
    same = plot.is_file() and evaluation_of(plot) == audits.get("id", "")
    return audits | {"plot": plot.name if same else "", "plot_differs": plot.name if plot.is_file() and not same else ""}


def _differing_evaluations(audits: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Labels of evaluations of the audited set that used another network, manifest or split than the audits."""
    def provenance(report: Mapping[str, Any]) -> tuple[Any, ...]:
        return report["epoch"], *(report["data"].get(name) for name in ("manifest", *SETS, "cache_key"))

    if "data" not in audits:
        return []
    return [label for label, own in evaluations.items()
            if own["set"] == audits["set"] and provenance(own) != provenance(audits)]


def _study(run: Run, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`seeds`, the rows of `summary.csv` of the study that the run belongs to, and `study_differs`, whether they are left out
    because they sum up another evaluation of this run."""
    study = run.folder.resolve().parent
    if not (study / "state.json").is_file() or not (study / "summary.csv").is_file():
        return {"seeds": [], "study_differs": False}
    try:
        rows, runs = _records(tables.SUMMARY.read(study / "summary.csv")), tables.RUNS.read(study / "runs.csv")
    except UserError:                                            # of another program, or of another version
        return {"seeds": [], "study_differs": False}
    mine = {*runs.get("evaluation", pd.Series("unknown", runs.index))[runs.run == run.folder.resolve().name]} - {""}
    differs = not mine <= {str(own.get("evaluation")) for own in metrics.values()}
    return {"seeds": [] if differs else rows, "study_differs": differs}
