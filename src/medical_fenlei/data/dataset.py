"""The sample: E ears of one exam as int16 HU, with their codes. What a code means is the task's business."""
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
"""Stands in a group for an ear that is not there."""


class Batch(NamedTuple):
    """B samples of E ears, of which N are present. E is 1 where each ear is a sample of its own."""

    ears: torch.Tensor
    """int16 HU (N, K, H, W), those that are present, sample after sample; on the device. The rest is on the host."""

    code: torch.Tensor
    """int8 (B, E), 0 for "no label"."""

    present: torch.Tensor
    """bool (B, E)."""

    row: torch.Tensor
    """int64 (B,), the manifest row of the sample's first ear: names the sample, whatever set or batch it is in."""

    @property
    def volume(self) -> torch.Tensor:
        """int16 HU (B, E, K, H, W); zero where the ear is absent."""
        if self.present.all():
            return self.ears.view(*self.present.shape, *self.ears.shape[1:])
        volume = self.ears.new_zeros(*self.present.shape, *self.ears.shape[1:])
        volume[self.present.to(volume.device)] = self.ears
        return volume


class EarDataset:
    """Groups of ears of one store.

    ears: rows of the manifest, indexed by their place in it. groups: (N, E) positions in `ears`, ABSENT for an ear that is not
    there; None makes each ear a sample of its own. placement: where they live (host memory if they fit, else the disk). Raises
    UserError if a cached ear cannot be read.
    """

    def __init__(self, store: EarStore, ears: pd.DataFrame, groups: Sequence[Sequence[int]] | np.ndarray | None = None,
                 placement: Placement | None = None) -> None:
        self.ears = ears
        if groups is None:
            groups = np.arange(len(ears))[:, None]
        self.groups = np.asarray(groups, np.int64).reshape(len(groups), -1 if len(groups) else 1)
        if len(self.groups) and ((self.groups == ABSENT).all(1).any() or self.groups.max() >= len(ears)
                                 or self.groups.min() < ABSENT):
            raise ValueError(f"groups: each has to name an ear, and none beyond the {len(ears)} there are")
        self.present = self.groups != ABSENT
        codes, rows = ears.label_code.to_numpy(np.int8), ears.index.to_numpy(np.int64)
        self.code = np.where(self.present, codes[self.groups] if len(ears) else UNLABELLED, UNLABELLED).astype(np.int8)
        first = np.take_along_axis(self.groups, self.present.argmax(1)[:, None], 1)[:, 0]
        self.row = rows[first]
        self.shape = store.spec.shape
        self.placement = placement or Placement.choose(DataConfig(), store, torch.device("cpu"), ears=len(ears))
        self.home = self.placement.settle(store, ears)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def ears_in_order(self) -> pd.DataFrame:
        """The ears that are present, sample after sample: the order in which predictions come."""
        return self.ears.iloc[self.groups[self.present]]

    def batches(self, cuts: Sequence[np.ndarray], device: torch.device) -> Generator[Batch, None, None]:
        """The samples of each cut, int64 (B,) numbers, in order; the ears on the device."""
        names = [(self.code[cut], self.present[cut], self.row[cut]) for cut in cuts]
        ears = [self.groups[cut][present] for cut, (_, present, _) in zip(cuts, names, strict=True)]
        with closing(self.home.feed(ears, device)) as feed:
            for volume, name in zip(feed, names, strict=True):
                yield Batch(volume, *map(torch.from_numpy, name))

    def batch(self, samples: np.ndarray) -> Batch:
        """The samples of these numbers, on the host."""
        return next(iter(self.batches([samples], torch.device("cpu"))))


def group_by_exam(ears: pd.DataFrame) -> np.ndarray:
    """int64 (exams, 2): the places of each exam's left and right ear among the rows, ABSENT where it has none of that side."""
    exams, exam = np.unique(ears.exam_id, return_inverse=True)
    groups = np.full((len(exams), len(SIDES)), ABSENT, np.int64)
    groups[exam, [SIDES.index(Side(side)) for side in ears.side]] = np.arange(len(ears))
    order = np.argsort(np.where(groups == ABSENT, len(ears), groups).min(1))     # as the exams come in the table
    return groups[order]
