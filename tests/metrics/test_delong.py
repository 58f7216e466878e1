"""The analytic variance of an AUROC equals a published example, a slow double loop, and a jackknife of patients."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from medical_fenlei.metrics.bootstrap import Interval
from medical_fenlei.metrics.delong import auroc_covariance, auroc_difference, delong_interval

ASAH = Path(__file__).with_name("asah.csv")
"""Outcome of 113 patients with aneurysmal subarachnoid haemorrhage, S100β and WFNS grade on admission (Turck 2010,
doi:10.1007/s00134-009-1641-y): the example of the R package pROC, whose figures are expected here."""


def test_the_published_example_comes_out_to_four_digits():
    data = pd.read_csv(ASAH)
    everyone = np.arange(113)
    found = delong_interval(data.poor_outcome, data.s100b, everyone, by_logit=False)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.7314, 0.6301, 0.8326), abs=1e-4)
    compared = auroc_difference(data.poor_outcome, data.wfns, data.s100b, everyone)
    assert compared.p == pytest.approx(0.02718, abs=1e-5) and compared.difference.estimate == pytest.approx(-0.09231, abs=1e-5)


@pytest.fixture
def clustered():
    rng = np.random.default_rng(0)
    y, patient = rng.integers(0, 2, 60), rng.integers(0, 25, 60)
    return y, np.round(y + rng.normal(size=(2, 60)), 1), patient


def slowly(y, scores, patient):
    """The formulas of Obuchowski 1997, pair by pair."""
    people, m, n = sorted(set(patient)), (y == 1).sum(), (y == 0).sum()
    area, of_positive, of_negative = [], [], []
    for score in scores:
        wins = {(i, j): 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
                for i in np.flatnonzero(y == 1) for j in np.flatnonzero(y == 0)}
        theta = sum(wins.values()) / (m * n)
        area.append(theta)
        of_positive.append([sum(sum(wins[i, j] for j in np.flatnonzero(y == 0)) / n - theta
                                for i in np.flatnonzero((y == 1) & (patient == p))) for p in people])
        of_negative.append([sum(sum(wins[i, j] for i in np.flatnonzero(y == 1)) / m - theta
                                for j in np.flatnonzero((y == 0) & (patient == p))) for p in people])
    a, b = np.array(of_positive), np.array(of_negative)
    with_positive, with_negative = (len(set(patient[y == c])) for c in (1, 0))
    s10, s01 = with_positive / ((with_positive - 1) * m) * a @ a.T, with_negative / ((with_negative - 1) * n) * b @ b.T
    s11 = len(people) / (len(people) - 1) * a @ b.T
    return np.array(area), s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def test_areas_and_their_covariance_equal_a_slow_loop_over_pairs_with_ties_and_several_ears_a_patient(clustered):
    for found, expected in zip(auroc_covariance(*clustered), slowly(*clustered), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    y, scores, _ = clustered
    np.testing.assert_allclose(auroc_covariance(*clustered)[0], [roc_auc_score(y, s) for s in scores], atol=1e-12)


def test_two_equal_ears_of_each_patient_have_the_variance_of_one():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    score = y + rng.normal(size=80)
    one = auroc_covariance(y, score, np.arange(80))[1]
    twice = auroc_covariance(y.repeat(2), score.repeat(2), np.arange(80).repeat(2))[1]
    assert twice == pytest.approx(one, rel=1e-9)


def test_equal_networks_differ_significantly_as_often_as_the_level_states():
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        y = np.repeat(rng.integers(0, 2, 60), 2)
        shared = rng.normal(size=60).repeat(2)
        one, other = (y + shared + rng.normal(size=120) for _ in range(2))
        found.append(auroc_difference(y, one, other, np.arange(60).repeat(2)).p < 0.05)
    assert 0.025 <= np.mean(found) <= 0.08


def test_a_network_against_itself_differs_by_nothing_and_has_no_p(clustered):
    y, scores, patient = clustered
    found = auroc_difference(y, scores[0], scores[0], patient)
    assert found.difference == Interval(0, 0, 0) and np.isnan(found.p)


def test_the_interval_stays_within_0_and_1_and_a_perfect_score_has_none():
    y, patient = np.repeat([0, 1], 6), np.arange(12)
    score = np.array([0, 1, 2, 3, 4, 8, 5, 6, 7, 9, 10, 11.0])
    found = delong_interval(y, score, patient)
    assert 0 < found.low < found.estimate < found.high < 1 < delong_interval(y, score, patient, by_logit=False).high
    perfect = delong_interval(y, np.arange(12), patient)
    assert perfect.estimate == 1 and np.isnan(perfect.low) and "limit" in perfect.reason


@pytest.mark.parametrize("y", [[1, 1, 1, 1], [1, 0, 0, 0]])
def test_fewer_than_two_patients_of_a_class_are_refused(y):
    with pytest.raises(ValueError, match="at least two"):
        auroc_covariance(np.array(y), np.arange(4.0), np.arange(4))
