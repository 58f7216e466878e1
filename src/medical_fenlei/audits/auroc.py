"""The AUROC as audits need it: as a number, with its interval, and over pairs of ears within groups."""
from collections.abc import Callable

import numpy as np
import pandas as pd

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Interval, Measures
from medical_fenlei.metrics.predictions import resampling


def auroc(y: np.ndarray, score: np.ndarray) -> float:
    """Return the AUROC of scores (N,) for labels (N,) in {0, 1}; NaN if a class is missing."""
    return float(BinaryMeasures(y, score)(np.ones((1, len(y))))["auroc"][0])


def weighted_auroc(y: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the AUROC (R,) as a function of the ears' weights (R, N)."""
    measures = BinaryMeasures(y, score)
    return lambda weight: measures(weight)["auroc"]


def auroc_interval(ears: pd.DataFrame, score: np.ndarray, *, n_resamples: int) -> Interval:
    """Return the AUROC of a score (N,) for the labels `y` of these ears, with its interval. ears: `binary_view`."""
    area = weighted_auroc(ears.y.to_numpy(), score)
    bootstrap = resampling(ears.assign(y_true=ears.y), n_resamples=n_resamples)
    return bootstrap.intervals(lambda weight: {"auroc": area(weight)}).values["auroc"]


def auroc_within_groups(y: np.ndarray, score: np.ndarray, group: np.ndarray) -> Measures:
    """Return the AUROC over the pairs of ears of one group, as measures: weights (R, N) to `auroc` (R,).

    It is the mean of the groups' AUROCs, each weighted by its number of pairs. y in {0, 1}, score and group: (N,).
    """
    members = [group == value for value in np.unique(group)]
    groups = [(ears, y[ears], weighted_auroc(y[ears], score[ears])) for ears in members]

    def measures(weight: np.ndarray) -> dict[str, np.ndarray]:
        ordered, pairs = np.zeros(len(weight)), np.zeros(len(weight))
        for ears, labels, area in groups:
            own = weight[:, ears]
            own_pairs = (own @ labels) * (own @ (1 - labels))
            ordered += np.where(own_pairs > 0, np.nan_to_num(area(own)) * own_pairs, 0)
            pairs += own_pairs
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"auroc": ordered / pairs}

    return measures
