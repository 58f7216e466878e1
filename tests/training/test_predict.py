"""Predictions of a set are the same in any batches, parts and processes; an ear seen in blocks is the mean of its blocks."""
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from medical_fenlei.config import AugmentConfig, EarSpec, ModelConfig, RunConfig
from medical_fenlei.data.augment import window
from medical_fenlei.data.blocks import block_starts
from medical_fenlei.data.dataset import ABSENT, EarDataset, group_by_exam
from medical_fenlei.ears.store import EarStore
from medical_fenlei.models.build import build_model
from medical_fenlei.models.network import NetworkOutput
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.distributed import Ranks
from medical_fenlei.training.predict import InferenceResult, forward_blocks, infer
from medical_fenlei.vocabulary import Side

CPU = ComputeSettings(torch.device("cpu"), torch.float32)
SAMPLES = 9


class Net(nn.Module):
    """A network whose outputs differ from ear to ear: the mean, and a row of the middle slice."""

    def __init__(self, attends):
        super().__init__()
        self.attends, self.batches = attends, []

    def forward(self, volume):
        self.batches.append(len(volume))
        mean = volume.mean((2, 3, 4))
        return NetworkOutput(mean.sum(1, keepdim=True), volume[:, 1, 0, 0], mean.softmax(1) if self.attends else None)


@pytest.fixture
def dataset(tmp_path):
    """Nine exams of two ears, but for one that has only a right one."""
    store, rng = EarStore(tmp_path, EarSpec(num_slices=3, image_size=4)), np.random.default_rng(0)
    rows = []
    for n in range(SAMPLES):
        for side in Side:
            store.write(f"x{n}", side, rng.integers(-1000, 2000, (3, 4, 4)).astype(np.int16), {})
            rows.append({"exam_id": f"x{n}", "side": str(side), "label_code": 1})
    groups = np.arange(2 * SAMPLES).reshape(-1, 2)
    groups[4, 0] = ABSENT
    return EarDataset(store, pd.DataFrame(rows), groups)


def found_of(net, dataset, **options):
    return infer(net, dataset, augment=AugmentConfig(), compute=CPU, batch_size=2, **options)


def assert_same(one, other):
    for name, own, theirs in zip(InferenceResult._fields, one, other, strict=True):
        if own is None:
            assert theirs is None and name == "attention"
        else:
            np.testing.assert_array_equal(own, theirs)
            assert own.dtype == theirs.dtype == (np.float64 if name == "logits" else np.float32)


@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("world", [1, 2, 4, 9, 12])
def test_pieces_joined_are_the_whole(dataset, attends, world):
    """The parts are those of several processes, some of them without a sample."""
    whole = found_of(Net(attends), dataset)
    assert len(whole.logits) == 2 * SAMPLES - 1 and len({*whole.logits[:, 0]}) == len(whole.logits)
    pieces = [found_of(Net(attends), dataset, samples=Ranks(rank, world).share(np.arange(SAMPLES))) for rank in range(world)]
    assert [piece is None for piece in pieces] == [rank >= SAMPLES for rank in range(world)]
    assert_same(InferenceResult.concatenate(pieces), whole)


def test_only_the_selected_samples_are_predicted_in_that_order(dataset):
    whole, some = (found_of(Net(True), dataset, samples=samples) for samples in (None, np.array([7, 4, 0])))
    ears = [13, 14, 8, 0, 1]                                     # of sample 4 the right one
    assert_same(some, InferenceResult(*(each[ears] for each in whole)))


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_a_request_to_stop_is_met_after_the_current_batch(dataset, batches):
    net, whole = Net(True), found_of(Net(True), dataset)
    answers = iter([False] * (batches - 1) + [True])
    found = found_of(net, dataset, until=lambda: next(answers))
    assert net.batches == [4, 4, 3][:batches]
    assert_same(found, InferenceResult(*(each[:sum(net.batches)] for each in whole)))


def test_without_samples_there_is_no_result(dataset):
    net = Net(True).train()
    assert found_of(net, dataset, samples=np.arange(0)) is None and not net.batches and not net.training
    with pytest.raises(ValueError, match="no ears"):
        InferenceResult.concatenate([None, None])
    with pytest.raises(ValueError, match="no ears"):
        InferenceResult.concatenate([])


SPEC = EarSpec(num_slices=3, image_size=8)


@pytest.fixture
def stored(tmp_path):
    """A store of five ears of three exams, in mixed order; ear n holds 100 (n + 1) everywhere."""
    ears = pd.DataFrame({"exam_id": [*"yxzyz"], "side": ["right", "left", "left", "left", "right"],
                         "label_code": [1, 2, 3, 4, 5]}, index=10 + np.arange(5))
    store = EarStore(tmp_path, SPEC)
    for n, (exam, side) in enumerate(zip(ears.exam_id, ears.side, strict=True)):
        store.write(exam, side, np.full(SPEC.shape, 100 * (n + 1), np.int16), {})
    return store, ears


class Recording(nn.Module):
    """A network that keeps what it is shown; the logit is the ear's mean."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, volume):
        self.seen.append(volume)
        mean = volume.mean((1, 2, 3, 4))[:, None]
        return NetworkOutput(mean, mean, None)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_absent_ear_never_reaches_the_network_and_outputs_stay_beside_their_ears(stored, batch_size):
    store, ears = stored
    dataset, model = EarDataset(store, ears, group_by_exam(ears)), Recording()
    found = infer(model, dataset, augment=AugmentConfig(wl=0, ww=2000), batch_size=batch_size,
                  compute=ComputeSettings(torch.device("cpu"), torch.float32))
    assert len(dataset) == 3 and sum(len(volume) for volume in model.seen) == 5
    assert not any((volume == 0).all((1, 2, 3, 4)).any() for volume in model.seen)               # HU 0 fills an absent ear
    order = dataset.ears_in_order
    assert order.index.tolist() == [13, 10, 11, 12, 14]                                          # y both, x left, z both
    np.testing.assert_allclose(found.logits[:, 0], (order.index.to_numpy() - 9) * 0.1, atol=1e-6)


EARS = EarSpec(num_slices=6, image_size=32, extent="half")


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
def test_all_slices_at_once_equal_a_plain_forward_pass_bit_for_bit(seen):
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


@torch.no_grad()
def test_logits_do_not_depend_on_the_batch():
    config = RunConfig(ears=EARS, model=ModelConfig(backbone="test_resnet"),
                       augment=AugmentConfig(windows=("bone", "soft"), slice_context=1, model_slices=4))
    model, volume = network(config), ears()
    together = forward_blocks(model, volume, config.augment).logits
    alone = torch.cat([forward_blocks(model, volume[n:n + 1], config.augment).logits for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
