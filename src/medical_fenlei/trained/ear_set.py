"""The ears of one set, opened for a network."""
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch

from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.sources import Sources
from medical_fenlei.ears.store import EarStore
from medical_fenlei.external_cohort import ExternalCohort
from medical_fenlei.leakage.two_manifests import SharedPatients
from medical_fenlei.log import LOG
from medical_fenlei.vocabulary import WHOLE_MANIFEST, Side


@dataclass(frozen=True)
class EarSet:
    """At least one ear of one set: their manifest rows, their volumes, and the files they were read from."""

    name: str
    """Name of the set: train, tune, val, test, manifest, that of a cohort, or what the caller chose."""

    sources: Sources
    """All sets that were opened together; they share one storage."""

    store: EarStore
    """The cache that holds their volumes."""

    device: torch.device
    """Device of the network."""

    notes: tuple[str, ...] = ()
    """Warnings about every figure of the set."""

    shared: SharedPatients | None = None
    """The patients of a cohort whom the network was fitted on, and whose ears it is without; None for a set of a split."""

    @property
    def ears(self) -> pd.DataFrame:
        """Manifest rows of the ears, all of which are in the store."""
        return self.sources.ears[self.name]

    @property
    def cohort(self) -> ExternalCohort | None:
        """Where the data of a cohort are; None for a set of a split, and for WHOLE_MANIFEST, which has no name."""
        data = self.sources.data
        return None if self.shared is None or self.name == WHOLE_MANIFEST else ExternalCohort(
            name=self.name, manifest_csv=data.manifest_csv, dicom_base=data.dicom_base, cache_dir=data.cache_dir,
            ears_left_out=int(self.shared.ears.sum()))

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

    def with_images(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Return a `tables.PREDICTIONS` of these ears with the images of the scan that their top slices were cut from.

        Logs once if the cache does not hold them. Raises UserError if the facts of an ear cannot be read.
        """
        texts, unknown = [], 0
        for exam, side, slices in zip(predictions.exam_id, predictions.side, predictions.top_slices, strict=True):
            images = self.store.read_images(exam, Side(side)) if slices else ()
            texts.append(";".join(str(images[int(k)]) for k in slices.split(";") if k))
            unknown += bool(slices) and not texts[-1].strip(";")
        if unknown:
            LOG.warning("%s: is of an earlier version and does not hold the numbers of the images; remove it and build it "
                        "again to see them beside the slices", self.store.folder)
        return predictions.assign(top_images=pd.Series(texts, predictions.index, dtype=str))

    def without(self, shared: SharedPatients) -> "EarSet":
        """Return the set without the ears of patients that the network was fitted on, and with notes on who they are."""
        ears = {**self.sources.ears, self.name: self.ears[~shared.ears]}
        notes = filter(None, (shared.describe(), *shared.unknown))
        return replace(self, sources=replace(self.sources, ears=ears), notes=(*self.notes, *notes), shared=shared)
