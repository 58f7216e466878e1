"""Sets that are too small say so, count patients, and name what makes them larger."""
import re

import numpy as np
import pandas as pd
import pytest
from helpers.commands import ROOT, script

from medical_fenlei.config import DataConfig
from medical_fenlei.ingest.split_spec import SplitSpec
from medical_fenlei.metrics import bootstrap
from medical_fenlei.set_sizes import REMEDIES, TO_CHOOSE_THRESHOLD, TO_FIT, TO_MEASURE, TO_MEASURE_A_CLASS, SetSize
from medical_fenlei.tasks import find_task
from medical_fenlei.vocabulary import SETS

TASK = find_task("normal_vs_abnormal")


def ears(**codes):
    """Ears by patient: `p1=(5, 1)` has a normal and an abnormal ear."""
    rows = [(patient, code) for patient, own in codes.items() for code in own]
    return pd.DataFrame(rows, columns=["patient_key", "label_code"])


def patients(normal, abnormal):
    """So many patients with two normal ears, and with two abnormal ones."""
    return ears(**{f"n{i}": (5, 5) for i in range(normal)}, **{f"a{i}": (1, 2) for i in range(abnormal)})


def test_patients_are_counted_not_ears_and_each_for_every_class_of_its_ears():
    size = SetSize.of(ears(one=(5, 1), two=(5, 5), three=(2, 3, 3), four=(0, 0)), TASK)
    assert (size.ears, size.patients, size.of_class, size.rarest) == (7, 3, (2, 2), 2)
    six = SetSize.of(ears(one=(5, 1), two=(5, 5), three=(2, 3, 3), four=(0, 0)), find_task("six_class"))
    assert six.of_class == (1, 1, 1, 0, 2, 0) and (six.rarest, six.beside_largest) == (0, 1)


def test_two_tune_ears_of_one_patient_and_thirteen_training_ears_are_not_passed_over():
    tune = SetSize.of(ears(p=(5, 1)), TASK).warning("tune")
    assert "2 ears of 1 patient (1 normal, 1 abnormal)" in tune and "--tune-ratio" in tune
    assert "averaged over 3 epochs" in tune and "no threshold chosen on it decides" in tune and "temperature" in tune
    train = SetSize.of(patients(2, 5).iloc[:13], TASK).warning("train")
    assert "13 ears of 7 patients" in train and f"at least {TO_FIT} patients of each class" in train and "--pct" in train
    assert "the last epoch is kept" in SetSize.of(ears(p=(1, 1)), TASK).warning("tune")


@pytest.mark.parametrize("name", [*SETS, "manifest", "other"])
def test_a_set_that_is_large_enough_is_silent_and_one_patient_less_is_not(name):
    least = {"train": TO_FIT, "tune": max(TO_CHOOSE_THRESHOLD, 25)}.get(name, max(TO_MEASURE_A_CLASS, TO_MEASURE // 2))
    assert SetSize.of(patients(least, least), TASK).warning(name) == ""
    warning = SetSize.of(patients(least - 1, least), TASK).warning(name)
    assert warning.startswith(f"{name} set, normal_vs_abnormal: {4 * least - 2} ears of {2 * least - 1} patients")
    assert REMEDIES.get(name, "more patients in its manifest") in warning
    assert "4 ears of 2 exams" in SetSize.of(patients(1, 1), TASK).warning(name, "exam")


def test_every_remedy_is_a_flag_of_the_command_that_it_names():
    named = {flag for text in REMEDIES.values() for flag in re.findall(r"--([a-z-]+)", text)}
    known = {name.replace("_", "-") for settings in (SplitSpec, DataConfig) for name in settings.__dataclass_fields__}
    assert named <= known and {"pct", "tune-ratio", "val-ratio", "test-ratio", "folds"} <= named


def test_sizes_are_typed_once():
    assert (bootstrap.ENOUGH_PATIENTS, bootstrap.ENOUGH_OF_A_CLASS) == (TO_MEASURE, TO_MEASURE_A_CLASS)
    text = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    for words in (f"{TO_MEASURE} patients, or {TO_MEASURE_A_CLASS} with an ear of the rarer class",
                  f"{TO_CHOOSE_THRESHOLD} patients of each class"):
        assert words in text


def test_below_its_size_the_choice_on_a_set_is_as_uncertain_as_documented():
    """60 studies of each size; the whole table is that of check_set_sizes."""
    tool = script("check_set_sizes", "tools")

    def drawn(draw, size):
        rng = np.random.default_rng(size)
        return pd.DataFrame([draw(size, rng) for _ in range(60)])

    few, many = drawn(tool.threshold, 4), drawn(tool.threshold, TO_CHOOSE_THRESHOLD)
    assert few["threshold by youden"].mean() > few["0.5, logits 0.5 too high"].mean() + 0.005
    assert many["threshold by youden"].mean() < few["0.5, logits 0.5 too high"].mean() + 0.006
    assert many["its sensitivity"].std() < 0.09 < few["its sensitivity"].std()
    few, many = drawn(tool.fit, 5), drawn(tool.fit, TO_FIT)
    assert few.fit.mean() > 2 * many.fit.mean() and many.fit.mean() < 0.04
