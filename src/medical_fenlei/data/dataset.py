"""The sample: E ears of one exam as int16 HU, with their codes. What a code means is the task's business."""
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from medical_fenlei.ears.store import EarStore
from medical_fenlei.vocabulary import SIDES, UNLABELLED, Side

MEMORY_SHARE = 0.25
"""A set is loaded whole when it takes at most this share of the memory that is free."""
ABSENT = -1
"""Stands in a group for an ear that is not there."""


class Batch(NamedTuple):
    """B samples of E ears. E is 1 where each ear is a sample of its own."""

    volume: torch.Tensor
    """int16 HU (B, E, K, H, W); zero where the ear is absent."""

    code: torch.Tensor
    """int8 (B, E), 0 for "no label"."""

    present: torch.Tensor
    """bool (B, E)."""

    row: torch.Tensor
    """int64 (B,), the manifest row of the sample's first ear: names the sample, whatever set or batch it is in."""

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        return Batch(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in self))


class EarDataset:
    """Groups of ears of one store. Loaded once into one array where they fit, else read through memory maps.

    ears: rows of the manifest, indexed by their place in it. groups: (N, E) positions in `ears`, ABSENT for an ear that is not
    there; None makes each ear a sample of its own. Raises UserError if a cached ear cannot be read.
    """

    def __init__(self, store: EarStore, ears: pd.DataFrame, groups: Sequence[Sequence[int]] | np.ndarray | None = None) -> None:
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
        volumes = [store.read(exam, Side(side)) for exam, side in zip(ears.exam_id, ears.side, strict=True)]
        self.in_memory = sum(v.nbytes for v in volumes) <= MEMORY_SHARE * free_memory()
        self._volumes: np.ndarray | list[np.ndarray] = volumes
        if self.in_memory:
            self._volumes = np.empty((len(volumes), *self.shape), np.int16)
            for place, volume in zip(self._volumes, volumes, strict=True):
                place[:] = volume

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def ears_in_order(self) -> pd.DataFrame:
        """The ears that are present, sample after sample: the order in which predictions come."""
        return self.ears.iloc[self.groups[self.present]]

    def batch(self, samples: np.ndarray) -> Batch:
        """The samples of these numbers, on the host."""
        groups, present = self.groups[samples], self.present[samples]
        if isinstance(self._volumes, np.ndarray) and present.all():
            volume = self._volumes[groups]
        else:
            volume = np.zeros((*groups.shape, *self.shape), np.int16)
            for place in zip(*np.nonzero(present), strict=True):
                volume[place] = self._volumes[groups[place]]
        return Batch(*map(torch.from_numpy, (volume, self.code[samples], present, self.row[samples])))


def group_by_exam(ears: pd.DataFrame) -> np.ndarray:
    """int64 (exams, 2): the places of each exam's left and right ear among the rows, ABSENT where it has none of that side."""
    exams, exam = np.unique(ears.exam_id, return_inverse=True)
    groups = np.full((len(exams), len(SIDES)), ABSENT, np.int64)
    groups[exam, [SIDES.index(Side(side)) for side in ears.side]] = np.arange(len(ears))
    order = np.argsort(np.where(groups == ABSENT, len(ears), groups).min(1))     # as the exams come in the table
    return groups[order]


def free_memory() -> int:
    """Bytes that this process can still take: of the machine, or of its control group where that is less."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):                                # no control group, or no limit ("max")
        return free
    return max(0, min(free, limit))
