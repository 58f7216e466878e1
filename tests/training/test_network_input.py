"""Networks that see several windows, neighbors and blocks of slices: trained, saved, asked, explained."""
import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.small_study import codes_in_turn, write_study

from medical_fenlei.config import DUAL, EAR2D, AugmentConfig, DataConfig, EarSpec, ModelConfig, RunConfig
from medical_fenlei.data.augment import window
from medical_fenlei.data.blocks import block_starts
from medical_fenlei.embeddings.vectors import Embeddings
from medical_fenlei.explanations.maps import ExplanationRequest, explain
from medical_fenlei.models.build import build_model
from medical_fenlei.spatial import Affine
from medical_fenlei.trained.network import open_network
from medical_fenlei.training.predict import forward_blocks

EARS = EarSpec(num_slices=6, image_size=32, extent="half")
VIEW = ("--windows", "bone,soft", "--slice-context", 1, "--model-slices", 4)


def network(config):
    torch.manual_seed(0)
    return build_model(config.model, shape=config.input_shape, outputs=3).eval()


def ears(slices=6, edge=32):
    return torch.from_numpy(np.random.default_rng(0).integers(-1000, 2000, (3, slices, edge, edge)).astype(np.int16))


@pytest.mark.parametrize("seen", [1, 3, 4, 5])
@pytest.mark.parametrize("pooling", ["attention", "transformer", "mean"])
@torch.no_grad()
def test_an_ear_is_the_mean_of_its_blocks_and_attention_is_mapped_back_onto_its_slices(pooling, seen):
    config = RunConfig(ears=EARS, model=ModelConfig(backbone="test_resnet", pooling=pooling),
                       augment=AugmentConfig(windows=("bone", "soft"), slice_context=1, model_slices=seen))
    model, volume = network(config), ears()
    found = forward_blocks(model, volume, config.augment)
    assert (found.attention is None) == (pooling == "mean")
    for n in range(3):
        logits, embedding, attention = [], [], [[] for _ in range(6)]
        for start in block_starts(6, seen):
            one = model(window(volume[n:n + 1, start:start + seen], config.augment))
            logits.append(one.logits[0].numpy())
            embedding.append(one.embedding[0].numpy())
            for k in range(seen):
                attention[start + k].append(float(one.attention[0, k]) if one.attention is not None else np.nan)
        np.testing.assert_allclose(found.logits[n], np.mean(logits, 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.embedding[n], np.mean(embedding, 0), rtol=1e-4, atol=1e-5)
        if found.attention is not None:
            weight = np.array([np.mean(said) for said in attention])
            np.testing.assert_allclose(found.attention[n], weight / weight.sum(), rtol=1e-4)


@pytest.mark.parametrize("seen", [None, 6])
@torch.no_grad()
def test_all_slices_at_once_are_what_the_network_says_bit_for_bit(seen):
    config = RunConfig(ears=EARS, model=ModelConfig(backbone="test_resnet"), augment=AugmentConfig(model_slices=seen))
    model = network(config)
    output = forward_blocks(model, ears(), config.augment)
    for found, expected in zip(output, model(window(ears(), config.augment)), strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_a_3d_network_sees_windows_as_channels_and_blocks_as_volumes():
    config = RunConfig(ears=EarSpec(num_slices=24, image_size=32, extent="half"), model=ModelConfig(model="dual_vit_3d"),
                       augment=AugmentConfig(windows=("bone", "soft"), model_slices=16))
    assert config.input_shape == (16, 2, 32, 32)
    model, volume = network(config), ears(24)
    found = forward_blocks(model, volume, config.augment)
    expected = [model(window(volume[:, start:start + 16], config.augment)).logits for start in (0, 8)]
    torch.testing.assert_close(found.logits, (expected[0] + expected[1]) / 2)
    assert found.attention is None


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


@torch.no_grad()
def test_the_batch_an_ear_comes_in_changes_no_answer():
    config = RunConfig(ears=EARS, model=ModelConfig(backbone="test_resnet"),
                       augment=AugmentConfig(windows=("bone", "soft"), slice_context=1, model_slices=4))
    model, volume = network(config), ears()
    together = forward_blocks(model, volume, config.augment).logits
    alone = torch.cat([forward_blocks(model, volume[n:n + 1], config.augment).logits for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
