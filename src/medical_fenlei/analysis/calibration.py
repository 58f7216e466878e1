"""Temperature and operating points of a network: fitted on the tune set, kept beside its checkpoint, applied to other ears."""
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.analysis.gradcam import Explanation
from medical_fenlei.analysis.trained import Trained
from medical_fenlei.data.sources import find_ears
from medical_fenlei.errors import UserError
from medical_fenlei.files import read_json, sha256, write_json
from medical_fenlei.metrics.bootstrap import ENOUGH_PATIENTS
from medical_fenlei.metrics.calibration import HALF, fit_temperature, operating_points, tempered
from medical_fenlei.metrics.predictions import class_codes, probabilities, surprise
from medical_fenlei.runs import versions
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.training.config import DataConfig

FITTED_ON = "tune"
"""The only set that may choose a threshold or a temperature: train is known by heart, val and test report."""
REPORTING = ("val", "test")


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

    def explained(self, found: Explanation) -> Explanation:
        """With the probabilities after the temperature."""
        each = tempered(np.array([list(found.probabilities.values())]), self.temperature)[0]
        return replace(found, probabilities=dict(zip(found.probabilities, map(float, each), strict=True)))

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


def fit_calibration(trained: Trained, checkpoint: Path, data: DataConfig, *, sensitivity: float, point: str) -> Calibration:
    """Of every task that the data names, on the tune set; of several also if only some have ears of every class there.

    Raises UserError: no tune set, no task with ears of every class there, an unknown point, or patients that validation or test
    has too.
    """
    tasks, store = trained.chosen(data), trained.store(data)
    sources = find_ears(data, store, tasks, (FITTED_ON,))
    dataset = sources.dataset(store, FITTED_ON, sources.placement(store, trained.arithmetic.device))
    if dataset is None:
        raise UserError(f"--splits-root {data.splits_root}: --pct {data.pct} has no {FITTED_ON} set to fit on; "
                        "make_splits_dual --tune-ratio makes one")
    ears, manifest = sources.ears[FITTED_ON], tables.MANIFEST.read(data.manifest_csv)
    for name, exams in tables.read_split(data.splits_root, data.pct).sets.items():
        both = set(ears.patient_key) & set(manifest.patient_key[manifest.exam_id.isin(exams.exam_id)])
        if name in REPORTING and both:
            raise UserError(f"{len(both)} patients stand in both {FITTED_ON}.csv and {name}.csv of {data.splits_root} --pct "
                            f"{data.pct}: nothing may be fitted on what is reported; make_splits_dual --patient-split keeps "
                            "them apart")
    trained.refuse_trained_on(ears.exam_id, f"--splits-root {data.splits_root}, {FITTED_ON}.csv")
    if reported := trained.own_exams(*REPORTING) & set(ears.exam_id):
        raise UserError(f"--splits-root {data.splits_root}, {FITTED_ON}.csv: the run's own split reports on {len(reported)} of "
                        f"its exams ({min(reported)}, say): nothing may be fitted on them")
    predictions = trained.predict(dataset)
    unfitted = {task.name: lack for task in tasks if (lack := _lacking(predictions[task.name], task))}
    if len(unfitted) == len(tasks):
        raise UserError(f"{'; '.join(unfitted.values())}; make_splits_dual --tune-ratio makes a larger one")
    fitted = {task.name: _fit(predictions[task.name], task, sensitivity, point) for task in tasks if task.name not in unfitted}
    return Calibration(checkpoint=sha256(checkpoint), exams=frozenset(ears.exam_id), patients=frozenset(ears.patient_key),
                       tasks=fitted, data=sources.hashes, unfitted=unfitted)


def _lacking(predictions: pd.DataFrame, task: Task) -> str:
    """Why a binary task has no operating points; "" if it has."""
    negative, positive = ((predictions.y_true == c).sum() for c in (0, 1))
    if not task.binary or (negative and positive):
        return ""
    return f"{task.name}: the {FITTED_ON} set has {negative} negative and {positive} positive ears, expected some of both"


def _fit(predictions: pd.DataFrame, task: Task, sensitivity: float, point: str) -> Fitted:
    known = predictions[predictions.y_true != OUTSIDE]
    y, before = known.y_true.to_numpy(), probabilities(known, task)
    temperature, note = fit_temperature(before, y), ""
    if np.isnan(temperature):
        temperature, note = 1.0, f"kept at 1: the {FITTED_ON} set holds ears of one class only"
    if not note and known.patient_key.nunique() < ENOUGH_PATIENTS:
        note = f"from only {known.patient_key.nunique()} patients: it may be worse than none (--uncalibrated leaves it aside)"
    points: dict[str, float] = {}
    if task.binary:
        points = operating_points(tempered(before, temperature)[:, 1], y, sensitivity=sensitivity)
    found = Fitted(temperature=temperature, points=points, point=HALF, ears=len(known), patients=known.patient_key.nunique(),
                   loss_before=float(surprise(known, task).mean()), loss_after=0.0, note=note)
    found = found.at(point) if task.binary else found
    return replace(found, loss_after=float(surprise(found.applied(known, task), task).mean()))


def uncalibrated(tasks: Collection[Task]) -> dict[str, Fitted]:
    """For networks without one: the probabilities as they are, decided at 0.5."""
    none = Fitted(temperature=1.0, points={HALF: 0.5}, point=HALF, ears=0, patients=0, loss_before=np.nan, loss_after=np.nan)
    return {task.name: none if task.binary else replace(none, points={}) for task in tasks}
