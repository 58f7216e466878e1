"""Write the files of an evaluation."""
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medical_fenlei import tables
from medical_fenlei.evaluation.evaluate import Evaluation
from medical_fenlei.evaluation.plots import plot_evaluation
from medical_fenlei.evaluation.results import write_results
from medical_fenlei.files import write_json
from medical_fenlei.metrics.predictions import hard_cases, report_of
from medical_fenlei.pages.plots import plot_forest
from medical_fenlei.runs import versions


def write_evaluation(result: Evaluation, folder: Path) -> list[Path]:
    """Write predictions, metrics, results, hard cases, subgroups and curves, named by the evaluation's label; return the files.

    Each carries the id of the evaluation, so that a reader notices files of several evaluations.
    """
    def named(stem: str, ending: str) -> Path:
        return folder / f"{stem}_{result.label}.{ending}"

    csv, metrics, hard = named("predictions", "csv"), named("metrics", "json"), named("hard_cases", "csv")
    subgroups, curves, forest = named("subgroups", "csv"), named("curves", "png"), named("subgroups", "png")
    mine = {"evaluation": result.id}
    tables.PREDICTIONS.write(csv, result.predictions.assign(**mine))
    write_json(metrics, _metrics(result))
    tables.PREDICTIONS.write(hard, hard_cases(result.predictions, result.task).assign(**mine))
    tables.SUBGROUPS.write(subgroups, result.subgroups.assign(**mine))
    plot_evaluation(curves, result)
    plot_forest(forest, result.subgroups, evaluation=result.id)
    files = [csv, metrics, *write_results(metrics), hard, subgroups, curves, forest]
    if result.cohort and result.set_name == result.cohort.name:  # all of it, without a --limit
        files.append(result.cohort.write(folder))
    return files


def _metrics(result: Evaluation) -> dict[str, Any]:
    """The content of `metrics_<label>.json`."""
    return {
        "evaluation": result.id, "task": result.task.name, "set": result.set_name,
        "cohort": result.cohort.name if result.cohort else None, "checkpoint": result.checkpoint,
        "epoch": result.checkpoint_epoch, "ears": result.ears, "patients": result.intervals.patients,
        "per_class": result.per_class, "resamples": result.n_resamples,
        "calibrated": result.calibration.is_fitted, "calibration": asdict(result.calibration),
        "metrics": {name: interval._asdict() for name, interval in result.intervals.values.items()},
        "operating_points": {
            name: {"threshold": result.calibration.points[name], **{m: i._asdict() for m, i in measures.items()}}
            for name, measures in result.operating_points.items()},
        "at_the_threshold": report_of(result.predictions, result.task),
        "warnings": [*result.intervals.warnings, *result.warnings], "data": result.hashes, "versions": versions(),
    }
