"""What a run writes while it trains: its log, `metrics.jsonl`, a report of each epoch, TensorBoard."""
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from medical_fenlei.config import SLICE_ATTENTION, ModelConfig, RunConfig
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.files import write_json
from medical_fenlei.log import LOG
from medical_fenlei.runs import Run
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.training.device import ComputeSettings
from medical_fenlei.training.schedule import Schedule

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EARS_SHOWN, SLICES_SHOWN = 4, 8
"""How many ears of a batch, and slices of each, TensorBoard shows."""
BAR = 6
"""Height in pixels of the bar below a slice, whose white part shows its attention."""


@dataclass
class TrainingLogger:
    """Writes the files of one run. Only the first process of a run is `active`; the others write nothing."""

    run: Run
    config: RunConfig
    compute: ComputeSettings
    schedule: Schedule
    active: bool
    _writer: "SummaryWriter | None" = None
    _shown_epoch: int = 0

    def __enter__(self) -> "TrainingLogger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writer:
            self._writer.close()

    def tensorboard(self, epoch: int) -> "SummaryWriter":
        """The writer of TensorBoard, created at first use, so that a run that fails to start leaves no file.

        Events of this epoch and later ones from before an interruption are hidden.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(str(self.run.tensorboard), purge_step=epoch)
        return self._writer

    def log_start(self, model: nn.Module, tasks: Sequence[Task], train: EarDataset, tune: EarDataset | None,
                  processes: int) -> None:
        """Log the class counts of the sets, the network, the batch size, the device and the number of steps."""
        for name, ears in {"train": train, **({} if tune is None else {"tune": tune})}.items():
            for task in tasks:
                target = task.targets(ears.code)
                counts = np.bincount(target[target != OUTSIDE], minlength=len(task.classes))
                LOG.info("%s%s: %d ears; per class: %s", name, f", {task.name}" if len(tasks) > 1 else "", counts.sum(),
                         " ".join(map(str, counts)))
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        LOG.info("%s, %.1f million parameters, %d samples per step, on %s%s", network_name(self.config.model), millions,
                 self.config.training.batch_size, self.compute, f", {processes} processes" if processes > 1 else "")
        LOG.info("at most %d epochs of %d steps, each in %d %s through the training set", self.schedule.epochs,
                 self.schedule.steps, self.schedule.passes, "pass" if self.schedule.passes == 1 else "passes")

    def show_input(self, epoch: int, image: torch.Tensor, attention: torch.Tensor | None) -> None:
        """Show the first input of epochs 1, 2, 4, 8, …: (N, K, C, H, W) in [-1, 1], attention (N, K)."""
        if self.active and epoch > self._shown_epoch and epoch & (epoch - 1) == 0:
            self._shown_epoch, view = epoch, self.config.augment
            own = view.slice_context * len(view.windows)         # the channels of lower neighbors come before a slice's own
            self.tensorboard(epoch).add_image("seen", montage(image[:, :, own], attention), epoch)

    def log_epoch(self, line: dict[str, Any]) -> None:
        """Add the figures of an epoch to `metrics.jsonl`, the log and TensorBoard."""
        if not self.active:
            return
        self.run.add_metrics(line)
        for name, value in line.items():
            if not isinstance(value, str):
                self.tensorboard(line["epoch"]).add_scalar(name, value, line["epoch"])
        LOG.info("%s", _epoch_line(line, self.config, self.schedule.epochs))

    def write_report(self, epoch: int, report: dict[str, Any]) -> None:
        """Write `reports/epoch_<n>.json`: the measures of the tune set, class by class."""
        if self.active:
            write_json(self.run.reports / f"epoch_{epoch}.json", {"epoch": epoch, "set": "tune", **report})


@torch.no_grad()
def montage(image: torch.Tensor, attention: torch.Tensor | None) -> np.ndarray:
    """Return a picture, uint8 (1, rows, columns): one ear per row, evenly spaced slices from low to high.

    image: (N, K, H, W) in [-1, 1]; attention: (N, K). The bar below a slice shows its attention relative to the highest.
    """
    ears = min(len(image), EARS_SHOWN)
    slices = np.unique(np.linspace(0, image.shape[1] - 1, SLICES_SHOWN).round().astype(int))
    shown = image[:ears].float().cpu().numpy()[:, slices]
    grey = ((shown + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    if attention is not None:
        weight = attention[:ears].float().cpu().numpy()
        length = (weight[:, slices] / weight.max(1, keepdims=True))[..., None, None]
        bar = np.where(np.arange(grey.shape[-1]) < length * grey.shape[-1], 255, 60).astype(np.uint8)
        grey = np.concatenate([grey, np.broadcast_to(bar, (*grey.shape[:2], BAR, grey.shape[-1]))], 2)
    grey = np.pad(grey, ((0, 0), (0, 0), (0, 2), (0, 2)))
    return grey.transpose(0, 2, 1, 3).reshape(1, ears * grey.shape[2], -1)


def network_name(model: ModelConfig) -> str:
    """Return the network's name, with its pooling if it has one."""
    return f"{model.backbone}, {model.pooling}" if model.model in SLICE_ATTENTION else model.model


def _epoch_line(line: dict[str, Any], config: RunConfig, epochs: int) -> str:
    name = config.training.early_stop_metric.removeprefix("val_")
    tune = f", tune loss {line['tune_loss']:.3f}, {name} {line[f'tune_{name}']:.3f}" if "tune_loss" in line else ""
    best = " (best)" if line["best_epoch"] == line["epoch"] else ""
    return (f"epoch {line['epoch']}/{epochs}: loss {line['train_loss']:.3f}{tune}{best}; lr {line['lr']:.2g}, "
            f"{line['ears_per_s']:.1f} ears/s, {line['waited']:.0%} of the time waiting for data, {line['memory_gb']:.1f} GB")
