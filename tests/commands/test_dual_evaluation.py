"""The dual route is calibrated, evaluated and audited by the same code as the ear route, with the same files."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.commands import ROOT, run
from helpers.small_study import CACHE, MANIFEST, SPEC, SPLITS, write_manifest, write_splits, write_study, write_volumes
from sklearn.metrics import roc_auc_score

from medical_fenlei import tables
from medical_fenlei.commands.checkpoint import READERS
from medical_fenlei.ears.store import EarStore
from medical_fenlei.vocabulary import SIDES

BEST, REPORTS, VAL = "outputs/d/checkpoints/best.pt", Path("outputs/d/reports"), f"{SPLITS}/100pct/val.csv"
PAIRS = [(5, 1), (2, 5), (5, 5), (3, 4)]
WORDS = ("--checkpoint", BEST, "--device", "cpu")
POSITIVE = "prob_1_2_3_4_6"


def exams(letters):
    return {f"exam_{letter}": PAIRS[n % len(PAIRS)] for n, letter in enumerate(letters)}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A dual network of one epoch, and a second hospital with the same ids."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, {"train": exams("abcdefgh"), "tune": exams("qrst"), "val": exams("vwxyz")})
    write_manifest(folder / "b.csv", exams("abvw"), hospital="b")
    (folder / "b").mkdir()
    write_volumes(EarStore(folder / f"{CACHE}_b", SPEC), exams("abvw"), hospital="b")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("train_dual", "--pct", 100, "--label-task", "normal_vs_abnormal", "--model", "dual_slice_attention",
                   "--backbone", "test_resnet", "--epochs", 1, "--batch-size", 4, "--device", "cpu", "--precision", "fp32",
                   "--output-dir", "outputs/d") == 0
    return folder


@pytest.fixture
def here(study, copied):
    return copied(study)


def evaluate(*words):
    return run("eval_dual", *WORDS, "--pictures", 0, "--resamples", 50, *words)


def predicted(*words):
    """The probabilities of predict_dual on the validation set, by exam and side."""
    assert run("predict_dual", *WORDS, "--index-csv", VAL, "--out-csv", "p.csv", "--resamples", 50, *words) == 0
    table = tables.DUAL_PREDICTIONS.read(Path("p.csv")).set_index("exam_id")
    return pd.concat({str(side): table[f"{side}_{POSITIVE}"] for side in SIDES})


def evaluated(label="val"):
    found = tables.PREDICTIONS.read(REPORTS / f"predictions_{label}.csv")
    return found, found.set_index(["side", "exam_id"]).y_prob


def test_the_saved_figures_are_those_of_what_the_network_predicts(here):
    assert evaluate() == 0
    found, probability = evaluated()
    np.testing.assert_allclose(predicted().loc[probability.index], probability, atol=1e-6)
    metrics = json.loads((REPORTS / "metrics_val.json").read_text())
    assert metrics["metrics"]["auroc"]["estimate"] == pytest.approx(roc_auc_score(found.label_code != 5, found.y_prob))
    assert len(found) == metrics["ears"] == 10 and metrics["patients"] == 5 and not metrics["calibrated"]
    report = json.loads((REPORTS / "report.json").read_text())
    assert report["kind"] == "dual" and report["evaluations"]["val"]["metrics"] == metrics["metrics"]


def test_a_calibration_is_applied_by_evaluation_and_prediction_alike(here):
    assert evaluate() == 0
    before = evaluated()[1]
    assert run("calibrate_dual", *WORDS, "--point", "half") == 0
    path, temperature = Path("outputs/d/checkpoints/best.calibration.json"), 0.2
    fitted = json.loads(path.read_text())
    assert fitted["tasks"]["normal_vs_abnormal"]["patients"] == 4
    fitted["tasks"]["normal_vs_abnormal"]["temperature"] = temperature       # one epoch fits none that could be seen
    path.write_text(json.dumps(fitted))
    assert evaluate() == 0
    after = evaluated()[1]
    logit = np.log(before / (1 - before)) / temperature
    np.testing.assert_allclose(after, 1 / (1 + np.exp(-logit)), atol=1e-6)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(predicted().loc[after.index], after, atol=1e-6)
    np.testing.assert_allclose(predicted("--uncalibrated").loc[after.index], before, atol=1e-6)
    tune = ("--index-csv", f"{SPLITS}/100pct/tune.csv", "--out-csv", "tune.csv", "--resamples", 50)
    assert run("predict_dual", *WORDS, *tune) == 2 and run("predict_dual", *WORDS, *tune, "--uncalibrated") == 0


def test_audits_answer_the_same_questions(here):
    assert run("audit_run", *WORDS, "--resamples", 50) in (0, 1)
    audits = json.loads((REPORTS / "audits.json").read_text())["audits"]
    assert {"Are left and right exchanged?", "Is it better than chance?", "Does the test leak into the training?"} <= {
        own["question"] for own in audits}
    assert json.loads((REPORTS / "report.json").read_text())["audits"]["audits"] == audits


def test_a_second_hospital_of_the_dual_route_has_files_of_its_own(here):
    assert evaluate() == 0
    before = (REPORTS / "predictions_val.csv").read_bytes()
    assert evaluate("--cohort", "b", "--manifest-csv", "b.csv", "--dicom-base", "b") == 0
    assert (REPORTS / "predictions_val.csv").read_bytes() == before and len(evaluated("b")[0]) == 8
    table, = json.loads((REPORTS / "report.json").read_text())["side_by_side"]
    assert [own["name"] for own in table["columns"]] == ["val", "b"]


def predict_other_hospital(*words):
    """Predict three exams of a hospital that the run does not know, two of them of one patient; return the patient keys."""
    codes = {f"other_{n}": PAIRS[n] for n in range(3)}
    write_manifest(Path("c.csv"), codes, hospital="c")
    manifest = tables.MANIFEST.read(Path("c.csv"))
    key = manifest.patient_key.replace("patient_of_other_1", "patient_of_other_0")
    tables.MANIFEST.write(Path("c.csv"), manifest.assign(patient_key=key))
    write_splits(Path("other"), {"val": codes})
    Path("c").mkdir(exist_ok=True)
    write_volumes(EarStore(Path(f"{CACHE}_c"), SPEC), codes, hospital="c")
    assert run("predict_dual", *WORDS, "--index-csv", "other/100pct/val.csv", "--dicom-base", "c", "--out-csv", "p.csv",
               "--resamples", 50, *words) == 0
    return tables.DUAL_PREDICTIONS.read(Path("p.csv")).patient_key.tolist()


def test_exams_without_a_row_in_the_manifest_count_as_patients_of_their_own_and_it_is_said(here, capfd):
    assert predict_other_hospital() == ["other_0", "other_1", "other_2"]
    said = capfd.readouterr().err
    assert said.count(f"3 exams are not in {MANIFEST}: each counts as a patient of its own; name their manifest with "
                      "--manifest-csv") == 1
    assert "earlier version" not in said and "6 cached ears" in said and "no manifest says which images" in said
    assert predict_other_hospital("--manifest-csv", "c.csv") == [
        "patient_of_other_0", "patient_of_other_0", "patient_of_other_2"]
    said = capfd.readouterr().err
    assert "patient of its own" not in said and "cached ears" not in said


def test_ears_of_another_hospital_are_not_cached_with_those_of_the_run(here, capfd):
    before = sorted(Path(CACHE).rglob("*"))
    predict_other_hospital()
    assert sorted(Path(CACHE).rglob("*")) == before
    assert f"kept apart from those of the run, in {CACHE}_c; --cache-dir names another folder" in capfd.readouterr().out


def test_a_damaged_calibration_names_the_script_of_the_dual_route(here, capfd):
    Path(BEST).with_name("best.calibration.json").write_text("{}")
    assert evaluate() == 2
    assert "calibrate_dual writes it anew" in capfd.readouterr().err


ALL = "eval_dual, calibrate_dual, predict_dual, gradcam_dual and audit_run read it"
EAR = ("--exam-id", "exam_v", "--side", "left")


@pytest.mark.parametrize("settings_are_there", [True, False])
@pytest.mark.parametrize(("command", "words", "named"), [
    ("eval_ear2d", (), "eval_dual does this with it"), ("calibrate_ear2d", (), "calibrate_dual does this with it"),
    ("gradcam_ear2d", EAR, "gradcam_dual does this with it"),
    ("retrieve_neighbors_ear2d", EAR, ALL), ("extract_embeddings_ear2d", ("--split", "val"), ALL),
])
def test_a_network_of_the_other_route_is_refused_with_the_command_that_does_the_job(
        here, capfd, command, words, named, settings_are_there):
    if not settings_are_there:
        Path("outputs/d/config.json").unlink()
    assert run(command, *WORDS, *words) == 2
    assert f"holds a network of kind dual, expected ear2d; {named}" in capfd.readouterr().err


def test_every_command_that_takes_a_checkpoint_is_named_where_it_is_refused():
    calls = ("_checkpoint_flags(", "open_network(", "evaluate_command(", "calibrate_command(", "explain_command(")
    taking = {path.stem for path in (ROOT / "scripts").glob("*.py")
              if any(call in path.read_text(encoding="utf-8") for call in calls)}
    assert {name for names in READERS.values() for name in names} == taking