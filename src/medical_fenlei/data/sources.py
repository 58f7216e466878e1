"""Which ears a run works on: those of its split and task, prepared at first use where the cache lacks them."""
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.dataset import EarDataset, group_by_exam
from medical_fenlei.data.storage import Placement
from medical_fenlei.ears.build import fill_store, missing_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.log import LOG
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import UNLABELLED


@dataclass(frozen=True)
class Sources:
    """The ears of each set asked for, and what could not be used."""

    ears: dict[str, pd.DataFrame]
    """Manifest rows of each set, indexed by their place in the manifest; all of them can be read from the store."""

    rejects: pd.DataFrame
    """`tables.REJECTS`."""

    hashes: dict[str, str | None]
    """What the run depends on: SHA-256 of each CSV, the cache's key."""

    data: DataConfig
    """By which they were found."""

    def placement(self, store: EarStore, device: torch.device, *, sharers: int = 1) -> Placement:
        """Where all sets together live, for a network on this device. Raises UserError if they do not fit.

        sharers: processes of the run that share the host's memory, each with ears of its own.
        """
        return Placement.choose(self.data, store, device, ears=sum(map(len, self.ears.values())), sharers=sharers)

    def dataset(self, store: EarStore, name: str, placement: Placement | None = None) -> EarDataset | None:
        """The samples of a set; None where it has no ear."""
        ears = self.ears.get(name)
        if ears is None or ears.empty:
            return None
        return EarDataset(store, ears, group_by_exam(ears) if self.data.sample == "exam" else None, placement)


def find_ears(data: DataConfig, store: EarStore, tasks: Sequence[Task] | None, sets: Sequence[str]) -> Sources:
    """The ears of the sets that any of the tasks concerns (None: every labelled one). Sets that the split lacks are left out;
    for WHOLE_MANIFEST no split is read.

    Ears outside the tasks or without a label never enter. Raises UserError if a table is missing, or the DICOM that is needed.
    """
    split = None if list(sets) == [tables.WHOLE_MANIFEST] else tables.read_split(data.splits_root, data.pct)
    manifest = tables.MANIFEST.read(data.manifest_csv)
    code = manifest.label_code.to_numpy()
    concerned = code != UNLABELLED
    if tasks is not None:
        concerned = np.any([task.targets(code) != OUTSIDE for task in tasks], axis=0)
    concerned = manifest[concerned]
    exams = {tables.WHOLE_MANIFEST: concerned} if split is None else split.sets
    ears = {name: _first(concerned[concerned.exam_id.isin(exams[name].exam_id)], data) for name in sets if name in exams}
    rejects = prepare_missing(data, store, pd.concat([*ears.values(), manifest[:0]]))
    if len(rejects):
        ears = {name: frame.drop(missing_ears(store, frame).index) for name, frame in ears.items()}
    csvs = {"manifest": data.manifest_csv, "cache_index": store.folder / "index.csv"}
    if split is not None:
        csvs |= {name: split.folder / f"{name}.csv" for name in split.sets}
    hashes = {name: sha256(path) if path.is_file() else None for name, path in csvs.items()}
    return Sources(ears, rejects, {**hashes, "cache_key": store.folder.name}, data)


def set_label(set_name: str, data: DataConfig) -> str:
    """The set as reports call it: with `--limit` they say so."""
    return set_name if data.limit is None else f"{set_name}_first{data.limit}"


def _first(ears: pd.DataFrame, data: DataConfig) -> pd.DataFrame:
    """As many samples as --limit says."""
    if data.limit is None or data.sample == "ear":
        return ears[: data.limit]
    return ears[ears.exam_id.isin(ears.exam_id.unique()[: data.limit])]


def prepare_missing(data: DataConfig, store: EarStore, wanted: pd.DataFrame) -> pd.DataFrame:
    """Prepare the ears that the store lacks; returns `tables.REJECTS`. Raises UserError if there is no DICOM to do it from."""
    missing = missing_ears(store, wanted)
    if missing.empty:
        return tables.REJECTS.empty()
    if not data.dicom_base.is_dir():
        raise UserError(f"--cache-dir {data.cache_dir}: {store.folder.name} lacks {len(missing)} ears of the split, and there "
                        f"is no --dicom-base {data.dicom_base} to prepare them from")
    LOG.warning("%s", f"{len(missing)} ears are not in the cache; preparing them now, see build_cache_ears")
    return fill_store(store, missing, dicom_base=data.dicom_base, workers=data.num_workers, label="ears").rejects
