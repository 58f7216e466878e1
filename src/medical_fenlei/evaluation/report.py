"""The files of an evaluation."""
from dataclasses import asdict
from pathlib import Path

from medical_fenlei import tables
from medical_fenlei.evaluation.evaluate import Evaluation
from medical_fenlei.evaluation.plots import plot_evaluation
from medical_fenlei.files import write_json
from medical_fenlei.metrics.predictions import hard_cases, report_of
from medical_fenlei.pages.plots import plot_forest
from medical_fenlei.runs import versions


def write_evaluation(result: Evaluation, folder: Path) -> list[Path]:
    """Predictions, metrics, hard cases, subgroups and curves; returns the files."""
    def named(stem: str, ending: str) -> Path:
        return folder / f"{stem}_{result.label}.{ending}"

    csv, metrics, hard = named("predictions", "csv"), named("metrics", "json"), named("hard_cases", "csv")
    subgroups, curves, forest = named("subgroups", "csv"), named("curves", "png"), named("subgroups", "png")
    tables.PREDICTIONS.write(csv, result.predictions)
    write_json(metrics, {
        "task": result.task.name, "set": result.set_name, "epoch": result.checkpoint_epoch, "ears": result.ears,
        "patients": result.intervals.patients, "per_class": result.per_class,
        "calibrated": result.calibrated, "calibration": asdict(result.fitted),
        "metrics": {name: interval._asdict() for name, interval in result.intervals.values.items()},
        "operating_points": {name: {"threshold": result.fitted.points[name], **{m: i._asdict() for m, i in own.items()}}
                             for name, own in result.points.items()},
        "at_the_threshold": report_of(result.predictions, result.task),
        "warnings": [*result.intervals.warnings, *result.warnings], "data": result.hashes, "versions": versions(),
    })
    tables.PREDICTIONS.write(hard, hard_cases(result.predictions, result.task))
    tables.SUBGROUPS.write(subgroups, result.subgroups)
    plot_evaluation(curves, result.predictions, result.task, result.intervals, result.fitted)
    plot_forest(forest, result.subgroups)
    return [csv, metrics, hard, subgroups, curves, forest]
