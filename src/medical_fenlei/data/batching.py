"""The order in which an epoch sees its samples, and how it is split into batches."""
import numpy as np

from medical_fenlei.tasks import OUTSIDE


def training_order(targets: np.ndarray, *, balanced: bool, passes: int = 1, rng: np.random.Generator) -> np.ndarray:
    """Return the samples of one epoch in order, int64 (n,): `passes` orders of all samples with a target, one after the other.

    targets: (N, E), OUTSIDE where masked. Not balanced: each sample once in a pass. Balanced: each class gets the same number
    of positions (to within one), which its ears fill in random order, all of them once before any of them again.
    """
    return np.concatenate([_order_of_a_pass(targets, balanced=balanced, rng=rng) for _ in range(passes)])


def _order_of_a_pass(targets: np.ndarray, *, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    valid = targets != OUTSIDE
    samples = np.flatnonzero(valid.any(1))
    if not balanced or not len(samples):
        return rng.permutation(samples)
    classes = np.unique(targets[valid])
    order = []
    for positions, target in zip(np.array_split(samples, len(classes)), rng.permutation(classes), strict=True):
        ears = np.nonzero(targets == target)[0]
        rounds = -(-len(positions) // len(ears))
        order.append(np.concatenate([rng.permutation(ears) for _ in range(rounds)] or [ears[:0]])[: len(positions)])
    return rng.permutation(np.concatenate(order))


def occurrence_index(order: np.ndarray) -> np.ndarray:
    """Return how often each sample of an order occurred before, int64 (n,): 0 at its first occurrence."""
    by_sample = np.argsort(order, kind="stable")
    ranked = order[by_sample]
    first = np.flatnonzero(np.diff(ranked, prepend=-1))
    times = np.empty(len(order), np.int64)
    times[by_sample] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return times


def split_into_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split an order into batches of nearly equal size, at most `batch_size`, so that the last one is not tiny."""
    return np.array_split(order, -(-len(order) // batch_size)) if len(order) else []
