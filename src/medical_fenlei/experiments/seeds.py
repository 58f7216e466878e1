"""Measures over several networks (seeds) on the same ears: their mean, their spread, and those of the ensemble."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.metrics.binary import THRESHOLD
from medical_fenlei.metrics.bootstrap import Intervals, PatientBootstrap
from medical_fenlei.metrics.predictions import class_codes, intervals_of, measures_of, probabilities
from medical_fenlei.tasks import Task

N_RESAMPLES = 2000
"""Resamples of every interval of a study."""


@dataclass(frozen=True, kw_only=True)
class SeedSummary:
    """The measures of several networks on the same ears."""

    mean: Intervals
    """Mean of each measure over the networks; the interval is that of new patients."""

    sd: dict[str, float]
    """Standard deviation of each measure over the networks (n - 1), that of new seeds; NaN for a single network."""

    ensemble: Intervals
    """Each measure of `ensemble_predictions`."""


def summarize_seeds(predictions: Sequence[pd.DataFrame], task: Task) -> SeedSummary:
    """Summarise the `tables.PREDICTIONS` of several networks. Raises UserError if they do not have the same ears."""
    mean, sd = mean_over_seeds(predictions, task)
    ensemble = intervals_of(ensemble_predictions(predictions, task), task, n_resamples=N_RESAMPLES)
    return SeedSummary(mean=mean, sd=sd, ensemble=ensemble)


def mean_over_seeds(predictions: Sequence[pd.DataFrame], task: Task) -> tuple[Intervals, dict[str, float]]:
    """Return the mean of each measure over networks with its interval, and the standard deviation (`SeedSummary`).

    Each resample of patients is used for all networks. Raises UserError if they do not have the same ears.
    """
    ordered = _same_ears(predictions)
    measures = [measures_of(frame, task) for frame in ordered]

    def mean(weight: np.ndarray) -> dict[str, np.ndarray]:
        each = [measure(weight) for measure in measures]
        return {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}

    truth = ordered[0].y_true.to_numpy()
    bootstrap = PatientBootstrap(
        patient=ordered[0].patient_key.to_numpy(), classes=truth, n_resamples=N_RESAMPLES,
        observations=np.column_stack([truth, *(probabilities(frame, task) for frame in ordered)]))
    estimates = [measure(np.ones((1, len(truth)))) for measure in measures]
    sd = {name: float(np.std([each[name][0] for each in estimates], ddof=1)) if len(estimates) > 1 else float("nan")
          for name in estimates[0]}
    return bootstrap.intervals(mean), sd


def ensemble_predictions(predictions: Sequence[pd.DataFrame], task: Task) -> pd.DataFrame:
    """Return the `tables.PREDICTIONS` of an ensemble: the mean of the networks' probabilities.

    A binary task is decided at 0.5, another by the most probable class. Raises UserError if the networks do not have the same
    ears.
    """
    ordered = _same_ears(predictions)
    mean = np.mean([probabilities(frame, task) for frame in ordered], axis=0)
    ensemble = ordered[0].assign(top_slices="", top_slice_weights="")
    if task.binary:
        return ensemble.assign(y_prob=mean[:, 1], y_pred=(mean[:, 1] >= THRESHOLD).astype(np.int64))
    columns = {f"prob_{codes}": probability for codes, probability in zip(class_codes(task), mean.T, strict=True)}
    return ensemble.assign(y_prob=mean.max(1), y_pred=mean.argmax(1), **columns)


def _same_ears(predictions: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The tables in the same order of ears."""
    names = ["exam_id", "side"]
    ordered = [frame.sort_values(names).reset_index(drop=True) for frame in predictions]
    if any(not frame[names].equals(ordered[0][names]) for frame in ordered):
        raise UserError("the runs were not evaluated on the same ears; evaluate them again on one split")
    return ordered
