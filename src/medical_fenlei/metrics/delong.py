"""Analytic variance of AUROCs of ears clustered in patients, and the test of a difference. M scores, N ears."""
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from medical_fenlei.metrics.bootstrap import Interval


class Difference(NamedTuple):
    """The difference of two AUROCs on the same ears, the second minus the first, with its test."""

    difference: Interval
    p: float
    """Two-sided p value of no difference; NaN where the variance is 0."""


def auroc_covariance(y_true: np.ndarray, score: np.ndarray, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the AUROCs (M,) of M scores (M, N) of the same ears and their covariance (M, M), for independent patients.

    Obuchowski 1997 (doi:10.2307/2533958); with one ear per patient it equals DeLong 1988 (doi:10.2307/2531595). y_true (N,) in
    {0, 1}; patient (N,). Raises ValueError for other shapes, or if fewer than two patients have an ear of a class.
    """
    y, score = np.asarray(y_true) == 1, np.atleast_2d(np.asarray(score, np.float64))
    patients, of_ear = np.unique(patient, return_inverse=True)
    if score.shape[1] != len(y) or len(of_ear) != len(y):
        raise ValueError(f"got {len(y)} labels, scores {score.shape} and {len(of_ear)} patient keys, expected N, (M, N) and N")
    with_class = [len(np.unique(of_ear[y == c])) for c in (True, False)]
    if min(with_class) < 2:
        raise ValueError(f"got {with_class[0]} patients with positive ears and {with_class[1]} with negative ones, expected at "
                         "least two of each")
    from scipy.stats import rankdata  # slow to import

    area, components = [], []
    for own in score:
        among_all, among_positive, among_negative = rankdata(own), rankdata(own[y]), rankdata(own[~y])
        beaten = (among_all[y] - among_positive) / (~y).sum()            # share of negatives below each positive, ties half
        beating = 1 - (among_all[~y] - among_negative) / y.sum()         # share of positives above each negative
        area.append(beaten.mean())
        components.append([np.bincount(of_ear[mask], value - area[-1], len(patients)) / mask.sum()
                           for mask, value in ((y, beaten), (~y, beating))])
    # each patient's sums are divided by the number of ears of the class already
    positive, negative = (np.array([pair[which] for pair in components]) for which in (0, 1))
    scale = [count / (count - 1) for count in (*with_class, len(patients))]
    mixed = positive @ negative.T
    covariance = scale[0] * positive @ positive.T + scale[1] * negative @ negative.T + scale[2] * (mixed + mixed.T)
    return np.array(area), covariance


def delong_interval(y_true: np.ndarray, score: np.ndarray, patient: np.ndarray, *, level: float = 0.95, by_logit: bool = True
                   ) -> Interval:
    """Return the interval of one AUROC, normal on the logit scale, or without `by_logit` on the AUROC itself.

    The logit keeps the coverage of small sets. Raises ValueError as `auroc_covariance` does.
    """
    (area,), ((variance,),) = auroc_covariance(y_true, score, patient)
    reach = ndtri((1 + level) / 2) * np.sqrt(variance)
    if not by_logit:
        return Interval(float(area), float(area - reach), float(area + reach))
    if not 0 < area < 1:
        return Interval(float(area), np.nan, np.nan, "no interval: at its limit the variance is 0")
    reach /= area * (1 - area)
    return Interval(float(area), float(expit(logit(area) - reach)), float(expit(logit(area) + reach)))


def auroc_difference(y_true: np.ndarray, one: np.ndarray, other: np.ndarray, patient: np.ndarray, *, level: float = 0.95
                     ) -> Difference:
    """Return the difference of the AUROCs of two scores (N,) of the same ears.

    Raises ValueError as `auroc_covariance` does.
    """
    area, covariance = auroc_covariance(y_true, np.stack([one, other]), patient)
    difference = float(area[1] - area[0])
    deviation = float(np.sqrt(max(0.0, covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    reach = float(ndtri((1 + level) / 2)) * deviation
    p = float(2 * ndtr(-abs(difference) / deviation)) if deviation > 1e-12 else float("nan")
    return Difference(Interval(difference, difference - reach, difference + reach), p)
