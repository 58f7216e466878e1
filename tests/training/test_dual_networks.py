"""Networks of the dual route train, are saved and loaded, and predict the same; what cannot be trained is refused at once."""
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.medicalnet import medicalnet, published
from helpers.small_study import SPEC, codes_in_turn, write_study

from medical_fenlei.config import DUAL, DataConfig, EarSpec, ModelConfig, RunConfig, TrainConfig
from medical_fenlei.data.dataset import EarDataset, group_by_exam
from medical_fenlei.data.sources import find_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.models.build import build_model
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_task
from medical_fenlei.trained.network import open_network
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.loop import Trainer
from medical_fenlei.training.predict import infer, prediction_tables

CPU = ComputeSettings(torch.device("cpu"), torch.float32)
SMALLEST = ("dual_resnet10_3d", "dual_unet_3d", "dual_vit_3d")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(model, *, channels=1, outputs=6, **options):
    return build_model(ModelConfig(model=model, **options), shape=(16, channels, 32, 32), outputs=outputs)


def predicted(network, dataset, augment, *, batch_size):
    """The table of six classes."""
    found = infer(network, dataset, augment=augment, compute=CPU, batch_size=batch_size)
    return prediction_tables(found, dataset.ears_in_order, [find_task("six_class")])["six_class"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Four exams to train on, one of them with a single ear, and two to tune."""
    folder = tmp_path_factory.mktemp("study")
    train = {**codes_in_turn("abc"), "exam_d": (None, 2)}
    return folder, write_study(folder, {"train": train, "tune": codes_in_turn("xy", seed=1)})


@pytest.fixture
def here(study, monkeypatch):
    """The study's folder; what a test trains there is gone afterwards."""
    monkeypatch.chdir(study[0])
    yield study[0]
    shutil.rmtree(study[0] / "outputs", ignore_errors=True)


@pytest.mark.parametrize("model", [*SMALLEST, "dual_slice_attention"])
def test_a_network_that_took_a_step_predicts_the_same_when_it_is_loaded_again(here, study, model):
    config = RunConfig(
        data=DataConfig(sample="exam", pct=100, cache_dir=here / "cache", label_task="six_class"), ears=SPEC,
        model=ModelConfig(model=model, backbone="test_resnet"), training=TrainConfig(epochs=1, batch_size=8, warmup_epochs=0))
    task = find_task("six_class")
    network = build_model(config.model, shape=config.input_shape, outputs=task.outputs)
    before = network.head.weight.detach().clone()
    sources = find_ears(config.data, study[1], [task], ("train", "tune"))
    train, tune = (sources.dataset(study[1], name) for name in ("train", "tune"))
    run_folder = Run.new(here / "outputs" / model, model)
    Trainer(config, run_folder, network, CPU, train, tune).fit()
    assert (network.head.weight != before).all()

    expected = predicted(network, train, config.augment, batch_size=4)
    facts, each = ["exam_id", "side", "label_code", "y_true"], [f"prob_{code}" for code in range(1, 7)]
    assert len(expected) == 7
    for name in ("best", "last"):
        trained = open_network(run_folder.checkpoint(name), kind=DUAL, device="cpu", precision="fp32")
        assert trained.config == config and trained.tasks == (task,)
        for batch_size in (1, 4):
            found = trained.predict(train, batch_size=batch_size)[task.name]
            assert found[facts].equals(expected[facts])
            np.testing.assert_allclose(found[each], expected[each], rtol=0, atol=1e-6)


def test_the_command_starts_from_the_weights_and_a_checkpoint_needs_their_file_no_more(here, tmp_path):
    torch.save({"state_dict": published(10)}, tmp_path / "w.pth")
    assert run("train_dual", "--pct", 100, "--epochs", 1, "--lr", 0, "--weights", tmp_path / "w.pth", "--batch-size", 4,
               "--device", "cpu", "--precision", "fp32", "--output-dir", "outputs/w") == 0
    log = (here / "outputs/w/train.log").read_text()
    assert f"{len(medicalnet(10))} of the network's" in log and "not used: conv_seg.0.bias" in log
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    weights = torch.load(tmp_path / "moved.pth", weights_only=True)["state_dict"]
    trained = open_network(here / "outputs/w/checkpoints/best.pt", kind=DUAL, device="cpu")
    for name, p in trained.model.encoder.named_parameters():
        assert torch.equal(p, weights[f"module.{name}"]), name


@pytest.mark.parametrize(("words", "says"), [
    (("--model", "dual_unet_3d", "--num-slices", 24), "--num-slices: got 24, dual_unet_3d takes multiples of 16"),
    (("--model", "dual_unet_3d", "--image-size", 40), "--image-size: got 40, dual_unet_3d takes multiples of 16"),
    (("--model", "dual_vit_3d", "--num-slices", 18), "--num-slices: got 18, dual_vit_3d takes multiples of 4"),
    (("--model", "dual_vit_3d", "--image-size", 100), "--image-size: got 100, dual_vit_3d takes multiples of 16"),
    (("--model", "dual_slice_attention", "--weights", "w.pth"), "--weights: is for 3D networks"),
    (("--model", "dual_resnet10_3d", "--backbone-weights", "w.pth"), "--backbone-weights: dual_resnet10_3d has no 2D backbone"),
    (("--model", "dual_vit_3d", "--pretrained"), "--pretrained: dual_vit_3d has no 2D backbone"),
    (("--model", "dual_slice_attention", "--pretrained", "--backbone-weights", "w.pth"), "--pretrained: either this or"),
    (("--model", "dual_resnet10_3d", "--weights", "absent.pth"), "--weights absent.pth: no such file"),
    (("--model", "dual_resnet99_3d"), "--model"),
    (("--crop-size", 96), "--crop-size"),
    (("--slice-context", 1), "--slice-context: got 1 with --model dual_resnet10_3d"),
    (("--slice-context", -1), "--slice-context: got -1, expected at least 0"),
    (("--windows", "bone,brain"), "--windows: got 'bone,brain', expected some of bone, soft, wide, each once"),
    (("--windows", "bone,bone"), "--windows: got 'bone,bone'"),
    (("--windows", ""), "--windows: got ''"),
    (("--model-slices", 0), "--model-slices: got 0, expected at least 1"),
    (("--model-slices", 40), "--model-slices: got 40, expected at most the 32 of --num-slices"),
    (("--model", "dual_vit_3d", "--model-slices", 6), "--model-slices: got 6, dual_vit_3d takes multiples of 4"),
])
def test_settings_that_cannot_be_trained_are_one_line_before_any_data_is_read(tmp_path, monkeypatch, capfd, words, says):
    monkeypatch.chdir(tmp_path)
    assert run("train_dual", *words) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not list(tmp_path.rglob("*.*"))


def test_a_backbone_that_cannot_take_the_size_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, {"train": codes_in_turn("ab"), "tune": codes_in_turn("x")}, replace(SPEC, image_size=33))
    assert run("train_dual", "--model", "dual_slice_attention", "--backbone", "test_vit", "--pct", 100) == 2
    said = capfd.readouterr().err.splitlines()
    assert "--backbone test_vit: cannot be used with slices of 33" in said[-1] and not (tmp_path / "outputs").exists()


def test_a_cache_whose_size_the_network_cannot_take_is_refused_before_it_is_read(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    EarStore(tmp_path / "cache/dual_volumes", EarSpec(num_slices=24, image_size=32, extent="half")).write_spec()
    assert run("train_dual", "--model", "dual_unet_3d") == 2
    said = capfd.readouterr().err
    assert "num-slices: got 24, dual_unet_3d takes multiples of 16" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_both_ears_of_an_exam_are_predicted_as_each_by_itself(study):
    data = DataConfig(sample="exam", pct=100, splits_root=study[0] / "artifacts/splits_dual",
                      manifest_csv=study[0] / "artifacts/manifest_ears.csv", cache_dir=study[0] / "cache")
    ears = find_ears(data, study[1], None, ("train",)).ears["train"]
    network = build("dual_resnet10_3d").eval()
    one, two = (predicted(network, EarDataset(study[1], ears, groups), RunConfig().augment, batch_size=3)
                for groups in (None, group_by_exam(ears)))
    each = [f"prob_{code}" for code in range(1, 7)]
    one, two = (frame.set_index(["exam_id", "side"])[each].sort_index() for frame in (one, two))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6)


def test_a_step_with_one_ear_of_one_voxel_is_one_line_and_not_a_traceback(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, {"train": {"exam_a": (None, 3), "exam_b": (5, 1)}})
    words = ("--pct", 100, "--epochs", 1, "--batch-size", 1, "--balance", "none", "--device", "cpu")
    assert run("train_dual", *words) == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert "--batch-size" in said


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_gradients_on_a_cpu_are_those_of_float32_whatever_the_precision(precision):
    """In bfloat16 those of a convolution over a depth of two were garbage (and silently so)."""
    torch.manual_seed(0)
    network = build_model(ModelConfig(model="dual_resnet10_3d", dropout=0), shape=(8, 1, 32, 32), outputs=1)
    volume = torch.rand(3, 8, 1, 32, 32)
    found = []
    for compute in (ComputeSettings.choose("cpu", "fp32"), ComputeSettings.choose("cpu", precision)):
        network.zero_grad()
        with compute.autocast():
            logits = network(volume).logits
        logits.sum().backward()
        found.append([p.grad.clone() for p in network.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
