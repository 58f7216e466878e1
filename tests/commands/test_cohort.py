"""A second hospital has a name: its own files, its own column on the page, and no patient dropped for a bare number."""
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from helpers.small_run import BEST, RUN, SPEC
from helpers.small_study import CACHE, MANIFEST, SPLITS, codes_in_turn, write_manifest, write_volumes

from medical_fenlei import tables
from medical_fenlei.ears.store import EarStore
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.external_cohort import check_cohort_name

NAME, EXAMS = "hospital_b", "abcdtxyz"
"""The exams of the second hospital have the ids of exams of the first one: of its training, tune and validation sets."""
REPORTS, COHORT_CACHE = Path(RUN, "reports"), f"{CACHE}_{NAME}"
FIRST = ("--cohort", NAME, "--manifest-csv", "b/manifest.csv", "--dicom-base", "b/dicom")
AGAIN = ("--cohort", NAME)


def evaluate(*words):
    return run("eval_ear2d", "--checkpoint", BEST, "--pictures", 0, "--resamples", 50, "--device", "cpu", *words)


def calibrate():
    """Fit a calibration, on a tune set with a normal ear."""
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    code = manifest.label_code.mask((manifest.exam_id == "exam_t") & (manifest.side == "left"), 5)
    tables.MANIFEST.write(Path(MANIFEST), tables.MANIFEST.frame(manifest.assign(label_code=code, **tables.task_columns(code))))
    assert run("calibrate_ear2d", "--checkpoint", BEST, "--device", "cpu") == 0


def predictions(label):
    return tables.PREDICTIONS.read(REPORTS / f"predictions_{label}.csv")


def contents(folder):
    """The bytes of every file of an evaluation, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.stem.startswith("report")}


def write_hospital(folder):
    """Write a second hospital: ids as in the first one, other images. Its ears are cached where a cohort's are."""
    codes = codes_in_turn(EXAMS, seed=5)
    write_manifest(folder / "b/manifest.csv", codes, hospital="b")
    (folder / "b/dicom").mkdir()
    store = EarStore(folder / COHORT_CACHE, SPEC)
    write_volumes(store, codes, hospital="b")
    store.write_index()


@pytest.fixture(scope="module")
def study(small_run, tmp_path_factory):
    """A run that was evaluated on its validation set, and a second hospital that was not evaluated yet."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(small_run, folder, dirs_exist_ok=True)
    write_hospital(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert evaluate() == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(study, tmp_path_factory):
    """The same with an evaluation of the second hospital."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(study, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert evaluate(*FIRST) == 0
    return folder


@pytest.fixture
def here(study, copied):
    return copied(study)


@pytest.fixture
def with_cohort(evaluated, copied):
    return copied(evaluated)


def test_a_cohort_has_files_of_its_own_and_those_of_the_internal_set_stay(study, evaluated):
    before, after = contents(study / REPORTS), contents(evaluated / REPORTS)
    assert {name: after[name] for name in before} == before
    assert {name for name in after.keys() - before.keys()} >= {
        f"{stem}_{NAME}.{ending}" for stem, ending in (("predictions", "csv"), ("metrics", "json"), ("hard_cases", "csv"),
                                                       ("curves", "png"), ("subgroups", "csv"), ("cohort", "json"))}


def test_patients_and_exams_with_the_numbers_of_the_training_set_are_evaluated_and_it_is_said(with_cohort):
    found, metrics = predictions(NAME), json.loads((REPORTS / f"metrics_{NAME}.json").read_text())
    assert set(found.exam_id) == {f"exam_{letter}" for letter in EXAMS} and len(found) == 2 * len(EXAMS)
    assert any(text.startswith("5 patients share the id of a patient that the network was fitted on")
               for text in metrics["warnings"])
    assert metrics["cohort"] == metrics["set"] == NAME


def test_the_ears_are_those_of_the_cohort_and_the_cache_of_the_run_is_left_alone(with_cohort):
    own, cached = predictions(NAME), sorted(Path(CACHE).rglob("*.npy"))
    by_hand = ("--split", "manifest", "--manifest-csv", "b/manifest.csv", "--dicom-base", "b/dicom")
    assert evaluate(*by_hand, "--cache-dir", COHORT_CACHE) == 0
    of_hand = predictions("manifest")
    assert {*own.evaluation} != {*of_hand.evaluation}
    pd.testing.assert_frame_equal(own.drop(columns="evaluation"), of_hand.drop(columns="evaluation"))
    assert not Path(REPORTS, "cohort_manifest.json").exists()                # it has no name
    internal = predictions("val").merge(own, on=["exam_id", "side"])
    assert len(internal) == 6 and not np.isclose(internal.y_prob_x, internal.y_prob_y).any()
    assert evaluate(*by_hand) == 2 and cached == sorted(Path(CACHE).rglob("*.npy"))   # other images under the ids of the run


@pytest.mark.parametrize("change", ["missing", "stale"])
def test_no_command_is_named_that_does_not_prepare_the_ears_of_a_cohort(here, capfd, change):
    if change == "missing":
        shutil.rmtree(COHORT_CACHE)
    else:
        manifest = tables.MANIFEST.read(Path("b/manifest.csv"))
        tables.MANIFEST.write(Path("b/manifest.csv"), manifest.assign(series_digest="exported again"))
    capfd.readouterr()
    assert evaluate(*FIRST) == 2
    said = capfd.readouterr().err
    assert "build_cache" not in said
    assert ("preparing them there now\n" if change == "missing" else f"or remove {COHORT_CACHE}") in said


def share_a_patient():
    """Make exam_y of the second hospital one of the patient of exam_a, a training exam, by name and birth date."""
    for path, who in ((MANIFEST, "exam_a"), ("b/manifest.csv", "exam_y")):
        manifest = tables.MANIFEST.read(Path(path))
        key = manifest.exam_id.mask(manifest.exam_id == who, "anna").radd("key of " if path == MANIFEST else "of b: ")
        key = key.mask(manifest.exam_id == who, "anna, 1934")
        tables.MANIFEST.write(Path(path), manifest.assign(person_keys=key))


def test_a_patient_who_was_in_training_by_name_and_birth_date_is_left_out(here):
    share_a_patient()
    assert evaluate(*FIRST) == 0
    assert set(predictions(NAME).exam_id) == {f"exam_{letter}" for letter in EXAMS} - {"exam_y"}
    metrics = json.loads((REPORTS / f"metrics_{NAME}.json").read_text())
    assert "2 ears of patients that the network was fitted on are left out (patients: 1 by name and birth date)" in (
        metrics["warnings"])
    assert json.loads((REPORTS / f"cohort_{NAME}.json").read_text())["ears_left_out"] == 2


def test_later_commands_need_the_name_alone_and_find_the_cohort_from_another_folder(with_cohort, tmp_path, monkeypatch):
    before = predictions(NAME)
    assert evaluate(*AGAIN) == 0
    pd.testing.assert_frame_equal(predictions(NAME), before)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("eval_ear2d", "--checkpoint", f"../{BEST}", "--pictures", 0, "--resamples", 50, *AGAIN) == 0
    monkeypatch.chdir(tmp_path)
    pd.testing.assert_frame_equal(predictions(NAME), before)


@pytest.mark.parametrize(("words", "says"), [
    (AGAIN, "--cohort hospital_b: has no --manifest-csv and --dicom-base yet"),
    (FIRST[:4], "--cohort hospital_b: has no --dicom-base yet"),
    ((*AGAIN, "--manifest-csv", MANIFEST, "--dicom-base", "b/dicom"), "is the manifest of the run itself"),
    ((*AGAIN, "--manifest-csv", "none.csv", "--dicom-base", "b/dicom"), "none.csv: no such file"),
    ((*FIRST, "--split", "test"), "not allowed with argument"),
    ((*FIRST, "--cache-dir", "empty", "--dicom-base", "none"), "prepare them from; name the folder of their images"),
])
def test_what_a_cohort_lacks_is_one_line_and_nothing_is_written(here, capfd, words, says):
    before = contents(REPORTS)
    capfd.readouterr()
    assert evaluate(*words) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0] and contents(REPORTS) == before


def test_a_cohort_that_is_not_recorded_is_refused_with_those_that_are(with_cohort, capfd):
    assert evaluate("--cohort", "Hospitalb") == 2
    assert "has no --manifest-csv and --dicom-base yet; cohorts of this run: hospital_b; build_" in capfd.readouterr().err


def test_an_exam_that_only_a_cohort_has_is_refused_with_the_flag_of_that_cohort(with_cohort, capfd):
    manifest = tables.MANIFEST.read(Path("b/manifest.csv"))
    tables.MANIFEST.write(Path("b/manifest.csv"), manifest.assign(exam_id=manifest.exam_id.replace("exam_y", "only_there")))
    assert run("gradcam_ear2d", "--checkpoint", BEST, "--exam-id", "only_there", "--side", "left") == 2
    assert "has no left ear of that exam; it is one of --cohort hospital_b\n" in capfd.readouterr().err


def test_a_name_stands_for_one_cohort(with_cohort, capfd):
    shutil.copy("b/manifest.csv", "c.csv")
    before = contents(REPORTS)
    assert evaluate(*AGAIN, "--manifest-csv", "c.csv") == 2
    assert "is the name of b/manifest.csv in this run; choose another name for c.csv" in capfd.readouterr().err
    assert contents(REPORTS) == before


@pytest.mark.parametrize("name", [
    "a/b", "..", "", ".b", "-b", "b c", "b\n", "a\\b", "val", "VAL", "train", "manifest", "val_b", "Test_2", "b_first10",
    "b_six_class", "b" * 41, "b:c", "b*"])
def test_a_name_that_is_not_a_plain_word_or_that_of_a_set_is_refused_in_one_line(here, capfd, name):
    before = contents(REPORTS)
    capfd.readouterr()
    assert evaluate(f"--cohort={name}", *FIRST[2:]) == 2
    said = capfd.readouterr().err
    assert "--cohort: got" in said and len(said.strip().splitlines()) == 1 and contents(REPORTS) == before


@pytest.mark.parametrize("name", ["b", "hospital-b", "valley", "Mayo_2024", "市一院", "2025", "normal_vs_abnormal2"])
def test_a_plain_word_is_a_name(name):
    assert check_cohort_name(name) == name


def test_a_cohort_of_fitted_patients_alone_is_refused(here, capfd):
    manifest = tables.MANIFEST.read(Path(MANIFEST))                          # a copy, its images known
    tables.MANIFEST.write(Path("b/manifest.csv"), manifest[manifest.exam_id.isin(["exam_a", "exam_b"])])
    assert evaluate(*FIRST, "--cache-dir", CACHE) == 2
    said = capfd.readouterr().err
    assert "--cohort hospital_b: b/manifest.csv has no ears of normal_vs_abnormal, or only of patients" in said


def test_without_the_tables_of_the_run_its_patients_are_unknown_and_that_is_said(here):
    shutil.rmtree(SPLITS)
    assert evaluate(*FIRST) == 0 and len(predictions(NAME)) == 2 * len(EXAMS)
    warnings = json.loads((REPORTS / f"metrics_{NAME}.json").read_text())["warnings"]
    assert any("cannot be known here" in text and "none is left out" in text for text in warnings)


def test_fitted_exams_that_are_gone_from_the_manifest_of_the_run_are_counted(here):
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    tables.MANIFEST.write(Path(MANIFEST), manifest[~manifest.exam_id.isin(["exam_a", "exam_b"])])
    assert evaluate(*FIRST) == 0
    warnings = json.loads((REPORTS / f"metrics_{NAME}.json").read_text())["warnings"]
    assert any(text.startswith("2 exams that the network was fitted on are not in") for text in warnings)


def test_with_a_limit_the_cohort_keeps_the_files_of_all_its_ears(with_cohort):
    before = contents(REPORTS)
    assert evaluate(*AGAIN, "--limit", 2) == 0
    after = contents(REPORTS)
    assert {name: after[name] for name in before} == before and len(predictions(f"{NAME}_first2")) == 4
    report = json.loads((REPORTS / "report.json").read_text())
    assert [own["name"] for own in report["side_by_side"][0]["columns"]] == ["val", NAME]


def test_the_page_has_the_cohort_beside_the_internal_set_with_the_figures_of_their_files(with_cohort):
    report, text = json.loads((REPORTS / "report.json").read_text()), (REPORTS / "report.html").read_text()
    table, = report["side_by_side"]
    metrics = {name: json.loads((REPORTS / f"metrics_{name}.json").read_text()) for name in ("val", NAME)}
    assert [(own["name"], own["internal"]) for own in table["columns"]] == [("val", True), (NAME, False)]
    assert [own["ears"] for own in table["columns"]] == [own["ears"] for own in metrics.values()]
    assert {row["measure"]: row["cells"] for row in table["rows"]} == {
        name: [own["metrics"][name] for own in metrics.values()] for name in metrics["val"]["metrics"]}
    assert table["warnings"] == [] and "Internal and external" in text and "internal: val" in text
    manifest, found = tables.MANIFEST.read(Path("b/manifest.csv")), predictions(NAME)
    cohort, = report["cohorts"]
    flow = {row["what"]: row["number"] for row in cohort["flow"]}
    assert flow["exams"] == manifest.exam_id.nunique() and flow["ears evaluated"] == len(found)
    codes = found.label_code.value_counts()
    assert {name: value for name, value in cohort["figures"].items() if name.startswith("code ")} == {
        f"code {code}": int(codes.get(code, 0)) for code in range(1, 7)}
    assert cohort["figures"]["patients"] == found.patient_key.nunique() and "patient_of_" not in text


def test_columns_that_were_decided_otherwise_are_marked(with_cohort):
    calibrate()
    assert evaluate(*AGAIN, "--point", "specificity_95") == 0
    table, = json.loads((REPORTS / "report.json").read_text())["side_by_side"]
    assert len(table["warnings"]) == 2 and "whether they are calibrated" in table["warnings"][0]
    assert evaluate("--point", "specificity_95") == 0
    assert json.loads((REPORTS / "report.json").read_text())["side_by_side"][0]["warnings"] == []


def test_a_calibration_on_patients_of_equal_numbers_is_applied_to_the_cohort(here):
    calibrate()
    assert evaluate(*FIRST) == 0 and evaluate("--split", "tune") == 2
    assert json.loads((REPORTS / f"metrics_{NAME}.json").read_text())["calibrated"]


def test_audits_of_a_cohort_stand_beside_those_of_the_run(here):
    words = ("--checkpoint", BEST, "--resamples", 50, "--device", "cpu")
    assert run("audit_run", *words) in (0, 1)
    before = contents(REPORTS)
    assert run("audit_run", *words, *FIRST) in (0, 1)
    after = contents(REPORTS)
    assert {name: after[name] for name in before} == before
    audits = json.loads((REPORTS / f"audits_{NAME}.json").read_text())
    leakage = next(own for own in audits["audits"] if own["question"] == "Does the test leak into the training?")
    assert audits["set"] == NAME and leakage["verdict"] == "undecided" and "5 patients share the id" in leakage["words"]
    listed = tables.SUSPECTS.read(REPORTS / f"labels_to_read_again_{NAME}.csv")
    assert set(listed["set"]) == {NAME} and set(listed.exam_id) == {f"exam_{letter}" for letter in EXAMS}
    report = json.loads((REPORTS / "report.json").read_text())
    assert report["audits"]["set"] == "val" and report["cohort_audits"][NAME]["audits"] == audits["audits"]
    assert "Cohort hospital_b" in (REPORTS / "report.html").read_text()
    assert run("audit_run", *words, *AGAIN, "--retrain") == 2


def test_embeddings_of_a_cohort_have_its_name_and_its_ears(here):
    words = ("extract_embeddings_ear2d", "--checkpoint", BEST, "--device", "cpu")
    assert run(*words, "--split", "val") == 0 and run(*words, *FIRST) == 0
    own, theirs = (Embeddings.read(Path(f"artifacts/emb_{name}.npz")) for name in ("val", NAME))
    assert {*theirs.exam_id} == {f"exam_{letter}" for letter in EXAMS} and len(theirs) == 2 * len(EXAMS)
    both = np.isin(theirs.exam_id, own.exam_id)
    assert both.sum() == len(own) and not np.isclose(theirs.embedding[both], own.embedding).all(axis=1).any()


def test_neighbors_of_a_cohort_are_training_ears_of_the_run_and_its_files_stand_apart(here, capsys):
    words = ("retrieve_neighbors_ear2d", "--checkpoint", BEST, "--device", "cpu", "--top-k", 16, "--resamples", 50)
    assert run(*words, "--split", "val") == 0
    before = contents(REPORTS / "neighbors")
    assert run(*words, *FIRST) == 0
    assert "5 patients share the id of a patient" in capsys.readouterr().err
    assert contents(REPORTS / "neighbors") == before
    found = tables.NEIGHBORS.read(REPORTS / f"neighbors_{NAME}/neighbors_{NAME}.csv")
    assert {*found.exam_id} == {f"exam_{letter}" for letter in EXAMS}
    for _, own in found.groupby(["exam_id", "side"]):            # also those whose patient has the number of another patient
        assert {*zip(own.neighbor_exam_id, own.neighbor_side, strict=True)} == {
            (f"exam_{letter}", side) for letter in "abcdefgh" for side in ("left", "right")}
    assert len([*(REPORTS / f"neighbors_{NAME}").glob("exam_*.png")]) == 2 * len(EXAMS)
    assert not [*(REPORTS / f"neighbors_{NAME}").glob("embeddings_*")]       # those of the training set are kept once
    assert run(*words, "--exam-id", "exam_x", "--side", "left", *FIRST) == 0
    one = tables.NEIGHBORS.read(REPORTS / f"neighbors_{NAME}/exam_x_left.csv")
    whole = found[(found.exam_id == "exam_x") & (found.side == "left")].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, whole, check_exact=False, atol=1e-6)
    assert run(*words, "--exam-id", "exam_x", "--side", "left", "--split", "val") == 2 and run(*words) == 2


def test_an_ear_of_a_cohort_whose_patient_was_in_training_has_no_neighbors(here, capfd):
    share_a_patient()
    words = ("retrieve_neighbors_ear2d", "--checkpoint", BEST, "--device", "cpu", *FIRST, "--side", "left", "--exam-id")
    assert run(*words, "exam_y") == 2
    assert "--exam-id exam_y: the network was fitted on this patient" in capfd.readouterr().err
    assert run(*words, "exam_x") == 0


def test_maps_of_a_cohort_leave_those_of_an_exam_with_the_same_id_alone(here):
    one = ("gradcam_ear2d", "--checkpoint", BEST, "--exam-id", "exam_x", "--side", "left", "--method", "gradcam", "--top-k", 1,
           "--device", "cpu")
    assert run(*one) == 0
    before = contents(REPORTS / "gradcam/exam_x_left")
    assert run(*one, *FIRST) == 0
    assert contents(REPORTS / "gradcam/exam_x_left") == before
    theirs = contents(REPORTS / f"gradcam_{NAME}/exam_x_left")
    assert before.keys() >= {"overview.png", "gradcam.json"} <= theirs.keys()
    assert theirs["gradcam.json"] != before["gradcam.json"]
    whole = ("gradcam_ear2d", "--checkpoint", BEST, "--all", "--method", "gradcam", "--limit", 2, "--device", "cpu")
    assert run(*whole, *FIRST) == 0
    assert len(list((REPORTS / f"explanations_{NAME}_first2").glob("*.png"))) == 4
