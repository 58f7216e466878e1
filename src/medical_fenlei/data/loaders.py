"""In which order samples are seen, and how they reach the device while the step before them is computed."""
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from medical_fenlei.data.dataset import Batch, EarDataset
from medical_fenlei.tasks import OUTSIDE

READERS = 4
"""Threads that read batches ahead where the set is not in memory."""


def training_order(targets: np.ndarray, *, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    """The samples of one epoch, int64 (n,), n being the number of samples with a target.

    targets: (N, E), OUTSIDE where masked. Not balanced: each sample once. Balanced: each class has the same number of places
    (to within one); its ears fill them in random order, all of them once before any a second time.
    """
    valid = targets != OUTSIDE
    samples = np.flatnonzero(valid.any(1))
    if not balanced or not len(samples):
        return rng.permutation(samples)
    classes = np.unique(targets[valid])
    order = []
    for places, target in zip(np.array_split(samples, len(classes)), rng.permutation(classes), strict=True):
        ears = np.nonzero(targets == target)[0]
        rounds = -(-len(places) // len(ears))
        order.append(np.concatenate([rng.permutation(ears) for _ in range(rounds)] or [ears[:0]])[: len(places)])
    return rng.permutation(np.concatenate(order))


def cut(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The order in batches of nearly equal size, at most `batch_size`, so that no last one is tiny."""
    return np.array_split(order, -(-len(order) // batch_size)) if len(order) else []


def batches(dataset: EarDataset, cuts: Sequence[np.ndarray], device: torch.device) -> Iterator[Batch]:
    """The batches on the device, in order, each assembled by a thread while those before it are used."""
    readers = 1 if dataset.in_memory else READERS
    with ThreadPoolExecutor(readers, thread_name_prefix="batches") as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for samples in cuts:
                ahead.append(pool.submit(lambda samples: dataset.batch(samples).to(device), samples))
                if len(ahead) > readers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
