"""A set of ears explained, and the training ears most like them: every ear once, work kept, faults told, nobody's own case."""
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, codes_in_turn, write_study

from medical_fenlei import tables
from medical_fenlei.config import EAR2D, EarSpec
from medical_fenlei.embeddings import extraction
from medical_fenlei.embeddings.agreement import label_agreement
from medical_fenlei.embeddings.extraction import training_embeddings
from medical_fenlei.embeddings.neighbors import find_neighbors
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.explanations.explain import explain_ears
from medical_fenlei.explanations.maps import ExplanationRequest
from medical_fenlei.trained.network import open_network

SPEC = EarSpec(num_slices=4, image_size=32, extent="half")
BEST = "outputs/ear/checkpoints/best.pt"
ONE_MAP = ExplanationRequest(methods=("hirescam",), top=1)
ALL = ("gradcam_ear2d", "--checkpoint", BEST, "--device", "cpu", "--all", "--top-k", 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    sets = {"train": "abcdefgh", "tune": "tu", "val": "xyz"}
    write_study(folder, {name: codes_in_turn(exams, seed) for seed, (name, exams) in enumerate(sets.items())}, SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("train_ear2d", "--pct", 100, "--cache-dir", CACHE, "--backbone", "test_resnet", "--epochs", 1,
                   "--batch-size", 4, "--device", "cpu", "--precision", "fp32", "--output-dir", "outputs/ear") == 0
    return folder


@pytest.fixture
def here(study, monkeypatch):
    monkeypatch.chdir(study)
    return study


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


def test_an_ear_that_cannot_be_read_is_told_and_the_others_go_on(here, trained, tmp_path):
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
def test_what_cannot_be_explained_is_one_line(here, capfd, words, says):
    assert run("gradcam_ear2d", "--checkpoint", BEST, *words) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1


def test_neighbors_of_a_set_are_training_ears_of_other_patients_with_a_picture_each(here, capsys):
    words = ("retrieve_neighbors_ear2d", "--checkpoint", BEST, "--device", "cpu", "--top-k", 3, "--resamples", 50)
    assert run(*words, "--split", "train") == 0
    folder = here / "outputs/ear/reports/neighbors"
    found = tables.NEIGHBORS.read(folder / "neighbors_train.csv")
    assert len(found) == 16 * 3 and (found.exam_id != found.neighbor_exam_id).all()     # an exam a patient
    assert set(found.neighbor_exam_id) <= {f"exam_{name}" for name in "abcdefgh"}
    assert len(list(folder.glob("exam_*.png"))) == 16
    assert "share" in capsys.readouterr().out
    assert run(*words, "--exam-id", "exam_x", "--side", "right") == 0
    one = tables.NEIGHBORS.read(folder / "exam_x_right.csv")
    assert len(one) == 3 and (folder / "exam_x_right.png").stat().st_size < 200_000
    whole = here / "whole"
    assert run(*words, "--split", "val", "--pictures", 0, "--out-dir", whole) == 0
    val = tables.NEIGHBORS.read(whole / "neighbors_val.csv")
    same = val[(val.exam_id == "exam_x") & (val.side == "right")]
    assert same.neighbor_exam_id.tolist() == one.neighbor_exam_id.tolist() and not list(whole.glob("*.png"))
    for wrong in (("--exam-id", "exam_x"), ("--split", "val", "--side", "left"), ("--exam-id", "exam_0", "--side", "left")):
        assert run(*words, *wrong) == 2


def test_embeddings_of_the_training_set_are_kept_until_the_network_changes(here, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "PART_EARS", 6)
    embed, looked = extraction.embed, []

    def counted(*given, samples=None, **more):
        looked.append(len(samples))
        if looked == [6, 6]:
            raise KeyboardInterrupt                              # stopped in the second part
        return embed(*given, samples=samples, **more)

    monkeypatch.setattr(extraction, "embed", counted)
    data = trained.config.data
    with pytest.raises(KeyboardInterrupt):
        training_embeddings(trained, data, tmp_path)
    found, _ = training_embeddings(trained, data, tmp_path)
    assert looked == [6, 6, 6, 4] and len(found) == 16
    again, _ = training_embeddings(trained, replace(data, limit=2), tmp_path)            # a limit is for query ears
    assert len(looked) == 4
    np.testing.assert_array_equal(again.embedding, found.embedding)
    part = sorted(tmp_path.glob("*/*.npz"))[0]
    part.write_bytes(part.read_bytes()[:100])
    mended, _ = training_embeddings(trained, data, tmp_path)
    assert looked[4:] == [6]
    np.testing.assert_array_equal(mended.embedding, found.embedding)
    with torch.no_grad():
        next(trained.model.parameters()).mul_(1.01)
    training_embeddings(trained, data, tmp_path)
    assert looked[5:] == [6, 6, 4] and len(list(tmp_path.iterdir())) == 1


def some(count, seed, prefix):
    rng = np.random.default_rng(seed)
    return Embeddings(
        embedding=rng.normal(size=(count, 5)).astype(np.float32), side=np.array(["left", "right"] * (count // 2)),
        exam_id=np.array([f"{prefix}{n // 2}" for n in range(count)]), label_code=rng.integers(0, 4, count).astype(np.int8),
        patient_key=np.array([f"p{n // 4}" for n in range(count)]))


def test_agreement_is_that_of_a_slow_count_and_chance_the_share_among_other_patients():
    train, query = some(40, 0, "t"), some(24, 1, "a")
    near = find_neighbors(train, query, top_k=3)
    table, found = label_agreement(near, train, query, n_resamples=100)
    labelled = [n for n in range(24) if query.label_code[n]]
    assert len(table) == len(labelled) and found.patients == len({*query.patient_key[labelled]})
    for row, n in zip(table.itertuples(), labelled, strict=True):
        own = [r for r in near.itertuples() if (r.exam_id, r.side) == (query.exam_id[n], query.side[n])]
        assert row.share == pytest.approx(np.mean([r.neighbor_label_code == query.label_code[n] for r in own]))
        assert row.first == (own[0].neighbor_label_code == query.label_code[n])
        others = [train.label_code[m] for m in range(40) if train.patient_key[m] != query.patient_key[n]]
        assert row.chance == pytest.approx(np.mean([code == query.label_code[n] for code in others]))
    assert found.values["ratio"].estimate == pytest.approx(table.share.mean() / table.chance.mean())
    assert found.values["share"].low <= found.values["share"].estimate <= found.values["share"].high


def test_nothing_that_identifies_a_person_stands_beside_a_picture(here):
    assert run(*ALL) == 0
    for path in Path("outputs/ear/reports").rglob("*"):
        if path.suffix in (".json", ".csv") and "predictions" not in path.name:
            assert "patient_of" not in path.read_text()
    told = json.loads(Path("outputs/ear/reports/explanations_val/exam_x_left.json").read_text())
    assert set(told) == {"key", "rows"}
