"""The run's own set and the cohorts of other hospitals side by side: the same measures and intervals, one column each."""
from collections.abc import Mapping
from typing import Any

INTERNAL = ("test", "val")
"""Sets of the run's split that report."""
DECIDED_BY = {"epoch": "the epoch of the network", "calibrated": "whether they are calibrated",
              "threshold": "the threshold that decides"}
"""What has to agree for columns to be compared, in words."""


def compare_side_by_side(evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one table for each task that was evaluated on a cohort: `task, columns, rows, warnings`.

    evaluations: `metrics_<label>.json` by label. A column has `label, name, internal, ears, patients, per_class, decided`; a
    row has `measure` and `cells`, an interval for each column, or None where the column lacks the measure.
    """
    tasks = dict.fromkeys(own["task"] for own in evaluations.values() if _is_whole_cohort(own))
    return [_table(task, {label: own for label, own in evaluations.items() if own["task"] == task}) for task in tasks]


def _is_whole_cohort(metrics: Mapping[str, Any]) -> bool:
    """Whether an evaluation is of all ears of a cohort, without a --limit."""
    return metrics.get("cohort") is not None and metrics["set"] == metrics["cohort"]


def _table(task: str, evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    internal = {label: own for name in INTERNAL for label, own in evaluations.items() if own["set"] == name}
    shown = internal | {label: own for label, own in evaluations.items() if _is_whole_cohort(own)}
    measures = dict.fromkeys(name for own in shown.values() for name in own["metrics"])
    warnings = [] if internal else ["no validation or test set of the run itself is evaluated yet"]
    facts = {label: _decided_by(own) for label, own in shown.items()}
    warnings += [f"the columns differ in {words}: evaluate all of them anew, with the same flags"
                 for name, words in DECIDED_BY.items() if len({own[name] for own in facts.values()}) > 1]
    return {
        "task": task, "warnings": warnings,
        "columns": [{"label": label, "name": own["set"], "internal": label in internal, "ears": own["ears"],
                     "patients": own["patients"], "per_class": own["per_class"], "decided": facts[label]}
                    for label, own in shown.items()],
        "rows": [{"measure": name, "cells": [own["metrics"].get(name) for own in shown.values()]} for name in measures],
    }


def _decided_by(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What decided the figures: `epoch`, `calibrated`, `point` and `threshold`, None for a task with several classes."""
    point, points = metrics["calibration"]["point"], metrics["calibration"]["points"]
    return {"epoch": metrics["epoch"], "calibrated": metrics["calibrated"], "point": point, "threshold": points.get(point)}
