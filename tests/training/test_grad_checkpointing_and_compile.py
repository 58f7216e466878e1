"""Gradient checkpointing and torch.compile change the time and memory of a step, not what is learned."""
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, MANIFEST, SPLITS, codes_in_turn, write_study
from torch import nn

from medical_fenlei.config import EarSpec, ModelConfig
from medical_fenlei.errors import UserError
from medical_fenlei.models.build import build_model
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.trained.network import open_network
from medical_fenlei.training import batch_size
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.step import Stepper, moving_average

EARS = 6
NETS = {"resnet10t": ((4, 1, 32, 32), 0.8), "test_convnext": ((4, 1, 32, 32), 0.3), "test_vit": ((4, 1, 32, 32), 0.2),
        "dual_resnet10_3d": ((4, 1, 16, 16), 0.9), "dual_resnet50_3d": ((8, 1, 32, 32), 0.6),
        "dual_unet_3d": ((16, 1, 16, 16), 0.4), "dual_vit_3d": ((4, 1, 32, 32), 0.2)}
"""Input shape of an ear, and largest share of activations that recomputation may leave, by network."""
nets = pytest.mark.parametrize("net", NETS)


def build(net, *, again):
    """With dropout wherever it can have some."""
    torch.manual_seed(0)
    config = ModelConfig(model=net, dropout=0.3) if net.startswith("dual") else ModelConfig(backbone=net, dropout=0.3)
    model = build_model(config, shape=NETS[net][0], outputs=2)
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout3d):
            module.p = 0.3
    if again:
        model.enable_grad_checkpointing()
    return model


def volume(net, seed=0):
    return torch.randn(EARS, *NETS[net][0], generator=torch.Generator().manual_seed(seed))


def after_two_steps(model, net, *, again):
    """The first as a whole, the second in three parts: losses, the last gradients, the state."""
    stepper = Stepper(model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True),
                      torch.amp.GradScaler("cpu", enabled=False), clip_norm=1.0, grad_checkpointing=again)
    losses = []
    for n, stepper.micro_batches in enumerate((1, 3)):
        ears = volume(net, n)

        def sums(part, ears=ears):
            return model(ears[part]).logits.square().sum(), torch.tensor(part.stop - part.start)

        losses.append(float(stepper(EARS, sums, seed=n, describe=lambda: "some")))
    return losses, [p.grad for p in model.parameters()], model.state_dict()


@nets
def test_a_step_with_recomputation_is_the_same_step_to_the_last_bit(net):
    plain, again = (after_two_steps(build(net, again=again), net, again=again) for again in (False, True))
    assert plain[0] == again[0] and list(plain[2]) == list(again[2])
    for a, b in zip(plain[1], again[1], strict=True):
        assert torch.equal(a, b) and a.isfinite().all()
    for name, value in plain[2].items():
        assert torch.equal(value, again[2][name]), name
        if name.endswith("num_batches_tracked"):
            assert value == 1 + 3                                # not twice as often


def kept(model, ears):
    """Bytes for the backward pass, each memory once."""
    sizes = {}

    def weigh(tensor):
        memory = tensor.untyped_storage()
        sizes[memory.data_ptr()] = memory.nbytes(), tensor               # held: or the next may take its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        model(ears).logits.sum()
    return sum(size for size, _ in sizes.values())


@nets
def test_fewer_activations_are_kept_for_the_backward_pass(net):
    plain, again = (build(net, again=again).train() for again in (False, True))
    ears = volume(net)
    by_an_ear = [kept(model, ears) - kept(model, ears[:EARS // 2]) for model in (plain, again)]
    assert 0 < by_an_ear[1] < NETS[net][1] * by_an_ear[0]


def times_used(model, net):
    """Return how often each layer computes in a step."""
    times = Counter()
    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda *_, name=name: times.update([name]))
    model.train()(volume(net)[:2]).logits.sum().backward()
    return times


@nets
def test_no_layer_is_computed_a_third_time(net):
    plain, again = (times_used(build(net, again=again), net) for again in (False, True))
    assert {again[name] / count for name, count in plain.items()} == {1, 2}


@nets
def test_a_copy_of_a_network_with_recomputation_uses_its_own_weights(net):
    """The running mean is such a copy."""
    model = build(net, again=True)
    mean = moving_average(model, 0.5).module
    with torch.no_grad():
        for p in mean.parameters():
            p.mul_(1.1)
        for p in model.parameters():
            p.fill_(torch.nan)
    same = build(net, again=False)
    same.load_state_dict(mean.state_dict())
    ears = volume(net)
    for training in (False, True):                               # the other way round the copy's statistics would count twice
        outputs = []
        for network in (mean, same):
            torch.manual_seed(1)
            outputs.append(network.train(training)(ears).logits)
            outputs[-1].square().sum().backward()
        assert torch.equal(*outputs) and outputs[0].isfinite().all()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mean.parameters(), same.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_a_backbone_without_recomputation_is_refused():
    of_timm = build_model(ModelConfig(backbone="cs3darknet_focus_s"), shape=(2, 1, 32, 32), outputs=1).backbone
    for backbone in (nn.Flatten(), of_timm):
        with pytest.raises(UserError, match=r"^--grad-checkpointing: [^\n]+--grad-accum[^\n]*$"):
            Ear2d(backbone, 4, pooling="mean", dropout=0, outputs=1).enable_grad_checkpointing()


SPEC = EarSpec(num_slices=16, image_size=16, extent="half")
DATA = ("--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100, "--device", "cpu",
        "--precision", "fp32")
TRAIN = ("train_ear2d", *DATA, "--backbone", "test_resnet", "--batch-size", 6, "--epochs", 2, "--dropout", 0.3)
DUAL = ("train_dual", *DATA, "--model", "dual_unet_3d", "--batch-size", 3, "--epochs", 2, "--dropout", 0.3)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Twelve ears to train on, two of each code."""
    write_study(tmp_path, {"train": codes_in_turn("abcdef"), "tune": codes_in_turn("gh"), "val": codes_in_turn("ij")}, SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checkpoint(name, which="last"):
    return torch.load(Path("outputs") / name / f"checkpoints/{which}.pt", weights_only=True)


def lines(name, *but):
    """Return the lines of metrics.jsonl without the figures that differ from run to run."""
    but = {"seconds", "ears_per_s", "waited", "memory_gb", *but}
    return [{key: value for key, value in json.loads(line).items() if key not in but}
            for line in (Path("outputs") / name / "metrics.jsonl").read_text().splitlines()]


def assert_same_bits(one, other):
    for which in ("last", "best"):
        own, theirs = (checkpoint(name, which)["weights"] for name in (one, other))
        assert list(own) == list(theirs) and all(torch.equal(value, theirs[key]) for key, value in own.items())
    np.testing.assert_equal(lines(one), lines(other))


@pytest.mark.parametrize("command", [(*TRAIN, "--ema", 0.7, "--grad-accum", 2, "--freeze-backbone-epochs", 1), DUAL],
                         ids=lambda command: command[0])
def test_a_run_with_recomputation_is_the_same_run_and_its_checkpoint_opens_like_any(study, command):
    assert run(*command, "--output-dir", "outputs/plain") == 0
    assert run(*command, "--grad-checkpointing", "--output-dir", "outputs/again") == 0
    assert checkpoint("again")["config"]["training"]["grad_checkpointing"]
    assert_same_bits("plain", "again")
    kind = checkpoint("again")["kind"]
    one, other = (open_network(study / f"outputs/{name}/checkpoints/best.pt", kind=kind, device="cpu").model.eval()
                  for name in ("plain", "again"))
    ears = torch.randn(3, *SPEC.shape)[:, :, None]
    with torch.inference_mode():
        assert torch.equal(one(ears).logits, other(ears).logits)


def test_a_backbone_without_recomputation_is_one_line_and_leaves_no_folder(study, capfd):
    assert run(*TRAIN, "--backbone", "cs3darknet_focus_s", "--grad-checkpointing", "--output-dir", "outputs/run") == 2
    said = capfd.readouterr().err
    assert "--grad-checkpointing: " in said and len(said.splitlines()) == 1 and not (study / "outputs/run").exists()


def test_the_batch_that_is_found_is_larger_with_recomputation(study, monkeypatch):
    model = build_model(ModelConfig(backbone="test_vit"), shape=(16, 1, 16, 16), outputs=1)
    of_one = batch_size._bytes_per_sample(model, (1, 16, 1, 16, 16), ComputeSettings(torch.device("cpu"), torch.float32))
    monkeypatch.setattr(batch_size, "free_memory", lambda: 1.5 * of_one / batch_size.CPU_SHARE)
    for name, words in {"plain": (), "again": ("--grad-checkpointing",)}.items():
        command = (*TRAIN, "--backbone", "test_vit", "--epochs", 1, "--auto-batch", *words)
        assert run(*command, "--output-dir", f"outputs/{name}") == 0
    assert [checkpoint(name)["config"]["training"]["batch_size"] for name in ("plain", "again")] == [1, 3]


class Tiny(nn.Module):
    """An encoder that is compiled in seconds."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 4, 4, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)).relu().mean((2, 3))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr("medical_fenlei.models.build.build_backbone", lambda *args, **kwargs: (Tiny(), 4))


COMPILE = (*TRAIN, "--pooling", "mean", "--dropout", 0, "--balance", "none", "--compile")


def test_a_compiled_run_learns_what_an_uncompiled_one_does_and_keeps_it_under_the_same_names(study, tiny):
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "c++", "clang++")))):
        pytest.skip("needs a C++ compiler (Debian package g++)")
    assert run(*COMPILE, "--output-dir", "outputs/compiled") == 0
    assert run(*[word for word in COMPILE if word != "--compile"], "--output-dir", "outputs/plain") == 0
    for which in ("last", "best"):
        found, expected = (checkpoint(name, which)["weights"] for name in ("compiled", "plain"))
        assert list(found) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    for found, expected in zip(lines("compiled"), lines("plain"), strict=True):
        assert np.isfinite(found["train_loss"]) and found.pop("chosen_by") == expected.pop("chosen_by")
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)


def refuses(model):
    raise RuntimeError("torch.compile is not supported on Python 3.99+")


class CompilerFailed(torch._dynamo.exc.TorchDynamoException):
    """An error of torch's compiler: the cause is behind lines of its own."""

    inner_exception = OSError("/nonexistent: no such compiler\nand a second line")


def fails_when_used(model):
    def network(seen):
        raise CompilerFailed("backend='inductor' raised:\nOSError: /nonexistent: no such compiler")

    return network


@pytest.mark.parametrize(("compile_", "says"), [(refuses, "not supported on Python 3.99"),
                                                (fails_when_used, "no such compiler")])
def test_a_network_that_cannot_be_compiled_is_one_line_with_the_flag_and_leaves_no_folder(
        study, tiny, monkeypatch, capfd, compile_, says):
    monkeypatch.setattr(torch, "compile", compile_)
    assert run(*COMPILE, "--output-dir", "outputs/run") == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert "--compile: " in said and says in said
    assert not (study / "outputs/run").exists()


def test_a_missing_compiler_is_one_line_too(study, tiny, monkeypatch, capfd):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(study / "nothing compiled yet"))
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nonexistent")}):
        assert run(*COMPILE, "--output-dir", "outputs/run") == 2
    said = capfd.readouterr().err.splitlines()
    assert "--compile: " in said[-1] and "compiler" in said[-1] and not any("Traceback" in line for line in said)


def test_a_deterministic_run_gives_the_same_bits_again(study):
    for name in ("one", "other"):
        assert run(*TRAIN, "--deterministic", "--no-tf32", "--output-dir", f"outputs/{name}") == 0
    assert_same_bits("one", "other")
