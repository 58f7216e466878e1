"""Measures of six classes equal scikit-learn."""
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from medical_fenlei.metrics.multiclass import EACH, MulticlassMeasures

NAMES = ("a", "b", "c", "d")
N = 150


@pytest.fixture
def ears():
    """Labels, probabilities rounded so that there are ties, weights (a row of ones, then a bootstrap)."""
    rng = np.random.default_rng(0)
    y = rng.choice(4, N, p=[0.4, 0.3, 0.2, 0.1])
    probability = np.exp(rng.normal(size=(N, 4)) + 1.2 * np.eye(4)[y])
    probability = np.round(probability / probability.sum(1, keepdims=True), 2) + 1e-4 * np.arange(4)
    return y, probability, np.concatenate([np.ones((1, N)), rng.integers(0, 4, (20, N))])


def test_macro_areas_equal_scikit_learn_one_against_the_rest(ears):
    y, probability, weight = ears
    found, own = MulticlassMeasures(y, probability, NAMES)(weight), np.eye(4)[y]
    for name, of_scikit_learn in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        expected = [of_scikit_learn(own, probability, average="macro", sample_weight=w) for w in weight]
        np.testing.assert_allclose(found[name], expected, atol=1e-12, err_msg=name)


def test_accuracy_and_the_sensitivity_of_each_class_equal_scikit_learn(ears):
    y, probability, weight = ears
    found, predicted = MulticlassMeasures(y, probability, NAMES)(weight), probability.argmax(1)
    np.testing.assert_allclose(found["accuracy"], [accuracy_score(y, predicted, sample_weight=w) for w in weight], atol=1e-12)
    recalls = np.array([recall_score(y, predicted, average=None, sample_weight=w) for w in weight])
    for c, name in enumerate(NAMES):
        np.testing.assert_allclose(found[f"sensitivity_{name}"], recalls[:, c], atol=1e-12, err_msg=name)


def test_each_class_against_the_rest_equals_scikit_learn(ears):
    y, probability, weight = ears
    found, predicted = MulticlassMeasures(y, probability, NAMES)(weight), probability.argmax(1)
    for c, name in enumerate(NAMES):
        own, yes = y == c, predicted == c
        expected = {"auroc": [roc_auc_score(own, probability[:, c], sample_weight=w) for w in weight],
                    "auprc": [average_precision_score(own, probability[:, c], sample_weight=w) for w in weight],
                    "ppv": [precision_score(own, yes, sample_weight=w) for w in weight],
                    "npv": [precision_score(own, yes, sample_weight=w, pos_label=0) for w in weight],
                    "specificity": [recall_score(own, yes, sample_weight=w, pos_label=0) for w in weight],
                    "f1": [f1_score(own, yes, sample_weight=w) for w in weight]}
        for measure, values in expected.items():
            np.testing.assert_allclose(found[f"{measure}_{name}"], values, atol=1e-12, err_msg=f"{measure}_{name}")


def test_the_brier_score_equals_scikit_learn_and_for_two_classes_the_binary_one(ears):
    y, probability, weight = ears
    probability = probability / probability.sum(1, keepdims=True)
    found = MulticlassMeasures(y, probability, NAMES)(weight)["brier"]
    expected = [brier_score_loss(y, probability, sample_weight=w, scale_by_half=True, labels=range(4)) for w in weight]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    two = np.column_stack([1 - probability[:, 0], probability[:, 0]])
    assert MulticlassMeasures(y == 0, two, NAMES[:2])(weight[:1])["brier"][0] == pytest.approx(
        brier_score_loss(y == 0, probability[:, 0]), abs=1e-12)


def test_a_class_without_ears_is_left_out_of_the_means_and_has_no_sensitivity(ears):
    y, probability, _ = ears
    there = y != 2
    y, probability = y[there], probability[there]
    found = MulticlassMeasures(y, probability, NAMES)(np.ones((1, len(y))))
    others = [roc_auc_score(y == c, probability[:, c]) for c in (0, 1, 3)]
    assert found["auroc"][0] == pytest.approx(np.mean(others), abs=1e-12)
    assert np.isnan(found["sensitivity_c"][0]) and not np.isnan(found["sensitivity_d"][0])


def test_a_row_of_weights_that_leaves_out_a_class_has_no_mean_but_an_accuracy(ears):
    y, probability, _ = ears
    found = MulticlassMeasures(y, probability, NAMES)((y != 2).astype(float)[None])
    assert np.isnan(found["auroc"][0]) and np.isnan(found["auprc"][0]) and np.isnan(found["sensitivity_c"][0])
    assert found["accuracy"][0] == pytest.approx(accuracy_score(y[y != 2], probability[y != 2].argmax(1)))


def test_no_ears_at_all_is_nan():
    found = MulticlassMeasures(np.zeros(0, int), np.zeros((0, 4)), NAMES)(np.ones((2, 0)))
    assert set(found) == {"auroc", "auprc", "macro_f1", "macro_recall", "accuracy", "brier", "calibration_error",
                          *(f"{measure}_{name}" for measure in EACH for name in NAMES)}
    assert all(value.shape == (2,) and np.isnan(value).all() for value in found.values())


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (5,)])
def test_probabilities_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="probabilities"):
        MulticlassMeasures(np.zeros(5, int), np.full(shape, 0.25), NAMES)
