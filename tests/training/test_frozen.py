"""A frozen backbone: only the head learns, each input is encoded once, and what comes out is what it would have been."""
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers.commands import run
from helpers.small_study import CACHE, MANIFEST, SPLITS, write_study

from medical_fenlei.config import EarSpec, ModelConfig
from medical_fenlei.errors import Stopped
from medical_fenlei.models.build import build_model
from medical_fenlei.training import loop
from medical_fenlei.training.checkpoint import read_checkpoint
from medical_fenlei.training.frozen import VERSIONS, KeptFeatures, freeze

SHAPE = (4, 1, 32, 32)


def network(**options):
    torch.manual_seed(0)
    return build_model(ModelConfig(backbone="test_resnet", **options), shape=SHAPE, outputs=2)


def ears(count, seed=0):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


class Counted:
    """An encoder that counts the ears it sees, and never sees two at once."""

    def __init__(self):
        self.seen = 0

    def __call__(self, volume):
        assert len(volume) == 1
        self.seen += 1
        return volume.sum((1, 2, 3, 4))[:, None]


def test_each_input_is_encoded_once_in_whatever_batch_it_comes():
    encode, batch = Counted(), ears(5)
    kept = KeptFeatures(encode)
    first, again = kept(batch), kept(batch.flip(0))
    assert encode.seen == 5
    torch.testing.assert_close(first, again.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(first[:, 0], batch.sum((1, 2, 3, 4)))
    kept(ears(2, seed=1))
    assert encode.seen == 7


def test_ears_that_differ_in_one_voxel_are_told_apart():
    encode, one = Counted(), ears(1)
    other = one.clone()
    other[0, 0, 0, 0, 0] += 1e-3
    kept = KeptFeatures(encode)
    assert kept(one) != kept(other) and encode.seen == 2


@torch.no_grad()
def test_a_frozen_network_computes_what_it_did_before():
    model = network().eval()
    before = model(ears(3))
    freeze(model)
    for _ in range(2):
        after = model(ears(3))
        for one, other in zip(before, after, strict=True):
            torch.testing.assert_close(one, other)


def test_only_what_follows_the_backbone_gets_a_gradient():
    model = network()
    freeze(model)
    model(ears(2)).logits.sum().backward()
    assert not [name for name, weight in model.backbone.named_parameters() if weight.grad is not None]
    assert all(weight.grad is not None for weight in model.head.parameters())


@pytest.fixture
def study(tmp_path, monkeypatch):
    train = {"exam_n": (5, 5)} | {f"exam_{n}": (code, None) for n, code in enumerate((1, 2, 3, 4, 6, 1, 2))}
    write_study(tmp_path, {"train": train, "tune": {"exam_t": (5, 2)}}, EarSpec(num_slices=4, image_size=32, extent="half"))
    monkeypatch.chdir(tmp_path)


def train(*words):
    return run("train_ear2d", "--splits-root", SPLITS, "--manifest-csv", MANIFEST, "--cache-dir", CACHE, "--pct", 100,
               "--device", "cpu", "--backbone", "test_resnet", "--trainable", "head", "--batch-size", 4, "--epochs", 6,
               "--patience", 0, *words)


def weights_of(folder):
    return read_checkpoint(Path(folder) / "checkpoints" / "last.pt", kind="ear2d").weights


def test_training_changes_the_head_alone_and_encodes_each_ear_a_few_times(study, monkeypatch):
    seen = Counter()
    encode = KeptFeatures._features_of
    monkeypatch.setattr(KeptFeatures, "_features_of",
                        lambda kept, ear: seen.update([ear.numpy().tobytes()]) or encode(kept, ear))
    assert train("--output-dir", "outputs/short", "--epochs", 1) == train("--output-dir", "outputs/long") == 0
    short, long = weights_of("outputs/short"), weights_of("outputs/long")
    changed = {name for name in long if not torch.equal(short[name], long[name])}
    assert changed and not [name for name in changed if name.startswith("backbone.")]
    assert len(seen) <= 9 * VERSIONS + 2                         # nine ears to train on, two to tune on
    assert sum(seen.values()) > 2 * len(seen)


def test_the_moving_average_of_a_frozen_network_is_evaluated_too(study):
    assert train("--output-dir", "outputs/ema", "--ema", 0.9) == 0
    best = read_checkpoint(Path("outputs/ema/checkpoints/best.pt"), kind="ear2d")
    last = weights_of("outputs/ema")
    assert best.epoch > 0 and not torch.equal(best.weights["head.weight"], last["head.weight"])
    backbone = [name for name in last if name.startswith("backbone.") and last[name].is_floating_point()]
    for name in backbone:
        torch.testing.assert_close(best.weights[name], last[name])


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(study, monkeypatch):
    assert train("--output-dir", "outputs/whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_stop_if_requested", stop_in_epoch(3))
        assert train("--output-dir", "outputs/parts") == 75
    assert run("train_ear2d", "--resume", "outputs/parts") == 0
    whole, parts = weights_of("outputs/whole"), weights_of("outputs/parts")
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def stop_in_epoch(epoch):
    def stop(trainer):
        if trainer.progress.epoch + 1 == epoch and trainer.progress.step:
            trainer._save(improved=False)
            raise Stopped("for the test")

    return stop


def test_where_the_training_set_is_small_the_network_for_few_ears_is_named(study, capfd):
    assert train("--output-dir", "outputs/hint", "--epochs", 1) == 0
    assert "--backbone anatomy learns from fewer ears" in capfd.readouterr().err
