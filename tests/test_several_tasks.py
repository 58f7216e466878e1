"""Several tasks share a trunk: each has its own outputs, ears, figures and files, and best.pt is chosen by all of them."""
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, MANIFEST, SPLITS, codes_in_turn, write_study

from medical_fenlei import tables
from medical_fenlei.config import EAR2D, EarSpec
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.metrics.predictions import measures_over
from medical_fenlei.runs import Run
from medical_fenlei.tasks import OUTSIDE, find_task
from medical_fenlei.trained.network import open_network
from medical_fenlei.training import epoch_choice

TASKS = ("six_class", "normal_vs_abnormal", "cholesteatoma_vs_csoma")
NARROW = "cholesteatoma_vs_csoma"
FIT = ("--pct", 100, "--backbone", "test_resnet", "--batch-size", 8, "--lr", 0.01, "--device", "cpu", "--precision", "fp32")
EAR = ("train_ear2d", *FIT, "--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE)
BEST = "outputs/ear/checkpoints/best.pt"
REPORTS = Path("outputs/ear/reports")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Networks of three tasks on either route; there is no code 4 to train on, and neither 1 nor 2 in the test set."""
    folder = tmp_path_factory.mktemp("study")
    train = {exam: tuple(6 if code == 4 else code for code in both) for exam, both in codes_in_turn("abcdefghij").items()}
    write_study(folder, {"train": train, "tune": codes_in_turn("klmnop", seed=1), "val": codes_in_turn("qrstuvw", seed=2),
                         "test": {"exam_x": (5, 3), "exam_y": (6, 5)}}, EarSpec(num_slices=4, image_size=32, extent="half"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(epoch_choice, "TO_CHOOSE_EPOCH", 1)
        assert run(*EAR, "--label-task", "六分类，正常vs异常,中耳胆脂瘤vs慢性化脓性中耳炎", "--epochs", 4, "--patience", 0,
                   "--output-dir", "outputs/ear") == 0
        assert run("train_dual", *FIT, "--model", "dual_slice_attention", "--label-task", ",".join(TASKS), "--epochs", 1,
                   "--output-dir", "outputs/dual") == 0
        assert run(*EAR, "--label-task", "normal_vs_abnormal", "--epochs", 1, "--output-dir", "outputs/alone") == 0
    return folder


@pytest.fixture
def here(study, monkeypatch):
    """The study's folder; what a test reports there is gone afterwards."""
    monkeypatch.chdir(study)
    before = {path for path in study.rglob("*") if path.is_file()}
    yield study
    for path in {path for path in study.rglob("*") if path.is_file()} - before:
        path.unlink()


def written(folder, pattern="*"):
    """The names of the files below a folder, but for those that training leaves in it."""
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern)
            if path.is_file() and not path.name.startswith("epoch_") and path.name not in ("curves.png", "train_rejects.csv")}


FILES = (("predictions", "csv"), ("metrics", "json"), ("hard_cases", "csv"), ("subgroups", "csv"), ("subgroups", "png"),
         ("curves", "png"), ("results", "csv"), ("results", "md"))
"""Stem and ending of the files of an evaluation."""
PAGE = {"report.html", "report.json"}


def ears_of(set_name, task):
    """(exam, side) and target of those that the task concerns."""
    manifest = tables.MANIFEST.read(Path(MANIFEST))
    own = manifest[manifest.exam_id.isin(tables.read_split(Path(SPLITS), 100).sets[set_name].exam_id)]
    target = find_task(task).targets(own.label_code.to_numpy())
    return {(exam, side): int(t) for exam, side, t in zip(own.exam_id, own.side, target, strict=True) if t != OUTSIDE}


def predictions(set_name, task):
    return tables.PREDICTIONS.read(REPORTS / f"predictions_{set_name}_{task}.csv").set_index(["exam_id", "side"])


def test_each_task_is_measured_on_its_own_ears_by_its_own_outputs(here, capsys):
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", BEST) == 0
    said = capsys.readouterr().out
    assert written(REPORTS) == {f"{stem}_val_{task}.{ending}" for task in TASKS for stem, ending in FILES} | {
        "eval_val_rejects.csv", *PAGE}
    trained = open_network(here / BEST, kind=EAR2D, device="cpu")
    manifest = tables.MANIFEST.read(Path(MANIFEST)).set_index(["exam_id", "side"])
    outputs = {"six_class": slice(0, 6), "normal_vs_abnormal": slice(6, 7), NARROW: slice(7, 8)}
    for task, columns in outputs.items():
        found, expected = predictions("val", task), ears_of("val", task)
        assert found.y_true.to_dict() == expected
        logits = torch.from_numpy(trained.infer(EarDataset(trained.store(trained.config.data), manifest.loc[
            found.index].reset_index())).logits)[:, columns]
        if task == "six_class":
            np.testing.assert_allclose(found[[f"prob_{code}" for code in range(1, 7)]], logits.softmax(1), atol=1e-6)
        else:
            np.testing.assert_allclose(found.y_prob, logits[:, 0].sigmoid(), atol=1e-6)
        report = json.loads((REPORTS / f"metrics_val_{task}.json").read_text())
        assert (report["task"], report["set"], report["ears"]) == (task, "val", len(expected))
        assert f"{task}, val: {len(expected)} ears" in said
    assert 0 < len(ears_of("val", NARROW)) < len(ears_of("val", "six_class")) == 14


def test_a_task_by_itself_gives_the_files_that_it_has_beside_the_others(here):
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", BEST) == 0
    before = predictions("val", NARROW)
    for name in written(REPORTS):
        (REPORTS / name).unlink()
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", BEST, "--label-task", "中耳胆脂瘤vs慢性化脓性中耳炎") == 0
    assert written(REPORTS) == {f"{stem}_val_{NARROW}.{ending}" for stem, ending in FILES} | {"eval_val_rejects.csv", *PAGE}
    after = predictions("val", NARROW)
    assert after.drop(columns="y_prob").equals(before.drop(columns="y_prob"))
    np.testing.assert_allclose(after.y_prob, before.y_prob, atol=1e-6)


def test_a_network_with_one_task_names_its_files_by_the_set_alone(here):
    exam = next(iter(ears_of("val", "normal_vs_abnormal")))[0]
    best, reports = "outputs/alone/checkpoints/best.pt", here / "outputs/alone/reports"
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", best, "--label-task", "normal_vs_abnormal") == 0
    assert written(reports) == {f"{stem}_val.{ending}" for stem, ending in FILES} | {"eval_val_rejects.csv", *PAGE}
    assert run("gradcam_ear2d", "--checkpoint", best, "--exam-id", exam, "--side", "left", "--top-k", 1) == 0
    assert f"gradcam/{exam}_left/gradcam.json" in written(reports)


def test_measures_of_the_tune_set_are_the_mean_over_tasks_and_choose_the_epoch(here):
    lines = list(Run(here / "outputs/ear").read_metrics())
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", "outputs/ear/checkpoints/last.pt", "--split", "tune") == 0
    nlls = []
    for task in TASKS:
        report = json.loads((REPORTS / f"metrics_tune_{task}.json").read_text())
        for name in ("auroc", "auprc"):
            assert lines[-1][f"tune_{task}_{name}"] == pytest.approx(report["metrics"][name]["estimate"])
        found = predictions("tune", task)
        if task == "six_class":
            given = found[[f"prob_{code}" for code in range(1, 7)]].to_numpy()[np.arange(len(found)), found.y_true]
        else:
            given = np.where(found.y_true == 1, found.y_prob, 1 - found.y_prob)
        nlls += (-np.log(given)).tolist()
    assert lines[-1]["tune_loss"] == pytest.approx(np.mean(nlls))           # each target once, whatever its task
    for line in lines:
        for name in ("auroc", "auprc", "accuracy"):
            each = [line[f"tune_{task}_{name}"] for task in TASKS]
            assert np.isfinite(each).all() and line[f"tune_{name}"] == pytest.approx(np.mean(each))
        assert line["tune_sensitivity"] == pytest.approx(
            np.mean([line[f"tune_{task}_sensitivity"] for task in TASKS[1:]]))   # where it is defined
    ranked = [(line["tune_auprc"], -line["tune_loss"]) for line in lines]
    assert lines[-1]["best_epoch"] == 1 + ranked.index(max(ranked)) and len(lines) == 4


def test_the_report_of_an_epoch_has_the_classes_of_each_task(here):
    report = json.loads((REPORTS / "epoch_1.json").read_text())
    for task in TASKS:
        known = list(ears_of("tune", task).values())
        matrix = np.array(report["tasks"][task]["confusion"])
        assert matrix.sum(1).tolist() == np.bincount(known, minlength=len(matrix)).tolist()


def test_a_task_without_an_ear_in_a_set_has_no_figures_and_is_refused_when_requested_alone(here, capfd):
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", BEST, "--split", "test") == 0
    report = json.loads((REPORTS / f"metrics_test_{NARROW}.json").read_text())
    assert report["ears"] == 0 and predictions("test", NARROW).empty
    assert all(m["estimate"] is None and "undefined" in m["reason"] for m in report["metrics"].values())
    known = json.loads((REPORTS / "metrics_test_normal_vs_abnormal.json").read_text())
    assert known["ears"] == 4 and known["metrics"]["auroc"]["estimate"] is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured, _ = measures_over({task: predictions("test", task) for task in TASKS}, [find_task(task) for task in TASKS])
    assert np.isnan(measured[f"{NARROW}_auroc"])
    assert measured["auroc"] == pytest.approx(np.mean([measured[f"{task}_auroc"] for task in TASKS[:2]]))
    capfd.readouterr()
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", BEST, "--split", "test", "--label-task", NARROW) == 2
    said = capfd.readouterr().err
    assert f"--split test: this set of {SPLITS} --pct 100 has no ears of {NARROW}" in said and len(said.splitlines()) == 1


def test_gradcam_explains_the_requested_task_or_each_in_a_folder_of_its_own(here):
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", BEST) == 0
    (exam, side), _ = next(iter(ears_of("val", NARROW).items()))
    words = ("gradcam_ear2d", "--checkpoint", BEST, "--exam-id", exam, "--side", side, "--top-k", 1)
    folder = REPORTS / f"gradcam/{exam}_{side}"
    assert run(*words, "--label-task", "正常vs异常", "--target", "abnormal") == 0
    assert written(folder, "gradcam.json") == {"normal_vs_abnormal/gradcam.json"}
    assert run(*words) == 0
    assert written(folder, "gradcam.json") == {f"{task}/gradcam.json" for task in TASKS}
    for task in TASKS:
        said, row = json.loads((folder / task / "gradcam.json").read_text()), predictions("val", task).loc[exam, side]
        names = find_task(task).class_names
        assert said["task"] == task and said["class"] == names[row.y_pred]
        probability = row.y_prob if task == "six_class" or row.y_pred else 1 - row.y_prob
        assert said["probability"] == pytest.approx(probability, abs=1e-5)


def test_a_class_of_another_task_is_refused_before_anything_is_written(here, capfd):
    exam = next(iter(ears_of("val", "six_class")))[0]
    capfd.readouterr()
    assert run("gradcam_ear2d", "--checkpoint", BEST, "--exam-id", exam, "--side", "left", "--target", "abnormal") == 2
    said = capfd.readouterr().err
    assert "--target: got 'abnormal'" in said and len(said.splitlines()) == 1 and written(REPORTS) == PAGE


@pytest.mark.parametrize("chosen", [TASKS, TASKS[1:]])
def test_each_task_has_a_table_with_both_ears_of_an_exam(here, chosen):
    val = tables.SPLIT.read(Path(SPLITS) / "100pct/val.csv")
    words = () if chosen == TASKS else ("--label-task", ",".join(chosen))
    assert run("predict_dual", "--checkpoint", "outputs/dual/checkpoints/best.pt", "--index-csv", f"{SPLITS}/100pct/val.csv",
               "--out-csv", "tables/both.csv", *words) == 0
    assert written(here / "tables") == {f"both_{task}.csv" for task in chosen} | {"both_rejects.csv"}
    for task in chosen:
        found, target = tables.DUAL_PREDICTIONS.read(here / f"tables/both_{task}.csv"), find_task(task).table
        assert found.exam_id.tolist() == val.exam_id.tolist()
        for side in ("left", "right"):
            each = found.filter(regex=f"^{side}_prob_")
            assert each.shape[1] == len(find_task(task).classes)
            np.testing.assert_allclose(each.sum(axis=1), 1, atol=1e-6)
            known = [t if t != OUTSIDE else None for t in target[val[f"{side}_code"]].tolist()]
            assert found[f"{side}_y_true"].astype(object).where(found[f"{side}_y_true"].notna(), None).tolist() == known


@pytest.mark.parametrize("task", ["normal_vs_ome", "正常vs分泌性中耳炎", "nonsense", "six_class,normal_vs_ome"])
@pytest.mark.parametrize("command", [
    ("eval_ear2d", "--checkpoint", BEST),
    ("gradcam_ear2d", "--checkpoint", BEST, "--exam-id", "exam_q", "--side", "left"),
    ("predict_dual", "--checkpoint", "outputs/dual/checkpoints/best.pt", "--index-csv", f"{SPLITS}/100pct/val.csv"),
], ids=lambda command: command[0])
def test_a_task_that_the_network_lacks_is_refused_with_those_that_it_has(here, capfd, command, task):
    capfd.readouterr()
    assert run(*command, "--label-task", task) == 2
    said = capfd.readouterr().err
    assert f"--label-task: got {task.split(',')[-1]!r}" in said and len(said.splitlines()) == 1
    assert all(f"{name} ({find_task(name).alias})" in said for name in TASKS) and "normal_vs_csoma" not in said


@pytest.mark.parametrize(("words", "says"), [
    (("--label-task", "normal_vs_abnormal,six_class", "--balance", "sampler"), "--balance: sampler cannot balance several"),
    (("--label-task", "normal_vs_abnormal,正常vs异常"), "expected each task once"),
    (("--label-task", "normal_vs_abnormal,six"), "--label-task: got 'six'"),
    (("--label-task", "normal_vs_abnormal,normal_vs_cholesterol_granuloma"),
     "--label-task normal_vs_cholesterol_granuloma: the training set"),
])
def test_tasks_that_cannot_be_learned_together_are_refused_in_one_line(here, capfd, words, says):
    capfd.readouterr()
    assert run(*EAR, *words, "--epochs", 1, "--output-dir", "outputs/refused") == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not (here / "outputs/refused").exists()


def test_embeddings_of_several_tasks_are_those_of_one_trunk(here):
    assert run("extract_embeddings_ear2d", "--checkpoint", BEST, "--split", "val", "--out-npz", "emb.npz") == 0
    with np.load(here / "emb.npz", allow_pickle=False) as found:
        assert len(found["embedding"]) == 14
