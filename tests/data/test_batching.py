"""Which samples an epoch sees, in which batches, and that they are the same wherever the ears live."""
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from medical_fenlei.config import EarSpec
from medical_fenlei.data.batching import occurrence_index, split_into_batches, training_order
from medical_fenlei.data.dataset import ABSENT, EarDataset
from medical_fenlei.data.storage import Placement
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.tasks import OUTSIDE
from medical_fenlei.vocabulary import SIDES, Side

SPEC = EarSpec(num_slices=3, image_size=8)
EXAMS = 6
CPU = torch.device("cpu")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def targets():
    """90 samples: 50, 25 and 5 of three classes, 10 masked, in mixed order."""
    return rng(1).permutation(np.repeat([0, 1, 2, OUTSIDE], [50, 25, 5, 10]))[:, None]


def test_unbalanced_each_sample_is_seen_once_and_no_masked_one(targets):
    order = training_order(targets, balanced=False, rng=rng())
    assert sorted(order) == np.flatnonzero(targets[:, 0] != OUTSIDE).tolist()
    assert order.tolist() != sorted(order)


def test_balanced_every_class_has_the_same_number_of_places_and_no_masked_sample_is_seen(targets):
    for seed in range(20):
        order = training_order(targets, balanced=True, rng=rng(seed))
        counts = np.bincount(targets[order, 0])
        assert len(order) == 80 and counts.sum() == 80 and np.ptp(counts) <= 1


def test_balanced_a_sample_comes_again_only_after_all_others_of_its_class(targets):
    order = training_order(targets, balanced=True, rng=rng())
    for target in range(3):
        own = np.flatnonzero(targets[:, 0] == target)
        times = np.bincount(order, minlength=len(targets))[own]
        places = times.sum()
        assert set(times) <= {places // len(own), -(-places // len(own))}               # 50 ears, 27 places: none twice
    assert np.bincount(order).max() >= 5                                               # 5 ears, 26 places


def test_balanced_over_epochs_every_sample_is_seen_and_classes_lie_mixed(targets):
    seen = set()
    for epoch in range(12):
        order = training_order(targets, balanced=True, rng=rng(epoch))
        seen |= set(order.tolist())
        thirds = [np.bincount(targets[part, 0], minlength=3) for part in np.array_split(order, 3)]
        assert np.min(thirds) > 0
    assert seen == set(np.flatnonzero(targets[:, 0] != OUTSIDE).tolist())


def test_balanced_with_two_ears_a_sample_it_is_ears_that_are_balanced():
    pairs = np.array([[0, 0]] * 20 + [[0, 1]] * 5 + [[OUTSIDE, 1]] * 5 + [[OUTSIDE, OUTSIDE]] * 6)
    order = training_order(pairs, balanced=True, rng=rng())
    assert len(order) == 30 and order.max() < 30
    assert sum(sample >= 20 for sample in order) >= 15                                  # the places of class 1
    unbalanced = training_order(pairs, balanced=False, rng=rng())
    assert sorted(unbalanced) == list(range(30))


@pytest.mark.parametrize("balanced", [True, False])
def test_the_order_follows_from_its_generator(targets, balanced):
    one, same, other = (training_order(targets, balanced=balanced, rng=rng(seed)).tolist() for seed in (5, 5, 6))
    assert one == same != other


def test_balanced_with_a_single_class_or_fewer_samples_than_classes_still_works():
    assert sorted(training_order(np.zeros((7, 1), int), balanced=True, rng=rng())) == list(range(7))
    rare = np.array([[0, 1], [2, 3]])
    assert len(training_order(rare, balanced=True, rng=rng())) == 2


@pytest.mark.parametrize(("places", "samples"), [(0, 1), (1, 1), (7, 1), (12, 3), (40, 40), (200, 17), (90, 10**6)])
def test_how_often_a_sample_came_before_is_what_one_counts_going_along(places, samples):
    for seed in range(20):
        order, seen, expected = rng(seed).integers(0, samples, places), Counter(), []
        for sample in order.tolist():
            expected.append(seen[sample])
            seen[sample] += 1
        found = occurrence_index(order)
        assert found.tolist() == expected and found.dtype == np.int64


@pytest.mark.parametrize("size", [1, 2, 7, 16, 100])
def test_a_cut_keeps_order_and_size_and_has_no_tiny_batch(size):
    for n in range(0, 131):
        order = rng(n).permutation(n)
        parts = split_into_batches(order, size)
        lengths = [len(part) for part in parts]
        assert np.concatenate([*parts, np.zeros(0, int)]).tolist() == order.tolist()
        assert len(parts) == -(-n // size) and max(lengths, default=0) <= size
        assert max(lengths, default=0) - min(lengths, default=0) <= 1


@pytest.fixture
def stored(tmp_path):
    """A store of 12 ears, their manifest rows (index from 100), their volumes in that order."""
    store, generator, rows = EarStore(tmp_path, SPEC), rng(2), []
    volumes = generator.integers(-1000, 3000, (EXAMS, 2, 3, 8, 8)).astype(np.int16)
    for exam in range(EXAMS):
        for e, side in enumerate(SIDES):
            store.write(f"x{exam}", side, volumes[exam, e], {})
            rows.append({"exam_id": f"x{exam}", "side": str(side), "label_code": (2 * exam + e) % 7})
    return store, pd.DataFrame(rows, index=100 + 3 * np.arange(2 * EXAMS)), volumes.reshape(-1, 3, 8, 8)


@pytest.fixture(params=["device", "memory", "disk"])
def on(request):
    return Placement(request.param, CPU, readers=3, nbytes=0)


def test_a_sample_is_its_ear_with_its_code_and_its_row(stored, on):
    store, ears, volumes = stored
    found = EarDataset(store, ears, placement=on)
    batch = found.batch(np.array([7, 0, 7, 11]))
    assert len(found) == 12 and found.shape == (3, 8, 8)
    np.testing.assert_array_equal(batch.volume[:, 0], volumes[[7, 0, 7, 11]])
    assert batch.volume.shape == (4, 1, 3, 8, 8) and batch.volume.dtype == torch.int16
    assert batch.code.tolist() == [[0], [0], [0], [4]] and batch.code.dtype == torch.int8
    assert batch.present.all() and batch.present.dtype == torch.bool
    assert batch.row.tolist() == [121, 100, 121, 133] and batch.row.dtype == torch.int64


def test_an_absent_ear_is_zero_has_no_label_and_is_not_present(stored, on):
    store, ears, volumes = stored
    found = EarDataset(store, ears, [[0, 1], [ABSENT, 9], [4, ABSENT], [2, 3]], on)
    batch = found.batch(np.array([1, 0, 2]))
    assert batch.present.tolist() == [[False, True], [True, True], [True, False]]
    assert not batch.volume[0, 0].any() and not batch.volume[2, 1].any()
    np.testing.assert_array_equal(batch.volume[batch.present], volumes[[9, 0, 1, 4]])
    assert batch.code.tolist() == [[0, 2], [0, 1], [4, 0]]
    assert batch.row.tolist() == [127, 100, 112]                                       # of the first ear that is there
    assert found.ears_in_order.index.tolist() == [100, 103, 127, 112, 106, 109]


def test_batches_come_in_order_with_every_sample(stored, on):
    store, ears, volumes = stored
    order = rng(3).permutation(np.tile(np.arange(12), 5))
    for size in (1, 5, 60):
        found = list(EarDataset(store, ears, placement=on).batches(split_into_batches(order, size), CPU))
        assert len(found) == -(-60 // size)
        np.testing.assert_array_equal(torch.cat([batch.volume[:, 0] for batch in found]), volumes[order])
        assert torch.cat([batch.row for batch in found]).tolist() == ears.index[order].tolist()


def test_a_batch_that_is_changed_leaves_the_set_alone(stored, on):
    store, ears, volumes = stored
    found = EarDataset(store, ears, placement=on)
    found.batch(np.arange(12)).volume.zero_()
    found.batch(np.array([3])).code.zero_()
    again = found.batch(np.arange(12))
    np.testing.assert_array_equal(again.volume[:, 0], volumes)
    assert again.code[3].item() == 3


def test_feeding_that_is_stopped_early_ends_and_an_error_in_it_comes_through(stored, on):
    store, ears, _ = stored
    found = EarDataset(store, ears, placement=on)
    feed = found.batches(split_into_batches(np.arange(12), 2), CPU)
    assert next(feed).row.tolist() == [100, 103]
    feed.close()
    with pytest.raises(IndexError):
        list(found.batches([np.array([0]), np.array([99])], CPU))


def test_an_ear_that_the_cache_lacks_or_holds_in_another_size_is_refused(stored, on):
    store, ears, _ = stored
    with pytest.raises(UserError, match=r"x9_left\.npy"):
        EarDataset(store, pd.concat([ears, pd.DataFrame([{"exam_id": "x9", "side": "left", "label_code": 1}])]), placement=on)
    store.write("x0", Side.LEFT, np.zeros((3, 8, 9), np.int16), {})
    with pytest.raises(UserError, match=r"x0_left\.npy.*expected int16 \(3, 8, 8\)"):
        EarDataset(store, ears, placement=on)


@pytest.mark.parametrize("groups", [[[0, 12]], [[ABSENT, ABSENT]], [[0, 1], [ABSENT, ABSENT]]])
def test_groups_that_name_no_ear_are_refused(stored, groups):
    store, ears, _ = stored
    with pytest.raises(ValueError, match="groups"):
        EarDataset(store, ears, groups)
