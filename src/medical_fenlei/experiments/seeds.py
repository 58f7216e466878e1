"""Measures over several networks (seeds) on the same ears: their mean, their spread, and those of the ensemble."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.metrics.binary import THRESHOLD
from medical_fenlei.metrics.bootstrap import N_RESAMPLES, Intervals
from medical_fenlei.metrics.predictions import (
    class_codes,
    groups_of_all,
    intervals_of,
    measures_of,
    probabilities,
    resampling,
)
from medical_fenlei.tasks import Task


@dataclass(frozen=True, kw_only=True)
class SeedSummary:
    """The measures of several networks on the same ears."""

    mean: Intervals
    """Mean of each measure over the networks; the interval is that of new patients."""

    sd: dict[str, float]
    """Standard deviation of each measure over the networks (n - 1), that of new seeds; NaN for a single network."""

    ensemble: Intervals
    """Each measure of `ensemble_predictions`."""


def summarize_seeds(
    predictions: Sequence[pd.DataFrame], task: Task, *, thresholds: Sequence[float] | None = None,
    n_resamples: int = N_RESAMPLES,
) -> SeedSummary:
    """Summarise the `tables.PREDICTIONS` of several networks. Raises UserError if they do not have the same ears.

    thresholds: of each network (default: 0.5), for the decisions of the ensemble.
    """
    mean, sd = mean_over_seeds(predictions, task, n_resamples=n_resamples)
    ensemble = ensemble_predictions(predictions, task, thresholds=thresholds)
    return SeedSummary(mean=mean, sd=sd, ensemble=intervals_of(ensemble, task, n_resamples=n_resamples))


def mean_over_seeds(
    predictions: Sequence[pd.DataFrame], task: Task, *, n_resamples: int = N_RESAMPLES
) -> tuple[Intervals, dict[str, float]]:
    """Return the mean of each measure over networks with its interval, and the standard deviation (`SeedSummary`).

    Each resample of patients is used for all networks; the interval of a single network is that of its evaluation. Raises
    UserError if they do not have the same ears.
    """
    ordered = _same_ears(predictions)
    measures = [measures_of(frame, task) for frame in ordered]

    def mean(weight: np.ndarray) -> dict[str, np.ndarray]:
        each = [measure(weight) for measure in measures]
        return {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}

    estimates = [measure(np.ones((1, len(ordered[0])))) for measure in measures]
    sd = {name: float(np.std([each[name][0] for each in estimates], ddof=1)) if len(estimates) > 1 else float("nan")
          for name in estimates[0]}
    bootstrap = resampling(ordered[0], n_resamples=n_resamples)
    return bootstrap.intervals(mean, groups=groups_of_all(ordered, task)), sd


def ensemble_predictions(
    predictions: Sequence[pd.DataFrame], task: Task, *, thresholds: Sequence[float] | None = None
) -> pd.DataFrame:
    """Return the `tables.PREDICTIONS` of an ensemble: the mean of the networks' probabilities.

    A binary task is positive where the probabilities exceed their networks' thresholds (default: 0.5) on average, another is
    decided by the most probable class. Raises UserError if the networks do not have the same ears.
    """
    ordered = _same_ears(predictions)
    mean = np.mean([probabilities(frame, task) for frame in ordered], axis=0)
    ensemble = ordered[0].assign(top_slices="", top_slice_weights="", top_images="")
    threshold = float(np.mean(thresholds)) if thresholds else THRESHOLD
    if task.binary:
        return ensemble.assign(y_prob=mean[:, 1], y_pred=(mean[:, 1] >= threshold).astype(np.int64))
    columns = {f"prob_{codes}": probability for codes, probability in zip(class_codes(task), mean.T, strict=True)}
    return ensemble.assign(y_prob=mean.max(1), y_pred=mean.argmax(1), **columns)


def _same_ears(predictions: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The tables in the same order of ears."""
    names = ["exam_id", "side"]
    ordered = [frame.sort_values(names).reset_index(drop=True) for frame in predictions]
    if any(not frame[names].equals(ordered[0][names]) for frame in ordered):
        raise UserError("the runs were not evaluated on the same ears; evaluate them again on one split")
    return ordered
