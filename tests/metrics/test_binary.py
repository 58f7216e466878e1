"""Measures of two classes equal scikit-learn and slow loops."""
import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from medical_fenlei.metrics.binary import FIXED_LEVEL, NAMES, THRESHOLD, BinaryMeasures

ROWS = 25


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=[7, 10, 10**9], ids=["few_scores", "a_score_at_the_threshold", "no_ties"])
def ears(request, rng):
    """Labels, scores with a given number of distinct values, weights: ones, integers (a bootstrap), fractions."""
    y = rng.integers(0, 2, 120)
    score = np.clip(rng.integers(0, request.param + 1, 120) / request.param + 0.2 * (y - 0.5), 0, 1)
    weight = np.concatenate([np.ones((1, 120)), rng.integers(0, 4, (ROWS, 120)), rng.random((ROWS, 120))])
    return y, score, weight


def by_scikit_learn(y, score, w):
    predicted = score >= THRESHOLD
    return {
        "auroc": roc_auc_score(y, score, sample_weight=w), "auprc": average_precision_score(y, score, sample_weight=w),
        "sensitivity": recall_score(y, predicted, sample_weight=w),
        "specificity": recall_score(y, predicted, sample_weight=w, pos_label=0), "f1": f1_score(y, predicted, sample_weight=w),
        "ppv": precision_score(y, predicted, sample_weight=w),
        "npv": precision_score(y, predicted, sample_weight=w, pos_label=0),
        "balanced_accuracy": balanced_accuracy_score(y, predicted, sample_weight=w),
        "accuracy": accuracy_score(y, predicted, sample_weight=w),
    }


def slow_best_of(y, score, w, *, kept):
    """The greatest share of one class that is right at a threshold where FIXED_LEVEL of the other class, `kept`, is right."""
    best = 0.0
    for threshold in [np.inf, *score]:
        right = {1: score >= threshold, 0: score < threshold}
        share = {c: w[(y == c) & right[c]].sum() / w[y == c].sum() for c in (0, 1)}
        if share[kept] >= FIXED_LEVEL - 1e-9:
            best = max(best, share[1 - kept])
    return best


def test_every_measure_equals_scikit_learn_with_ties_and_weights(ears):
    y, score, weight = ears
    found = BinaryMeasures(y, score)(weight)
    expected = [by_scikit_learn(y, score, w) for w in weight]
    for name in expected[0]:
        np.testing.assert_allclose(found[name], [e[name] for e in expected], atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("name", "kept"), [("sensitivity_at_95_specificity", 0), ("specificity_at_95_sensitivity", 1)])
def test_measures_at_95_percent_equal_a_slow_loop_over_thresholds(ears, name, kept):
    y, score, weight = ears
    found = BinaryMeasures(y, score)(weight)[name]
    np.testing.assert_allclose(found, [slow_best_of(y, score, w, kept=kept) for w in weight], atol=1e-12)


def test_given_predictions_replace_the_default_threshold(ears):
    y, score, weight = ears
    found, shifted = BinaryMeasures(y, score, score >= 0.25)(weight), BinaryMeasures(y, score + 0.25)(weight)
    for name in ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc"):
        np.testing.assert_allclose(found[name], shifted[name], atol=1e-12, err_msg=name)


def test_exactly_5_percent_of_false_positives_are_allowed():
    ears = [3, 1, 2, 1, 4, 18]
    y, score = np.repeat([1, 0, 1, 0, 1, 0], ears), np.repeat([0.9, 0.8, 0.7, 0.6, 0.5, 0.1], ears)
    found = BinaryMeasures(y, score)(np.ones((1, len(y))))
    assert found["sensitivity_at_95_specificity"][0] == pytest.approx(5 / 9)        # 1 of 20 negatives, not 2


def test_an_ear_drawn_twice_counts_as_two_ears(rng):
    y, score = rng.integers(0, 2, 60), rng.integers(0, 15, 60) / 15
    twice = np.concatenate([np.arange(40), np.arange(20)])
    by_weight = BinaryMeasures(y, score)(np.bincount(twice, minlength=60)[None])
    copied = BinaryMeasures(y[twice], score[twice])(np.ones((1, 60)))
    for name in NAMES:
        assert by_weight[name][0] == pytest.approx(copied[name][0], abs=1e-12), name


def test_a_permutation_of_ears_changes_nothing_even_among_tied_scores(rng):
    y, score, weight = rng.integers(0, 2, 200), rng.integers(0, 5, 200) / 5, rng.integers(0, 3, (8, 200))
    one = BinaryMeasures(y, score)(weight)
    for _ in range(5):
        order = rng.permutation(200)
        other = BinaryMeasures(y[order], score[order])(weight[:, order])
        for name in NAMES:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize("only", [0, 1])
def test_measures_undefined_for_a_single_class_are_nan_and_not_zero(only):
    found = BinaryMeasures(np.full(6, only), np.linspace(0.1, 0.9, 6))(np.ones((2, 6)))
    undefined = {"auroc", "auprc", "sensitivity_at_95_specificity", "specificity_at_95_sensitivity", "balanced_accuracy",
                 *({"specificity"} if only else {"sensitivity", "f1"})}
    assert {name for name in NAMES if np.isnan(found[name]).all()} == undefined
    assert found["sensitivity" if only else "specificity"] == pytest.approx(0.5)


def test_a_row_of_weights_without_one_class_is_nan_and_leaves_the_other_rows_alone():
    y, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    found = BinaryMeasures(y, score)(np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]))
    np.testing.assert_allclose(found["auroc"], [0.75, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(found["sensitivity"], [0.5, np.nan, 0.5, np.nan])
    np.testing.assert_allclose(found["specificity"], [1, 1, np.nan, np.nan])


def test_no_ears_at_all_is_nan():
    found = BinaryMeasures(np.zeros(0), np.zeros(0))(np.ones((3, 0)))
    assert set(found) == set(NAMES) and all(v.shape == (3,) and np.isnan(v).all() for v in found.values())


@pytest.mark.parametrize(("y", "score"), [
    ([0, 1], [0.1, 0.2, 0.3]), ([[0, 1]], [[0.1, 0.2]]), ([0, 2], [0.1, 0.2]), ([0, -1], [0.1, 0.2]), ([0, 0.5], [0.1, 0.2]),
    ([0, np.nan], [0.1, 0.2]), ([0, 1], [0.1, np.nan]), ([0, 1], [0.1, np.inf]),
], ids=str)
def test_bad_labels_and_scores_are_refused(y, score):
    with pytest.raises(ValueError, match="label"):
        BinaryMeasures(np.array(y), np.array(score))
