"""A trained network, opened from a checkpoint: its settings, tasks, calibration and run, and its predictions."""
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medical_fenlei import tables
from medical_fenlei.config import DataConfig, RunConfig
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.selection import empty_set, find_exam
from medical_fenlei.data.sources import Sources, find_ears, prepare_missing
from medical_fenlei.ears.source import USABLE, entry_states, refuse_changed
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.external_cohort import flag_of_set, is_cohort
from medical_fenlei.leakage.same_pixels import exams_with_same_ears
from medical_fenlei.leakage.two_manifests import (
    SharedPatients,
    patients_in_common,
    patients_of_one_manifest,
    unknown_patients,
)
from medical_fenlei.models.build import build_model
from medical_fenlei.models.network import Network
from medical_fenlei.runs import Run
from medical_fenlei.tasks import Task, find_tasks
from medical_fenlei.trained.calibration import Calibration, TaskCalibration, uncalibrated
from medical_fenlei.trained.ear_set import EarSet
from medical_fenlei.trained.home import at_home
from medical_fenlei.training.checkpoint import Checkpoint, read_checkpoint
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.predict import InferenceResult, infer, prediction_tables
from medical_fenlei.vocabulary import WHOLE_MANIFEST


@dataclass(frozen=True)
class TrainedNetwork:
    """A network from a checkpoint, ready to predict."""

    path: Path
    """Path of the checkpoint."""

    checkpoint: Checkpoint
    """Content of the checkpoint."""

    tasks: tuple[Task, ...]
    """Its tasks, in the order of its outputs."""

    model: Network
    """On the device of `compute`, in eval mode."""

    compute: ComputeSettings
    """Device and precision."""

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return self.checkpoint.config

    @property
    def run(self) -> Run:
        """The run that the checkpoint belongs to."""
        return Run.of_checkpoint(self.path)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The calibration that was written for it, or None. Raises UserError if it belongs to another checkpoint."""
        return Calibration.read(self.path, kind=self.config.kind)

    def calibrations(
        self, tasks: Iterable[Task], *, calibrated: bool = True, point: str | None = None
    ) -> dict[str, TaskCalibration]:
        """Return temperature and operating points by task name; those of `uncalibrated` for a task without a calibration.

        calibrated: False ignores the calibration. point: the operating point that decides binary tasks, instead of the
        calibration's choice. Raises UserError if a task has no such point.
        """
        fitted = self.calibration if calibrated else None
        by_name = uncalibrated(self.tasks) | (fitted.tasks if fitted else {})
        return {task.name: by_name[task.name].at_point(point) if point is not None and task.binary else by_name[task.name]
                for task in tasks}

    def store(self, data: DataConfig) -> EarStore:
        """Return the cache of these data settings with the network's preprocessing."""
        return EarStore(data.cache_dir, self.config.ears)

    def select_tasks(self, data: DataConfig) -> tuple[Task, ...]:
        """Return the network's tasks that the data settings name. Raises UserError for a task that the network lacks."""
        return find_tasks(data.label_task, among=self.tasks)

    def columns(self, task: Task) -> slice:
        """Return the columns of the logits that belong to a task."""
        first = sum(before.outputs for before in self.tasks[: self.tasks.index(task)])
        return slice(first, first + task.outputs)

    def open_sets(self, data: DataConfig, names: Sequence[str], tasks: Sequence[Task] | None) -> dict[str, EarSet]:
        """Open the sets of these names that hold an ear of a task; prepare ears that the cache lacks.

        tasks: None opens every labelled ear. A cohort is without the patients that the network was fitted on. Raises UserError
        if a table is missing, or the DICOM that is needed, or if a cached volume is not what was written.
        """
        store = self.store(data)
        sources = find_ears(data, store, tasks, names)
        for ears in sources.ears.values():
            refuse_changed(store, ears)
        sets = {name: EarSet(name, sources, store, self.compute.device, sources.notes)
                for name in names if len(sources.ears.get(name, ()))}
        for name in filter(is_cohort, [*sets]):
            whole = sets.pop(name)
            shared = self.shared_patients(whole.ears, data, name)
            if not shared.ears.all():
                sets[name] = whole.without(shared)
        return sets

    def open_set(self, data: DataConfig, name: str, tasks: Sequence[Task] | None) -> EarSet:
        """Open one set, as `open_sets` does. Raises UserError also if the set has no ear."""
        found = self.open_sets(data, (name,), tasks).get(name)
        if found is None:
            raise empty_set(data, name, tasks)
        return found

    def open_ears(self, data: DataConfig, ears: pd.DataFrame, name: str) -> EarSet:
        """Open these ears (exam_id, side, series_relpath, label_code, patient_key) as a set, labelled or not.

        The rejects of the set hold the ears that cannot be prepared. Raises UserError if the cache is stale, or
        the DICOM missing.
        """
        store = self.store(data)
        rejects = prepare_missing(data, store, ears)
        if len(rejects):
            ears = ears[entry_states(store, ears).isin(USABLE)]
        refuse_changed(store, ears)
        return EarSet(name, Sources({name: ears}, rejects, {}, data), store, self.compute.device)

    def open_ear(self, data: DataConfig, exam_id: str, side: str) -> EarSet:
        """Open one ear of the manifest as a set, labelled or not. Raises UserError if it is missing or cannot be prepared."""
        return self.open_exam(data, exam_id, (side,))

    def open_exam(self, data: DataConfig, exam_id: str, sides: Sequence[str]) -> EarSet:
        """Open the ears of one exam on these sides that the manifest has as a set, labelled or not.

        The rejects of the set hold an ear that cannot be prepared. Raises UserError if there is none, or none can be prepared.
        """
        found = self.open_ears(data, find_exam(data, exam_id, sides), f"{exam_id}_{'_'.join(sides)}")
        if found.ears.empty:
            raise UserError(f"--exam-id {exam_id}: {found.rejects.reason.iloc[0]}: {found.rejects.detail.iloc[0]}")
        return found

    def training_exams(self) -> frozenset[str]:
        """Return the exams that the network was trained on; none if the run kept no training dynamics."""
        path = self.run.training_dynamics / "ears.csv"
        return frozenset(tables.TRAINING_EARS.read(path).exam_id) if path.is_file() else frozenset()

    def refuse_if_trained_on(self, exams: Iterable[str], flag: str) -> None:
        """Raise UserError, with `flag` in front, if the network was trained on some of these exams."""
        if seen := self.training_exams() & set(exams):
            raise UserError(f"{flag}: the network was trained on {len(seen)} of its exams (for example {min(seen)}); use the "
                            "splits that its run was trained with, unchanged")

    def refuse_if_epoch_chosen_on(self, exams: Iterable[str], flag: str) -> None:
        """Raise UserError, with `flag` in front, if the network's epoch was chosen on some of these exams."""
        if chosen := self.split_exams("tune") & set(exams):
            raise UserError(f"{flag}: the network's epoch was chosen on {len(chosen)} of its exams (for example "
                            f"{min(chosen)}); use the splits of its run")

    def fitted_exams(self) -> frozenset[str]:
        """Return the exams that the network or its calibration was fitted on, or its epoch chosen; those that are known."""
        calibrated: frozenset[str] = frozenset()
        with contextlib.suppress(UserError):                     # of another checkpoint: not applied either
            calibrated = self.calibration.exams if self.calibration else calibrated
        return self.training_exams() | self.split_exams("train", "tune") | calibrated

    def shared_patients(self, ears: pd.DataFrame, data: DataConfig, name: str) -> SharedPatients:
        """Return the patients of a cohort that the network was fitted on. ears: manifest rows; name: of the cohort."""
        own = self.config.data
        try:
            tables.read_split(own.splits_root, own.pct)
            manifest = tables.MANIFEST.read(own.manifest_csv)
        except UserError as error:
            if name == WHOLE_MANIFEST:
                raise UserError(f"{flag_of_set(name)}: the patients that the network was fitted on are not known "
                                f"({error})") from None
            return unknown_patients(ears, str(error))
        fitted = manifest[manifest.exam_id.isin(self.fitted_exams())]
        if data.manifest_csv.resolve() == own.manifest_csv.resolve():
            return patients_of_one_manifest(ears, fitted)
        pixels = exams_with_same_ears(self.store(data).folder, {*ears.exam_id}, self.store(own).folder, self.fitted_exams())
        return patients_in_common(ears, fitted, pixels).knowing(self.fitted_exams() - {*manifest.exam_id}, own.manifest_csv)

    def split_exams(self, *sets: str) -> frozenset[str]:
        """Return the exams of these sets of the run's own split; none if the split no longer exists."""
        own = self.config.data
        try:
            split = tables.read_split(own.splits_root, own.pct)
        except UserError:
            return frozenset()
        return frozenset(exam for name in sets if name in split.sets for exam in split.sets[name].exam_id)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the weights: the same for the same network in another file."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def infer(self, dataset: EarDataset, *, batch_size: int | None = None, samples: np.ndarray | None = None,
              perturb: Callable[[torch.Tensor], torch.Tensor] = lambda ears: ears) -> InferenceResult:
        """Return the network's outputs for every ear. Raises ValueError if there is none, UserError if one is not finite.

        batch_size: samples per batch (default: the run's). samples: int64 (B,), only these. perturb: applied first to the ears
        of each batch, as in `predict.infer`.
        """
        found = InferenceResult.concatenate([infer(              # raises ValueError if there was no batch
            self.model, dataset, augment=self.config.augment, compute=self.compute, samples=samples, perturb=perturb,
            batch_size=batch_size or self.config.training.batch_size)])
        if not found.finite.all():
            raise UserError(f"--checkpoint {self.path}: its output is not finite for {int((~found.finite).sum())} of "
                            f"{len(found.finite)} ears, so that it has no answer for them; look at their volumes with "
                            "qa_cache_ears, or train again with --precision fp32")
        return found

    def predict(self, dataset: EarDataset, *, batch_size: int | None = None,
                perturb: Callable[[torch.Tensor], torch.Tensor] = lambda ears: ears) -> dict[str, pd.DataFrame]:
        """Return a `tables.PREDICTIONS` by task name. batch_size and perturb: as in `infer`."""
        return prediction_tables(self.infer(dataset, batch_size=batch_size, perturb=perturb), dataset.ears_in_order, self.tasks)


def open_network(path: Path, *, kind: str | None, device: str, precision: str | None = None) -> TrainedNetwork:
    """Open a checkpoint, with the paths of its data as they are reached from here (`home`). precision: the run's by default.

    kind: None opens networks of both routes. Raises UserError if it is not a checkpoint of this kind.
    """
    checkpoint = read_checkpoint(path, kind=kind)
    config = at_home(checkpoint.config, Run.of_checkpoint(path))
    checkpoint = replace(checkpoint, config=config)
    tasks = find_tasks(config.data.label_task)
    compute = ComputeSettings.choose(device, precision or config.training.precision)
    model = build_model(config.model, shape=config.input_shape, outputs=sum(task.outputs for task in tasks),
                        scale=config.physical_scale, load_pretrained=False)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:                                # torch lists every tensor, a line each
        first = str(error).splitlines()[1:2] or [str(error)]
        raise UserError(f"--checkpoint {path}: field weights does not fit its settings: {first[0].strip():.160}; "
                        "use another checkpoint") from None
    return TrainedNetwork(path, checkpoint, tasks, model.to(compute.device).eval(), compute)
