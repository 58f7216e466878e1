"""One sample: E ears of one exam as int16 HU, with their codes. Which target a code stands for is up to the task."""
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from medical_fenlei.config import DataConfig
from medical_fenlei.data.storage import Placement
from medical_fenlei.ears.store import EarStore
from medical_fenlei.vocabulary import SIDES, UNLABELLED, Side

ABSENT = -1
"""Marks an ear that is missing from a group."""


class Batch(NamedTuple):
    """B samples of E ears, N of which are present. E is 1 on the main route, where each ear is a sample of its own."""

    ears: torch.Tensor
    """int16 HU (N, K, H, W): the ears that are present, sample after sample, on the device; other fields are on the host."""

    code: torch.Tensor
    """int8 (B, E), 0 for "no label"."""

    present: torch.Tensor
    """bool (B, E): whether the exam has the ear."""

    row: torch.Tensor
    """int64 (B,): the manifest row of the sample's first ear, which identifies the sample in every set and batch."""

    @property
    def volume(self) -> torch.Tensor:
        """int16 HU (B, E, K, H, W); zero where the ear is absent."""
        if self.present.all():
            return self.ears.view(*self.present.shape, *self.ears.shape[1:])
        volume = self.ears.new_zeros(*self.present.shape, *self.ears.shape[1:])
        volume[self.present.to(volume.device)] = self.ears
        return volume


class EarDataset:
    """Groups of ears from one store.

    ears: manifest rows, indexed by their row number in the manifest. groups: (N, E) positions in `ears`, ABSENT for a missing
    ear; None makes each ear a sample of its own. placement: where the ears are stored (default: host memory if they fit, else
    disk). Raises UserError if a cached ear cannot be read.
    """

    def __init__(self, store: EarStore, ears: pd.DataFrame, groups: Sequence[Sequence[int]] | np.ndarray | None = None,
                 placement: Placement | None = None) -> None:
        self.ears = ears
        if groups is None:
            groups = np.arange(len(ears))[:, None]
        self.groups = np.asarray(groups, np.int64).reshape(len(groups), -1 if len(groups) else 1)
        if len(self.groups) and ((self.groups == ABSENT).all(1).any() or self.groups.max() >= len(ears)
                                 or self.groups.min() < ABSENT):
            raise ValueError(f"groups: expected positions below {len(ears)} and at least one ear in each group")
        self.present = self.groups != ABSENT
        codes, rows = ears.label_code.to_numpy(np.int8), ears.index.to_numpy(np.int64)
        self.code = np.where(self.present, codes[self.groups] if len(ears) else UNLABELLED, UNLABELLED).astype(np.int8)
        first = np.take_along_axis(self.groups, self.present.argmax(1)[:, None], 1)[:, 0]
        self.row = rows[first]
        self.shape = store.spec.shape
        self.placement = placement or Placement.choose(DataConfig(), store, torch.device("cpu"), ears=len(ears))
        self.storage = self.placement.open_storage(store, ears)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.groups)

    @property
    def ears_in_order(self) -> pd.DataFrame:
        """Manifest rows of the ears that are present, sample after sample: the order of predictions."""
        return self.ears.iloc[self.groups[self.present]]

    def batches(self, indices: Sequence[np.ndarray], device: torch.device) -> Generator[Batch, None, None]:
        """Yield a batch for each int64 (B,) array of sample numbers, in order; the ears on the device."""
        facts = [(self.code[own], self.present[own], self.row[own]) for own in indices]
        ears = [self.groups[own][present] for own, (_, present, _) in zip(indices, facts, strict=True)]
        with closing(self.storage.batches(ears, device)) as volumes:
            for volume, fact in zip(volumes, facts, strict=True):
                yield Batch(volume, *map(torch.from_numpy, fact))

    def batch(self, samples: np.ndarray) -> Batch:
        """The batch of these sample numbers, on the host."""
        return next(iter(self.batches([samples], torch.device("cpu"))))


def group_by_exam(ears: pd.DataFrame) -> np.ndarray:
    """Return int64 (exams, 2): the row positions of each exam's left and right ear, ABSENT where a side is missing."""
    exams, exam = np.unique(ears.exam_id, return_inverse=True)
    groups = np.full((len(exams), len(SIDES)), ABSENT, np.int64)
    groups[exam, [SIDES.index(Side(side)) for side in ears.side]] = np.arange(len(ears))
    order = np.argsort(np.where(groups == ABSENT, len(ears), groups).min(1))     # exams in the order of the table
    return groups[order]
