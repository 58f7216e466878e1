"""Are evaluations comparable? They are if their calibration and their operating point are alike."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.config import EAR2D, RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.files import read_json
from medical_fenlei.runs import Run
from medical_fenlei.trained.calibration import Calibration
from medical_fenlei.vocabulary import SETS

PREDICTIONS, METRICS = "predictions_", "metrics_"
"""What the names of the files of an evaluation begin with; its label follows."""


class Evaluated(NamedTuple):
    """How a network was evaluated."""

    checkpoint: Path
    """The network."""

    set_name: str
    """The set, with `_first<n>` appended for --limit n."""

    calibrated: bool
    """Whether its calibration was applied."""

    point: str
    """The operating point that decides; "" for a task with several classes."""

    @property
    def state(self) -> str:
        """Calibration and operating point in words."""
        calibrated = "calibrated" if self.calibrated else "not calibrated"
        return f"{calibrated} and decided at {self.point}" if self.point else calibrated

    def command(self, as_in: "Evaluated") -> str:
        """Return the command line that evaluates this network as another one was."""
        run = Run.of_checkpoint(self.checkpoint)
        if not _of_the_ear_route(run):
            return f"remove {run.folder} and run its study again"
        checkpoint = f"--checkpoint {self.checkpoint}"
        evaluate = f"python scripts/eval_ear2d.py {checkpoint}"
        name = self.set_name.partition("_first")[0]
        evaluate += f" --split {name}" if name in SETS else ""
        if not as_in.calibrated:
            return f"{evaluate} --uncalibrated"
        evaluate += f" --point {as_in.point}" if as_in.point else ""
        if Calibration.path(self.checkpoint).is_file():
            return evaluate
        return f"python scripts/calibrate_ear2d.py {checkpoint} && {evaluate}"


def evaluated_by(metrics: Mapping[str, Any], reports: Path) -> Evaluated:
    """Return how a network was evaluated. metrics: `metrics_<label>.json` of a run's `reports` folder."""
    calibration = metrics["calibration"]
    return Evaluated(reports.parent / "checkpoints" / metrics["checkpoint"], metrics["set"], bool(metrics["calibrated"]),
                     calibration["point"] if calibration["points"] else "")


def refuse_unlike(evaluations: Sequence[Evaluated], then: str) -> None:
    """Raise UserError if evaluations differ in calibration or operating point, with the command that makes them alike.

    Of a calibrated and an uncalibrated one, the latter is to be calibrated. then: what to do after the command.
    """
    expected = max(evaluations, key=lambda own: own.calibrated, default=None)
    for own in evaluations:
        if expected is not None and (own.calibrated, own.point) != (expected.calibrated, expected.point):
            raise UserError(f"{own.checkpoint} is {own.state}, {expected.checkpoint} is {expected.state}, and only like can be "
                            f"compared with like: {own.command(expected)}; then {then}")


def read_evaluated(csv: Path, predictions: pd.DataFrame) -> Evaluated | None:
    """Return how the network of a table of predictions was evaluated; None if the table carries no id of an evaluation.

    Raises UserError if the table carries one, and `metrics_<label>.json` beside it is missing or of another evaluation.
    """
    ids = {*predictions.get("evaluation", pd.Series(dtype=str))} - {""}
    if not ids:
        return None
    metrics_json = csv.with_name(f"{METRICS}{csv.stem.removeprefix(PREDICTIONS)}.json")
    metrics = read_metrics(metrics_json, predictions)
    return evaluated_by(metrics, metrics_json.parent)


def read_metrics(metrics_json: Path, predictions: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics of the evaluation of these predictions. Raises UserError if they are missing or of another one."""
    try:
        metrics: dict[str, Any] = read_json(metrics_json)
    except (OSError, ValueError):
        metrics = {}
    if "evaluation" not in metrics or not tables.is_of_evaluation(predictions, metrics["evaluation"]):
        run = Run(metrics_json.parent.parent)
        remedy = "run eval_ear2d again" if _of_the_ear_route(run) else f"remove {run.folder} and run its study again"
        raise UserError(f"{metrics_json}: missing, or of another evaluation than the predictions beside it; {remedy}")
    return metrics


def _of_the_ear_route(run: Run) -> bool:
    """Whether a run can be evaluated by itself; one of the dual route is evaluated by its study."""
    if not run.config_json.is_file():
        return True
    return settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json)).kind == EAR2D
