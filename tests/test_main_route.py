"""The main route on a small synthetic hospital, through the scripts: from DICOM to figures with intervals."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import run, working_in
from sklearn.metrics import average_precision_score, roc_auc_score

from medical_fenlei import tables
from medical_fenlei.runs import Run

pytestmark = pytest.mark.end_to_end

SPLITS = "artifacts/splits_dual_patient"
TRAIN = ("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--backbone", "test_resnet", "--batch-size", 8,
         "--precision", "fp32", "--device", "cpu", "--warmup-epochs", 0.5)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A hospital with a cache, as the commands of the README make it."""
    here = tmp_path_factory.mktemp("hospital")
    with working_in(here):
        assert run("make_demo_dataset", "--out-dir", ".", "--num-exams", 24, "--slices", 24, "--num-workers", 1) == 0
        assert run("build_index", "--out-csv", "artifacts/dataset_index.csv") == 0
        assert run("build_manifest_ears") == 0
        assert run("make_splits_dual", "--out-dir", SPLITS, "--patient-split", "--val-ratio", 0.4, "--tune-ratio", 0.2) == 0
        assert run("check_patient_leakage") == 0
        assert run("build_cache_ears", "--splits-root", SPLITS, "--num-slices", 6, "--image-size", 48, "--crop-mm", 64) == 0
        assert run(*TRAIN, "--epochs", 3, "--output-dir", "outputs/a") == 0
        assert run("eval_ear2d", "--pictures", 0, "--checkpoint", "outputs/a/checkpoints/best.pt") == 0
    return here


@pytest.fixture
def here(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    return hospital


def test_a_run_holds_its_configuration_log_metrics_checkpoints_and_pictures(here):
    folder = here / "outputs/a"
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["ears"]["image_size"] == 48 and config["settings"]["model"]["backbone"] == "test_resnet"
    assert config["data"]["cache_key"] and config["data"]["manifest"]
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    lines = list(Run(folder).read_metrics())
    assert [line["epoch"] for line in lines] == [1, 2, 3] and all(np.isfinite(line["train_loss"]) for line in lines)
    assert "epoch 3/3" in (folder / "train.log").read_text()
    pictures = [folder / "reports" / name for name in ("curves.png", "curves_val.png")]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures) and list((folder / "tensorboard").iterdir())


def test_predictions_hold_every_labelled_validation_ear_and_the_figures_follow_from_them(here):
    folder = here / "outputs/a/reports"
    found = tables.PREDICTIONS.read(folder / "predictions_val.csv")
    val = tables.SPLIT.read(here / SPLITS / "100pct/val.csv")
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv")
    wanted = manifest[manifest.exam_id.isin(val.exam_id) & (manifest.label_code > 0)]
    assert set(zip(found.exam_id, found.side, strict=True)) == set(zip(wanted.exam_id, wanted.side, strict=True))
    assert (found.y_true == (found.label_code != 5)).all() and (found.y_pred == (found.y_prob >= 0.5)).all()
    slices = found.top_slices.str.split(";", expand=True).astype(int)
    weights = found.top_slice_weights.str.split(";", expand=True).astype(float)
    assert slices.to_numpy().max() < 6 and (weights.diff(axis=1).iloc[:, 1:] <= 0).all().all()
    said = json.loads((folder / "metrics_val.json").read_text())
    assert said["metrics"]["auroc"]["estimate"] == pytest.approx(roc_auc_score(found.y_true, found.y_prob))
    assert said["metrics"]["auprc"]["estimate"] == pytest.approx(average_precision_score(found.y_true, found.y_prob))
    assert said["metrics"]["auroc"]["low"] <= said["metrics"]["auroc"]["estimate"] <= said["metrics"]["auroc"]["high"]
    assert said["patients"] == found.patient_key.nunique() and "the intervals are unreliable" in said["warnings"][0]
    hard = tables.PREDICTIONS.read(folder / "hard_cases_val.csv")
    assert len(hard) == (found.y_true != found.y_pred).sum()


def weights(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.pt", weights_only=True)["weights"]


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(here, monkeypatch):
    from medical_fenlei.training.loop import Trainer

    save = Trainer._save

    def killed_after_the_second_epoch(self, improved):
        save(self, improved)
        if self.progress.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", killed_after_the_second_epoch)
    assert run(*TRAIN, "--epochs", 3, "--output-dir", "outputs/stopped") == 75
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert run("train_ear2d", "--resume", "outputs/stopped") == 0
    for name, tensor in weights(here / "outputs/a").items():
        torch.testing.assert_close(weights(here / "outputs/stopped")[name], tensor, rtol=0, atol=0)


def test_several_classes_and_a_narrow_task_train_and_evaluate(here):
    kinds = {"six_class": ("--pooling", "transformer"), "正常vs慢性化脓性中耳炎": ("--pooling", "mean", "--balance", "loss")}
    for task, more in kinds.items():
        assert run(*TRAIN, "--epochs", 1, "--label-task", task, *more, "--output-dir", f"outputs/{task}") == 0
        assert run("eval_ear2d", "--pictures", 0, "--checkpoint", f"outputs/{task}/checkpoints/best.pt") == 0
        found = tables.PREDICTIONS.read(here / f"outputs/{task}/reports/predictions_val.csv")
        if task == "six_class":
            each = found[[f"prob_{code}" for code in range(1, 7)]].to_numpy()
            np.testing.assert_allclose(each.sum(1), 1, atol=1e-6)
            assert (found.y_pred == each.argmax(1)).all()
        else:
            assert set(found.label_code) == {1, 5} and (found.top_slices == "").all()


def test_ears_that_the_cache_lacks_are_prepared_at_first_use(here, capsys):
    arguments = ("eval_ear2d", "--pictures", 0, "--checkpoint", "outputs/a/checkpoints/best.pt", "--limit", 2)
    whole, first = (here / f"outputs/a/reports/predictions_{name}.csv" for name in ("val", "val_first2"))
    before = whole.read_bytes()
    assert run(*arguments) == 0
    expected = first.read_bytes()
    assert run(*arguments, "--cache-dir", "cache/empty") == 0
    assert "4 ears are not in cache/empty/" in capsys.readouterr().err
    assert first.read_bytes() == expected and whole.read_bytes() == before


def test_nothing_that_identifies_a_person_is_in_a_run(here):
    manifest = pd.read_csv(here / "artifacts/manifest_ears.csv", dtype=str)
    for path in (here / "outputs/a").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"SYNTHETIC^" not in content and b"D0-0000" not in content
            if path.suffix == ".pt":
                assert not any(key.encode() in content for key in manifest.patient_key)


@pytest.mark.parametrize(("words", "says"), [
    (("train_ear2d", "--splits-root", SPLITS, "--pct", 7), "--pct 7"),
    (("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--label-task", "normal_vs_anything"), "--label-task"),
    (("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--backbone", "resnet81"), "near names"),
    (("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--manifest-csv", "none.csv"), "none.csv: no such file"),
    (("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--output-dir", "outputs/a"), "--output-dir"),
    (("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--backbone-weights", "none.pt"), "none.pt: no such file"),
    (("train_ear2d", "--lr", "fast"), "--lr"),
    (("train_ear2d", "--epochs", 0), "--epochs: got 0"),
    (("train_ear2d", "--resume", "outputs/none"), "is outputs/none a run?"),
    (("train_ear2d", "--resume", "outputs/a", "--epochs", 9), "--resume"),
    (("eval_ear2d", "--checkpoint", "none.pt"), "--checkpoint none.pt"),
    (("eval_ear2d", "--checkpoint", "artifacts/manifest_ears.csv"), "is not a checkpoint"),
    (("eval_ear2d", "--checkpoint", "outputs/a/checkpoints/best.pt", "--split", "test"), "--split test"),
    (("eval_ear2d",), "--checkpoint"),
])
def test_wrong_input_is_one_line_with_status_2(here, capfd, words, says):
    runs = len(list((here / "outputs").iterdir()))
    assert run(*words) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert len(list((here / "outputs").iterdir())) == runs


def test_no_pipeline_script_reads_the_truth(hospital, tmp_path, monkeypatch):
    for name in ("data", "metadata"):
        shutil.copytree(hospital / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(hospital / "config"))
    assert run("build_index") == 0 and run("build_manifest_ears") == 0
    for name in ("dataset_index.csv", "manifest_ears.csv"):
        assert (tmp_path / "artifacts" / name).read_bytes() == (hospital / "artifacts" / name).read_bytes()


def test_a_run_that_cannot_begin_leaves_a_folder_as_it_was(here, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert run(*TRAIN, "--backbone", "resnet81", "--output-dir", tmp_path) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
