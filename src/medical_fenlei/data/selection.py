"""The ears of a split and a task, selected from tables alone: without torch, so that a wrong path ends a command at once."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.config import DataConfig
from medical_fenlei.ears.source import missing_ears, refuse_near_miss, refuse_without_dicom
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import cohorts_of, flag_of_set, is_cohort
from medical_fenlei.near_names import near_names
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import UNLABELLED, plural


@dataclass(frozen=True)
class Selection:
    """The ears of each requested set, whether or not the cache holds them."""

    ears: dict[str, pd.DataFrame]
    """Manifest rows of each set, indexed by their row number in the manifest."""

    split: tables.Split | None
    """The split that they belong to; None for all ears of a manifest."""

    @property
    def all_ears(self) -> pd.DataFrame:
        """Manifest rows of all sets."""
        return pd.concat([*self.ears.values()]) if self.ears else tables.MANIFEST.empty()

    def describe(self, store: EarStore, data: DataConfig) -> str:
        """Return a line with the ears of each set, where they come from, and how many of them the cache holds.

        Raises UserError if it lacks some, and there is no DICOM to prepare them from, or another cache was probably meant.
        """
        wanted = self.all_ears
        missing = missing_ears(store, wanted)
        refuse_without_dicom(store, missing, data, of_split=self.split is not None)
        if len(missing) and self.split is not None:              # a cohort's are prepared with the network's own settings
            refuse_near_miss(store, data)
        sets = ", ".join(f"{plural(len(own), 'ear')} of {plural(own.exam_id.nunique(), 'exam')} in {name}"
                         for name, own in self.ears.items())
        source = data.manifest_csv if self.split is None else self.split.folder
        return f"{source}: {sets or 'no ears'}; {len(wanted) - len(missing)} of {len(wanted)} ears in {store.folder}"


def select_ears(data: DataConfig, tasks: Sequence[Task] | None, sets: Sequence[str]) -> Selection:
    """Select the ears of each set that have a target in any of the tasks (None: all that have a label).

    Sets that the split lacks are left out; a cohort is all ears of the manifest and needs no split. Raises UserError if a table
    is missing.
    """
    split = None if sets and all(map(is_cohort, sets)) else tables.read_split(data.splits_root, data.pct)
    manifest = tables.MANIFEST.read(data.manifest_csv)
    code = manifest.label_code.to_numpy()
    has_target = code != UNLABELLED
    if tasks is not None:
        has_target = np.any([task.targets(code) != OUTSIDE for task in tasks], axis=0)
    eligible = manifest[has_target]
    exams = dict.fromkeys(sets, eligible) if split is None else split.sets
    ears = {name: tables.first_exams(eligible[eligible.exam_id.isin(exams[name].exam_id)], data.limit)
            for name in sets if name in exams}
    return Selection(ears, split)


def find_exam(data: DataConfig, exam_id: str, sides: Sequence[str], *, reports: Path | None = None) -> pd.DataFrame:
    """Return the rows of an exam's ears on these sides in the manifest, labelled or not. Raises UserError if it has none.

    reports: those of a run, among whose cohorts the ear may be, which the error says.
    """
    manifest = tables.MANIFEST.read(data.manifest_csv)
    of_exam = manifest[manifest.exam_id == exam_id]
    ears = of_exam[of_exam.side.isin(sides)]
    if ears.empty:
        near = near_names(exam_id, manifest.exam_id.unique()) if of_exam.empty else []
        hint = f"; near ids: {', '.join(near)}" if near else ""
        cohorts = cohorts_of(reports) if reports else []
        if having := [own.name for own in cohorts if _has_ear(own.manifest_csv, exam_id, sides)]:
            hint = f"; it is one of --cohort {' and of --cohort '.join(having)}"
        raise UserError(f"--exam-id {exam_id}: {data.manifest_csv} has no {' or '.join(sides)} ear of that exam{hint}")
    return ears


def _has_ear(manifest_csv: Path, exam_id: str, sides: Sequence[str]) -> bool:
    if not manifest_csv.is_file():
        return False
    manifest = tables.MANIFEST.read(manifest_csv)
    return bool(((manifest.exam_id == exam_id) & manifest.side.isin(sides)).any())


def empty_set(data: DataConfig, name: str, tasks: Sequence[Task] | None) -> UserError:
    """Return the error of a set without an ear, to be raised."""
    if name == "tune":
        return UserError(f"--splits-root {data.splits_root}: --pct {data.pct} has no tune set to fit on; make_splits_dual "
                         "--tune-ratio makes one")
    if name == "test" and name not in tables.read_split(data.splits_root, data.pct).sets:
        return UserError(f"--split test: {data.splits_root} --pct {data.pct} has no test set; make_splits_dual --test-ratio "
                         "makes one")
    what = "labelled ears" if tasks is None else "ears of " + ", ".join(task.name for task in tasks)
    if is_cohort(name):
        return UserError(f"{flag_of_set(name)}: {data.manifest_csv} has no {what}, or only of patients that the network was "
                         "fitted on")
    return UserError(f"--split {name}: this set of {data.splits_root} --pct {data.pct} has no {what}")


def set_label(set_name: str, data: DataConfig) -> str:
    """Return the name of a set in reports, which shows a `--limit`."""
    return set_name if data.limit is None else f"{set_name}_first{data.limit}"
