"""Measures and intervals of the predictions of one or several tasks equal those of each task by itself."""
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from medical_fenlei.metrics.predictions import class_codes, intervals_of, measures_of, measures_over, report_of
from medical_fenlei.tasks import OUTSIDE, find_task

SIX, BINARY, NARROW = (find_task(name) for name in ("six_class", "normal_vs_abnormal", "cholesteatoma_vs_csoma"))
EARS = 60
CODES = np.resize(np.arange(1, 7), EARS)
"""Ten ears of each code."""


def predictions(task, codes=CODES, seed=0):
    """Predictions of a network with some skill for ears of these codes."""
    rng, target = np.random.default_rng(seed), task.targets(codes).astype(int)
    known = np.maximum(target, 0)
    if task.binary:
        score = 1 / (1 + np.exp(-rng.normal(2.0 * known - 1, 1.5)))
        return pd.DataFrame({"y_true": target, "y_prob": score, "y_pred": (score >= 0.5).astype(int)})
    each = np.exp(rng.normal(size=(len(codes), len(task.classes))) + 1.5 * (known[:, None] == np.arange(len(task.classes))))
    each /= each.sum(1, keepdims=True)
    frame = pd.DataFrame({"y_true": target, "y_prob": each.max(1), "y_pred": each.argmax(1)})
    return frame.assign(**{f"prob_{name}": p for name, p in zip(class_codes(task), each.T, strict=True)})


def measured(*tasks, **kwargs):
    frames = {task.name: predictions(task, seed=n, **kwargs) for n, task in enumerate(tasks)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return frames, *measures_over(frames, tasks)


def losses(frame, task):
    """The negative log-likelihood of each ear, one by one."""
    found = []
    for _, ear in frame.iterrows():
        if ear.y_true != OUTSIDE:
            given = (ear.y_prob if ear.y_true == 1 else 1 - ear.y_prob) if task.binary else ear[
                f"prob_{class_codes(task)[int(ear.y_true)]}"]
            found.append(-math.log(given))
    return found


@pytest.mark.parametrize("task", [SIX, BINARY, NARROW], ids=lambda task: task.name)
def test_one_task_has_its_measures_its_report_and_its_loss_under_their_own_names(task):
    frames, found, report = measured(task)
    frame = frames[task.name]
    alone = {name: value.item() for name, value in measures_of(frame, task)(np.ones((1, EARS))).items()}
    said = report_of(frame, task)
    expected = {**alone, **{f"macro_{name}": value for name, value in said["macro"].items()}, "accuracy": said["accuracy"],
                "loss": np.mean(losses(frame, task))}
    assert found.keys() == expected.keys() and all(type(value) is float for value in found.values())
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True), name
    assert report == {"loss": found["loss"], **said}


def test_the_measures_of_a_binary_task_equal_scikit_learn():
    frames, found, _ = measured(NARROW)
    known = frames[NARROW.name].query("y_true >= 0")
    assert 0 < len(known) < EARS
    assert found["loss"] == pytest.approx(log_loss(known.y_true, known.y_prob))
    assert found["auroc"] == pytest.approx(roc_auc_score(known.y_true, known.y_prob))
    assert found["auprc"] == pytest.approx(average_precision_score(known.y_true, known.y_prob))
    assert found["macro_f1"] == pytest.approx(f1_score(known.y_true, known.y_pred, average="macro"))
    assert found["accuracy"] == pytest.approx(np.mean(known.y_true == known.y_pred))


def test_several_tasks_have_each_measure_by_task_and_as_the_mean_over_the_tasks_with_it():
    tasks = SIX, BINARY, NARROW
    frames, found, report = measured(*tasks)
    each = {task.name: measures_over({task.name: frames[task.name]}, [task])[0] for task in tasks}
    names = {name for own in each.values() for name in own} - {"loss"}
    assert {"auroc", "auprc", "macro_f1", "macro_recall", "accuracy", "sensitivity", "sensitivity_1"} <= names
    for name in names:
        own = [each[task.name][name] for task in tasks if name in each[task.name]]
        assert found[name] == pytest.approx(sum(own) / len(own)), name
        for task in tasks:
            assert found.get(f"{task.name}_{name}") == each[task.name].get(name)
    assert len({each[task.name]["auroc"] for task in tasks}) == 3
    assert set(report["tasks"]) == {task.name for task in tasks}
    for task in tasks:
        assert report["tasks"][task.name] == measures_over({task.name: frames[task.name]}, [task])[1]


def test_the_loss_of_several_tasks_counts_every_target_once():
    tasks = BINARY, NARROW
    frames, found, report = measured(*tasks)
    every = [s for task in tasks for s in losses(frames[task.name], task)]
    assert len(every) == EARS + EARS // 3
    assert found["loss"] == report["loss"] == pytest.approx(sum(every) / len(every))
    assert found["loss"] != pytest.approx(np.mean([report["tasks"][task.name]["loss"] for task in tasks]))


def test_a_measure_that_is_undefined_for_a_task_is_the_mean_over_the_others():
    """With codes 2 and 5, `cholesteatoma_vs_csoma` has one class only."""
    frames, found, _ = measured(SIX, BINARY, NARROW, codes=np.resize([2, 5], EARS))
    assert math.isnan(found[f"{NARROW.name}_auroc"]) and not math.isnan(found[f"{NARROW.name}_accuracy"])
    assert found["auroc"] == pytest.approx((found["six_class_auroc"] + found["normal_vs_abnormal_auroc"]) / 2)
    assert found["accuracy"] == pytest.approx(np.mean([found[f"{name}_accuracy"] for name in frames]))


def test_a_task_without_any_ear_leaves_the_others_as_they_are():
    frames, found, report = measured(BINARY, NARROW, codes=np.resize([3, 5], EARS))
    alone, _ = measures_over({BINARY.name: frames[BINARY.name]}, [BINARY])
    assert found["loss"] == pytest.approx(alone["loss"])
    for name in ("auroc", "auprc", "macro_f1", "accuracy"):
        assert found[name] == pytest.approx(alone[name]) and math.isnan(found[f"{NARROW.name}_{name}"])
    assert math.isnan(report["tasks"][NARROW.name]["loss"])


def test_what_is_undefined_for_every_task_is_undefined():
    _, found, _ = measured(BINARY, NARROW, codes=np.full(EARS, 2))
    assert math.isnan(found["auroc"]) and math.isnan(found["auprc"]) and not math.isnan(found["accuracy"])


def test_a_proportion_of_few_patients_has_their_interval_and_is_reported():
    """100 positive and 100 negative patients; three are predicted positive, all of them correctly."""
    truth = np.repeat([1, 0], 100)
    score = np.where(np.arange(200) < 3, 0.9, np.linspace(0.1, 0.4, 200))
    frame = pd.DataFrame({"exam_id": np.arange(200).astype(str), "side": "left", "patient_key": np.arange(200).astype(str),
                          "label_code": np.where(truth == 1, 1, 5), "y_true": truth, "y_prob": score,
                          "y_pred": (score >= 0.5).astype(int)})
    found = intervals_of(frame, BINARY, n_resamples=200).values
    assert (found["ppv"].estimate, found["ppv"].high) == (1, 1) and found["ppv"].low == pytest.approx(0.025 ** (1 / 3))
    assert "rests on 3 patients" in found["ppv"].reason and found["npv"].reason == "" == found["auroc"].reason


@pytest.mark.parametrize(("positive", "warns"), [(39, True), (40, False)])
def test_a_threshold_that_two_patients_determine_is_reported(positive, warns):
    truth, score = np.resize([1, 0], 200), np.random.default_rng(0).random(200)
    truth[2 * positive:] = 0
    frame = pd.DataFrame({"exam_id": np.arange(200).astype(str), "side": "left", "patient_key": np.arange(200).astype(str),
                          "label_code": np.where(truth == 1, 1, 5), "y_true": truth, "y_prob": score,
                          "y_pred": (score >= 0.5).astype(int)})
    found = intervals_of(frame, BINARY, n_resamples=50)
    for name in ("specificity_at_95_sensitivity", "sensitivity_at_95_specificity"):
        assert (f"about 2 of {positive} patients" in found.values[name].reason) == warns
    assert found.values["auroc"].reason == "" and not found.warnings
