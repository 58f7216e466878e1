"""Fit temperature and operating points on the tune set, never on what is reported."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.sources import find_ears
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.metrics.bootstrap import ENOUGH_PATIENTS
from medical_fenlei.metrics.calibration import HALF, fit_temperature, operating_points, tempered
from medical_fenlei.metrics.predictions import probabilities, surprise
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.trained.calibration import FITTED_ON, Calibration, Fitted
from medical_fenlei.trained.network import Trained

REPORTING = ("val", "test")


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
