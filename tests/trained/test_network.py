"""A trained network opens sets of ears with its own settings and calibration, and refuses ears that it was fitted on."""
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.small_run import BEST, RUN, SETS
from helpers.small_study import MANIFEST, SPLITS
from torch import nn

from medical_fenlei import tables
from medical_fenlei.config import DUAL, EAR2D
from medical_fenlei.embeddings.extraction import embed
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.tasks import find_task, find_tasks
from medical_fenlei.trained.calibration import Calibration, TaskCalibration
from medical_fenlei.trained.network import TrainedNetwork, open_network
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.vocabulary import WHOLE_MANIFEST

TASK = find_task("normal_vs_abnormal")
FITTED = TaskCalibration(temperature=2.0, points={"half": 0.5, "youden": 0.3}, point="youden", ears=4, patients=2,
                         loss_before=0.7, loss_after=0.6)


@pytest.fixture
def here(small_run, copied):
    """A copy of the study to work in."""
    return copied(small_run)


@pytest.fixture
def network(here):
    return open_network(Path(BEST), kind=EAR2D, device="cpu")


@pytest.fixture
def data(network):
    """The data settings of its run."""
    return network.config.data


def exams_of(*sets):
    return {f"exam_{letter}" for name in sets for letter in SETS[name]}


def write_calibration():
    """Write a calibration of the task beside the checkpoint."""
    Calibration(checkpoint=sha256(Path(BEST)), exams=frozenset({"exam_t"}), patients=frozenset({"patient_of_exam_t"}),
                tasks={TASK.name: FITTED}, data={}).write(Path(BEST))


class OutputOfOneIsNot(torch.nn.Module):
    """A network whose output for the first ear of a batch is NaN in one of its parts."""

    def __init__(self, model, part):
        super().__init__()
        self.model, self.part = model, part

    def forward(self, volume):
        found = self.model(volume)
        getattr(found, self.part)[0] = torch.nan
        return found


# Opening

def test_a_network_has_the_settings_tasks_and_precision_of_its_run(network):
    assert network.run.folder == Path(RUN).resolve() and network.tasks == (TASK,)
    assert network.compute == ComputeSettings(torch.device("cpu"), torch.float32) and not network.model.training
    assert network.config.data.pct == 100 and network.store(network.config.data).spec == network.config.ears


def test_a_checkpoint_of_the_other_route_is_refused(here):
    with pytest.raises(UserError, match=r"best\.pt"):
        open_network(Path(BEST), kind=DUAL, device="cpu")


def test_the_fingerprint_follows_from_the_weights_and_not_from_their_file(network):
    shutil.copy(BEST, "other.pt")
    again = open_network(Path("other.pt"), kind=EAR2D, device="cpu")
    assert again.fingerprint() == network.fingerprint()
    with torch.no_grad():
        next(again.model.parameters())[0] += 1e-3
    assert again.fingerprint() != network.fingerprint()


def test_each_task_has_its_own_columns_of_the_logits():
    tasks = find_tasks("six_class,normal_vs_abnormal,cholesteatoma_vs_csoma")
    network = TrainedNetwork(Path("best.pt"), None, tasks, nn.Identity(), ComputeSettings(torch.device("cpu"), torch.float32))
    assert [network.columns(task) for task in tasks] == [slice(0, 6), slice(6, 7), slice(7, 8)]


def test_a_prediction_is_the_probability_of_the_logit_beside_its_ear(network, data):
    val = network.open_set(data, "val", network.tasks)
    found, logits = network.predict(val.dataset)[TASK.name], network.infer(val.dataset).logits
    assert found[["exam_id", "side"]].equals(val.ears_in_order[["exam_id", "side"]].reset_index(drop=True))
    np.testing.assert_allclose(found.y_prob, 1 / (1 + np.exp(-logits[:, 0])), atol=1e-12)


# Sets

@pytest.mark.parametrize("part", ["logits", "embedding", "attention"])
def test_an_output_that_is_not_finite_is_no_answer_of_any_command(network, data, part):
    broken = replace(network, model=OutputOfOneIsNot(network.model, part).eval())
    ears = broken.open_set(data, "val", (TASK,))
    for answer in (broken.infer, broken.predict, lambda dataset: embed(broken, dataset)):
        with pytest.raises(UserError, match=r"its output is not finite for 2 of 6 ears"):
            answer(ears.dataset)


def test_sets_that_are_opened_together_share_their_sources_and_one_without_ears_is_absent(network, data):
    sets = network.open_sets(data, ("train", "val", "test"), network.tasks)
    assert {name: set(found.ears.exam_id) for name, found in sets.items()} == {
        "train": exams_of("train"), "val": exams_of("val")}
    assert sets["train"].sources is sets["val"].sources


@pytest.mark.parametrize(("name", "task", "missing"), [
    ("test", None, "test set; make_splits_dual --test-ratio"),
    ("val", "cholesteatoma_vs_csoma", "ears of cholesteatoma_vs_csoma")])
def test_a_set_without_an_ear_is_refused_by_its_name(network, data, name, task, missing):
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    code = manifest.label_code.where(~manifest.exam_id.isin(exams_of("val")), 5)
    tables.MANIFEST.write(Path(MANIFEST), tables.MANIFEST.frame(manifest.assign(label_code=code, **tables.task_columns(code))))
    with pytest.raises(UserError, match=rf"^--split {name}: .*{SPLITS} --pct 100.* no {missing}"):
        network.open_set(data, name, task and [find_task(task)])


def test_the_whole_manifest_leaves_out_every_patient_that_the_network_was_fitted_on(network, data):
    whole = network.open_set(data, WHOLE_MANIFEST, None)
    assert set(whole.ears.exam_id) == exams_of("val")
    assert whole.notes == ("20 ears of patients that the network was fitted on are left out",)
    manifest = tables.MANIFEST.read(Path(MANIFEST))              # the second exam of a patient of the training set
    key = manifest.patient_key.where(manifest.exam_id != "exam_x", "patient_of_exam_a")
    tables.MANIFEST.write(Path("other.csv"), manifest.assign(patient_key=key))
    # images confirm the ids of ten patients, so that the one of exam_x is believed too
    other = network.open_set(replace(data, manifest_csv=Path("other.csv")), WHOLE_MANIFEST, None)
    assert set(other.ears.exam_id) == {"exam_y", "exam_z"} and other.notes[0].startswith("22 ears")


def test_a_manifest_of_fitted_patients_alone_is_refused(network, data):
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    tables.MANIFEST.write(Path("fitted.csv"), manifest[~manifest.exam_id.isin(exams_of("val"))])
    with pytest.raises(UserError, match=r"^--split manifest: "):
        network.open_set(replace(data, manifest_csv=Path("fitted.csv")), WHOLE_MANIFEST, None)


def test_the_whole_manifest_is_refused_when_the_split_of_the_run_is_gone(network, data):
    shutil.rmtree(SPLITS)
    with pytest.raises(UserError, match=r"^--split manifest: .* fitted on"):
        network.open_set(data, WHOLE_MANIFEST, None)


# Ears of the caller

def ears_of(*exams):
    """Manifest rows of the left ears of some exams, known or not."""
    return pd.DataFrame({"exam_id": exams, "side": "left", "series_relpath": [f"{exam}/bone" for exam in exams],
                         "label_code": 0, "patient_key": exams})


def test_ears_that_cannot_be_prepared_are_rejects_and_the_others_are_opened(network, data):
    Path("dicom").mkdir()
    data = replace(data, dicom_base=Path("dicom"), num_workers=1)
    found = network.open_ears(data, ears_of("exam_x", "absent", "exam_a"), "mine")
    assert found.name == "mine" and found.ears.exam_id.tolist() == ["exam_x", "exam_a"]
    assert found.rejects.exam_id.tolist() == ["absent"] and (found.rejects.reason != "").all()
    assert len(found.dataset) == 2


def test_ears_that_are_not_cached_are_refused_without_their_dicom(network, data):
    with pytest.raises(UserError, match="--dicom-base"):
        network.open_ears(data, ears_of("exam_x", "absent"), "mine")


def test_one_ear_is_opened_by_its_exam_and_side_or_refused_with_a_reason(network, data):
    found = network.open_ear(data, "exam_x", "right")
    assert found.name == "exam_x_right" and len(found.dataset) == 1
    with pytest.raises(UserError, match=rf"^--exam-id exam_0: {MANIFEST} has no left ear of that exam; near ids: exam_"):
        network.open_ear(data, "exam_0", "left")
    Path("dicom").mkdir()
    network.store(data).remove("exam_y", "left")
    with pytest.raises(UserError, match=r"^--exam-id exam_y: "):
        network.open_ear(replace(data, dicom_base=Path("dicom"), num_workers=1), "exam_y", "left")


# Calibrations

def test_without_a_calibration_probabilities_stay_and_a_half_decides(network):
    assert network.calibration is None
    only = network.calibrations(network.tasks)[TASK.name]
    assert (only.temperature, only.threshold, only.is_fitted) == (1.0, 0.5, False)


def test_a_calibration_decides_at_its_own_point_or_at_the_point_that_is_named(here):
    write_calibration()
    network = open_network(Path(BEST), kind=EAR2D, device="cpu")
    assert network.calibrations(network.tasks) == {TASK.name: FITTED}
    assert network.calibrations(network.tasks, point="half")[TASK.name].threshold == 0.5
    ignored = network.calibrations(network.tasks, calibrated=False)[TASK.name]
    assert (ignored.temperature, ignored.threshold, ignored.is_fitted) == (1.0, 0.5, False)
    with pytest.raises(UserError, match=r"^--point: got 'best', expected one of half, youden"):
        network.calibrations(network.tasks, point="best")
    with pytest.raises(UserError, match=r"^--point: got 'youden', expected one of half"):
        network.calibrations(network.tasks, point="youden", calibrated=False)


def test_a_point_is_for_binary_tasks_and_a_task_without_a_fit_stays_uncalibrated(here, network):
    write_calibration()
    tasks = find_tasks("six_class,normal_vs_abnormal")
    found = replace(network, tasks=tasks).calibrations(tasks, point="half")
    assert found["six_class"].points == {} and not found["six_class"].is_fitted
    assert found[TASK.name].is_fitted and found[TASK.name].point == "half"


# What a network has seen

def test_a_network_is_not_asked_about_exams_that_it_was_trained_or_chosen_on(network):
    assert network.training_exams() == exams_of("train") and network.split_exams("tune", "val") == exams_of("tune", "val")
    network.refuse_if_trained_on(exams_of("tune", "val"), "--split val")
    network.refuse_if_epoch_chosen_on(exams_of("train", "val"), "--split val")
    with pytest.raises(UserError, match=r"^--split val: .*trained on 2 of its exams \(for example exam_a\)"):
        network.refuse_if_trained_on({"exam_x", "exam_b", "exam_a"}, "--split val")
    with pytest.raises(UserError, match=r"^mine.csv: .*chosen on 1 of its exams \(for example exam_u\)"):
        network.refuse_if_epoch_chosen_on({"exam_x", "exam_u"}, "mine.csv")


def test_exams_of_a_run_whose_files_are_gone_are_not_known(network):
    shutil.rmtree(SPLITS)
    shutil.rmtree(network.run.training_dynamics)
    assert network.training_exams() == network.split_exams("train") == frozenset()
