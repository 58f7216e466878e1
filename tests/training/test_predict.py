"""What a network says of a set, whole or piece by piece."""
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from medical_fenlei.config import AugmentConfig, EarSpec
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.ears.store import EarStore
from medical_fenlei.models.network import NetworkOutput
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.distributed import Ranks
from medical_fenlei.training.predict import InferenceResult, infer
from medical_fenlei.vocabulary import Side

CPU = ComputeSettings(torch.device("cpu"), torch.float32)
SAMPLES = 9
ABSENT = -1


class Net(nn.Module):
    """Says of each ear what no other one has: its mean, its middle slice."""

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
    """As processes share a set, some of them without a sample."""
    whole = found_of(Net(attends), dataset)
    assert len(whole.logits) == 2 * SAMPLES - 1 and len({*whole.logits[:, 0]}) == len(whole.logits)
    pieces = [found_of(Net(attends), dataset, samples=Ranks(rank, world).share(np.arange(SAMPLES))) for rank in range(world)]
    assert [piece is None for piece in pieces] == [rank >= SAMPLES for rank in range(world)]
    assert_same(InferenceResult.concatenate(pieces), whole)


def test_only_the_samples_that_are_named_are_looked_at_in_that_order(dataset):
    whole, some = (found_of(Net(True), dataset, samples=samples) for samples in (None, np.array([7, 4, 0])))
    ears = [13, 14, 8, 0, 1]                                     # of sample 4 the right one
    assert_same(some, InferenceResult(*(each[ears] for each in whole)))


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_asked_to_end_it_ends_after_the_batch_under_way(dataset, batches):
    net, whole = Net(True), found_of(Net(True), dataset)
    answers = iter([False] * (batches - 1) + [True])
    found = found_of(net, dataset, until=lambda: next(answers))
    assert net.batches == [4, 4, 3][:batches]
    assert_same(found, InferenceResult(*(each[:sum(net.batches)] for each in whole)))


def test_of_no_sample_there_is_nothing_to_say(dataset):
    net = Net(True).train()
    assert found_of(net, dataset, samples=np.arange(0)) is None and not net.batches and not net.training
    with pytest.raises(ValueError, match="no ears"):
        InferenceResult.concatenate([None, None])
    with pytest.raises(ValueError, match="no ears"):
        InferenceResult.concatenate([])
