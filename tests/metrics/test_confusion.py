"""Confusion matrices and measures of each class equal scikit-learn."""
import warnings

import numpy as np
import pytest
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support, recall_score

from medical_fenlei.metrics.confusion import BY_CLASS, by_class, class_report, confusion
from medical_fenlei.metrics.multiclass import MulticlassMeasures

NAMES = ("a", "b", "c", "d", "e")
N, CLASSES = 120, len(NAMES)


@pytest.fixture
def ears():
    """True and predicted classes, five of them, and weights: ones, a bootstrap with zeros, fractions."""
    rng = np.random.default_rng(0)
    y = rng.choice(CLASSES, N, p=[0.4, 0.25, 0.15, 0.1, 0.1])
    predicted = np.where(rng.random(N) < 0.6, y, rng.integers(0, CLASSES, N))
    return y, predicted, np.concatenate([np.ones((1, N)), rng.integers(0, 4, (9, N)), rng.random((5, N))])


def of_scikit_learn(y, predicted, weight=None):
    """Precision, recall, F1 and support of each class; NaN for a division by zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return precision_recall_fscore_support(y, predicted, labels=range(CLASSES), sample_weight=weight, zero_division=np.nan)


def one_by_one(y, predicted, weight):
    """Specificity of each class, by counting."""
    return [weight[(y != c) & (predicted != c)].sum() / weight[y != c].sum() for c in range(CLASSES)]


def test_the_weighted_matrix_equals_scikit_learn(ears):
    y, predicted, weight = ears
    expected = [confusion_matrix(y, predicted, labels=range(CLASSES), sample_weight=w) for w in weight]
    np.testing.assert_allclose(confusion(weight, y, predicted, classes=CLASSES), expected, atol=1e-12)


def test_every_measure_of_every_class_equals_scikit_learn_with_weights(ears):
    y, predicted, weight = ears
    found = by_class(confusion(weight, y, predicted, classes=CLASSES))
    for row, w in enumerate(weight):
        precision, recall, f1, support = of_scikit_learn(y, predicted, w)
        expected = {"precision": precision, "recall": recall, "f1": f1, "support": support,
                    "specificity": one_by_one(y, predicted, w)}
        assert set(expected) == set(found)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][row], values, atol=1e-12, err_msg=name)


def test_the_report_of_all_ears_equals_scikit_learn(ears):
    y, predicted, _ = ears
    found = class_report(y, predicted, NAMES)
    precision, recall, f1, _ = of_scikit_learn(y, predicted)
    for c, name in enumerate(NAMES):
        own = found["classes"][name]
        assert [own[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx(
            [precision[c], recall[c], f1[c], y.tolist().count(c)])
    assert found["confusion"] == confusion_matrix(y, predicted).tolist()
    assert found["accuracy"] == pytest.approx((y == predicted).mean())
    expected = {"precision": precision, "recall": recall, "f1": f1, "specificity": one_by_one(y, predicted, np.ones(N))}
    assert found["macro"] == pytest.approx({name: np.mean(expected[name]) for name in BY_CLASS})


def test_a_class_without_ears_has_neither_recall_nor_f1_and_enters_no_mean(ears):
    y, predicted, _ = ears
    predicted = predicted[y != 2]                                # still predicted now and then
    y = y[y != 2]
    assert (predicted == 2).any()
    found = class_report(y, predicted, NAMES)
    own = found["classes"]["c"]
    assert np.isnan(own["recall"]) and np.isnan(own["f1"]) and own["support"] == 0
    assert own["precision"] == 0 and own["specificity"] == pytest.approx((predicted != 2).mean())
    occurring = [0, 1, 3, 4]
    assert found["macro"]["f1"] == pytest.approx(f1_score(y, predicted, labels=occurring, average="macro"))
    assert found["macro"]["recall"] == pytest.approx(recall_score(y, predicted, labels=occurring, average="macro"))


def test_a_class_that_is_never_predicted_has_no_precision_and_so_there_is_no_mean_of_it(ears):
    y, predicted, _ = ears
    predicted = np.where(predicted == 3, 0, predicted)
    found = class_report(y, predicted, NAMES)
    own = found["classes"]["d"]
    assert np.isnan(own["precision"]) and np.isnan(found["macro"]["precision"])
    assert own["recall"] == own["f1"] == 0 and own["specificity"] == 1
    assert found["macro"]["f1"] == pytest.approx(f1_score(y, predicted, average="macro"))  # 0 in that class, as in scikit-learn


def test_a_class_that_neither_occurs_nor_is_predicted_changes_nothing(ears):
    y, predicted, _ = ears
    some = class_report(y, predicted, NAMES)
    more = class_report(y, predicted, (*NAMES, "never"))
    assert more["macro"] == some["macro"] and more["accuracy"] == some["accuracy"]
    own = more["classes"].pop("never")
    assert more["classes"] == some["classes"]
    assert own["specificity"] == 1 and all(np.isnan(own[name]) for name in ("precision", "recall", "f1"))


def test_a_single_class_has_no_specificity():
    found = class_report(np.zeros(4, int), np.zeros(4, int), ("a", "b"))
    assert np.isnan(found["classes"]["a"]["specificity"]) and np.isnan(found["macro"]["specificity"])
    assert found["macro"]["recall"] == found["macro"]["f1"] == found["accuracy"] == 1


def test_without_ears_nothing_is_defined():
    found = class_report(np.zeros(0, int), np.zeros(0, int), NAMES)
    assert np.isnan([found["accuracy"], *found["macro"].values()]).all()
    assert all(np.isnan(own[name]) for own in found["classes"].values() for name in BY_CLASS)
    assert not np.any(found["confusion"])


@pytest.mark.parametrize("absent", [None, 1, 4])
def test_macro_f1_and_recall_of_six_classes_equal_scikit_learn_under_weights(ears, absent):
    y, predicted, weight = ears
    probability = np.random.default_rng(1).random((N, CLASSES)) + 2 * np.eye(CLASSES)[predicted]
    probability /= probability.sum(1, keepdims=True)
    inside = np.ones(N, bool) if absent is None else y != absent
    y, probability, weight = y[inside], probability[inside], weight[:, inside]
    found = MulticlassMeasures(y, probability, NAMES)(weight)
    occurring, predicted = np.unique(y), probability.argmax(1)
    for name, oracle in (("macro_f1", f1_score), ("macro_recall", recall_score)):
        expected = [oracle(y, predicted, labels=occurring, average="macro", sample_weight=w, zero_division=np.nan)
                    for w in weight]
        np.testing.assert_allclose(found[name], expected, atol=1e-12, err_msg=name)


def test_weights_that_leave_out_a_class_which_occurs_leave_no_macro_mean(ears):
    y, predicted, _ = ears
    found = MulticlassMeasures(y, np.eye(CLASSES)[predicted], NAMES)(np.stack([np.ones(N), (y != 1).astype(float)]))
    assert np.isnan(found["macro_f1"]).tolist() == np.isnan(found["macro_recall"]).tolist() == [False, True]
