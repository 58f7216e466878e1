"""The page of a run: everything that is known of it in one file, which needs neither a server nor the network.

It is made anew from what lies in the run's folder (and the tables that its configuration names), so every command that adds to
`reports/` ends by writing it again. `report.json` holds the same figures for machines.
"""
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.cohort import groups as cohort
from medical_fenlei.config import RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.files import read_json, write_json, write_text
from medical_fenlei.metrics.predictions import surprise
from medical_fenlei.pages.html import embedded, template
from medical_fenlei.run_report.curves import plot_training
from medical_fenlei.runs import Run
from medical_fenlei.tables import SETS, WHOLE_MANIFEST
from medical_fenlei.tasks import Task, find_task, find_tasks
from medical_fenlei.vocabulary import DIAGNOSES, vendor

PICTURES = 300
"""Cases that the page shows with a picture, those with the greatest surprise first: some 30 kB each."""
WIDEST = 1000
"""Pixels of a picture of the page."""


def write_page(run: Run) -> Path:
    """`reports/report.html` and `report.json`; returns the page. Raises UserError if the folder is no run."""
    told = gather(run)
    write_json(run.reports / "report.json", told)
    page = run.reports / "report.html"
    write_text(page, template("run_report", "run.html").render(
        **told, title=told["run"], diagnoses=DIAGNOSES, pictures=_pictures(run, told),
        cases_with=_cases_with_pictures(run, told),
        settings_text=json.dumps(told["settings"], indent=2, ensure_ascii=False)))
    return page


def write_training_report(run: Run) -> Path:
    """`reports/curves.png` of the training as it went, and then the page, which is returned."""
    lines = list(run.read_metrics())
    plot_training(run.reports / "curves.png", lines, best_epoch=lines[-1]["best_epoch"])
    return write_page(run)


def gather(run: Run) -> dict[str, Any]:
    """All figures of a run as plain values."""
    config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
    epochs = list(run.read_metrics())
    last = epochs[-1] if epochs else {}
    read = {label: read_json(path) for label, path in _evaluated(run)}
    found = {label: own for label, own in read.items() if "calibration" in own}
    tasks = find_tasks(config.data.label_task)
    evaluations = {label: _evaluation(run, label, own) for label, own in found.items()}
    audits = _read(run.reports / "audits.json", {"audits": []})
    return {
        "run": run.folder.resolve().name, "kind": config.kind, "tasks": [_task(task) for task in tasks],
        "settings": run.read_settings(), "data": run.read_hashes(), "versions": run.read_versions(),
        "trained": {"epochs": len(epochs), "best": last.get("best_epoch", 0), "seconds": sum(e["seconds"] for e in epochs)},
        **_people(config), "outdated": sorted(read.keys() - found.keys()),
        "evaluations": evaluations, "audits": audits, "audits_differ": _of_another(audits, evaluations), "seeds": _seeds(run),
    }


def _of_another(audits: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The evaluations of the audited set that are of another network, manifest or split than the audits."""
    def known(own: Mapping[str, Any]) -> tuple[Any, ...]:
        return own["epoch"], *(own["data"].get(name) for name in ("manifest", *SETS, "cache_key"))

    return [label for label, own in evaluations.items()
            if "data" in audits and own["set"] == audits["set"] and known(own) != known(audits)]


def _task(task: Task) -> dict[str, Any]:
    codes = dict(zip(task.class_names, map(list, task.classes), strict=True))
    return {"name": task.name, "alias": task.alias, "classes": codes}


def _read(path: Path, other: Any) -> Any:
    return read_json(path) if path.is_file() else other


def _evaluated(run: Run) -> Iterator[tuple[str, Path]]:
    """The label and the metrics of each evaluation: another manifest before test before val before the others."""
    there = {path.stem.removeprefix("metrics_"): path for path in run.reports.glob("metrics_*.json")}
    order = [WHOLE_MANIFEST, *reversed(SETS)]
    for label in sorted(there, key=lambda label: (*(not label.startswith(name) for name in order), label)):
        yield label, there[label]


def _evaluation(run: Run, label: str, said: Mapping[str, Any]) -> dict[str, Any]:
    subgroups = run.reports / f"subgroups_{label}.csv"
    rows = json.loads(tables.SUBGROUPS.read(subgroups).to_json(orient="records")) if subgroups.is_file() else []
    task = find_task(str(said["task"]))
    return {**said, "subgroups": rows, "cases": _cases(run, label, task)}


def _cases(run: Run, label: str, task: Task) -> list[dict[str, Any]]:
    """A row an ear, the most surprising first."""
    path = run.reports / f"predictions_{label}.csv"
    if not path.is_file():
        return []
    found = tables.PREDICTIONS.read(path)
    found = found.assign(surprise=surprise(found, task), wrong=found.y_true != found.y_pred)
    found = found.sort_values("surprise", ascending=False, kind="stable").drop(columns="patient_key")
    rows: list[dict[str, Any]] = json.loads(found.to_json(orient="records"))
    for row in rows:
        row["label"] = task.class_names[row["y_true"]].replace("_", " ")
        row["predicted"] = task.class_names[row["y_pred"]].replace("_", " ")
    return rows


def _people(config: RunConfig) -> dict[str, Any]:
    """From exams to ears, and who is in each set; empty where the tables cannot be read from here."""
    data = config.data
    try:
        manifest, split = tables.MANIFEST.read(data.manifest_csv), tables.read_split(data.splits_root, data.pct)
    except UserError as error:
        return {"flow": [], "sets": [], "tables_missing": str(error)}
    ears, tasks = cohort.labelled_ears(manifest), find_tasks(data.label_task)
    counted = _read(tables.counts_path(data.manifest_csv), {"index": {}, "manifest": {}})
    flow = [{"what": what, "number": number, "of": "sheet and disk"} for what, number in counted["index"].items()
            if not what.startswith("files")]
    flow += [{"what": what, "number": number, "of": "manifest"} for what, number in (counted["manifest"] or {
        "exams": manifest.exam_id.nunique(), "ears": len(manifest), "labelled ears": len(ears),
        "patients": manifest.patient_key.nunique()}).items()]
    grouping, sets = cohort.by_set(ears, [split], "set"), []
    for name, own in grouping.groups.items():
        people, exams = cohort.first_exams(own), own.drop_duplicates("exam_id")
        age = people.age_years.dropna().astype(float)
        sets.append({
            "set": name, "exams": len(exams), "patients": len(people), "labelled ears": len(own),
            **{f"ears of {task.name}": int((task.targets(own.label_code.to_numpy()) >= 0).sum()) for task in tasks},
            **{f"code {code}": int((own.label_code == code).sum()) for code in DIAGNOSES},
            "age, median (quartiles)": f"{age.median():.0f} ({age.quantile(0.25):.0f} to {age.quantile(0.75):.0f})" if len(age)
            else "unknown", "women": int((people.sex == "F").sum()), "men": int((people.sex == "M").sum()),
            "makers": _counted(exams.manufacturer.map(vendor)), "kernels": _counted(exams.kernel),
            "slice thickness": _counted(exams.thickness),
        })
    return {"flow": flow, "sets": sets, "tables_missing": ""}


def _counted(values: pd.Series, most: int = 4) -> str:
    counts = values.replace("", "unknown").value_counts()
    shown = [f"{value} {number}" for value, number in counts.head(most).items()]
    return ", ".join([*shown, f"{len(counts) - most} others {counts.iloc[most:].sum()}"] if len(counts) > most else shown)


def _seeds(run: Run) -> list[dict[str, Any]]:
    """The rows of the study that the run belongs to, where it is one of several seeds."""
    study = run.folder.resolve().parent
    if not (study / "state.json").is_file() or not (study / "summary.csv").is_file():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(tables.SUMMARY.read(study / "summary.csv").to_json(orient="records"))
    except UserError:                                            # somebody else's, or of another version
        return []
    return rows


def _pictures(run: Run, told: Mapping[str, Any]) -> dict[str, str]:
    own = [f"{stem}_{label}.png" for label in told["evaluations"] for stem in ("curves", "subgroups")]
    names = ["curves.png", "audits.png", *own]
    return {name: embedded(run.reports / name) for name in names if (run.reports / name).is_file()}


def _cases_with_pictures(run: Run, told: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """By evaluation and `<exam>_<side>`: the picture of the explanation, where one was drawn."""
    found: dict[str, dict[str, str]] = {}
    for label, own in told["evaluations"].items():
        folder = run.reports / f"explanations_{label}"
        names = [name for case in own["cases"] if (folder / f"{(name := case['exam_id'] + '_' + case['side'])}.png").is_file()]
        found[label] = {name: embedded(folder / f"{name}.png", width=WIDEST) for name in names[:PICTURES]}
    return found
