"""A trained network as it comes out of a checkpoint: with its settings, its tasks and its run."""
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from medical_fenlei import tables
from medical_fenlei.config import DataConfig, RunConfig
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import UserError
from medical_fenlei.models.build import build_model
from medical_fenlei.runs import Run
from medical_fenlei.tasks import Task, find_tasks
from medical_fenlei.training.checkpoint import Checkpoint, read_checkpoint
from medical_fenlei.training.device import Arithmetic
from medical_fenlei.training.predict import Inferred, infer, tables_of


@dataclass(frozen=True)
class Trained:
    checkpoint: Checkpoint
    run: Run
    tasks: tuple[Task, ...]
    """In the order of its outputs."""

    model: nn.Module
    """One of models/, on the device of `arithmetic`, in eval mode."""

    arithmetic: Arithmetic

    @property
    def config(self) -> RunConfig:
        return self.checkpoint.config

    def store(self, data: DataConfig) -> EarStore:
        """The ears of this data, cut as the network knows them."""
        return EarStore(data.cache_dir, self.config.ears)

    def chosen(self, data: DataConfig) -> tuple[Task, ...]:
        """Those of its tasks that the data names. Raises UserError, naming those it has, if one is not of them."""
        return find_tasks(data.label_task, among=self.tasks)

    def columns(self, task: Task) -> slice:
        """Which of its outputs are those of this task."""
        first = sum(before.outputs for before in self.tasks[: self.tasks.index(task)])
        return slice(first, first + task.outputs)

    def fitted_exams(self) -> frozenset[str]:
        """The exams that it was trained on, as its run kept them; none, of a run that kept no answers."""
        kept = self.run.answers / "ears.csv"
        return frozenset(tables.TRAINING_EARS.read(kept).exam_id) if kept.is_file() else frozenset()

    def refuse_trained_on(self, exams: Iterable[str], said: str) -> None:
        """Raises UserError, which begins with `said`, if the network was trained on some of these exams."""
        if seen := self.fitted_exams() & set(exams):
            raise UserError(f"{said}: the network was trained on {len(seen)} of its exams ({min(seen)}, say): these are not "
                            "the splits of its run, or were made anew since")

    def own_exams(self, *sets: str) -> frozenset[str]:
        """The exams of these sets of the split that it was trained with; none where that split is gone."""
        own = self.config.data
        try:
            split = tables.read_split(own.splits_root, own.pct)
        except UserError:
            return frozenset()
        return frozenset(exam for name in sets if name in split.sets for exam in split.sets[name].exam_id)

    def fingerprint(self) -> str:
        """SHA-256 of the weights: equal for networks that answer alike, whatever file they came from."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def infer(self, dataset: EarDataset, *, batch_size: int | None = None,
              change: Callable[[torch.Tensor], torch.Tensor] = lambda ears: ears) -> Inferred:
        """What the network returns for every ear; batch_size: the run's by default; change: of the ears first, as in
        `predict.infer`. Raises ValueError if there is none."""
        found = infer(self.model, dataset, augment=self.config.augment, arithmetic=self.arithmetic,
                      batch_size=batch_size or self.config.training.batch_size, change=change)
        return Inferred.joined([found])

    def predict(self, dataset: EarDataset, *, batch_size: int | None = None,
                change: Callable[[torch.Tensor], torch.Tensor] = lambda ears: ears) -> dict[str, pd.DataFrame]:
        """`tables.PREDICTIONS` for each of its tasks, by name."""
        return tables_of(self.infer(dataset, batch_size=batch_size, change=change), dataset.ears_in_order, self.tasks)


def open_trained(path: Path, *, kind: str, device: str, precision: str | None = None) -> Trained:
    """Raises UserError if it is no checkpoint of this kind; precision: the run's own by default."""
    checkpoint = read_checkpoint(path, kind=kind)
    config = checkpoint.config
    tasks = find_tasks(config.data.label_task)
    arithmetic = Arithmetic.choose(device, precision or config.training.precision)
    model = build_model(config.model, shape=config.input_shape, outputs=sum(task.outputs for task in tasks), start=False)
    model.load_state_dict(checkpoint.weights)
    return Trained(checkpoint, Run.of_checkpoint(path), tasks, model.to(arithmetic.device).eval(), arithmetic)
