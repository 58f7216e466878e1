"""Calibration measures equal scikit-learn and slow loops."""
import itertools

import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from medical_fenlei.metrics.reliability import BINS, NAMES, ReliabilityMeasures


@pytest.fixture(params=[6, 10**9], ids=["ties", "no_ties"])
def ears(request):
    """Outcomes, overconfident probabilities, weights: ones, integers, fractions."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=150)
    y = (rng.random(150) < expit(truth + 0.4)).astype(int)
    p = np.round(expit(2 * truth) * request.param) / request.param
    p = np.clip(p, 0.02, 0.98)
    return y, p, np.concatenate([np.ones((1, 150)), rng.integers(0, 4, (12, 150)), rng.random((12, 150))])


def slow_error(y, p, w):
    edges = np.linspace(0, 1, BINS + 1)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        own = (p >= low) & ((p < high) | (high == 1))
        if w[own].sum():
            total += abs(np.average(p[own], weights=w[own]) - np.average(y[own], weights=w[own])) * w[own].sum() / w.sum()
    return total


def by_libraries(y, p, w):
    x = logit(p)
    slope = LogisticRegression(C=np.inf, tol=1e-12, max_iter=2000).fit(x[:, None], y, sample_weight=w).coef_[0, 0]
    fitted = minimize_scalar(lambda a: log_loss(y, expit(x + a), sample_weight=w), bounds=(-5, 5), method="bounded",
                               options={"xatol": 1e-10})
    return {"brier": brier_score_loss(y, p, sample_weight=w), "calibration_error": slow_error(y, p, w),
            "calibration_slope": slope, "calibration_intercept": fitted.x}


def test_every_measure_equals_scikit_learn_or_a_slow_loop_with_ties_and_weights(ears):
    y, p, weight = ears
    found = ReliabilityMeasures(y, p)(weight)
    expected = [by_libraries(y, p, w) for w in weight]
    for name in NAMES:
        np.testing.assert_allclose(found[name], [e[name] for e in expected], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("apart", [2, 8, 20])
def test_the_intercept_of_any_network_however_confident_and_wrong_is_the_root(apart):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [60, 60])
    x = np.where(y == 1, 1, -1) * apart + rng.normal(size=120)
    x[[0, 1, -1]] *= -1
    weight = np.concatenate([np.ones((1, 120)), rng.integers(0, 4, (20, 120))])
    found = ReliabilityMeasures(y, expit(x))(weight)["calibration_intercept"]
    x = logit(np.clip(expit(x), 1e-15, 1 - 1e-15))
    expected = [brentq(lambda a, w=w: w @ (y - expit(a + x)), -100, 100) for w in weight]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_calibrated_probabilities_have_slope_1_and_intercept_0():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    found = ReliabilityMeasures(rng.random(200_000) < p, p)(np.ones((1, 200_000)))
    assert found["calibration_slope"][0] == pytest.approx(1, abs=0.02)
    assert found["calibration_intercept"][0] == pytest.approx(0, abs=0.02)
    assert found["calibration_error"][0] < 0.01


def test_a_row_without_one_class_has_a_brier_score_but_no_slope_and_leaves_the_others_alone(ears):
    y, p, weight = ears
    some = np.stack([weight[1], weight[2] * (y == 1), weight[3]])
    found, alone = ReliabilityMeasures(y, p)(some), ReliabilityMeasures(y, p)(some[[0, 2]])
    assert np.isnan([found["calibration_slope"][1], found["calibration_intercept"][1]]).all() and found["brier"][1] > 0
    for name in NAMES:
        np.testing.assert_allclose(found[name][[0, 2]], alone[name], atol=1e-9)


def test_classes_that_a_threshold_separates_have_no_slope():
    found = ReliabilityMeasures(np.repeat([0, 1], 5), np.linspace(0.1, 0.9, 10))(np.ones((2, 10)))
    assert np.isnan(found["calibration_slope"]).all() and np.isfinite(found["calibration_intercept"]).all()


def test_no_ears_at_all_is_nan():
    found = ReliabilityMeasures(np.zeros(0), np.zeros(0))(np.ones((3, 0)))
    assert set(found) == set(NAMES) and all(v.shape == (3,) and np.isnan(v).all() for v in found.values())


@pytest.mark.parametrize(("y", "p"), [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, 1.2]), ([0, 1], [0.1, np.nan])])
def test_bad_labels_and_probabilities_are_refused(y, p):
    with pytest.raises(ValueError, match="labels"):
        ReliabilityMeasures(np.array(y), np.array(p))


@pytest.mark.parametrize("times", [3, 6, 10])
def test_the_slope_of_a_very_overconfident_network_is_found(times):
    rng = np.random.default_rng(times)
    truth = rng.normal(size=400)
    y, p = (rng.random(400) < expit(truth)).astype(int), expit(times * truth)
    found = ReliabilityMeasures(y, p)(np.ones((1, 400)))["calibration_slope"][0]
    exact = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000).fit(logit(p)[:, None], y).coef_[0, 0]
    assert found == pytest.approx(exact, abs=1e-4) and found == pytest.approx(1 / times, rel=0.4)
