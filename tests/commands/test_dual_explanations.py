"""gradcam_dual explains networks of the dual route as gradcam_ear2d explains those of the ear route, with the same files."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import run
from helpers.small_study import SPLITS, write_study

from medical_fenlei import tables

BEST, REPORTS = "outputs/d/checkpoints/best.pt", Path("outputs/d/reports")
EXPLAIN = ("gradcam_dual", "--checkpoint", BEST, "--device", "cpu", "--top-k", 2)
SETS = {"train": {f"exam_{letter}": (5, 1) for letter in "abcd"}, "tune": {"exam_t": (5, 1)},
        "val": {"exam_x": (2, 5), "exam_y": (5, 0), "exam_z": (1, None)}}
TRAIN = ("train_dual", "--pct", 100, "--label-task", "normal_vs_abnormal", "--epochs", 1, "--batch-size", 2, "--device", "cpu",
         "--precision", "fp32", "--output-dir", "outputs/d")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A 3D network of one epoch; one validation ear has no label, and one is absent."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, SETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(*TRAIN, "--model", "dual_resnet10_3d") == 0
    return folder


@pytest.fixture
def here(study, copied):
    return copied(study)


def probabilities():
    """Those of predict_dual for the predicted class, by exam and side."""
    assert run("predict_dual", "--checkpoint", BEST, "--device", "cpu", "--index-csv", f"{SPLITS}/100pct/val.csv", "--out-csv",
               "p.csv", "--resamples", 20) == 0
    found = tables.DUAL_PREDICTIONS.read(Path("p.csv")).set_index("exam_id")
    positive = {side: found[f"{side}_prob_1_2_3_4_6"] for side in ("left", "right")}
    return {(exam, side): max(p, 1 - p) for side, own in positive.items() for exam, p in own.items()}


def said_of(folder):
    return json.loads((folder / "gradcam.json").read_text())


def test_both_ears_of_an_exam_are_explained_with_the_probabilities_of_predict_dual(here, capsys):
    predicted = probabilities()
    assert run(*EXPLAIN, "--exam-id", "exam_x") == 0
    for side in ("left", "right"):
        folder = REPORTS / f"gradcam/exam_x_{side}"
        said = said_of(folder)
        assert said["probability"] == pytest.approx(predicted["exam_x", side], abs=1e-6)
        assert said["side"] == side and said["ranked_by"] == "share of the heat (integrated)"
        assert [own["layer"] for own in said["maps"]] == ["input", "layer1"] and len(said["slices"]) == 2
        assert all((folder / name).is_file() for own in said["slices"] for name in own["files"])
        assert (folder / "overview.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "exam_x left, labelled 2 (" in out and "exam_x right, labelled 5 (" in out


def test_one_ear_alone_has_the_maps_that_it_has_beside_the_other(here):
    assert run(*EXPLAIN, "--exam-id", "exam_x", "--out-dir", "both") == 0
    assert run(*EXPLAIN, "--exam-id", "exam_x", "--side", "right", "--out-dir", "one") == 0
    one, both = said_of(Path("one")), said_of(Path("both/right"))
    assert [own["peak"] for own in one["maps"]] == [own["peak"] for own in both["maps"]]
    np.testing.assert_allclose([own["weight"] for own in one["slices"]], [own["weight"] for own in both["slices"]], rtol=1e-4)
    assert said_of(Path("both/left"))["maps"] != both["maps"] and not (REPORTS / "gradcam").exists()


def test_an_exam_with_one_ear_in_the_manifest_has_one_explanation(here):
    assert run(*EXPLAIN, "--exam-id", "exam_z") == 0
    assert [path.name for path in (REPORTS / "gradcam").iterdir()] == ["exam_z_left"]


def test_every_labelled_ear_of_the_set_has_a_picture_and_the_second_time_keeps_it(here, capsys):
    assert run(*EXPLAIN, "--all", "--method", "gradcam,hirescam") == 0
    found = tables.EXPLANATIONS.read(REPORTS / "explanations_val.csv")
    assert {*zip(found.exam_id, found.side, strict=True)} == {
        ("exam_x", "left"), ("exam_x", "right"), ("exam_y", "left"), ("exam_z", "left")}
    assert set(found.ranked_by) == {"share of the heat (gradcam)"} and set(found.layer) == {"layer1", "layer4"}
    assert run(*EXPLAIN, "--all", "--method", "gradcam,hirescam") == 0
    assert "4 ears: 4 explained, 0 were there" in (out := capsys.readouterr().out) and "0 explained, 4 were there" in out


def test_the_page_of_an_evaluation_shows_the_maps_of_its_hardest_ears(here):
    evaluate = ("eval_dual", "--checkpoint", BEST, "--device", "cpu", "--resamples", 20)
    assert run(*evaluate, "--pictures", 0) == 0
    before = (REPORTS / "report.html").read_text().count("src=\"data:image/")
    assert run(*evaluate, "--pictures", 2) == 0
    drawn = sorted((REPORTS / "explanations_val").glob("*.png"))
    assert len(drawn) == 2 and (REPORTS / "report.html").read_text().count("src=\"data:image/") == before + 2


def test_a_network_of_slices_of_the_dual_route_is_ranked_by_its_attention(here):
    shutil.rmtree("outputs")
    assert run(*TRAIN, "--model", "dual_slice_attention", "--backbone", "test_resnet") == 0
    assert run(*EXPLAIN, "--exam-id", "exam_x", "--side", "left") == 0
    assert said_of(REPORTS / "gradcam/exam_x_left")["ranked_by"] == "attention"


@pytest.mark.parametrize(("words", "says"), [
    ((), "one of the arguments --exam-id --all is required"),
    (("--all", "--side", "left"), "leave --side away"),
    (("--exam-id", "none"), "has no left or right ear of that exam"),
    (("--exam-id", "exam_z", "--side", "right"), "has no right ear of that exam"),
    (("--exam-id", "exam_x", "--layer", "layer9"), "--layer: got 'layer9', expected one of layer1, layer2, layer3, layer4"),
    (("--exam-id", "exam_x", "--method", "guess"), "--method: got 'guess', expected some of integrated"),
])
def test_an_invalid_request_is_one_line_and_writes_nothing(here, capfd, words, says):
    assert run(*EXPLAIN, *words) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1 and not (REPORTS / "gradcam").exists()


def test_a_command_of_the_other_route_refuses_the_network(here, capfd):
    assert run("gradcam_ear2d", "--checkpoint", BEST, "--exam-id", "exam_x", "--side", "left") == 2
    assert "holds a network of kind dual, expected ear2d" in capfd.readouterr().err
