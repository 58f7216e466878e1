"""The networks of the dual route: one training step, saved, loaded; published weights; what they refuse."""
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import run
from helpers.small_study import SPEC, codes_in_turn, write_study
from safetensors.torch import save_file

from medical_fenlei.config import DUAL, DataConfig, EarSpec, ModelConfig, RunConfig, TrainConfig
from medical_fenlei.data.dataset import EarDataset, group_by_exam
from medical_fenlei.data.sources import find_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.models.build import build_model
from medical_fenlei.models.ear3d import build_encoder
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_task
from medical_fenlei.trained.network import open_network
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.loop import Trainer
from medical_fenlei.training.predict import infer, prediction_tables

CPU = ComputeSettings(torch.device("cpu"), torch.float32)
SMALLEST = ("dual_resnet10_3d", "dual_unet_3d", "dual_vit_3d")
BASIC, BOTTLENECK = (3, 3), (1, 3, 1)
RESNETS = {10: (BASIC, (1, 1, 1, 1)), 18: (BASIC, (2, 2, 2, 2)), 34: (BASIC, (3, 4, 6, 3)), 50: (BOTTLENECK, (3, 4, 6, 3)),
           101: (BOTTLENECK, (3, 4, 23, 3)), 152: (BOTTLENECK, (3, 8, 36, 3)), 200: (BOTTLENECK, (3, 24, 36, 3))}
"""Kernels of a block, and how many blocks each of the four layers has (He 2016, arXiv:1512.03385, table 1)."""
WITHOUT_WEIGHTS = (18, 34)
"""Depths whose shortcuts have none in the published files of MedicalNet."""


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(model, *, channels=1, outputs=6, **options):
    return build_model(ModelConfig(model=model, **options), shape=(16, channels, 32, 32), outputs=outputs)


def predicted(network, dataset, augment, *, batch_size):
    """The table of six classes."""
    found = infer(network, dataset, augment=augment, compute=CPU, batch_size=batch_size)
    return prediction_tables(found, dataset.ears_in_order, [find_task("six_class")])["six_class"]


def medicalnet(depth):
    """Name and shape of each tensor in a published file of MedicalNet, without the head for segmentation."""
    kernels, blocks = RESNETS[depth]
    expansion = 4 if kernels == BOTTLENECK else 1
    shapes = {"conv1.weight": (64, 1, 7, 7, 7), **norm("bn1", 64)}
    channels = 64
    for layer, number in enumerate(blocks):
        width = 64 * 2**layer
        for block in range(number):
            at, into = f"layer{layer + 1}.{block}", channels
            channels = width * expansion
            for n, kernel in enumerate(kernels, start=1):
                out = channels if n == len(kernels) else width
                shapes |= {f"{at}.conv{n}.weight": (out, into, kernel, kernel, kernel), **norm(f"{at}.bn{n}", out)}
                into = out
            first = 64 if layer == 0 else 32 * 2**layer * expansion
            if block == 0 and (layer > 0 or first != channels) and depth not in WITHOUT_WEIGHTS:
                shapes |= {f"{at}.downsample.0.weight": (channels, first, 1, 1, 1), **norm(f"{at}.downsample.1", channels)}
    return shapes


def norm(at, channels):
    return {**{f"{at}.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")},
            f"{at}.num_batches_tracked": ()}


def published(depth):
    """Such tensors with random values, under the names of the published files, with a head for segmentation."""
    tensors = {f"module.{name}": torch.rand(shape) if shape else torch.tensor(7) for name, shape in medicalnet(depth).items()}
    return {**tensors, "module.conv_seg.0.weight": torch.rand(512, 32, 2, 2, 2), "module.conv_seg.0.bias": torch.rand(32)}


@pytest.mark.parametrize("depth", RESNETS)
def test_a_residual_network_has_the_tensors_of_medicalnet_by_name_and_shape(depth):
    with torch.device("meta"):
        encoder, features = build_encoder(f"dual_resnet{depth}_3d", shape=(16, 1, 32, 32))
        assert encoder(torch.zeros(2, 1, *SPEC.shape)).shape == (2, features)
    assert {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()} == medicalnet(depth)


def test_the_first_convolution_keeps_all_slices_and_halves_rows_and_columns():
    model, shapes = build("dual_resnet10_3d"), []
    model.encoder.conv1.register_forward_hook(lambda _module, _given, out: shapes.append(tuple(out.shape)))
    model.eval()(torch.rand(1, 12, 1, 40, 56))
    assert shapes == [(1, 64, 12, 20, 28)]


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


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("model", [*SMALLEST, "dual_resnet18_3d"])
def test_every_weight_of_a_3d_network_learns(model, channels):
    network = build(model, channels=channels).train()
    F.cross_entropy(network(torch.rand(2, 16, channels, 32, 32) * 2 - 1).logits, torch.tensor([1, 4])).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert not without
    still = [name for name, p in network.named_parameters() if p.ndim > 1 and not p.grad.abs().max() > 0]
    assert not still                                             # a bias before a normalisation may


@pytest.mark.parametrize("model", SMALLEST)
def test_logits_and_embedding_stay_in_float32_under_autocast(model):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = build(model).eval()(torch.rand(2, 16, 1, 32, 32) * 2 - 1)
    assert found.logits.shape == (2, 6) and found.attention is None and len(found.embedding) == 2
    assert found.logits.dtype == found.embedding.dtype == torch.float32


@pytest.mark.parametrize("model", SMALLEST)
def test_one_ear_does_not_depend_on_the_others_of_its_batch(model):
    network, volume = build(model).eval(), torch.rand(3, 16, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        together, alone = network(volume).logits, torch.cat([network(ear[None]).logits for ear in volume])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("size", "layer"), [((5, 8, 7), 2), ((4, 4, 4), 3), ((1, 3, 2), 4)])
def test_a_shortcut_without_weights_is_pooling_with_a_kernel_of_one_and_channels_of_zero(size, layer):
    encoder, _ = build_encoder("dual_resnet18_3d", shape=(16, 1, 32, 32))
    shortcut = getattr(encoder, f"layer{layer}")[0].downsample
    channels = 64 * 2 ** (layer - 2)
    one = torch.randn(2, channels, *size, requires_grad=True)
    other = one.detach().clone().requires_grad_()
    pooled = F.avg_pool3d(other, kernel_size=1, stride=2)
    expected = torch.cat([pooled, torch.zeros_like(pooled)], 1)
    found = shortcut(one)
    assert torch.equal(found, expected)
    upstream = torch.randn_like(expected)
    found.backward(upstream)
    expected.backward(upstream)
    assert torch.equal(one.grad, other.grad) and one.grad.abs().sum() > 0


def test_a_gradient_reaches_the_first_convolution_through_the_shortcuts_alone():
    network = build("dual_resnet18_3d", dropout=0.0).train()
    for layer in (2, 3, 4):
        for block in getattr(network.encoder, f"layer{layer}"):
            for name in ("bn1", "bn2"):
                torch.nn.init.zeros_(getattr(block, name).weight)                               # nothing comes through a block
    network(torch.randn(2, 16, 1, 32, 32)).logits.square().sum().backward()
    assert network.encoder.conv1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("form", ["state_dict", "plain", "safetensors"])
def test_published_weights_are_taken_whole_and_what_did_not_match_is_named(tmp_path, caplog, form):
    tensors, path = published(10), tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "epoch": 20} if form == "state_dict" else tensors, path)
    with caplog.at_level("INFO", logger="medical_fenlei"):
        encoder = build("dual_resnet10_3d", weights=path).encoder
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, tensors[f"module.{name}"]), name
    number = len(medicalnet(10))
    assert f"{number} of the network's {number} tensors matched" in caplog.text
    assert "2 tensors are in the file, but not used: conv_seg.0.bias, conv_seg.0.weight" in caplog.text
    assert "random" not in caplog.text


def test_weights_of_another_depth_fill_what_fits_and_the_rest_is_named(tmp_path, caplog):
    torch.save({"state_dict": published(10)}, tmp_path / "w.pth")
    with caplog.at_level("INFO", logger="medical_fenlei"):
        encoder = build("dual_resnet18_3d", weights=tmp_path / "w.pth").encoder
    own, theirs = medicalnet(18), medicalnet(10)
    assert f"{len(own.keys() & theirs)} of the network's {len(own)} tensors matched" in caplog.text
    assert f"{len(own.keys() - theirs)} tensors are not in the file, so random: layer1.1.bn1.bias" in caplog.text
    assert f"{len(theirs.keys() - own) + 2} tensors are in the file, but not used: conv_seg.0.bias" in caplog.text
    assert encoder.conv1.weight.min() >= 0                                                       # theirs are drawn from 0 to 1


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


def test_a_file_of_which_nothing_fits_is_refused(tmp_path):
    torch.save({"state_dict": published(10)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"^--weights .*w\.pth: none of its \d+ tensors fits"):
        build("dual_vit_3d", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(("words", "says"), [
    (("--model", "dual_unet_3d", "--num-slices", 24), "--num-slices: got 24, dual_unet_3d takes multiples of 16"),
    (("--model", "dual_unet_3d", "--image-size", 40), "--image-size: got 40, dual_unet_3d takes multiples of 16"),
    (("--model", "dual_vit_3d", "--num-slices", 18), "--num-slices: got 18, dual_vit_3d takes multiples of 4"),
    (("--model", "dual_vit_3d", "--image-size", 100), "--image-size: got 100, dual_vit_3d takes multiples of 16"),
    (("--model", "dual_slice_attention", "--backbone", "test_vit", "--image-size", 33), "--backbone test_vit: cannot be used"),
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
def test_what_cannot_be_trained_is_one_line_before_any_data_is_looked_for(tmp_path, monkeypatch, capfd, words, says):
    monkeypatch.chdir(tmp_path)
    assert run("train_dual", *words) == 2
    said = capfd.readouterr().err
    assert says in said and len(said.splitlines()) == 1
    assert not list(tmp_path.rglob("*.*"))


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


def test_one_ear_of_one_voxel_in_a_step_is_one_line_and_not_a_traceback(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, {"train": {"exam_a": (None, 3), "exam_b": (5, 1)}})
    words = ("--pct", 100, "--epochs", 1, "--batch-size", 1, "--balance", "none", "--device", "cpu")
    assert run("train_dual", *words) == 2
    said = capfd.readouterr().err
    assert "--batch-size" in said and len(said.splitlines()) == 1


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
