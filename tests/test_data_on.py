"""A run learns and predicts the same, bit for bit, wherever `--data-on` stores its ears."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, codes_in_turn, write_study

from medical_fenlei.config import EarSpec
from medical_fenlei.data.sources import find_ears
from medical_fenlei.data.storage import Placement
from medical_fenlei.runs import Run
from medical_fenlei.trained.network import open_network

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODES = ("device", "memory", "disk")
FIT = ("--pct", 100, "--epochs", 2, "--batch-size", 4, "--backbone", "test_resnet", "--lr", 1e-3, "--cache-dir", CACHE,
       "--early-stop-metric", "accuracy", "--device", "cpu", "--precision", "fp32", "--read-workers", 2)
ROUTES = {"ear2d": ("train_ear2d", "--label-task", "normal_vs_abnormal"),
          "dual": ("train_dual", "--model", "dual_slice_attention", "--label-task", "six_class")}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Ten exams to train on, of which two lack an ear and one a label; three to tune, of which one lacks an ear."""
    folder = tmp_path_factory.mktemp("study")
    train = {**codes_in_turn("abcdefg"), "exam_h": (None, 2), "exam_i": (5, None), "exam_j": (0, 5)}
    tune = {**codes_in_turn("xy", seed=1), "exam_z": (5, None)}
    write_study(folder, {"train": train, "tune": tune}, EarSpec(num_slices=4, image_size=32, extent="half"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module", params=ROUTES)
def runs(study, request):
    """The route, and its run with the ears in each of the three places."""
    command, *words = ROUTES[request.param]
    folders = {on: study / f"outputs/{request.param}_{on}" for on in MODES}
    for on, folder in folders.items():
        assert run(command, *words, *FIT, "--data-on", on, "--output-dir", folder) == 0
    return request.param, folders


def test_two_epochs_give_the_same_weights_and_numbers_to_the_last_bit(runs):
    kind, folders = runs
    found = {on: open_network(folder / "checkpoints/last.pt", kind=kind, device="cpu") for on, folder in folders.items()}
    lines = {on: [{k: v for k, v in line.items() if k not in ("seconds", "ears_per_s", "waited", "memory_gb")}
                  for line in Run(folder).read_metrics()] for on, folder in folders.items()}
    weights = found["disk"].checkpoint.weights
    assert len(lines["disk"]) == 2 and lines["disk"][0]["train_loss"] != lines["disk"][1]["train_loss"]
    for on in ("device", "memory"):
        other = found[on].checkpoint.weights
        assert other.keys() == weights.keys() and all(torch.equal(other[name], weights[name]) for name in weights), on
        assert repr(lines[on]) == repr(lines["disk"]), on                                            # repr: NaN is NaN


def test_predictions_are_the_same_to_the_last_bit(runs):
    kind, folders = runs
    trained = open_network(folders["disk"] / "checkpoints/last.pt", kind=kind, device="cpu")
    frames, vectors = [], []
    for on in MODES:
        data = replace(trained.config.data, data_on=on)
        store = trained.store(data)
        sources = find_ears(data, store, trained.tasks, ("train", "tune"))
        dataset = sources.dataset(store, "train", sources.placement(store, CPU))
        assert dataset.placement.on == on and len(dataset.ears_in_order) > 12
        frames += trained.predict(dataset).values()
        vectors.append(trained.infer(dataset, batch_size=3).embedding)
    for frame, vector in zip(frames[1:], vectors[1:], strict=True):
        pd.testing.assert_frame_equal(frame, frames[0], check_exact=True)
        np.testing.assert_array_equal(vector, vectors[0])


def test_the_log_states_where_the_ears_are_stored_and_their_size(runs):
    _, folders = runs
    words = {"device": "on cpu", "memory": "in memory", "disk": "on disk, 2 readers"}
    for on, folder in folders.items():
        assert f"0.00 GB of ears {words[on]}" in next(folder.glob("*.log")).read_text(encoding="utf-8"), on


@pytest.mark.parametrize("runs", ["ear2d"], indirect=True)
def test_commands_on_a_trained_network_may_store_the_ears_elsewhere(runs, study, monkeypatch):
    _, folders = runs
    chosen, choose = [], Placement.choose
    monkeypatch.setattr(Placement, "choose", lambda *args, **kw: chosen.append(choose(*args, **kw)) or chosen[-1])
    common = ("--checkpoint", folders["disk"] / "checkpoints/last.pt", "--device", "cpu")
    assert run("extract_embeddings_ear2d", *common, "--out-npz", study / "e.npz") == 0
    assert run("extract_embeddings_ear2d", *common, "--out-npz", study / "e.npz", "--data-on", "memory") == 0
    assert run("eval_ear2d", "--pictures", 0, *common, "--split", "tune", "--data-on", "device", "--resamples", 20) == 0
    assert [where.on for where in chosen] == ["disk", "memory", "device"]
