"""The dual route on a small synthetic hospital, through the scripts: both ears of an exam, from DICOM to predictions."""
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import run, working_in
from helpers.small_study import codes_in_turn, write_study
from sklearn.metrics import precision_recall_fscore_support

from medical_fenlei import tables
from medical_fenlei.config import DUAL, EarSpec
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.ears.store import EarStore
from medical_fenlei.runs import Run
from medical_fenlei.tasks import TASKS
from medical_fenlei.trained.network import open_network
from medical_fenlei.training import epoch_choice
from medical_fenlei.vocabulary import DIAGNOSES, SIDES

pytestmark = pytest.mark.end_to_end

SPLITS = "artifacts/splits_dual_patient"
ON_CPU = ("--precision", "fp32", "--device", "cpu")
TRAIN = ("train_dual", "--splits-root", SPLITS, "--pct", 100, "--label-task", "six_class", "--model", "dual_resnet10_3d",
         "--batch-size", 4, "--warmup-epochs", 0.5, *ON_CPU)
BEST, VAL = "outputs/a/checkpoints/best.pt", f"{SPLITS}/100pct/val.csv"
EACH = [f"prob_{code}" for code in DIAGNOSES]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A hospital with halves of heads in its cache and a network of two epochs."""
    here = tmp_path_factory.mktemp("hospital")
    with working_in(here):
        assert run("make_demo_dataset", "--out-dir", ".", "--num-exams", 18, "--slices", 24, "--num-workers", 1) == 0
        assert run("build_index", "--num-workers", 1) == 0
        assert run("build_manifest_ears", "--num-workers", 1) == 0
        ratios = ("--val-ratio", 0.4, "--tune-ratio", 0.2)
        assert run("make_splits_dual", "--out-dir", SPLITS, "--patient-split", *ratios) == 0
        assert run("make_splits_dual", "--out-dir", "artifacts/splits_dual", "--by-exam", *ratios) == 0
        assert run("build_cache_dual", "--splits-root", SPLITS, "--num-slices", 16, "--image-size", 32, "--num-workers", 1) == 0
        assert run(*TRAIN, "--epochs", 2, "--output-dir", "outputs/a") == 0
        assert run("predict_dual", "--checkpoint", BEST, "--index-csv", VAL, "--out-csv", "predictions.csv") == 0
    yield here
    shutil.rmtree(here / "outputs")                              # large checkpoints


@pytest.fixture
def here(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    return hospital


def predictions(path):
    """The table as it is read, and its cells as text."""
    return tables.DUAL_PREDICTIONS.read(path).set_index("exam_id"), pd.read_csv(path, dtype=str, keep_default_na=False)


def probabilities(frame, side):
    return frame[[f"{side}_{name}" for name in EACH]].to_numpy()


def test_splits_by_patient_and_by_exam_both_work(here):
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv").drop_duplicates("exam_id").set_index("exam_id")
    for root in (SPLITS, "artifacts/splits_dual"):
        sets = tables.read_split(here / root, 100).sets
        assert set(sets) == {"train", "tune", "val"} and all(len(frame) for frame in sets.values())
        exams = pd.concat(sets.values()).exam_id
        assert exams.is_unique
        if root == SPLITS:
            owners = [set(manifest.patient_key[frame.exam_id]) for frame in sets.values()]
            assert sum(map(len, owners)) == len(set.union(*owners))
    assert run("check_patient_leakage", "--splits-root", SPLITS) == 0
    by_exam = ("--splits-root", "artifacts/splits_dual", "--limit", 3, "--epochs", 1, "--output-dir", "outputs/by_exam")
    assert run(*TRAIN[:1], *TRAIN[3:], *by_exam) == 0


def test_the_cache_holds_both_halves_of_every_exam(here):
    folder = next((here / "cache/dual_volumes").iterdir())
    index = tables.CACHE_INDEX.read(folder / "index.csv")
    exams = {exam for frame in tables.read_split(here / SPLITS, 100).sets.values() for exam in frame.exam_id}
    assert set(zip(index.exam_id, index.side, strict=True)) == {(exam, str(side)) for exam in exams for side in SIDES}
    assert json.loads((folder / "spec.json").read_text())["extent"] == "half"


def test_each_exam_of_the_index_has_a_row_with_a_diagnosis_of_either_side(here):
    index = tables.SPLIT.read(here / VAL)
    found, cells = predictions(here / "predictions.csv")
    assert found.index.tolist() == index.exam_id.tolist()
    names = np.array([d.english for d in DIAGNOSES.values()])
    for side in SIDES:
        each = probabilities(found, side)
        np.testing.assert_allclose(each.sum(1), 1, atol=1e-6)
        assert (found[f"{side}_y_pred"] == each.argmax(1)).all()
        np.testing.assert_allclose(found[f"{side}_y_prob"], each.max(1), atol=1e-12)
        assert (found[f"{side}_name"] == names[each.argmax(1)]).all()
        labels = index[f"{side}_code"].tolist()
        assert cells[f"{side}_label_code"].tolist() == [str(code) if code else "" for code in labels]
        assert cells[f"{side}_y_true"].tolist() == [str(code - 1) if code else "" for code in labels]
    assert (cells[[f"{side}_label_code" for side in SIDES]] == "").any(axis=None)                # one of them is unlabelled


def test_the_columns_of_a_side_are_the_predictions_of_that_ear(here):
    trained = open_network(here / BEST, kind=DUAL, device="cpu")
    store = EarStore(here / "cache/dual_volumes", trained.config.ears)
    found, _ = predictions(here / "predictions.csv")
    for side in SIDES:
        ears = pd.DataFrame({"exam_id": found.index, "side": str(side), "patient_key": "p", "label_code": 0})
        alone = trained.predict(EarDataset(store, ears))["six_class"]
        np.testing.assert_allclose(alone[EACH], probabilities(found, side), rtol=0, atol=1e-6)
    assert np.abs(probabilities(found, "left") - probabilities(found, "right")).max() > 1e-5


def test_without_labels_the_predictions_are_the_same_and_no_figure_is_shown(here, capsys):
    index = pd.read_csv(here / VAL, dtype=str)
    index[["exam_id", "series_relpath"]].to_csv("unlabelled.csv", index=False)
    assert run("predict_dual", "--checkpoint", BEST, "--index-csv", "unlabelled.csv", "--out-csv", "p.csv") == 0
    said = capsys.readouterr().out
    assert "auroc" not in said and "7 exams, 14 ears" in said
    found, cells = predictions(here / "p.csv")
    expected, _ = predictions(here / "predictions.csv")
    for side in SIDES:
        np.testing.assert_allclose(probabilities(found, side), probabilities(expected, side), atol=1e-6)
        assert (cells[[f"{side}_label_code", f"{side}_y_true"]] == "").all(axis=None)
    assert found.patient_key.tolist() == expected.patient_key.tolist()


def test_with_labels_the_figures_are_those_of_the_rows(here, capsys):
    assert run("predict_dual", "--checkpoint", BEST, "--index-csv", VAL, "--out-csv", "p.csv", "--resamples", 50) == 0
    said = capsys.readouterr().out
    found, _ = predictions(here / "p.csv")
    true, called = (np.concatenate([found[f"{side}_{name}"].to_numpy("float64", na_value=np.nan) for side in SIDES])
                    for name in ("y_true", "y_pred"))
    accuracy = (true == called)[~np.isnan(true)].mean()
    assert f"accuracy {accuracy:8.3f}".split() in [line.split()[:2] for line in said.splitlines()]


def test_an_exam_whose_series_is_missing_has_a_row_with_empty_cells_and_its_reason(here, capsys):
    index = pd.read_csv(here / VAL, dtype=str)[["exam_id", "series_relpath", "left_code", "right_code"]]
    lost = pd.DataFrame([{"exam_id": "00000000", "series_relpath": "2020-01-01/nowhere", "left_code": "5", "right_code": ""},
                         {"exam_id": "00000001", "series_relpath": "", "left_code": "1", "right_code": "2"}])
    pd.concat([index[:2], lost, index[2:]]).to_csv("lost.csv", index=False)
    assert run("predict_dual", "--checkpoint", BEST, "--index-csv", "lost.csv", "--out-csv", "p.csv") == 3
    assert "4 could not be used" in capsys.readouterr().err
    found, cells = predictions(here / "p.csv")
    assert found.index.tolist() == [*index.exam_id[:2], "00000000", "00000001", *index.exam_id[2:]]
    empty = cells.set_index("exam_id").loc[["00000000", "00000001"]].drop(columns=["left_label_code", "right_label_code"])
    assert (empty == "").all(axis=None)
    expected, _ = predictions(here / "predictions.csv")
    for side in SIDES:
        np.testing.assert_allclose(probabilities(found.loc[expected.index], side), probabilities(expected, side), atol=1e-6)
    rejects = tables.REJECTS.read(here / "p_rejects.csv")
    assert sorted(zip(rejects.exam_id, rejects.reason, strict=True)) == [
        ("00000000", "missing_folder"), ("00000000", "missing_folder"), ("00000001", "no_series"), ("00000001", "no_series")]


def test_halves_that_the_cache_lacks_are_prepared_and_predicted_the_same(here, capsys):
    arguments = ("--index-csv", VAL, "--limit", 2, "--out-csv", "p.csv", "--cache-dir", "cache/empty", "--num-workers", 1)
    assert run("predict_dual", "--checkpoint", BEST, *arguments) == 0
    said = capsys.readouterr().err
    assert "4 ears are not in cache/empty/" in said
    found, expected = (predictions(here / name)[0] for name in ("p.csv", "predictions.csv"))
    assert found.index.tolist() == expected.index[:2].tolist()
    _, script, *words = shlex.split(re.search(r"preparing them there now, as (.*) does", said)[1])
    assert run(Path(script).stem, *words, "--num-workers", 1) == 0
    exams = {exam for frame in tables.read_split(here / SPLITS, 100).sets.values() for exam in frame.exam_id}
    assert len(tables.CACHE_INDEX.read(next((here / "cache/empty").glob("*/index.csv")))) == 2 * len(exams)
    for side in SIDES:
        np.testing.assert_allclose(probabilities(found, side), probabilities(expected[:2], side), atol=1e-6)


def test_halves_of_another_series_are_refused_with_the_command_that_cuts_them_anew(here, capsys):
    manifest_csv = here / "artifacts/manifest_ears.csv"
    original = manifest_csv.read_bytes()
    manifest = tables.MANIFEST.read(manifest_csv)
    exam = tables.SPLIT.read(here / VAL).exam_id[0]
    manifest.loc[manifest.exam_id == exam, "series_digest"] = "exported-again"
    try:
        tables.MANIFEST.write(manifest_csv, manifest)
        arguments = ("--checkpoint", BEST, "--index-csv", VAL, "--out-csv", "p.csv")
        assert run("predict_dual", *arguments) == 2
        said = capsys.readouterr().err
        assert f"2 of 14 ears were not cut from the series that are wanted now (first {exam} left:" in said
        assert f"scripts/build_cache_dual.py --splits-root {SPLITS} --num-slices 16 --image-size 32" in said
        tables.MANIFEST.write(manifest_csv, manifest.assign(series_relpath="elsewhere"))
        assert run("predict_dual", *arguments) == 2
        assert "14 of its ears have another series in the manifest" in capsys.readouterr().err
    finally:
        manifest_csv.write_bytes(original)


def test_a_binary_task_gives_both_probabilities_of_either_side(here):
    task = ("--label-task", "正常vs异常", "--model", "dual_slice_attention", "--backbone", "test_resnet", "--epochs", 1)
    assert run(*TRAIN, *task, "--output-dir", "outputs/binary") == 0
    checkpoint = "outputs/binary/checkpoints/best.pt"
    assert run("predict_dual", "--checkpoint", checkpoint, "--index-csv", VAL, "--out-csv", "p.csv") == 0
    found, cells = predictions(here / "p.csv")
    for side in SIDES:
        positive = found[f"{side}_prob_1_2_3_4_6"]
        np.testing.assert_allclose(positive + found[f"{side}_prob_5"], 1, atol=1e-12)
        np.testing.assert_allclose(positive, found[f"{side}_y_prob"], atol=1e-12)
        assert (found[f"{side}_y_pred"] == (positive >= 0.5)).all()
        assert (found[f"{side}_name"] == np.where(positive >= 0.5, "abnormal", "normal")).all()
        labels = tables.SPLIT.read(here / VAL)[f"{side}_code"]
        assert cells[f"{side}_y_true"].tolist() == ["" if not code else str(int(code != 5)) for code in labels]
        assert cells[f"{side}_top_slices"].str.fullmatch(r"\d+(;\d+){4}").all()


def test_every_epoch_has_a_report_that_follows_from_its_confusion_matrix(here):
    folder = here / "outputs/a"
    tune = tables.SPLIT.read(here / SPLITS / "100pct/tune.csv")
    labelled = sum((tune[f"{side}_code"] > 0).sum() for side in SIDES)
    lines = {line["epoch"]: line for line in Run(folder).read_metrics()}
    reports = {int(p.stem.removeprefix("epoch_")): json.loads(p.read_text()) for p in (folder / "reports").glob("epoch_*.json")}
    assert set(reports) == set(lines) == {1, 2}
    for epoch, report in reports.items():
        matrix = np.array(report["confusion"])
        assert matrix.shape == (6, 6) and matrix.sum() == labelled
        true, called = np.repeat(np.indices((6, 6)).reshape(2, -1), matrix.ravel(), axis=1)
        precision, recall, f1, support = precision_recall_fscore_support(true, called, labels=range(6), zero_division=np.nan)
        f1 = np.where(support > 0, f1, np.nan)
        negatives = [np.sum(true != c) for c in range(6)]
        specificity = [np.sum((true != c) & (called != c)) / n if n else np.nan for c, n in enumerate(negatives)]
        expected = {"precision": precision, "recall": recall, "f1": f1, "specificity": np.array(specificity),
                    "support": support}
        assert list(report["classes"]) == [d.english for d in DIAGNOSES.values()]
        for name, values in expected.items():
            own = np.array([each[name] for each in report["classes"].values()], float)           # null is NaN
            np.testing.assert_allclose(own, values, atol=1e-12, err_msg=name)
            if name != "support":
                mean = values[support > 0].mean()
                np.testing.assert_allclose(np.array(report["macro"][name], float), mean, atol=1e-12, err_msg=name)
                np.testing.assert_allclose(lines[epoch][f"tune_macro_{name}"], mean, atol=1e-12, err_msg=name)
        assert report["accuracy"] == lines[epoch]["tune_accuracy"] == pytest.approx((true == called).mean())
        assert (report["epoch"], report["loss"]) == (epoch, lines[epoch]["tune_loss"])


def weights(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.pt", weights_only=True)["weights"]


def kill_after(monkeypatch, epoch):
    from medical_fenlei.training.loop import Trainer

    save = Trainer._save

    def saved_then_killed(self, improved):
        save(self, improved)
        if self.progress.epoch == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_save", saved_then_killed)


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(here, monkeypatch):
    with monkeypatch.context() as patch:
        kill_after(patch, 1)
        assert run(*TRAIN, "--epochs", 2, "--output-dir", "outputs/stopped") == 75
    assert run("train_dual", "--resume", "outputs/stopped") == 0
    for name, tensor in weights(here / "outputs/a").items():
        torch.testing.assert_close(weights(here / "outputs/stopped")[name], tensor, rtol=0, atol=0)


@pytest.fixture(scope="module")
def ear_run(hospital):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(hospital)
        assert run("train_ear2d", "--splits-root", SPLITS, "--pct", 100, "--backbone", "test_resnet", "--epochs", 1, *ON_CPU,
                   "--cache-dir", "cache/dual_volumes", "--output-dir", "outputs/ear") == 0


@pytest.mark.parametrize(("words", "says"), [
    (("train_ear2d", "--resume", "outputs/a"), "is a run of kind dual, expected ear2d"),
    (("train_dual", "--resume", "outputs/ear"), "is a run of kind ear2d, expected dual"),
    (("eval_ear2d", "--checkpoint", BEST), "holds a network of kind dual, expected ear2d"),
    (("predict_dual", "--checkpoint", "outputs/ear/checkpoints/best.pt", "--index-csv", VAL), "of kind ear2d, expected dual"),
    (("predict_dual", "--checkpoint", BEST, "--index-csv", "no_series.csv"), "column 'series_relpath' is missing"),
    (("predict_dual", "--checkpoint", BEST, "--index-csv", "none.csv"), "none.csv: no such file"),
    (("predict_dual", "--checkpoint", BEST, "--index-csv", "twice.csv"), "more than one row for exam_id 1"),
    (("predict_dual", "--checkpoint", BEST, "--index-csv", "climbs.csv"), "must stay below its base folder"),
    (("predict_dual", "--checkpoint", BEST, "--index-csv", "nothing.csv"), "no ear of its 1 exams could be prepared"),
    (("predict_dual", "--index-csv", VAL), "--checkpoint"),
    (("train_dual", "--early-stop-metric", "kappa"), "--early-stop-metric"),
    ((*TRAIN, "--output-dir", "outputs/a"), "--output-dir outputs/a: contains a run already"),
])
def test_wrong_input_is_one_line_with_status_2(here, ear_run, capfd, words, says):
    (here / "no_series.csv").write_text("exam_id,left_code\n1,5\n")
    (here / "twice.csv").write_text("exam_id,series_relpath\n1,a\n1,b\n")
    (here / "climbs.csv").write_text("exam_id,series_relpath\n1,../../etc\n")
    (here / "nothing.csv").write_text("exam_id,series_relpath\n1,nowhere\n")
    runs = len(list((here / "outputs").iterdir()))
    capfd.readouterr()
    assert run(*words) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: 2 ears are not in cache/")]
    assert len(said) == 1 and says in said[0]
    assert len(list((here / "outputs").iterdir())) == runs


def test_nothing_that_identifies_a_person_is_in_a_run_or_in_predictions(here):
    for path in [*(here / "outputs/a").rglob("*"), here / "predictions.csv"]:
        if path.is_file():
            content = path.read_bytes()
            assert b"SYNTHETIC^" not in content and b"D0-0000" not in content


SMALL = EarSpec(num_slices=4, image_size=32, extent="half")
STILL = ("--jitter-level", 0, "--jitter-width", 0, "--rotate-deg", 0, "--shift", 0, "--scale", 0, "--noise", 0, "--blur", 0)
FAST = ("train_dual", "--pct", 100, "--model", "dual_slice_attention", "--backbone", "test_resnet", *ON_CPU)
SIX_AND_NORMAL = {**codes_in_turn("abcd"), "exam_e": (5, 1), "exam_f": (1, 5), "exam_g": (5, 5)}


def learned(folder, train, *words):
    """The weights and losses of two epochs on these exams."""
    write_study(folder, {"train": train, "tune": codes_in_turn("xyz", seed=3)}, SMALL)
    assert run(*FAST, "--epochs", 2, *words, "--output-dir", folder / "run", "--splits-root", folder / "artifacts/splits_dual",
               "--manifest-csv", folder / "artifacts/manifest_ears.csv", "--cache-dir", folder / "cache/dual_volumes") == 0
    return weights(folder / "run"), [line["train_loss"] for line in Run(folder / "run").read_metrics()]


@pytest.mark.parametrize(("task", "masked", "absent"), [
    ("six_class", (0, 2), (None, 2)), ("six_class", (2, 0), (2, None)), ("normal_vs_csoma", (6, 1), (None, 1)),
    ("normal_vs_csoma", (5, 3), (5, None)), ("normal_vs_csoma", (0, 2), (None, None)),
], ids=["left_unlabelled", "right_unlabelled", "left_outside", "right_outside", "neither_side"])
@pytest.mark.parametrize("balance", ["sampler", "loss"])
def test_a_masked_side_is_as_if_that_ear_were_not_there(tmp_path, monkeypatch, task, masked, absent, balance):
    monkeypatch.chdir(tmp_path)
    words = ("--label-task", task, "--balance", balance, *STILL)
    one, two = (learned(tmp_path / name, {**SIX_AND_NORMAL, "exam_h": codes, "exam_i": (1, 5)}, *words)
                for name, codes in (("masked", masked), ("absent", absent)))
    np.testing.assert_allclose(one[1], two[1], rtol=0, atol=1e-6)
    for name, tensor in two[0].items():
        torch.testing.assert_close(one[0][name], tensor, rtol=0, atol=1e-6)


def test_the_content_of_a_masked_side_changes_nothing_with_augmentation_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--label-task", "normal_vs_csoma")
    one, two, three = (learned(tmp_path / str(code), {**SIX_AND_NORMAL, "exam_h": (code, 1)}, *words)[0] for code in (0, 6, 5))
    assert all(torch.equal(one[name], tensor) for name, tensor in two.items())
    assert any(not torch.equal(one[name], tensor) for name, tensor in three.items())             # a label does change something


@pytest.mark.parametrize("task", ["six_class", "normal_vs_abnormal"])
@pytest.mark.parametrize("metric", ["macro_f1", "macro_recall", "val_loss", "auprc", "auroc", "accuracy"])
def test_any_measure_chooses_the_epoch_that_is_best_in_the_metrics(tmp_path, monkeypatch, metric, task):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(epoch_choice, "TO_CHOOSE_EPOCH", 1)
    train, tune = codes_in_turn("abcdefgh"), codes_in_turn("uvwxyz", seed=1)
    write_study(tmp_path, {"train": train, "tune": tune}, SMALL)
    assert run(*FAST, "--label-task", task, "--early-stop-metric", metric, "--epochs", 6, "--patience", 2, "--lr", 0.01,
               "--output-dir", "outputs/run") == 0
    lines = list(Run(tmp_path / "outputs/run").read_metrics())
    value = [-line["tune_loss"] if metric == "val_loss" else line[f"tune_{metric}"] for line in lines]
    assert np.isfinite(value).all()
    ranked = [(v, -line["tune_loss"]) for v, line in zip(value, lines, strict=True)]
    for number, line in enumerate(lines):
        assert line["best_epoch"] == 1 + ranked.index(max(ranked[: number + 1]))
    trained = open_network(tmp_path / "outputs/run/checkpoints/best.pt", kind=DUAL, device="cpu")
    best = lines[-1]["best_epoch"]
    assert trained.checkpoint.epoch == best and trained.checkpoint.metric == metric
    assert trained.checkpoint.value == pytest.approx(abs(value[best - 1]))
    assert len(lines) == min(6, best + 2)                        # two epochs without a better one, then it stops

    store = EarStore(tmp_path / "cache/dual_volumes", SMALL)
    ears = tables.MANIFEST.read(tmp_path / "artifacts/manifest_ears.csv")
    found = trained.predict(EarDataset(store, ears[ears.exam_id.isin(tune)]))[task]
    assert trained.tasks == (TASKS[task],)
    assert (found.y_true == found.y_pred).mean() == pytest.approx(lines[best - 1]["tune_accuracy"])
