"""What the page of a run shows, as plain values: `report.json`."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medical_fenlei import settings, tables
from medical_fenlei.config import RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.predictions import negative_log_likelihood
from medical_fenlei.run_report.data_section import data_section
from medical_fenlei.runs import Run
from medical_fenlei.tasks import Task, find_task, find_tasks
from medical_fenlei.vocabulary import SETS, WHOLE_MANIFEST


def report_contents(run: Run) -> dict[str, Any]:
    """Return the contents of `report.json`. Raises UserError if the folder is not a run."""
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    metrics = {label: dict(tables.METRICS.read(path)) for label, path in _metrics_files(run).items()}
    evaluations = {label: _evaluation(run, label, own) for label, own in metrics.items() if "calibration" in own}
    audits = _audits(run)
    return {
        "run": run.folder.resolve().name, "kind": config.kind,
        "tasks": [_task(task) for task in find_tasks(config.data.label_task)],
        "settings": run.read_settings(), "data": run.read_hashes(), "versions": run.read_versions(), "trained": _training(run),
        **data_section(config.data),
        "outdated": sorted(metrics.keys() - evaluations.keys()), "evaluations": evaluations,
        "audits": audits, "audits_differ": _differing_evaluations(audits, evaluations), "seeds": _study_rows(run),
    }


def _task(task: Task) -> dict[str, Any]:
    return {"name": task.name, "alias": task.alias,
            "classes": dict(zip(task.class_names, map(list, task.classes), strict=True))}


def _training(run: Run) -> dict[str, Any]:
    epochs = list(run.read_metrics())
    return {"epochs": len(epochs), "best": epochs[-1].get("best_epoch", 0) if epochs else 0,
            "seconds": sum(epoch["seconds"] for epoch in epochs)}


def _metrics_files(run: Run) -> dict[str, Path]:
    """The metrics of each evaluation, by label: first those of WHOLE_MANIFEST, then of test, val, tune and train."""
    files = {path.stem.removeprefix("metrics_"): path for path in run.reports.glob("metrics_*.json")}
    sets = [WHOLE_MANIFEST, *reversed(SETS)]
    order = sorted(files, key=lambda label: (*(not label.startswith(name) for name in sets), label))
    return {label: files[label] for label in order}


def _evaluation(run: Run, label: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation, its subgroups and its cases."""
    subgroups = run.reports / f"subgroups_{label}.csv"
    rows = json.loads(tables.SUBGROUPS.read(subgroups).to_json(orient="records")) if subgroups.is_file() else []
    return {**metrics, "subgroups": rows, "cases": _cases(run, label, find_task(str(metrics["task"])))}


def _cases(run: Run, label: str, task: Task) -> list[dict[str, Any]]:
    """One entry per ear, the greatest negative log-likelihood first, without the patient."""
    path = run.reports / f"predictions_{label}.csv"
    if not path.is_file():
        return []
    ears = tables.read_predictions(path, task)
    ears = ears.assign(nll=negative_log_likelihood(ears, task), wrong=ears.y_true != ears.y_pred)
    ears = ears.sort_values("nll", ascending=False, kind="stable").drop(columns="patient_key")
    cases: list[dict[str, Any]] = json.loads(ears.to_json(orient="records"))
    names = [name.replace("_", " ") for name in task.class_names]
    for case in cases:
        case |= {"label": names[case["y_true"]], "predicted": names[case["y_pred"]]}
    return cases


def _audits(run: Run) -> dict[str, Any]:
    path = run.reports / "audits.json"
    return dict(tables.AUDITS_JSON.read(path)) if path.is_file() else {"audits": []}


def _differing_evaluations(audits: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Labels of evaluations of the audited set that used another network, manifest or split than the audits."""
    def provenance(report: Mapping[str, Any]) -> tuple[Any, ...]:
        return report["epoch"], *(report["data"].get(name) for name in ("manifest", *SETS, "cache_key"))

    if "data" not in audits:
        return []
    return [label for label, own in evaluations.items()
            if own["set"] == audits["set"] and provenance(own) != provenance(audits)]


def _study_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of `summary.csv` of the study that the run belongs to; none if it belongs to none."""
    study = run.folder.resolve().parent
    if not (study / "state.json").is_file() or not (study / "summary.csv").is_file():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(tables.SUMMARY.read(study / "summary.csv").to_json(orient="records"))
    except UserError:                                            # of another program, or of another version
        return []
    return rows
