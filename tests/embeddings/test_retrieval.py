"""Retrieval of neighbors: training ears of other patients, each with a picture; embeddings are kept while the network stays."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.small_run import BEST
from PIL import Image

from medical_fenlei import tables
from medical_fenlei.config import EAR2D
from medical_fenlei.embeddings import extraction
from medical_fenlei.embeddings.agreement import label_agreement
from medical_fenlei.embeddings.extraction import training_embeddings
from medical_fenlei.embeddings.neighbors import find_neighbors
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.trained.network import open_network


@pytest.fixture
def here(small_run, copied):
    return copied(small_run)


@pytest.fixture
def trained(here):
    return open_network(here / BEST, kind=EAR2D, device="cpu")


def shows_green(picture):
    """Whether a frame of that colour is in the picture beyond its legend, which is grey."""
    red, green, blue = np.asarray(Image.open(picture).convert("RGB"), int).transpose(2, 0, 1)
    return ((green > red + 60) & (green > blue + 60)).sum() > 100


def test_neighbors_of_a_set_are_training_ears_of_other_patients_with_a_picture_each(here, capsys):
    words = ("retrieve_neighbors_ear2d", "--checkpoint", BEST, "--device", "cpu", "--top-k", 3, "--resamples", 50)
    assert run(*words, "--split", "train") == 0
    folder = here / "outputs/ear/reports/neighbors"
    found = tables.NEIGHBORS.read(folder / "neighbors_train.csv")
    assert len(found) == 16 * 3 and (found.exam_id != found.neighbor_exam_id).all()     # an exam a patient
    assert set(found.neighbor_exam_id) <= {f"exam_{name}" for name in "abcdefgh"}
    assert len(list(folder.glob("exam_*.png"))) == 16
    for (exam_id, side), own in found.groupby(["exam_id", "side"]):
        assert shows_green(folder / f"{exam_id}_{side}.png") == (own.label_code == own.neighbor_label_code).any()
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


def test_embeddings_of_the_training_set_are_kept_until_the_network_changes(here, trained, monkeypatch):
    folder = here / "kept"
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
        training_embeddings(trained, data, folder)
    found, _ = training_embeddings(trained, data, folder)
    assert looked == [6, 6, 6, 4] and len(found) == 16
    again, _ = training_embeddings(trained, replace(data, limit=2), folder)            # a limit is for query ears
    assert len(looked) == 4
    np.testing.assert_array_equal(again.embedding, found.embedding)
    part = sorted(folder.glob("*/*.npz"))[0]
    part.write_bytes(part.read_bytes()[:100])
    mended, _ = training_embeddings(trained, data, folder)
    assert looked[4:] == [6]
    np.testing.assert_array_equal(mended.embedding, found.embedding)
    (folder / "embeddings_of_mine").mkdir()
    (part.parent / "notes.txt").touch()
    with torch.no_grad():
        next(trained.model.parameters()).mul_(1.01)
    training_embeddings(trained, data, folder)
    left = {path.name for path in folder.rglob("*") if path.is_dir()}
    assert looked[5:] == [6, 6, 4] and left > {"embeddings_of_mine", part.parent.name} and len(left) == 3
    assert [path.name for path in part.parent.iterdir()] == ["notes.txt"]                # a file of somebody else


def random_ears(count, seed, prefix):
    rng = np.random.default_rng(seed)
    return Embeddings(
        embedding=rng.normal(size=(count, 5)).astype(np.float32), side=np.array(["left", "right"] * (count // 2)),
        exam_id=np.array([f"{prefix}{n // 2}" for n in range(count)]), label_code=rng.integers(0, 4, count).astype(np.int8),
        patient_key=np.array([f"p{n // 4}" for n in range(count)]))


def test_agreement_equals_a_slow_count_and_chance_is_the_share_among_other_patients():
    train, query = random_ears(40, 0, "t"), random_ears(24, 1, "a")
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
