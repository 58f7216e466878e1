"""Intervals that resample patients equal a bootstrap that copies rows, and have their nominal coverage."""
import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, roc_auc_score

from medical_fenlei.metrics import bootstrap
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import ENOUGH_OF_A_CLASS, ENOUGH_PATIENTS, PatientBootstrap, canonical_patients
from medical_fenlei.metrics.delong import delong_interval


def cohort(rng, patients, *, separation=1.2, together=0.7, shared=0.7):
    """Labels, scores and patients of 2 ears each: a share `together` has equal labels, `shared` is the correlation of noise.

    Within a class the scores are normal of unit variance, so their AUROC is Φ(separation / √2).
    """
    y = np.repeat(rng.integers(0, 2, (patients, 1)), 2, axis=1)
    y[:, 1] ^= rng.random(patients) >= together
    noise = np.sqrt(shared) * rng.normal(size=(patients, 1)) + np.sqrt(1 - shared) * rng.normal(size=(patients, 2))
    return y.ravel(), (separation * y + noise).ravel(), np.arange(patients).repeat(2)


def intervals(y, score, patient, scales=bootstrap.SCALES, **options):
    ears = PatientBootstrap(patient=patient, observations=np.stack([y, score], 1), **{"seed": 3, "n_resamples": 200, **options})
    return ears.intervals(BinaryMeasures(y, score), scales=scales)


def width(interval):
    return interval.high - interval.low


def by_copying_rows(y, score, patient, *, seed, n_resamples, level):
    """Student's interval on the logit scale, from scikit-learn's measures of cohorts with the rows of a patient repeated as
    often as the patient was drawn."""
    number, of_ear = canonical_patients(patient, np.stack([y, score], 1))
    rng, values, undefined = np.random.default_rng(seed), [], 0
    for _ in range(n_resamples):
        times = rng.multinomial(number, np.full(number, 1 / number))
        rows = np.concatenate([np.flatnonzero(of_ear == who) for who in range(number) for _ in range(times[who])])
        if len(set(y[rows])) == 1:
            undefined += 1
        else:
            predicted = score[rows] >= 0.5
            values.append((roc_auc_score(y[rows], score[rows]), average_precision_score(y[rows], score[rows]),
                           predicted[y[rows] == 1].mean(), 1 - predicted[y[rows] == 0].mean()))
    whole = np.array([roc_auc_score(y, score), average_precision_score(y, score), (score >= 0.5)[y == 1].mean(),
                      1 - (score >= 0.5)[y == 0].mean()])
    spread = np.std(values, axis=0, ddof=1) * math.sqrt(number / (number - 1)) / (whole * (1 - whole))
    reach = student.ppf((1 + level) / 2, number - 1) * spread
    low, high = (1 / (1 + np.exp(-(np.log(whole / (1 - whole)) + sign * reach))) for sign in (-1, 1))
    return dict(zip(("auroc", "auprc", "sensitivity", "specificity"), zip(low, high, strict=True), strict=True)), undefined


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_equal_a_slow_bootstrap_that_copies_the_rows_of_each_patient_drawn(level):
    rng = np.random.default_rng(0)
    y, score, _ = cohort(rng, 40)
    score, patient = np.round(score, 1), rng.integers(0, 30, 80)                     # ties; one to many ears a patient
    found = intervals(y, score, patient, n_resamples=150, level=level)
    expected, undefined = by_copying_rows(y, score, patient, seed=3, n_resamples=150, level=level)
    assert undefined == 0 and found.patients == len(set(patient))
    for name, ends in expected.items():
        assert (found.values[name].low, found.values[name].high) == pytest.approx(ends, abs=1e-12), name
    assert found.values["auroc"].estimate == pytest.approx(roc_auc_score(y, score), abs=1e-12)


def test_resamples_in_which_a_measure_is_undefined_are_left_out_and_counted():
    rng = np.random.default_rng(1)
    y, score, patient = np.repeat([1, 0], [2, 10]), rng.random(12), np.repeat(np.arange(6), 2)
    found = intervals(y, score, patient, n_resamples=100).values["auroc"]
    expected, undefined = by_copying_rows(y, score, patient, seed=3, n_resamples=100, level=0.95)
    assert 10 < undefined < 90 and f"{undefined} of 100" in found.reason
    assert (found.low, found.high) == pytest.approx(expected["auroc"], abs=1e-12)


def test_resamples_made_in_chunks_are_those_made_at_once(monkeypatch):
    y, score, patient = cohort(np.random.default_rng(0), 30)
    at_once = intervals(y, score, patient)
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * len(y))
    assert intervals(y, score, patient) == at_once


def test_the_interval_is_wider_when_both_ears_of_a_patient_agree():
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 2, 150).repeat(2), rng.random(150).repeat(2)          # each ear is its own twin
    by_patient = intervals(y, score, np.arange(150).repeat(2), n_resamples=400).values["auroc"]
    by_ear = intervals(y, score, np.arange(300), n_resamples=400).values["auroc"]
    assert width(by_patient) == pytest.approx(np.sqrt(2) * width(by_ear), rel=0.15)


def test_neither_the_value_of_a_patients_key_nor_the_order_of_the_ears_changes_the_interval():
    rng = np.random.default_rng(0)
    y, score, patient = cohort(rng, 40)
    score = np.round(score)                                                          # many patients have equal observations
    one = intervals(y, score, patient)
    renamed = np.array([f"k{n}" for n in rng.permutation(40)])[patient]
    assert intervals(y, score, renamed) == one
    order = rng.permutation(len(y))
    assert intervals(y[order], score[order], renamed[order]) == one
    assert intervals(y, score, patient, seed=4) != one


def test_patients_are_numbered_by_the_observations_of_their_ears():
    number, of_ear = canonical_patients(np.array(["z", "a", "z", "m"]), np.array([[0, 0.1], [1, 0.5], [0, 0.9], [0, 0.4]]))
    assert number == 3 and of_ear.tolist() == [0, 2, 0, 1]


def test_few_patients_cause_a_warning_and_enough_do_not():
    rng = np.random.default_rng(0)
    (warning,) = intervals(*cohort(rng, ENOUGH_PATIENTS - 1), n_resamples=5).warnings      # 198 ears, but 99 patients
    assert f"{ENOUGH_PATIENTS - 1} patients" in warning
    assert intervals(*cohort(rng, ENOUGH_PATIENTS), n_resamples=5).warnings == ()


def test_few_patients_of_one_class_cause_a_warning_however_many_the_other_has():
    rng = np.random.default_rng(0)
    for positive, warns in ((ENOUGH_OF_A_CLASS - 1, True), (ENOUGH_OF_A_CLASS, False)):
        y = (np.arange(200) < positive).astype(int).repeat(2)
        found = intervals(y, y + rng.normal(size=400), np.arange(200).repeat(2), n_resamples=5, classes=y)
        assert bool(found.warnings) == warns and all(f"{positive} with" in text for text in found.warnings)


def test_a_single_class_always_causes_a_warning():
    (warning,) = intervals(np.ones(60, int), np.linspace(0, 1, 60), np.arange(60), n_resamples=5, classes=np.ones(60)).warnings
    assert "0 with the rarest class" in warning


def test_one_resample_has_no_spread_and_equal_resamples_are_reported():
    rng = np.random.default_rng(0)
    assert "two resamples" in intervals(*cohort(rng, 60), n_resamples=1).values["auroc"].reason
    y = np.array([0, 1] * 50)
    found = intervals(y, np.full(100, 0.5), np.repeat(np.arange(50), 2), n_resamples=20).values["accuracy"]
    assert (found.low, found.estimate, found.high) == (0.5, 0.5, 0.5) and "the same in every resample" in found.reason


@pytest.mark.parametrize("right", [True, False])
def test_a_measure_at_its_limit_has_the_exact_interval_of_its_patients(right):
    y, patient = np.repeat([0, 1], [30, 20]), np.repeat(np.arange(25), 2)
    found = intervals(y, y if right else 1.0 - y, patient, classes=y).values["sensitivity"]
    exact = binomtest(10 if right else 0, 10).proportion_ci(0.95)                    # 20 positive ears of 10 patients
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high)) and "10 patients" in found.reason
    assert found.estimate == right


def test_only_a_measure_on_the_identity_scale_has_an_interval_beyond_0_to_1():
    y, score, patient = cohort(np.random.default_rng(2), 12, separation=2)
    named = intervals(y, score, patient, scales={"auroc": "identity"}).values
    assert named["auroc"].high > 1 and named["auroc"].high - named["auroc"].estimate == pytest.approx(
        named["auroc"].estimate - named["auroc"].low)
    assert all(0 <= i.low <= i.estimate <= i.high <= 1 for name, i in named.items() if name != "auroc")


def test_the_interval_of_the_auroc_is_close_to_that_of_its_variance_in_closed_form():
    y, score, patient = cohort(np.random.default_rng(0), 300)
    drawn, closed = intervals(y, score, patient, n_resamples=3000).values["auroc"], delong_interval(y, score, patient)
    assert (drawn.low, drawn.high) == pytest.approx((closed.low, closed.high), abs=0.004)


def test_an_undefined_measure_is_nan_with_a_reason_and_the_others_keep_their_interval():
    found = intervals(np.ones(40, int), np.linspace(0, 1, 40), np.arange(40)).values
    auroc = found["auroc"]
    assert np.isnan([auroc.estimate, auroc.low, auroc.high]).all() and "class" in auroc.reason
    assert found["sensitivity"].low < found["sensitivity"].estimate < found["sensitivity"].high
    assert found["sensitivity"].reason == ""


def test_one_patient_has_an_estimate_but_no_interval():
    found = intervals(np.array([0, 1]), np.array([0.1, 0.9]), np.array(["p", "p"])).values["auroc"]
    assert found.estimate == 1 and np.isnan([found.low, found.high]).all() and "two patients" in found.reason


def test_patients_and_ears_of_different_number_are_refused():
    with pytest.raises(ValueError, match="lengths differ"):
        intervals(np.array([0, 1]), np.array([0.1, 0.9]), np.arange(3))


@pytest.mark.parametrize("together", [1, 0], ids=["ears_agree", "ears_differ"])
def test_with_40_patients_the_interval_by_patient_has_its_nominal_coverage_and_the_interval_by_ear_does_not(together):
    rng, truth, studies = np.random.default_rng(0), norm.cdf(1.2 / np.sqrt(2)), 400
    by_patient = by_ear = 0
    for study in range(studies):
        y, score, patient = cohort(rng, 40, together=together, shared=0.9)
        found = intervals(y, score, patient, seed=study, n_resamples=150).values["auroc"]
        by_patient += found.low <= truth <= found.high
        found = intervals(y, score, np.arange(80), seed=study, n_resamples=150).values["auroc"]
        by_ear += found.low <= truth <= found.high
    assert 0.93 <= by_patient / studies <= 0.975                # tools/check_intervals.py measures it closer
    assert by_ear / studies < 0.9 if together else by_ear / studies > 0.985          # too narrow, and too wide
