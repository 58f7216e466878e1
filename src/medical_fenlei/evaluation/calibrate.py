"""Fit temperature and operating points on the tune set, never on what is reported."""
from dataclasses import replace

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.config.training import LONG_TAIL
from medical_fenlei.data.selection import empty_set
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.metrics.calibration import (
    HALF,
    PREVALENCE,
    SENSITIVITY,
    YOUDEN,
    fit_temperature,
    operating_points,
    tempered,
)
from medical_fenlei.metrics.predictions import negative_log_likelihood, probabilities
from medical_fenlei.set_sizes import TO_CHOOSE_THRESHOLD, TO_FIT_TEMPERATURE, SetSize, larger_set
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.trained.calibration import FITTED_ON, Calibration, TaskCalibration
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.vocabulary import plural

REPORTING = ("val", "test")
"""Sets that report: nothing may be fitted on their patients."""


def calibrate_if_possible(network: TrainedNetwork, data: DataConfig) -> str:
    """Fit a calibration with the defaults and write it beside the checkpoint; return why it cannot be fitted, "" if it was."""
    try:
        fit_calibration(network, data, sensitivity=SENSITIVITY, point=YOUDEN).write(network.path)
    except UserError as error:
        return str(error)
    return ""


def fit_calibration(network: TrainedNetwork, data: DataConfig, *, sensitivity: float, point: str) -> Calibration:
    """Fit temperature and operating points of every task that the data settings name, on the tune set.

    sensitivity: of one of the operating points; point: the operating point that decides. Where the tune set is too small to
    choose a threshold, 0.5 decides, or the prevalence in the training set if nothing balanced the classes there. A binary task
    without ears of both classes is not fitted, if there are others. Raises UserError if there is no tune set, no task can be
    fitted, the operating point is unknown, or validation or test share patients with the tune set.
    """
    tasks = network.select_tasks(data)
    tune = network.open_sets(data, (FITTED_ON,), tasks).get(FITTED_ON)
    if tune is None:
        raise empty_set(data, FITTED_ON, tasks)
    _refuse_reported(network, data, tune.ears)
    predictions = network.predict(tune.dataset)
    unfitted = {task.name: lack for task in tasks if (lack := _missing_class(predictions[task.name], task))}
    if len(unfitted) == len(tasks):
        raise UserError(f"{'; '.join(unfitted.values())}; make_splits_dual --tune-ratio makes a larger one")
    fitted = {task.name: _fit(predictions[task.name], task, sensitivity, point, _prevalence(network, task))
              for task in tasks if task.name not in unfitted}
    return Calibration(
        checkpoint=sha256(network.path), exams=frozenset(tune.ears.exam_id), patients=frozenset(tune.ears.patient_key),
        tasks=fitted, data=tune.hashes, unfitted=unfitted)


def _refuse_reported(network: TrainedNetwork, data: DataConfig, tune: pd.DataFrame) -> None:
    """Raise UserError if the network was trained on these ears (manifest rows), or figures are reported on their patients."""
    manifest = tables.MANIFEST.read(data.manifest_csv)
    for name, exams in tables.read_split(data.splits_root, data.pct).sets.items():
        shared = set(tune.patient_key) & set(manifest.patient_key[manifest.exam_id.isin(exams.exam_id)])
        if name in REPORTING and shared:
            raise UserError(f"{FITTED_ON}.csv and {name}.csv of {data.splits_root} --pct {data.pct} share {len(shared)} "
                            "patients: nothing may be fitted on what is reported; make_splits_dual --patient-split keeps "
                            "them apart")
    tune_csv = f"--splits-root {data.splits_root}, {FITTED_ON}.csv"
    network.refuse_if_trained_on(tune.exam_id, tune_csv)
    if reported := network.split_exams(*REPORTING) & set(tune.exam_id):
        raise UserError(f"{tune_csv}: the run's own split reports on {len(reported)} of its exams (for example "
                        f"{min(reported)}); nothing may be fitted on them")


def _missing_class(predictions: pd.DataFrame, task: Task) -> str:
    """Why a binary task cannot have operating points; "" if it can."""
    negative, positive = ((predictions.y_true == c).sum() for c in (0, 1))
    if not task.binary or (negative and positive):
        return ""
    return f"{task.name}: the {FITTED_ON} set has {negative} negative and {positive} positive ears, expected some of both"


def _prevalence(network: TrainedNetwork, task: Task) -> float:
    """Share of the positive ears of a binary task in the training set if training did not balance the classes, else NaN."""
    known = network.checkpoint.trained_on
    codes = known.codes if known else {}
    if not task.binary or network.config.balancing != "none" or network.config.training.loss in LONG_TAIL:
        return np.nan
    negative, positive = (sum(codes.get(str(code), 0) for code in own) for own in task.classes)
    return positive / (negative + positive) if negative and positive else np.nan


def _fit(predictions: pd.DataFrame, task: Task, sensitivity: float, point: str, prevalence: float) -> TaskCalibration:
    """Fit one task. predictions: `tables.PREDICTIONS`, uncalibrated; prevalence: as `_prevalence` gives it."""
    known = predictions[predictions.y_true != OUTSIDE]
    y, probability, size = known.y_true.to_numpy(), probabilities(known, task), SetSize.of(known, task)
    temperature, note = fit_temperature(probability, y), ""
    if np.isnan(temperature):
        temperature, note = 1.0, f"kept at 1: the {FITTED_ON} set holds ears of one class only"
    elif size.patients < TO_FIT_TEMPERATURE:
        note = (f"fitted on only {plural(size.patients, 'patient')} (at least {TO_FIT_TEMPERATURE} needed): it may be worse "
                f"than none (--uncalibrated ignores it); remedy: {larger_set(FITTED_ON)}")
    points: dict[str, float] = {}
    if task.binary:
        points = operating_points(tempered(probability, temperature)[:, 1], y, sensitivity=sensitivity)
    fitted = TaskCalibration(temperature=temperature, points=points, point=HALF, ears=len(known), patients=size.patients,
                             loss_before=_mean_loss(known, task), loss_after=np.nan, note=note)
    fitted = _at_sound_point(fitted.at_point(point), size, prevalence) if task.binary else fitted
    return replace(fitted, loss_after=_mean_loss(fitted.apply(known, task), task))


def _at_sound_point(fitted: TaskCalibration, size: SetSize, prevalence: float) -> TaskCalibration:
    """Return a calibration whose operating point is not one that too small a tune set has chosen."""
    if fitted.point == HALF or size.rarest >= TO_CHOOSE_THRESHOLD:
        return fitted
    points, point = fitted.points, HALF
    if not np.isnan(prevalence):
        both = np.array([[1 - prevalence, prevalence]])
        points, point = {**points, PREVALENCE: float(tempered(both, fitted.temperature)[0, 1])}, PREVALENCE
    negative, positive = size.of_class
    note = (f"thresholds chosen on {negative} negative and {positive} positive patients are uncertain (at least "
            f"{TO_CHOOSE_THRESHOLD} of each needed): {point} decides unless --point names another at evaluation; remedy: "
            f"{larger_set(FITTED_ON)}")
    return replace(fitted, points=points, point=point, point_note=note)


def _mean_loss(predictions: pd.DataFrame, task: Task) -> float:
    """Mean negative log-likelihood."""
    return float(negative_log_likelihood(predictions, task).mean())
