"""Temperature and operating points of a network: fitted on the tune set, stored beside the checkpoint, applied elsewhere."""
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256, write_json
from medical_fenlei.json_files import JsonFile
from medical_fenlei.metrics.calibration import HALF, SEARCH_RANGE, tempered
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.runs import versions
from medical_fenlei.tasks import Task

FITTED_ON = "tune"
"""The only set that may determine a threshold or a temperature: the network has memorised train; val and test report."""


@dataclass(frozen=True, kw_only=True)
class TaskCalibration:
    """Temperature and operating points of one task."""

    temperature: float
    """Divisor of the logits."""

    points: dict[str, float]
    """Thresholds of the calibrated probability of the positive class, by name; empty for a task with several classes."""

    point: str
    """Name of the operating point that decides."""

    ears: int
    """Number of ears that it was fitted on; 0 if it was not fitted."""

    patients: int
    """Number of patients that it was fitted on."""

    loss_before: float
    """Mean negative log-likelihood before the temperature."""

    loss_after: float
    """Mean negative log-likelihood after the temperature."""

    note: str = ""
    """Why the temperature is unreliable; "" if it is reliable."""

    point_note: str = ""
    """Why the thresholds are unreliable, and what decides instead; "" if they are reliable."""

    @property
    def threshold(self) -> float:
        """Least probability of an ear that is predicted positive."""
        return self.points.get(self.point, 0.5)

    @property
    def is_fitted(self) -> bool:
        """Whether it was fitted, and is not one of `uncalibrated`."""
        return self.ears > 0

    @property
    def fault(self) -> str:
        """The first field whose value no fit can give, with that value; "" if there is none."""
        low, high = np.exp(SEARCH_RANGE)
        if not low * 0.999 <= self.temperature <= high * 1.001:
            return f"temperature: got {self.temperature:g}, expected {low:.3g} to {high:.3g}"
        for name, point in self.points.items():
            if not 0 <= point <= 1:
                return f"points.{name}: got {point:g}, expected 0 to 1"
        return "" if not self.points or self.point in self.points else (
            f"point: got {self.point!r}, expected one of {', '.join(self.points)}")

    def apply(self, predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
        """Return a `tables.PREDICTIONS` with calibrated probabilities and decisions at the threshold."""
        each = tempered(probabilities(predictions, task), self.temperature)
        if task.binary:
            return predictions.assign(y_prob=each[:, 1], y_pred=(each[:, 1] >= self.threshold).astype(np.int64))
        names = {f"prob_{name}": own for name, own in zip(class_codes(task), each.T, strict=True)}
        return predictions.assign(y_prob=each.max(1), **names)

    def at_point(self, point: str) -> "TaskCalibration":
        """Return the calibration with another operating point that decides. Raises UserError for an unknown point."""
        if point not in self.points:
            raise UserError(f"--point: got {point!r}, expected one of {', '.join(self.points) or 'none: several classes'}")
        return replace(self, point=point)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration of a checkpoint, with the exams and patients that it was fitted on."""

    checkpoint: str
    """SHA-256 of the checkpoint."""

    exams: frozenset[str]
    """Ids of the exams that it was fitted on."""

    patients: frozenset[str]
    """Keys of the patients that it was fitted on."""

    tasks: dict[str, TaskCalibration]
    """Temperature and operating points by task name."""

    data: Mapping[str, Any]
    """SHA-256 of each table that was read, and the key of the cache."""

    unfitted: dict[str, str] = field(default_factory=dict)
    """Why a task has no calibration, by task name."""

    @classmethod
    def path(cls, checkpoint: Path) -> Path:
        """Return the path beside a checkpoint: `<run>/checkpoints/<name>.calibration.json`."""
        return checkpoint.with_name(f"{checkpoint.stem}.calibration.json")

    @classmethod
    def read(cls, checkpoint: Path, *, kind: str) -> "Calibration | None":
        """Read the calibration of a checkpoint; None if there is none. kind: of its network, for the remedy.

        Raises UserError if it cannot be read or belongs to another checkpoint.
        """
        path = cls.path(checkpoint)
        if not path.is_file():
            return None
        file = JsonFile[Calibration]("temperature and thresholds", Calibration, f"calibrate_{kind} writes it anew")
        found = file.read(path)
        faults = [f"field {name} is empty" for name in ("tasks", "exams", "patients") if not getattr(found, name)]
        faults += [f"field tasks.{name}.{own.fault}" for name, own in found.tasks.items() if own.fault]
        if faults:
            raise UserError(f"{path}: {faults[0]} ({file.name}); {file.remedy}")
        if found.checkpoint != sha256(checkpoint):
            raise UserError(f"{path}: belongs to another checkpoint than {checkpoint.name}, whose training went on "
                            f"since; run calibrate_{kind} again, or remove the file")
        return found

    def write(self, checkpoint: Path) -> Path:
        """Write the calibration beside its checkpoint; return the file."""
        path = self.path(checkpoint)
        write_json(path, {
            "checkpoint": self.checkpoint, "fitted_on": FITTED_ON,
            "tasks": {name: asdict(own) for name, own in self.tasks.items()}, "unfitted": self.unfitted,
            "exams": sorted(self.exams), "patients": sorted(self.patients), "data": dict(self.data), "versions": versions()})
        return path

    def refuse_if_fitted_on(self, ears: pd.DataFrame) -> None:
        """Raise UserError if an ear of these manifest rows belongs to an exam or a patient that it was fitted on."""
        known = ears[ears.exam_id.isin(self.exams) | ears.patient_key.isin(self.patients)]
        if len(known):
            raise UserError(
                f"temperature and thresholds were fitted on {known.patient_key.nunique()} of these patients (for example "
                f"exam {known.exam_id.iloc[0]}): figures with them would be optimistic; --uncalibrated reports without them")


def uncalibrated(tasks: Collection[Task]) -> dict[str, TaskCalibration]:
    """Return calibrations by task name that leave the probabilities as they are and decide at 0.5."""
    binary = TaskCalibration(temperature=1.0, points={HALF: 0.5}, point=HALF, ears=0, patients=0, loss_before=np.nan,
                             loss_after=np.nan)
    return {task.name: binary if task.binary else replace(binary, points={}) for task in tasks}
