"""Calibration of a run uses the tune set alone, is applied as fitted, and is refused on exams that were used before."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from helpers.small_study import MANIFEST, SPLITS, sets_in_turn, write_study
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from medical_fenlei import tables
from medical_fenlei.config import EarSpec
from medical_fenlei.evaluation.calibrate import fit_calibration
from medical_fenlei.trained.network import open_network

WORDS = ("--splits-root", SPLITS, "--pct", 100, "--cache-dir", "cache/dual_volumes", "--device", "cpu")
BEST, REPORTS = "outputs/a/checkpoints/best.pt", Path("outputs/a/reports")
STORED = Path("outputs/a/checkpoints/best.calibration.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    here = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        write_study(here, sets_in_turn(train=9, tune=8, val=6, test=3), EarSpec(num_slices=8, image_size=32))
        assert run("train_ear2d", *WORDS, "--backbone", "test_resnet", "--epochs", 2, "--batch-size", 4, "--warmup-epochs", 0.5,
                   "--output-dir", "outputs/a") == 0
    return here


@pytest.fixture
def here(trained, copied):
    return copied(trained)


def calibrate(*words):
    return run("calibrate_ear2d", "--checkpoint", BEST, *words)


def evaluate(*words):
    return run("eval_ear2d", "--pictures", 0, "--checkpoint", BEST, "--resamples", 50, *words)


def stored():
    return json.loads(STORED.read_text())["tasks"]


def relabel(exams, seed=0):
    """Other labels for the ears of these exams."""
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    mine = manifest.exam_id.isin(exams)
    code = manifest.label_code.copy()
    code[mine] = np.random.default_rng(seed).permutation(code[mine])
    tables.MANIFEST.write(Path(MANIFEST), tables.MANIFEST.frame(manifest.assign(label_code=code, **tables.task_columns(code))))
    assert (code != manifest.label_code).any()


def test_shuffling_the_labels_of_what_is_reported_leaves_temperature_and_thresholds_unchanged(here):
    assert calibrate() == 0
    before, split = stored(), tables.read_split(Path(SPLITS), 100)
    relabel([*split.sets["val"].exam_id, *split.sets["test"].exam_id])
    assert calibrate() == 0
    assert stored() == before
    relabel(split.sets["tune"].exam_id)                                      # and it would have been seen
    assert calibrate() == 0
    assert stored() != before


def test_evaluation_applies_what_was_fitted_and_says_so(here, capsys, monkeypatch):
    monkeypatch.setattr("medical_fenlei.evaluation.calibrate.TO_CHOOSE_THRESHOLD", 1)
    assert evaluate() == 0
    plain = tables.PREDICTIONS.read(REPORTS / "predictions_val.csv")
    assert calibrate("--point", "specificity_95") == 0
    assert evaluate() == 0
    found, fitted = tables.PREDICTIONS.read(REPORTS / "predictions_val.csv"), stored()["normal_vs_abnormal"]
    logit = np.log(plain.y_prob / (1 - plain.y_prob)) / fitted["temperature"]
    np.testing.assert_allclose(found.y_prob, 1 / (1 + np.exp(-logit)), atol=1e-9)
    assert (found.y_pred == (found.y_prob >= fitted["points"]["specificity_95"])).all()
    said = json.loads((REPORTS / "metrics_val.json").read_text())
    assert said["calibrated"] and said["calibration"]["point"] == "specificity_95"
    assert said["metrics"]["auroc"]["estimate"] == pytest.approx(roc_auc_score(plain.y_true, plain.y_prob))
    for name, point in said["operating_points"].items():
        assert point["threshold"] == fitted["points"][name]
        called = found.y_prob >= point["threshold"]
        assert point["sensitivity"]["estimate"] == pytest.approx(called[found.y_true == 1].mean())
    assert "specificity_95" in capsys.readouterr().out
    assert evaluate("--point", "half") == 0
    half = tables.PREDICTIONS.read(REPORTS / "predictions_val.csv")
    assert (half.y_pred == (half.y_prob >= 0.5)).all()
    assert evaluate("--uncalibrated") == 0
    pd.testing.assert_frame_equal(tables.PREDICTIONS.read(REPORTS / "predictions_val.csv"), plain)


def test_on_a_tune_set_that_is_too_small_no_threshold_decides_that_was_chosen_on_it(here, capfd):
    assert calibrate("--point", "youden") == 0
    said, fitted = capfd.readouterr().err, stored()["normal_vs_abnormal"]
    assert "half decides unless --point names another at evaluation" in said and "--tune-ratio" in said
    assert fitted["point"] == "half" and fitted["point_note"] in said and fitted["points"]["youden"] != 0.5
    assert evaluate() == 0
    found = tables.PREDICTIONS.read(REPORTS / "predictions_val.csv")
    metrics = json.loads((REPORTS / "metrics_val.json").read_text())
    assert (found.y_pred == (found.y_prob >= 0.5)).all() and fitted["point_note"] in metrics["warnings"]
    assert any("--val-ratio" in text and "--folds" in text for text in metrics["warnings"])
    assert fitted["point_note"] in (REPORTS / "report.html").read_text()
    assert evaluate("--point", "youden") == 0                                # as one wishes
    assert json.loads((REPORTS / "metrics_val.json").read_text())["calibration"]["point"] == "youden"


@pytest.mark.parametrize(("balance", "loss", "point"), [("none", "ce", "prevalence"), ("none", "logit_adjusted", "half"),
                                                       ("sampler", "ce", "half")])
def test_where_training_did_not_balance_the_classes_the_prevalence_decides(here, balance, loss, point):
    network = open_network(Path(BEST), kind="ear2d", device="cpu")
    config = replace(network.config, training=replace(network.config.training, balance=balance, loss=loss))
    unbalanced = replace(network, checkpoint=replace(network.checkpoint, config=config))
    fitted = fit_calibration(unbalanced, config.data, sensitivity=0.95, point="youden").tasks["normal_vs_abnormal"]
    assert fitted.point == point
    if point == "prevalence":
        codes = network.checkpoint.trained_on.codes
        share = 1 - codes["5"] / sum(codes.values())
        assert fitted.threshold == pytest.approx(expit(logit(share) / fitted.temperature))


def test_a_calibration_is_not_reported_on_the_set_that_it_was_fitted_on(here, capfd):
    assert calibrate() == 0
    capfd.readouterr()
    assert evaluate("--split", "tune") == 2
    said = capfd.readouterr().err.strip()
    assert "fitted on 8 of these patients" in said and "--uncalibrated" in said and len(said.splitlines()) == 1
    assert evaluate("--split", "tune", "--uncalibrated") == 0
    manifest = tables.MANIFEST.read(Path(MANIFEST))                          # a tune patient's other exam, in another manifest
    split = tables.read_split(Path(SPLITS), 100)
    twin = manifest.exam_id.isin(split.sets["val"].exam_id[:1])
    key = manifest.patient_key[manifest.exam_id == split.sets["tune"].exam_id.iloc[0]].iloc[0]
    tables.MANIFEST.write(Path("other.csv"), manifest.assign(patient_key=manifest.patient_key.where(~twin, key)))
    assert evaluate("--manifest-csv", "other.csv") == 2


def test_a_split_that_shares_patients_with_what_is_reported_is_refused(here, capfd):
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    tables.MANIFEST.write(Path(MANIFEST), manifest.assign(patient_key="everyone"))
    capfd.readouterr()
    assert calibrate() == 2
    said = capfd.readouterr().err
    assert "tune.csv and" in said and "--patient-split" in said and not STORED.exists()


def test_a_calibration_of_another_checkpoint_is_refused(here, capfd):
    assert calibrate() == 0
    shutil.copyfile("outputs/a/checkpoints/last.pt", BEST)
    assert evaluate() == 2
    assert "belongs to another checkpoint" in capfd.readouterr().err
    STORED.write_text("{}")
    assert evaluate() == 2
    assert "calibrate_ear2d writes it anew" in capfd.readouterr().err


@pytest.mark.parametrize("part", [
    {"temperature": -1}, {"temperature": 0}, {"temperature": float("nan")}, {"temperature": "warm"}, {"points": {"half": 7}},
    {"points": {"half": "x"}}, {"points": None}, {"point": "nonsense"}])
def test_a_calibration_that_was_edited_into_nonsense_is_refused_in_one_line(here, capfd, part):
    assert calibrate() == 0
    whole = json.loads(STORED.read_text())
    whole["tasks"]["normal_vs_abnormal"] |= part
    STORED.write_text(json.dumps(whole))
    capfd.readouterr()
    assert evaluate() == 2
    said = capfd.readouterr().err
    assert "calibrate_ear2d writes it anew" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("lacking", [{"tasks": {}}, {"tasks": []}, {"exams": []}, {"patients": []}])
def test_a_calibration_without_tasks_exams_or_patients_is_refused(here, capfd, lacking):
    assert calibrate() == 0
    STORED.write_text(json.dumps(json.loads(STORED.read_text()) | lacking))
    assert evaluate() == 2 and "calibrate_ear2d writes it anew" in capfd.readouterr().err


@pytest.mark.parametrize(("words", "says"), [
    (("--point", "best"), "expected one of half"), (("--sensitivity", "0"), "--sensitivity"),
    (("--sensitivity", "1.5"), "--sensitivity")])
def test_an_invalid_point_or_sensitivity_is_refused_in_one_line(here, capfd, words, says):
    capfd.readouterr()
    assert calibrate(*words) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not STORED.exists()


def test_of_several_tasks_those_are_fitted_whose_classes_the_tune_set_has(here, capfd):
    rare = "normal_vs_cholesterol_granuloma"
    assert run("train_ear2d", *WORDS, "--backbone", "test_resnet", "--epochs", 1, "--batch-size", 4, "--label-task",
               f"normal_vs_abnormal,{rare}", "--output-dir", "outputs/a2") == 0
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    tune = tables.read_split(Path(SPLITS), 100).sets["tune"].exam_id
    code = manifest.label_code.mask(manifest.exam_id.isin(tune) & (manifest.label_code == 4), 1)
    tables.MANIFEST.write(Path(MANIFEST), tables.MANIFEST.frame(manifest.assign(label_code=code, **tables.task_columns(code))))
    words = ("--checkpoint", "outputs/a2/checkpoints/best.pt")
    assert run("calibrate_ear2d", *words) == 0
    said = capfd.readouterr().err
    assert f"{rare}: the tune set has" in said and "0 positive ears" in said
    found = json.loads(Path("outputs/a2/checkpoints/best.calibration.json").read_text())
    assert set(found["tasks"]) == {"normal_vs_abnormal"} and set(found["unfitted"]) == {rare}
    assert run("eval_ear2d", *words, "--pictures", 0, "--resamples", 50) == 0
    assert run("calibrate_ear2d", *words, "--label-task", rare) == 2
    assert capfd.readouterr().err.count("0 positive ears, expected some of both; make_splits_dual") == 1


def test_without_a_tune_set_there_is_nothing_to_fit_on(here, capfd):
    Path(SPLITS, "100pct/tune.csv").unlink()
    assert calibrate() == 2 and "no tune set" in capfd.readouterr().err


def test_a_new_split_does_not_report_on_exams_of_the_training_set(here, capfd):
    folder = Path(SPLITS, "100pct")
    for one, other in (("train", "spare"), ("val", "train"), ("spare", "val")):
        (folder / f"{one}.csv").rename(folder / f"{other}.csv")
    capfd.readouterr()
    assert evaluate("--uncalibrated") == 2
    said = capfd.readouterr().err
    assert "was trained on 9 of its exams" in said and len(said.splitlines()) == 1
    assert evaluate("--uncalibrated", "--split", "manifest") == 0
    found = tables.PREDICTIONS.read(REPORTS / "predictions_manifest.csv")
    assert set(found.exam_id) == set(tables.read_split(Path(SPLITS), 100).sets["test"].exam_id)
    (folder / "tune.csv").unlink()
    (folder / "val.csv").rename(folder / "tune.csv")
    assert calibrate() == 2
    said = capfd.readouterr().err
    assert "tune.csv: the network was trained on 9 of its exams" in said


@pytest.mark.parametrize(("one", "other", "words", "says"), [
    ("train", "val", ("audit_run",), "--split val: the network was trained on 9 of its exams"),
    ("tune", "val", ("eval_ear2d", "--uncalibrated"), "--split val: the network's epoch was chosen on 8 of its exams"),
    ("tune", "val", ("calibrate_ear2d",), "tune.csv: the run's own split reports on 6 of its exams"),
])
def test_no_exam_is_used_twice_with_another_split(here, capfd, one, other, words, says):
    """The other split is that of the run with two sets exchanged."""
    shutil.copytree(SPLITS, "swapped")
    folder = Path("swapped/100pct")
    for source, target in ((one, "spare"), (other, one), ("spare", other)):
        (folder / f"{source}.csv").rename(folder / f"{target}.csv")
    capfd.readouterr()
    assert run(words[0], "--checkpoint", BEST, "--splits-root", "swapped", "--pct", 100, *words[1:]) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_of_another_manifest_only_new_patients_are_evaluated(here, capfd):
    assert evaluate("--split", "manifest", "--uncalibrated") == 0
    split = tables.read_split(Path(SPLITS), 100)
    found = tables.PREDICTIONS.read(REPORTS / "predictions_manifest.csv")
    assert set(found.exam_id) == set(split.sets["val"].exam_id) | set(split.sets["test"].exam_id)
    assert "34 ears of patients that the network was fitted on are left out" in capfd.readouterr().err
    shutil.rmtree(SPLITS)
    assert evaluate("--split", "manifest", "--uncalibrated") == 2
    assert "are not known" in capfd.readouterr().err


@pytest.mark.parametrize(("gone", "says"), [
    ((), ""), (("outputs/a/answers",), "it is not known which exams served to train the network, so"),
    ((SPLITS,), "it is not known which exams served to choose its epoch, so"),
    (("outputs/a/answers", SPLITS), "it is not known which exams served to train the network and to choose its epoch, so")])
def test_where_it_is_not_known_what_the_network_was_trained_on_the_evaluation_says_so(here, capfd, gone, says):
    shutil.copytree(SPLITS, "copied")
    for folder in gone:
        shutil.rmtree(folder)
    assert evaluate("--splits-root", "copied", "--pct", 100, "--split", "val") == 0
    said, warnings = capfd.readouterr().err, json.loads((REPORTS / "metrics_val.json").read_text())["warnings"]
    found = [text for text in warnings if "it is not known which exams" in text]
    assert [text.startswith(says) for text in found] == [True] * bool(says)
    assert ("it is not known which exams" in said) == bool(says) and all(text in said for text in found)


def test_of_several_reasons_to_refuse_a_set_the_one_that_no_flag_allows_is_said(here, capfd):
    assert calibrate() == 0
    split = tables.read_split(Path(SPLITS), 100)
    shutil.copytree(SPLITS, "mixed")
    for foreign, says in ((("train", "tune"), "the network was trained on 2 of its exams"),
                          (("tune",), "the network's epoch was chosen on 2 of its exams")):
        mixed = pd.concat([*(split.sets[name][:2] for name in foreign), split.sets["val"]], ignore_index=True)
        tables.SPLIT.write(Path("mixed/100pct/val.csv"), mixed)
        capfd.readouterr()
        assert evaluate("--splits-root", "mixed") == 2
        said = capfd.readouterr().err.splitlines()[-1]
        assert f"--split val: {says}" in said and "--uncalibrated" not in said
