"""Are evaluations comparable? They are if their calibration and their operating point are alike."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.config import EAR2D, RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import flag_of_set
from medical_fenlei.runs import Run
from medical_fenlei.trained.calibration import Calibration

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
        route, checkpoint = _route(Run.of_checkpoint(self.checkpoint)), f"--checkpoint {self.checkpoint}"
        evaluate = f"python scripts/eval_{route}.py {checkpoint} {flag_of_set(self.set_name.partition('_first')[0])}"
        if not as_in.calibrated:
            return f"{evaluate} --uncalibrated"
        evaluate += f" --point {as_in.point}" if as_in.point else ""
        if Calibration.path(self.checkpoint).is_file():
            return evaluate
        return f"python scripts/calibrate_{route}.py {checkpoint} && {evaluate}"


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
    metrics: dict[str, Any] = dict(tables.METRICS.read(metrics_json)) if metrics_json.is_file() else {}
    if "evaluation" not in metrics or not tables.is_of_evaluation(predictions, metrics["evaluation"]):
        raise UserError(f"{metrics_json}: missing, or of another evaluation than the predictions beside it; run "
                        f"eval_{_route(Run(metrics_json.parent.parent))} again")
    return metrics


def _route(run: Run) -> str:
    """What the names of the scripts of a run's route end with."""
    if not run.config_json.is_file():
        return EAR2D
    return settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json)).kind
