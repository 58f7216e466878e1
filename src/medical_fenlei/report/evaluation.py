"""The files of an evaluation."""
from pathlib import Path

from medical_fenlei import tables
from medical_fenlei.analysis.evaluate import Evaluation
from medical_fenlei.files import write_json
from medical_fenlei.metrics.predictions import hard_cases, report_of
from medical_fenlei.report.plots import plot_evaluation
from medical_fenlei.runs import versions


def write_evaluation(result: Evaluation, folder: Path) -> list[Path]:
    """Predictions, metrics, hard cases and curves; returns the files."""
    def named(stem: str, ending: str) -> Path:
        return folder / f"{stem}_{result.label}.{ending}"

    csv, metrics, hard = named("predictions", "csv"), named("metrics", "json"), named("hard_cases", "csv")
    curves = named("curves", "png")
    tables.PREDICTIONS.write(csv, result.predictions)
    write_json(metrics, {
        "task": result.task.name, "set": result.set_name, "epoch": result.checkpoint_epoch, "ears": result.ears,
        "patients": result.intervals.patients, "per_class": result.per_class,
        "metrics": {name: interval._asdict() for name, interval in result.intervals.values.items()},
        "at_the_threshold": report_of(result.predictions, result.task),
        "warnings": [*result.intervals.warnings, *result.warnings], "data": result.hashes, "versions": versions(),
    })
    tables.PREDICTIONS.write(hard, hard_cases(result.predictions, result.task))
    plot_evaluation(curves, result.predictions, result.task, result.intervals)
    return [csv, metrics, hard, curves]
