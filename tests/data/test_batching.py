"""Which samples an epoch sees, balanced or not, in which order, and how they are split into batches."""
from collections import Counter

import numpy as np
import pytest

from medical_fenlei.data.batching import occurrence_index, split_into_batches, training_order
from medical_fenlei.tasks import OUTSIDE


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


def test_balanced_every_class_is_seen_equally_often_and_no_masked_sample_is_seen(targets):
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


def test_balanced_over_epochs_every_sample_is_seen_and_classes_are_mixed(targets):
    seen = set()
    for epoch in range(12):
        order = training_order(targets, balanced=True, rng=rng(epoch))
        seen |= set(order.tolist())
        thirds = [np.bincount(targets[part, 0], minlength=3) for part in np.array_split(order, 3)]
        assert np.min(thirds) > 0
    assert seen == set(np.flatnonzero(targets[:, 0] != OUTSIDE).tolist())


def test_balancing_counts_ears_when_a_sample_has_two():
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
def test_the_occurrence_index_equals_a_running_count(places, samples):
    for seed in range(20):
        order, seen, expected = rng(seed).integers(0, samples, places), Counter(), []
        for sample in order.tolist():
            expected.append(seen[sample])
            seen[sample] += 1
        found = occurrence_index(order)
        assert found.tolist() == expected and found.dtype == np.int64


@pytest.mark.parametrize("size", [1, 2, 7, 16, 100])
def test_batches_keep_the_order_and_the_size_and_none_is_tiny(size):
    for n in range(0, 131):
        order = rng(n).permutation(n)
        parts = split_into_batches(order, size)
        lengths = [len(part) for part in parts]
        assert np.concatenate([*parts, np.zeros(0, int)]).tolist() == order.tolist()
        assert len(parts) == -(-n // size) and max(lengths, default=0) <= size
        assert max(lengths, default=0) - min(lengths, default=0) <= 1
