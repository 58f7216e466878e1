"""A calibration: what it does to predictions, how it is stored, and on which ears it is refused."""
import json

import numpy as np
import pandas as pd
import pytest

from medical_fenlei.config import DUAL, EAR2D
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.tasks import find_task
from medical_fenlei.trained.calibration import Calibration, TaskCalibration, uncalibrated

BINARY, SIX = find_task("normal_vs_abnormal"), find_task("six_class")
FITTED = TaskCalibration(temperature=2.0, points={"half": 0.5, "youden": 0.3}, point="youden", ears=40, patients=20,
                         loss_before=0.7, loss_after=0.6, note="few ears")


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoints/best.pt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def calibration(checkpoint):
    return Calibration(checkpoint=sha256(checkpoint), exams=frozenset({"1", "2"}), patients=frozenset({"p", "q"}),
                       tasks={BINARY.name: FITTED}, data={"manifest": "0e1"}, unfitted={SIX.name: "no ear of a class"})


def binary_predictions():
    probability = np.linspace(0, 1, 21)
    return pd.DataFrame({"y_true": 1, "y_prob": probability, "y_pred": (probability >= 0.5).astype(int)})


def test_a_temperature_divides_the_logit_and_the_point_decides():
    before = binary_predictions()[1:-1]
    after = FITTED.apply(before, BINARY)
    logit = np.log(before.y_prob / (1 - before.y_prob)) / 2
    np.testing.assert_allclose(after.y_prob, 1 / (1 + np.exp(-logit)), atol=1e-12)
    assert (after.y_pred == (after.y_prob >= 0.3)).all() and after.y_true.equals(before.y_true)


def test_of_several_classes_the_most_probable_stays_and_probabilities_sum_to_one():
    each = np.random.default_rng(0).dirichlet(np.ones(6), 30)
    before = pd.DataFrame(each, columns=[f"prob_{code}" for code in range(1, 7)]).assign(
        y_true=0, y_prob=each.max(1), y_pred=each.argmax(1))
    warmer = TaskCalibration(**{**vars(FITTED), "points": {}})
    found = warmer.apply(before, SIX)
    own = found[[f"prob_{code}" for code in range(1, 7)]].to_numpy()
    np.testing.assert_allclose(own, np.sqrt(each) / np.sqrt(each).sum(1, keepdims=True), atol=1e-12)
    assert (own.argmax(1) == found.y_pred).all() and (found.y_pred == before.y_pred).all()
    np.testing.assert_array_equal(found.y_prob, own.max(1))


def test_without_a_calibration_predictions_stay_as_they_are():
    plain = uncalibrated([BINARY, SIX])
    assert list(plain) == [BINARY.name, SIX.name] and not any(each.is_fitted for each in plain.values())
    before = binary_predictions()
    after = plain[BINARY.name].apply(before, BINARY)
    np.testing.assert_allclose(after.y_prob, before.y_prob, atol=1e-12)
    assert (after.y_pred == before.y_pred).all()


def test_a_point_is_chosen_by_its_name():
    assert FITTED.threshold == 0.3 and FITTED.at_point("half").threshold == 0.5
    with pytest.raises(UserError, match=r"^--point: got 'best', expected one of half, youden$"):
        FITTED.at_point("best")
    with pytest.raises(UserError, match=r"^--point: got 'half', expected one of none: several classes$"):
        uncalibrated([SIX])[SIX.name].at_point("half")


def test_a_calibration_comes_back_from_its_file(checkpoint, calibration):
    assert Calibration.read(checkpoint, kind="ear2d") is None
    path = calibration.write(checkpoint)
    assert path == checkpoint.parent / "best.calibration.json" and Calibration.read(checkpoint, kind="ear2d") == calibration
    assert json.loads(path.read_text())["fitted_on"] == "tune"


@pytest.mark.parametrize("kind", [EAR2D, DUAL])
def test_a_calibration_of_other_weights_is_refused_and_the_script_of_its_route_is_named(checkpoint, calibration, kind):
    calibration.write(checkpoint)
    checkpoint.write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"best\.calibration\.json: belongs to another checkpoint than best\.pt.*"
                                        rf"run calibrate_{kind} again"):
        Calibration.read(checkpoint, kind=kind)


@pytest.mark.parametrize("kind", [EAR2D, DUAL])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"tasks": {}}'])
def test_a_file_that_is_not_a_calibration_is_refused(checkpoint, content, kind):
    Calibration.path(checkpoint).write_text(content)
    with pytest.raises(UserError, match=f"calibrate_{kind} writes it anew"):
        Calibration.read(checkpoint, kind=kind)


@pytest.mark.parametrize(("exam", "patient"), [("2", "other"), ("9", "q")])
def test_exams_and_patients_that_it_was_fitted_on_are_refused(calibration, exam, patient):
    ears = pd.DataFrame({"exam_id": ["7", exam], "patient_key": ["r", patient]})
    calibration.refuse_if_fitted_on(ears[:1])
    with pytest.raises(UserError, match=rf"fitted on 1 of these patients \(for example exam {exam}\).*--uncalibrated"):
        calibration.refuse_if_fitted_on(ears)
