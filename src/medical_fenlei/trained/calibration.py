"""Temperature and operating points of a network: fitted on the tune set, kept beside its checkpoint, applied to other ears."""
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.files import read_json, sha256, write_json
from medical_fenlei.metrics.calibration import HALF, tempered
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.runs import versions
from medical_fenlei.tasks import Task

FITTED_ON = "tune"
"""The only set that may choose a threshold or a temperature: train is known by heart, val and test report."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Of one task."""

    temperature: float
    points: dict[str, float]
    """Thresholds of the positive class's probability after the temperature, by name; none for several classes."""

    point: str
    """Which of them decides."""

    ears: int
    patients: int
    loss_before: float
    loss_after: float
    note: str = ""

    @property
    def threshold(self) -> float:
        return self.points.get(self.point, 0.5)

    def is_sound(self) -> bool:
        """Whether temperature and points can be what was fitted. Raises TypeError or AttributeError for other types."""
        return (0 < self.temperature < np.inf and all(0 <= point <= 1 for point in self.points.values())
                and (not self.points or self.point in self.points))

    def applied(self, predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
        """`tables.PREDICTIONS` with the probabilities after the temperature and the decisions at the threshold."""
        each = tempered(probabilities(predictions, task), self.temperature)
        if task.binary:
            return predictions.assign(y_prob=each[:, 1], y_pred=(each[:, 1] >= self.threshold).astype(np.int64))
        names = {f"prob_{name}": own for name, own in zip(class_codes(task), each.T, strict=True)}
        return predictions.assign(y_prob=each.max(1), **names)

    def at(self, point: str) -> "Fitted":
        """The same, decided at another of its points. Raises UserError if it has none of that name."""
        if point not in self.points:
            raise UserError(f"--point: got {point!r}, expected one of {', '.join(self.points) or 'none: several classes'}")
        return replace(self, point=point)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    checkpoint: str
    """SHA-256 of the file that it belongs to."""

    exams: frozenset[str]
    patients: frozenset[str]
    """On whom it was fitted."""

    tasks: dict[str, Fitted]
    data: Mapping[str, Any]
    unfitted: dict[str, str] = field(default_factory=dict)
    """Why another task of several has none."""

    @classmethod
    def path(cls, checkpoint: Path) -> Path:
        """`<run>/checkpoints/<name>.calibration.json`."""
        return checkpoint.with_name(f"{checkpoint.stem}.calibration.json")

    @classmethod
    def of(cls, checkpoint: Path) -> "Calibration | None":
        """That of a checkpoint; None if it has none. Raises UserError if it is of another checkpoint, or unreadable."""
        path = cls.path(checkpoint)
        if not path.is_file():
            return None
        try:
            plain = read_json(path)
            tasks = {name: Fitted(**own) for name, own in plain["tasks"].items()}
            found = cls(checkpoint=plain["checkpoint"], exams=frozenset(plain["exams"]), patients=frozenset(plain["patients"]),
                        tasks=tasks, data=plain["data"], unfitted=plain["unfitted"])
            if not (tasks and found.exams and found.patients and all(own.is_sound() for own in tasks.values())):
                raise ValueError("not what calibrate_ear2d writes")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: is not a calibration of this version; calibrate_ear2d writes it anew") from None
        if found.checkpoint != sha256(checkpoint):
            raise UserError(f"{path}: belongs to another checkpoint than {checkpoint.name}, which was trained on since; "
                            "run calibrate_ear2d again, or remove it")
        return found

    def write(self, checkpoint: Path) -> Path:
        path = self.path(checkpoint)
        write_json(path, {
            "checkpoint": self.checkpoint, "fitted_on": FITTED_ON,
            "tasks": {name: asdict(own) for name, own in self.tasks.items()}, "unfitted": self.unfitted,
            "exams": sorted(self.exams), "patients": sorted(self.patients), "data": dict(self.data), "versions": versions()})
        return path

    def refuse(self, ears: pd.DataFrame) -> None:
        """Raises UserError if an ear of these manifest rows is of an exam or a patient that it was fitted on."""
        known = ears[ears.exam_id.isin(self.exams) | ears.patient_key.isin(self.patients)]
        if len(known):
            raise UserError(
                f"temperature and thresholds were fitted on {known.patient_key.nunique()} of these patients (exam "
                f"{known.exam_id.iloc[0]}, say): figures with them would be too good; --uncalibrated reports without them")


def uncalibrated(tasks: Collection[Task]) -> dict[str, Fitted]:
    """For networks without one: the probabilities as they are, decided at 0.5."""
    none = Fitted(temperature=1.0, points={HALF: 0.5}, point=HALF, ears=0, patients=0, loss_before=np.nan, loss_after=np.nan)
    return {task.name: none if task.binary else replace(none, points={}) for task in tasks}
