"""The training loop, to be read from top to bottom.

One epoch draws an order, windows and augments each batch on the device, takes a step a batch, then measures the tune set; the
best epoch by that measure is kept. Everything random in an epoch follows from (seed, epoch), so a run that goes on from
`last.pt` takes the same steps as one that was never stopped.
"""
import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from medical_fenlei import settings
from medical_fenlei.data.augment import augment, draw
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.loaders import Waiting, cut, training_order
from medical_fenlei.errors import CheckFailed, UserError
from medical_fenlei.files import write_json
from medical_fenlei.metrics.predictions import measures_of, report_of, surprise
from medical_fenlei.models.output import Network
from medical_fenlei.runs import LOG, Run
from medical_fenlei.tasks import OUTSIDE, Task, find_task
from medical_fenlei.training.checkpoint import Checkpoint, read_last, step_back, write_checkpoint
from medical_fenlei.training.config import SLICE_ATTENTION, ModelConfig, RunConfig, TrainConfig
from medical_fenlei.training.device import Arithmetic
from medical_fenlei.training.losses import training_loss
from medical_fenlei.training.predict import predict
from medical_fenlei.training.schedule import drop_share, learning_rate
from medical_fenlei.training.step import Stepper, running_mean

FALLING = {"loss", "val_loss"}
"""Measures of which less is better."""


@dataclass
class Progress:
    """Where training stands. `best` ranks epochs: the measure, then the tune loss among equals."""

    epoch: int = 0
    best: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    best_value: float = math.nan


@dataclass
class Trainer:
    """All that lives as long as a run."""

    config: RunConfig
    run: Run
    model: Network
    """With the weights it starts from, on the device of `arithmetic`."""

    arithmetic: Arithmetic
    train: EarDataset
    tune: EarDataset | None
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        plan = self.config.training
        self.task: Task = find_task(self.config.data.label_task)
        self.device = self.arithmetic.device
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, plan.weight_decay), lr=plan.lr)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.arithmetic.dtype == torch.float16)
        self.targets = self.task.targets(self.train.code)
        self.loss = training_loss(plan, [self.task], self.train.code).to(self.device)
        self.step = Stepper(self.model, self.optimizer, self.scaler, clip_norm=plan.clip_norm, parts=plan.grad_accum,
                            average=running_mean(self.model, plan.ema))

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and kept: the running mean, where there is one."""
        return self.model if self.step.average is None else self.step.average.module

    def fit(self) -> Progress:
        """Train to the end, or until the tune set has not improved for `patience` epochs. Raises CheckFailed on a NaN loss."""
        plan = self.config.training
        self._say_what()
        with SummaryWriter(str(self.run.tensorboard)) as board:
            for epoch in range(self.progress.epoch + 1, plan.epochs + 1):
                if plan.patience and self.tune is not None and self.progress.epoch - self.progress.best_epoch >= plan.patience:
                    LOG.info("no better epoch in %d: stopped", plan.patience)
                    break
                began = time.monotonic()
                line: dict[str, Any] = {"epoch": epoch, **self._train_epoch(epoch)}
                trained = time.monotonic() - began
                line |= {f"tune_{name}": value for name, value in self._measure_tune(epoch).items()}
                improved = self._note_progress(epoch, line)
                line |= {"best_epoch": self.progress.best_epoch, "seconds": round(time.monotonic() - began, 2),
                         "ears_per_s": round(float(np.sum(self.targets != OUTSIDE)) / trained, 2)}
                self.run.add_metrics(line)                       # before the checkpoint: a stop between them repeats a line
                self._save(improved)
                for name, value in line.items():
                    board.add_scalar(name, value, epoch)
                LOG.info("%s", _readable(line, plan))
        return self.progress

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        plan = self.config.training
        rng = np.random.default_rng([plan.seed, epoch])
        cuts = cut(training_order(self.targets, balanced=plan.balancing == "sampler", rng=rng), plan.batch_size)
        steps, warmup = plan.epochs * len(cuts), plan.warmup_epochs * len(cuts)
        drop = drop_share(epoch, share=plan.drop_high_loss, warmup=plan.drop_warmup_epochs)
        torch.manual_seed(int(rng.integers(2**62)))              # for dropout: a run that goes on draws the same
        self.model.train()
        if frozen := epoch <= plan.freeze_backbone_epochs:
            self.model.trunk.eval()                              # BatchNorm's statistics too stay as they came
        self.model.trunk.requires_grad_(not frozen)
        total, taken, rate, waiting = torch.zeros((), device=self.device), 0, 0.0, Waiting(self.device)
        bar = tqdm(cuts, desc=f"epoch {epoch}", unit="batch", disable=None, leave=False)
        for number, batch in enumerate(waiting.over(self.train.batches(cuts, self.device))):
            rate = learning_rate((epoch - 1) * len(cuts) + number, steps=steps, warmup=warmup, peak=plan.lr)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            place, ear = np.nonzero(batch.present.numpy())
            row = batch.row.numpy()[place]
            target = self.loss.targets(batch.code[batch.present].to(self.device, non_blocking=True))

            def sums(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
                """Of the loss of these ears, and of how many targets they have."""
                drawn = draw(self.config.augment, seed=plan.seed, epoch=epoch, row=row[part], ear=ear[part])     # noqa: B023
                with self.arithmetic.autocast():
                    output = self.model(augment(batch.ears[part], drawn, self.config.augment))                   # noqa: B023
                return self.loss.parts(output.logits, target[part], drop=drop)                                   # noqa: B023

            loss = self.step(len(row), sums, names=lambda: f"manifest rows {sorted(set(row.tolist()))}")         # noqa: B023
            if bool(loss.isfinite()):
                total, taken = total + loss, taken + 1
            bar.update()
        bar.close()
        if not taken:
            raise CheckFailed(f"epoch {epoch}: no step had a finite loss; a lower --lr or --precision fp32 may help")
        return {"lr": rate, "train_loss": float(total) / taken, "waited_s": round(waiting.seconds, 2)}

    def _measure_tune(self, epoch: int) -> dict[str, float]:
        """Numbers of the tune set; each class stands in `reports/epoch_<n>.json`."""
        if self.tune is None:
            return {}
        found = predict(self.measured, self.tune, self.task, augment=self.config.augment, arithmetic=self.arithmetic,
                        batch_size=max(1, self.config.training.batch_size // self.step.parts))
        measured = {name: float(value[0]) for name, value in measures_of(found, self.task)(np.ones((1, len(found)))).items()}
        loss, report = float(surprise(found, self.task).mean()), report_of(found, self.task)
        write_json(self.run.reports / f"epoch_{epoch}.json", {"epoch": epoch, "set": "tune", "loss": loss, **report})
        macro = {f"macro_{name}": value for name, value in report["macro"].items()}
        return {**measured, **macro, "accuracy": report["accuracy"], "loss": loss}

    def _note_progress(self, epoch: int, line: dict[str, Any]) -> bool:
        """Whether this epoch is the best so far; without a tune set, or where the measure is undefined, the latest is."""
        self.progress.epoch = epoch
        metric = self.config.training.early_stop_metric
        value = line.get(f"tune_{metric.removeprefix('val_')}", math.nan)
        undefined = math.isnan(value)
        rank = self.progress.best if undefined else (-value if metric in FALLING else value, -line["tune_loss"])
        improved = undefined or rank > self.progress.best
        if improved:
            self.progress.best, self.progress.best_epoch, self.progress.best_value = rank, epoch, value
        return improved

    def _save(self, improved: bool) -> None:
        plan, last = self.config.training, self.run.checkpoint("last")
        average = None if self.step.average is None else self.step.average.state_dict()
        state = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "progress": vars(self.progress),
                 "average": average, "parts": self.step.parts, "left_out": self.step.left_out}
        metric = plan.early_stop_metric if self.tune is not None else ""
        best = Checkpoint(kind=self.config.kind, config=self.config, weights=self.measured.state_dict(),
                          epoch=self.progress.epoch, metric=metric, value=self.progress.best_value)
        if improved:
            write_checkpoint(self.run.checkpoint("best"), best)
        step_back(last, plan.keep_last)
        write_checkpoint(last, replace(best, weights=self.model.state_dict(), state=state))

    def go_on(self) -> None:
        """Take weights and state of the last checkpoint, where there is one. Raises UserError if the run had other settings."""
        path = self.run.checkpoint("last")
        last = read_last(path, self.config.training.keep_last, kind=self.config.kind)
        if last is None:
            self.run.keep_metrics(until=0)
            return
        if settings.to_json(last.config) != settings.to_json(self.config) or last.state is None:
            raise UserError(f"{path}: was made with other settings than {self.run.config_json}")
        self.model.load_state_dict(last.weights)
        self.optimizer.load_state_dict(last.state["optimizer"])
        self.scaler.load_state_dict(last.state["scaler"])
        if self.step.average is not None:
            self.step.average.load_state_dict(last.state["average"])
        self.step.parts, self.step.left_out = last.state["parts"], last.state["left_out"]
        self.progress = Progress(**last.state["progress"])
        self.run.keep_metrics(until=last.epoch)
        LOG.info("going on after epoch %d", last.epoch)

    def _say_what(self) -> None:
        for name, ears in (("train", self.train), ("tune", self.tune)):
            if ears is not None:
                target = self.task.targets(ears.code)
                counts = np.bincount(target[target != OUTSIDE], minlength=len(self.task.classes))
                LOG.info("%s: %d ears; of each class %s", name, counts.sum(), " ".join(map(str, counts)))
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        LOG.info("%s, %.1f million parameters, %d samples a step, on %s", describe(self.config.model), millions,
                 self.config.training.batch_size, self.arithmetic)


def describe(model: ModelConfig) -> str:
    """The network in a word or two."""
    return f"{model.backbone}, {model.pooling}" if model.model in SLICE_ATTENTION else model.model


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and normalisation (vectors) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]


def _readable(line: dict[str, Any], plan: TrainConfig) -> str:
    name = plan.early_stop_metric.removeprefix("val_")
    tune = f", tune loss {line['tune_loss']:.3f}, {name} {line[f'tune_{name}']:.3f}" if "tune_loss" in line else ""
    best = " (best)" if line["best_epoch"] == line["epoch"] else ""
    return (f"epoch {line['epoch']}/{plan.epochs}: loss {line['train_loss']:.3f}{tune}{best}; lr {line['lr']:.2g}, "
            f"{line['ears_per_s']:.1f} ears/s, {line['waited_s']:.1f} s waited for data")
