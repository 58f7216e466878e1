"""Networks with several windows, neighboring slices and blocks are trained, resumed, evaluated, embedded and explained."""
import numpy as np
import pytest
from helpers.commands import run
from helpers.small_study import codes_in_turn, write_study

from medical_fenlei.config import DUAL, EAR2D, DataConfig, EarSpec
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.explanations.maps import ExplanationRequest, explain
from medical_fenlei.spatial import Affine
from medical_fenlei.trained.network import open_network

EARS = EarSpec(num_slices=6, image_size=32, extent="half")
VIEW = ("--windows", "bone,soft", "--slice-context", 1, "--model-slices", 4)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    sets = {"train": "abcdefgh", "tune": "tuvw", "val": "xyz"}
    write_study(folder, {name: codes_in_turn(exams, seed) for seed, (name, exams) in enumerate(sets.items())}, EARS)
    return folder


PLAIN = ("--pct", 100, "--cache-dir", "cache/dual_volumes", "--backbone", "test_resnet", "--epochs", 1, "--batch-size", 4,
         "--device", "cpu", "--precision", "fp32")


def test_a_run_of_several_channels_and_blocks_is_evaluated_embedded_and_explained(here, monkeypatch):
    monkeypatch.chdir(here)
    assert run("train_ear2d", *PLAIN, *VIEW, "--auto-batch", "--output-dir", "outputs/ear") == 0
    checkpoint = here / "outputs/ear/checkpoints/best.pt"
    assert run("eval_ear2d", "--pictures", 0, "--checkpoint", checkpoint, "--device", "cpu") == 0
    assert run("extract_embeddings_ear2d", "--checkpoint", checkpoint, "--split", "val", "--pct", 100, "--out-npz", "e.npz",
               "--device", "cpu") == 0
    trained = open_network(checkpoint, kind=EAR2D, device="cpu")
    assert trained.config.augment.windows == ("bone", "soft") and trained.config.input_shape == (4, 6, 32, 32)
    found = Embeddings.read(here / "e.npz")
    logit = found.embedding @ trained.model.head.weight.detach().numpy().T + trained.model.head.bias.detach().numpy()
    store = trained.store(DataConfig(cache_dir=here / "cache/dual_volumes"))
    for n, (exam, side) in enumerate(zip(found.exam_id, found.side, strict=True)):
        volume, task = np.array(store.read(exam, side)), trained.tasks[0]
        told = explain(trained, volume, Affine(np.eye(4)), task, ExplanationRequest(target="abnormal", methods=(), top=6))
        assert told.probability == pytest.approx(1 / (1 + np.exp(-logit[n, 0])), abs=1e-5)
        assert told.weights.sum() == pytest.approx(1, abs=1e-5)


def test_a_dual_run_of_several_windows_goes_on_and_predicts(here, monkeypatch):
    monkeypatch.chdir(here)
    words = ("--model", "dual_slice_attention", *VIEW, "--epochs", 2)
    assert run("train_dual", *PLAIN, *words, "--output-dir", "outputs/dual") == 0
    assert run("train_dual", "--resume", "outputs/dual") == 0
    assert run("predict_dual", "--checkpoint", "outputs/dual/checkpoints/best.pt", "--index-csv",
               "artifacts/splits_dual/100pct/val.csv", "--out-csv", "predictions.csv", "--device", "cpu") == 0
    trained = open_network(here / "outputs/dual/checkpoints/last.pt", kind=DUAL, device="cpu")
    assert trained.config.input_shape == (4, 6, 32, 32)
