"""The ears of one set, opened for a network."""
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch

from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import Sources
from medical_fenlei.ears.store import EarStore


@dataclass(frozen=True)
class EarSet:
    """At least one ear of one set: their manifest rows, their volumes, and the files they were read from."""

    name: str
    """Name of the set: train, tune, val, test, manifest, or what the caller chose."""

    sources: Sources
    """All sets that were opened together; they share one storage."""

    store: EarStore
    """The cache that holds their volumes."""

    device: torch.device
    """Device of the network."""

    notes: tuple[str, ...] = ()
    """Warnings about every figure of the set."""

    @property
    def ears(self) -> pd.DataFrame:
        """Manifest rows of the ears, all of which are in the store."""
        return self.sources.ears[self.name]

    @property
    def rejects(self) -> pd.DataFrame:
        """Ears of the sets opened together that could not be prepared, a `tables.REJECTS`."""
        return self.sources.rejects

    @property
    def hashes(self) -> Mapping[str, str | None]:
        """SHA-256 of each table that was read, and the key of the cache."""
        return self.sources.hashes

    @cached_property
    def dataset(self) -> EarDataset:
        """The samples of the set, read on first use. Raises UserError if an ear cannot be read, or memory is too small."""
        found = self.sources.dataset(self.store, self.name, self.sources.placement(self.store, self.device))
        assert found is not None
        return found

    @property
    def ears_in_order(self) -> pd.DataFrame:
        """Manifest rows in the order of the predictions."""
        return self.dataset.ears_in_order

    def without(self, leave_out: "pd.Series[bool]", note: str) -> "EarSet":
        """Return the set without the ears of a mask over `ears`; `note` is the reason."""
        if not leave_out.any():
            return self
        ears = {**self.sources.ears, self.name: self.ears[~leave_out]}
        return replace(self, sources=replace(self.sources, ears=ears), notes=(*self.notes, note))
