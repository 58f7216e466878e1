"""Temperatures are recovered, and operating points do what their names say."""
import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.metrics import log_loss, roc_auc_score

from medical_fenlei.metrics.calibration import PRIOR, fit_temperature, operating_points, tempered


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def both(positive):
    return np.column_stack([1 - positive, positive])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [2, 6])
def test_the_temperature_that_sharpened_calibrated_probabilities_is_recovered(rng, temperature, classes):
    right = softmax(rng.normal(scale=1.5, size=(20_000, classes)), axis=1)
    y = (right.cumsum(1) < rng.random((20_000, 1))).sum(1)
    sharpened = tempered(right, 1 / temperature)
    assert fit_temperature(sharpened, y) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_has_a_higher_posterior(rng):
    p = softmax(rng.normal(scale=3, size=(80, 6)), axis=1)
    y = np.where(rng.random(80) < 0.6, p.argmax(1), rng.integers(0, 6, 80))
    best = fit_temperature(p, y)

    def likelihood(t):
        return norm.logpdf(np.log(t), scale=PRIOR) - log_loss(y, tempered(p, t), labels=range(6), normalize=False)

    assert all(likelihood(best) >= likelihood(t) - 1e-7 for t in np.geomspace(0.1, 10, 200))


def test_a_temperature_changes_neither_the_order_of_ears_nor_the_predicted_class(rng):
    score = rng.random(50)
    hot = tempered(both(score), 4)[:, 1]
    assert (np.argsort(hot) == np.argsort(score)).all() and ((hot >= 0.5) == (score >= 0.5)).all()
    six = softmax(rng.normal(size=(50, 6)), axis=1)
    assert (tempered(six, 4).argmax(1) == six.argmax(1)).all()
    np.testing.assert_allclose(tempered(six, 1), six, atol=1e-12)
    assert roc_auc_score(score > 0.4, hot) == 1


def test_few_separated_or_inverted_ears_move_the_temperature_only_a_little(rng):
    score, right = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    few, many = (fit_temperature(both(np.tile(score, n)), np.tile(right, n)) for n in (1, 25))
    assert 0.2 < many < few < 1
    few, many = (fit_temperature(both(np.tile(score, n)), np.tile(1 - right, n)) for n in (1, 25))
    assert 1 < few < many
    assert np.isnan(fit_temperature(both(rng.random(20)), np.ones(20, int)))


@pytest.mark.parametrize("apart", [2.0, 4.0])
def test_the_prior_improves_the_temperature_of_small_sets(rng, apart):
    def drawn(ears):
        y = np.resize([0, 1], ears)
        return both(expit(1.5 * apart * (rng.normal(size=ears) + (y - 0.5) * apart))), y         # overconfident by half

    def alone(p, y):
        return min(np.geomspace(0.05, 20, 40), key=lambda t: log_loss(y, tempered(p, t)))

    other = drawn(1000)
    losses = []
    for _ in range(40):
        mine = drawn(40)
        losses.append([log_loss(other[1], tempered(other[0], fit(*mine))) for fit in (fit_temperature, alone)])
    with_prior, without = np.mean(losses, axis=0)
    assert with_prior < without


def test_each_operating_point_does_what_its_name_says(rng):
    y = rng.integers(0, 2, 300)
    score = expit(1.5 * (y - 0.5) + rng.normal(size=300)).round(2)               # ties
    found = operating_points(score, y, sensitivity=0.9)
    assert list(found) == ["half", "youden", "specificity_95", "sensitivity_90"] and found["half"] == 0.5

    def rates(threshold):
        return np.mean(score[y == 1] >= threshold), np.mean(score[y == 0] < threshold)

    every = [rates(t) for t in np.linspace(0, 1.01, 1021)]
    assert sum(rates(found["youden"])) == pytest.approx(max(map(sum, every)))
    assert rates(found["specificity_95"])[0] == max(sensitivity for sensitivity, specificity in every if specificity >= 0.95)
    assert rates(found["sensitivity_90"])[1] == max(specificity for sensitivity, specificity in every if sensitivity >= 0.9)


def test_a_threshold_lies_between_scores_so_that_rounding_moves_no_ear():
    found = operating_points(np.array([0.1, 0.3, 0.6, 0.8]), np.array([0, 0, 1, 1]), sensitivity=1)
    assert found["youden"] == pytest.approx(0.45) and found["sensitivity_100"] == pytest.approx(0.45)


def test_a_threshold_that_calls_all_or_none_positive_stays_beside_the_scores():
    found = operating_points(np.array([0.51, 0.512, 0.516, 0.52]), np.array([1, 1, 0, 0]), sensitivity=1)
    assert found["sensitivity_100"] == pytest.approx(0.509) and found["specificity_95"] == pytest.approx(0.522)
    assert found["youden"] == found["sensitivity_100"]           # all and none are equally good: the nearer one to 0.5
    alike = operating_points(np.ones(2), np.array([0, 1]), sensitivity=1)
    assert alike["sensitivity_100"] < alike["specificity_95"] == 1


@pytest.mark.parametrize("y", [[1, 1], [0, 0], []])
def test_one_class_has_no_operating_points(y):
    with pytest.raises(ValueError, match="both classes"):
        operating_points(np.full(len(y), 0.5), np.array(y), sensitivity=0.9)
