"""The ears that a run works on: those of its split and task, prepared at first use where the cache lacks them."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.data.dataset import EarDataset, group_by_exam
from medical_fenlei.data.selection import select_ears
from medical_fenlei.data.storage import Placement
from medical_fenlei.ears.source import (
    command_that_builds,
    entry_states,
    missing_ears,
    refuse_near_miss,
    refuse_stale,
    refuse_without_dicom,
    sources_of,
)
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.leakage.shared import describe_parted_patients
from medical_fenlei.log import LOG
from medical_fenlei.tasks import Task
from medical_fenlei.vocabulary import SIDES, UNLABELLED, plural


@dataclass(frozen=True)
class Sources:
    """The ears of each requested set, and those that could not be used."""

    ears: dict[str, pd.DataFrame]
    """Manifest rows of each set, indexed by their row number in the manifest; the store holds all of them."""

    rejects: pd.DataFrame
    """The ears that could not be prepared, a `tables.REJECTS`."""

    hashes: dict[str, str | None]
    """What the result depends on: SHA-256 of each CSV, and the key of the cache."""

    data: DataConfig
    """The settings that selected them."""

    notes: tuple[str, ...] = ()
    """Warnings about every figure of these sets."""

    @property
    def description(self) -> str:
        """A line that names manifest, split and cache, each with the first digits of the SHA-256 of its tables."""
        split, cache = f"{self.data.splits_root}/{self.data.pct}pct", f"{self.data.cache_dir}/{self.hashes['cache_key']}"
        files = {"manifest": self.data.manifest_csv, "cache_index": f"{cache}/index.csv",
                 **{name: f"{split}/{name}.csv" for name in self.ears}}
        known = ((path, self.hashes.get(name)) for name, path in files.items())
        return "read from " + ", ".join(f"{path} ({digest[:12]})" for path, digest in known if digest)

    def placement(self, store: EarStore, device: torch.device, *, processes: int = 1) -> Placement:
        """Choose where all sets together are stored, for a network on this device. Raises UserError if they do not fit.

        processes: how many processes of the run share the host's memory, each with ears of its own.
        """
        return Placement.choose(self.data, store, device, ears=sum(map(len, self.ears.values())), processes=processes)

    def dataset(self, store: EarStore, name: str, placement: Placement | None = None) -> EarDataset | None:
        """Return the samples of a set, or None if it has no ear."""
        ears = self.ears.get(name)
        if ears is None or ears.empty:
            return None
        return EarDataset(store, ears, group_by_exam(ears) if self.data.sample == "exam" else None, placement)


def find_ears(data: DataConfig, store: EarStore, tasks: Sequence[Task] | None, sets: Sequence[str]) -> Sources:
    """Select the ears of each set that have a target in any of the tasks (None: all that have a label); prepare missing ones.

    Sets that the split lacks are left out; a cohort needs no split. Raises UserError if a table is missing, the cache is
    stale (`ears.source`), or the DICOM is missing from which to prepare ears.
    """
    found = select_ears(data, tasks, sets)
    split, ears = found.split, found.ears
    parted = describe_parted_patients(tables.MANIFEST.read(data.manifest_csv), split) if split is not None else ""
    if parted:
        LOG.warning("%s", parted)
    rejects = prepare_missing(data, store, found.all_ears, of_split=split is not None)
    if len(rejects):
        ears = {name: frame.drop(missing_ears(store, frame).index) for name, frame in ears.items()}
    csvs = {"manifest": data.manifest_csv, "cache_index": store.folder / "index.csv"}
    if split is not None:
        csvs |= {name: split.folder / f"{name}.csv" for name in split.sets}
    hashes = {name: sha256(path) if path.is_file() else None for name, path in csvs.items()}
    return Sources(ears, rejects, {**hashes, "cache_key": store.folder.name}, data, (parted,) if parted else ())


def prepare_missing(data: DataConfig, store: EarStore, wanted: pd.DataFrame, *, of_split: bool = True) -> pd.DataFrame:
    """Prepare the ears that the store lacks; return the rejects, a `tables.REJECTS`.

    of_split: whether they may be of the split of the settings, and not of a cohort, whose exams may have the same ids. Raises
    UserError if the store holds some of them from other images than the manifest names, if there is no DICOM, or if there is no
    such store for the split and another one was probably meant.
    """
    states, named = entry_states(store, wanted), wanted.series_relpath != ""
    command = command_that_builds(store.spec, data, wanted) if of_split else ""
    refuse_stale(store, wanted[named], states[named], command=command)
    missing = wanted[(states == "missing") | ~named]             # an ear without a series becomes a reject
    if missing.empty:
        return tables.REJECTS.empty()
    refuse_without_dicom(store, missing, data, of_split=bool(command))
    if command:                                                  # others are prepared where they are used, and only there
        refuse_near_miss(store, data)
    from medical_fenlei.ears.build import fill_store  # slow to import

    LOG.warning("%s %s not in %s; preparing them there now%s", plural(len(missing), "ear"),
                "is" if len(missing) == 1 else "are", store.folder, f", as {command} does" if command else "")
    return fill_store(store, missing, dicom_base=data.dicom_base, workers=data.num_workers, label="ears").rejects


def ears_of_exams(exams: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """Return both ears of each exam of a `tables.EXAMS`.

    Columns: exam_id, side, series_relpath, label_code, patient_key, series_digest and in_manifest. manifest: gives patient keys
    and digests; an exam that it lacks counts as a patient of its own. Raises UserError if it names another series for an ear.
    """
    unlabelled = pd.Series(UNLABELLED, exams.index)
    patient_of = dict(zip(manifest.exam_id, manifest.patient_key, strict=True))
    key = [patient_of.get(exam, exam) for exam in exams.exam_id]
    ears = pd.concat([exams[["exam_id"]].assign(
        side=str(side), series_relpath=tables.series_of(exams, side),
        label_code=exams.get(f"{side}_code", unlabelled).astype(np.int8), patient_key=key) for side in SIDES])
    ears = ears.sort_index(kind="stable").reset_index(drop=True)
    digest = {(exam, source.series_relpath): source.digest
              for exam, source in zip(manifest.exam_id, sources_of(manifest), strict=True)}
    known = list(zip(ears.exam_id, ears.series_relpath, strict=True))
    differ = [pair for pair in known if pair[0] in patient_of and pair[1] and pair not in digest]
    if differ:
        exam, series = differ[0]
        raise UserError(f"--index-csv: {len(differ)} of its ears have another series in the manifest (first exam {exam}: got "
                        f"{series}), so that one of the two is older; build index, manifest and splits again, in this order")
    return ears.assign(series_digest=[digest.get(pair, "") for pair in known], in_manifest=ears.exam_id.isin([*patient_of]))


def describe_exams_without_rows(ears: pd.DataFrame, manifest_csv: Path) -> str:
    """Return how many exams of `ears_of_exams` are not in the manifest and what follows from it; "" if all are."""
    number = ears.exam_id[~ears.in_manifest].nunique()
    if not number:
        return ""
    counts = "each counts as a patient of its own" if number > 1 else "it counts as a patient of its own"
    return (f"{plural(number, 'exam')} {'are' if number > 1 else 'is'} not in {manifest_csv}"
            f"{'' if manifest_csv.is_file() else ' (no such file)'}: {counts}; name their manifest with --manifest-csv")
