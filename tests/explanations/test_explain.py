"""Explanations of a set: every ear once, finished work is kept, an unreadable ear is reported, and no patient is named."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import run
from helpers.small_run import BEST, SPEC
from helpers.small_study import image_facts

from medical_fenlei import tables
from medical_fenlei.config import EAR2D
from medical_fenlei.explanations.explain import explain_ears
from medical_fenlei.explanations.maps import ExplanationRequest
from medical_fenlei.trained.network import open_network

ONE_MAP = ExplanationRequest(methods=("hirescam",), top=1)
ALL = ("gradcam_ear2d", "--checkpoint", BEST, "--device", "cpu", "--all", "--top-k", 2)


@pytest.fixture
def here(small_run, copied):
    return copied(small_run)


@pytest.fixture
def trained(here):
    return open_network(here / BEST, kind=EAR2D, device="cpu")


def test_every_ear_of_the_set_has_a_picture_and_a_row_for_each_method_and_slice(here, capsys):
    assert run(*ALL) == 0
    reports = here / "outputs/ear/reports"
    found = tables.EXPLANATIONS.read(reports / "explanations_val.csv")
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv")
    wanted = manifest[manifest.exam_id.isin(["exam_x", "exam_y", "exam_z"])]
    assert {*zip(found.exam_id, found.side, strict=True)} == {*zip(wanted.exam_id, wanted.side, strict=True)}
    assert len(found) == len(wanted) * 2 * 2 and set(found.method) == {"integrated", "hirescam"}
    assert found.merge(wanted, on=["exam_id", "side", "label_code"]).shape[0] == len(found)
    for picture in {*found.picture}:
        content = (reports / picture).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 200_000
    hot = found[found.peak_k.notna()]                            # the study's affine is the identity: x is k
    np.testing.assert_array_equal(hot[["peak_k", "peak_row", "peak_column"]].to_numpy(float),
                                  hot[["peak_x_mm", "peak_y_mm", "peak_z_mm"]].to_numpy(float))
    images = image_facts(SPEC)
    assert [*found.image] == [images["slice_images"][k] for k in found.slice]
    assert [*found.image_z_mm] == [images["slice_z_mm"][k] for k in found.slice]
    first, second = (found[found["rank"] == rank].weight.to_numpy() for rank in (1, 2))
    assert (first >= second).all() and len(hot)
    assert f"{len(wanted)} ears: {len(wanted)} explained, 0 were there" in capsys.readouterr().out
    before = (reports / "explanations_val.csv").read_bytes()
    assert run(*ALL) == 0
    assert f"0 explained, {len(wanted)} were there" in capsys.readouterr().out
    assert (reports / "explanations_val.csv").read_bytes() == before
    assert run(*ALL, "--method", "gradcam", "--limit", 1) == 0
    assert "2 explained, 0 were there" in capsys.readouterr().out
    assert len(tables.EXPLANATIONS.read(reports / "explanations_val_first1.csv")) == 4


def test_an_ear_that_cannot_be_read_is_reported_and_the_others_are_explained(here, trained, tmp_path):
    ears = pd.DataFrame({"exam_id": ["exam_x", "no_such", "exam_y"], "side": "left"})
    store, task = trained.store(trained.config.data), trained.tasks[0]
    done = explain_ears(trained, store, ears, task, tmp_path, ONE_MAP)
    assert (done.made, done.kept, list(done.table.exam_id)) == (2, 0, ["exam_x", "exam_y"])
    assert (done.table.label_code == 0).all()                    # none was given
    assert list(done.rejects.exam_id) == ["no_such"] and done.rejects.reason.iloc[0] == "damaged_entry"


def test_an_ear_explained_by_other_weights_or_cut_short_is_explained_anew(here, trained, tmp_path):
    ears, store = pd.DataFrame({"exam_id": ["exam_x"], "side": "left"}), trained.store(trained.config.data)

    def made(network):
        return explain_ears(network, store, ears, network.tasks[0], tmp_path, ONE_MAP).made

    assert (made(trained), made(trained)) == (1, 0)
    (tmp_path / "exam_x_left.json").write_text('{"key": ')
    assert (made(trained), made(trained)) == (1, 0)
    (tmp_path / "exam_x_left.png").unlink()
    assert (made(trained), made(trained)) == (1, 0)
    with torch.no_grad():
        next(trained.model.parameters()).mul_(1.01)
    assert (made(trained), made(trained)) == (1, 0)


@pytest.mark.parametrize(("words", "says"), [
    ((), "one of the arguments --exam-id --all is required"),
    (("--all", "--exam-id", "exam_x"), "not allowed with"),
    (("--all", "--side", "left"), "leave --side away"),
    (("--exam-id", "exam_x"), "needs --side"),
    (("--exam-id", "exam_x", "--side", "left", "--split", "val"), "--split: is for --all"),
    (("--all", "--method", "guess"), "--method: got 'guess'"),
    (("--all", "--target", "ill"), "--target: got 'ill'"),
    (("--all", "--layer", "none", "--method", "gradcam"), "--layer: got 'none'"),
    (("--all", "--split", "test"), "--split test"),
])
def test_an_invalid_request_is_one_line(here, capfd, words, says):
    assert run("gradcam_ear2d", "--checkpoint", BEST, *words) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_nothing_that_identifies_a_person_is_written_beside_a_picture(here):
    assert run(*ALL) == 0
    for path in Path("outputs/ear/reports").rglob("*"):
        if path.suffix in (".json", ".csv") and "predictions" not in path.name:
            assert "patient_of" not in path.read_text()
    told = json.loads(Path("outputs/ear/reports/explanations_val/exam_x_left.json").read_text())
    assert set(told) == {"key", "rows"}
