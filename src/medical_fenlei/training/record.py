"""What a run says while it trains: lines in its log and in `metrics.jsonl`, reports of each epoch, TensorBoard."""
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from medical_fenlei.config import SLICE_ATTENTION, ModelConfig, RunConfig
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.files import write_json
from medical_fenlei.log import LOG
from medical_fenlei.runs import Run
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.training.device import Arithmetic

EARS_SHOWN, SLICES_SHOWN = 4, 8
"""Of a batch in TensorBoard."""
BAR = 6
"""Height of the strip below a slice, pixels, white as far as its attention reaches."""


@dataclass
class Record:
    """Writes nothing where it is not `active`: in all processes of a run but the first."""

    run: Run
    config: RunConfig
    arithmetic: Arithmetic
    active: bool
    _board: SummaryWriter | None = None
    _shown: int = 0

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._board:
            self._board.close()

    def board(self, epoch: int) -> SummaryWriter:
        """Made when there is something to show: a run that cannot begin leaves no file. What one that goes on had shown of this
        epoch and later ones is shown no more.
        """
        if self._board is None:
            self._board = SummaryWriter(str(self.run.tensorboard), purge_step=epoch)
        return self._board

    def begin(self, model: nn.Module, tasks: Sequence[Task], train: EarDataset, tune: EarDataset | None, world: int) -> None:
        """Who learns what from how much."""
        for name, ears in {"train": train, **({} if tune is None else {"tune": tune})}.items():
            for task in tasks:
                target = task.targets(ears.code)
                counts = np.bincount(target[target != OUTSIDE], minlength=len(task.classes))
                LOG.info("%s%s: %d ears; of each class %s", name, f", {task.name}" if len(tasks) > 1 else "", counts.sum(),
                         " ".join(map(str, counts)))
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        LOG.info("%s, %.1f million parameters, %d samples a step, on %s%s", describe(self.config.model), millions,
                 self.config.training.batch_size, self.arithmetic, f", {world} processes" if world > 1 else "")

    def seen(self, epoch: int, image: torch.Tensor, attention: torch.Tensor | None) -> None:
        """What the network saw first in epochs 1, 2, 4, 8, …: (N, K, C, H, W) in [-1, 1], attention (N, K)."""
        if self.active and epoch > self._shown and epoch & (epoch - 1) == 0:
            self._shown, view = epoch, self.config.augment
            own = view.slice_context * len(view.windows)         # channels of the neighbours below a slice come before its own
            self.board(epoch).add_image("seen", montage(image[:, :, own], attention), epoch)

    def epoch(self, line: dict[str, Any]) -> None:
        """A line of `metrics.jsonl`, of the log and of each curve."""
        if not self.active:
            return
        self.run.add_metrics(line)
        for name, value in line.items():
            self.board(line["epoch"]).add_scalar(name, value, line["epoch"])
        LOG.info("%s", _readable(line, self.config))

    def report(self, epoch: int, report: dict[str, Any]) -> None:
        """`reports/epoch_<n>.json`: the tune set, class by class."""
        if self.active:
            write_json(self.run.reports / f"epoch_{epoch}.json", {"epoch": epoch, "set": "tune", **report})


@torch.no_grad()
def montage(image: torch.Tensor, attention: torch.Tensor | None) -> np.ndarray:
    """uint8 (1, rows, columns): an ear a row, its slices from low to high, of many every n-th.

    image: (N, K, H, W) in [-1, 1]; attention: (N, K). Below each slice a strip: how its attention compares with the highest.
    """
    ears = min(len(image), EARS_SHOWN)
    slices = np.unique(np.linspace(0, image.shape[1] - 1, SLICES_SHOWN).round().astype(int))
    shown = image[:ears].float().cpu().numpy()[:, slices]
    grey = ((shown + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    if attention is not None:
        weight = attention[:ears].float().cpu().numpy()
        reach = (weight[:, slices] / weight.max(1, keepdims=True))[..., None, None]
        strip = np.where(np.arange(grey.shape[-1]) < reach * grey.shape[-1], 255, 60).astype(np.uint8)
        grey = np.concatenate([grey, np.broadcast_to(strip, (*grey.shape[:2], BAR, grey.shape[-1]))], 2)
    grey = np.pad(grey, ((0, 0), (0, 0), (0, 2), (0, 2)))
    return grey.transpose(0, 2, 1, 3).reshape(1, ears * grey.shape[2], -1)


def describe(model: ModelConfig) -> str:
    """The network in a word or two."""
    return f"{model.backbone}, {model.pooling}" if model.model in SLICE_ATTENTION else model.model


def _readable(line: dict[str, Any], config: RunConfig) -> str:
    name = config.training.early_stop_metric.removeprefix("val_")
    tune = f", tune loss {line['tune_loss']:.3f}, {name} {line[f'tune_{name}']:.3f}" if "tune_loss" in line else ""
    best = " (best)" if line["best_epoch"] == line["epoch"] else ""
    return (f"epoch {line['epoch']}/{config.training.epochs}: loss {line['train_loss']:.3f}{tune}{best}; lr {line['lr']:.2g}, "
            f"{line['ears_per_s']:.1f} ears/s, {line['waited']:.0%} of the time for data, {line['memory_gb']:.1f} GB")
