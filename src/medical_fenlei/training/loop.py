"""The training loop, to be read from top to bottom.

One epoch draws an order, windows and augments each batch on the device, takes a step a batch, then measures the tune set; the
best epoch by that measure is kept. Everything random follows from (seed, epoch, step, sample), and what is saved says how far
the epoch has come, so a run that goes on from `last.pt` takes the same steps as one that was never stopped. Where several
processes share the work, each takes its part of every batch and of the tune set; all know all figures, the first one writes.
"""
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from medical_fenlei import settings
from medical_fenlei.config import RunConfig
from medical_fenlei.data.augment import Draw, augment, draw
from medical_fenlei.data.dataset import Batch, EarDataset
from medical_fenlei.data.loaders import Waiting, cut, nth_time, training_order
from medical_fenlei.data.storage import ahead
from medical_fenlei.errors import CheckFailed, Stopped, UserError
from medical_fenlei.log import LOG
from medical_fenlei.metrics.predictions import measures_over
from medical_fenlei.models.output import Network
from medical_fenlei.runs import Run
from medical_fenlei.signals import Stop
from medical_fenlei.tasks import OUTSIDE, find_tasks
from medical_fenlei.training.checkpoint import Checkpoint, read_last, step_back, write_checkpoint
from medical_fenlei.training.device import Arithmetic, compiled, compiling, memory_gb
from medical_fenlei.training.distributed import Ranks
from medical_fenlei.training.dynamics import Answers
from medical_fenlei.training.losses import training_loss
from medical_fenlei.training.predict import Inferred, infer, tables_of
from medical_fenlei.training.record import Record
from medical_fenlei.training.schedule import drop_share, rate_of
from medical_fenlei.training.step import Stepper, running_mean
from medical_fenlei.training.trained_on import TrainedOn

FALLING = {"loss", "val_loss"}
"""Measures of which less is better."""


@dataclass
class Progress:
    """Where training stands. `best` ranks epochs: the measure, then the tune loss among equals."""

    epoch: int = 0
    """Whole epochs, measured."""

    step: int = 0
    """Steps of the one after them."""

    loss: float = 0.0
    """Sum over those of them that had a finite one."""

    taken: int = 0
    """How many had."""

    best: tuple[float, float] = (-math.inf, -math.inf)
    best_epoch: int = 0
    best_value: float = math.nan


@dataclass
class Trainer:
    """All that lives as long as a run."""

    config: RunConfig
    run: Run
    model: Network
    """With the weights it starts from, on the device of `arithmetic`; it recomputes where the settings say so."""

    arithmetic: Arithmetic
    train: EarDataset
    tune: EarDataset | None
    ranks: Ranks = field(default_factory=Ranks)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        plan = self.config.training
        self.tasks = find_tasks(self.config.data.label_task)
        self.device = self.arithmetic.device
        optimizer = torch.optim.AdamW(parameter_groups(self.model, plan.weight_decay), lr=plan.lr, fused=True)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.arithmetic.dtype == torch.float16)
        targets = np.stack([task.targets(self.train.code) for task in self.tasks])
        self.targets = targets[0] if len(targets) == 1 else np.where((targets != OUTSIDE).any(0), 0, OUTSIDE)
        self.loss = training_loss(plan, self.tasks, self.train.code, balancing=self.config.balancing).to(self.device)
        self.step = Stepper(self.model, optimizer, scaler, clip_norm=plan.clip_norm, parts=plan.grad_accum,
                            average=running_mean(self.model, plan.ema), recomputes=plan.grad_checkpointing, ranks=self.ranks)
        self.network = compiled(self.model) if plan.compile else self.model
        self.stop, self.answers = Stop(), Answers()
        self.saved_at, self.saved = (0, 0), time.monotonic()

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and kept: the running mean, where there is one."""
        return self.model if self.step.average is None else self.step.average.module

    def fit(self) -> Progress:
        """Train to the end, or until the tune set has not improved for `patience` epochs.

        Raises CheckFailed where no step has a finite loss; Stopped, after saving, on a signal.
        """
        plan, at = self.config.training, self.progress
        with self.stop.on_signals(), Record(self.run, self.config, self.arithmetic, active=self.ranks.first) as record:
            record.begin(self.model, self.tasks, self.train, self.tune, self.ranks.world)
            if at.epoch >= plan.epochs:
                LOG.info("all %d epochs were done before", plan.epochs)
            while at.epoch < plan.epochs:
                if plan.patience and self.tune is not None and at.epoch - at.best_epoch >= plan.patience:
                    LOG.info("no better epoch in %d: stopped", plan.patience)
                    break
                began, epoch = time.monotonic(), at.epoch + 1
                line: dict[str, Any] = {"epoch": epoch, **self.train_epoch(epoch, record)}
                line |= {f"tune_{name}": value for name, value in self._measure_tune(epoch, record).items()}
                improved = self._note_progress(epoch, line)
                line |= {"best_epoch": at.best_epoch, "seconds": round(time.monotonic() - began, 2)}
                record.epoch(line)                               # before the checkpoint: a stop between them repeats a line
                self._save(improved)
                self._leave_if_asked()
        return at

    def train_epoch(self, epoch: int, record: Record) -> dict[str, float]:
        plan, at = self.config.training, self.progress
        rng = np.random.default_rng([plan.seed, epoch])
        order = training_order(self.targets, balanced=self.config.balancing == "sampler", rng=rng)
        cuts, turns = cut(order, plan.batch_size), cut(nth_time(order), plan.batch_size)
        if min(map(len, cuts)) < self.ranks.world:
            raise UserError(f"--batch-size: a batch of {min(map(len, cuts))} among {self.ranks.world} processes leaves some "
                            "without work; take a larger one, or fewer processes")
        drop = drop_share(epoch, share=plan.drop_high_loss, warmup=plan.drop_warmup_epochs)
        self.model.train()
        if frozen := epoch <= plan.freeze_backbone_epochs:
            self.model.trunk.eval()                              # BatchNorm's statistics too stay as they came
        self.model.trunk.requires_grad_(not frozen)
        began, waiting, ears = time.monotonic(), Waiting(self.device), 0
        own = [self.ranks.share(samples) for samples in cuts[at.step:]]
        turns = [self.ranks.share(turn) for turn in turns[at.step:]]
        with (closing(self.train.batches(own, self.device)) as batches, closing(ahead(self._draws(epoch, own, turns))) as draws,
              tqdm(total=len(cuts), initial=at.step, desc=f"epoch {epoch}", unit="batch", leave=False,
                   disable=None if self.ranks.first else True) as bar):
            for samples, batch, drawn in zip(own, waiting.over(batches), draws, strict=True):
                for group in self.step.optimizer.param_groups:
                    group["lr"] = rate_of(plan, epoch, at.step, len(cuts))
                kept = self.answers.step(self.train.groups[samples][self.train.present[samples]])
                loss = self._step(batch, drawn, kept, epoch=epoch, drop=drop, record=record)
                at.step += 1
                if math.isfinite(loss):
                    at.loss, at.taken = at.loss + loss, at.taken + 1
                ears += len(batch.ears)
                bar.update()
                if at.step < len(cuts):
                    self._leave_if_asked()
                    if time.monotonic() - self.saved >= 60 * plan.save_minutes:
                        self._save(improved=False)
        if not at.taken:
            raise CheckFailed(f"epoch {epoch}: no step had a finite loss; a lower --lr or --precision fp32 may help")
        self.answers.end_epoch(epoch, self.run, self.train.ears, self.ranks)
        seconds, (ears, waited) = time.monotonic() - began, np.sum(self.ranks.gather((ears, waiting.seconds)), axis=0)
        return {"lr": rate_of(plan, epoch, len(cuts) - 1, len(cuts)), "train_loss": at.loss / at.taken,
                "ears_per_s": round(ears / seconds, 2), "waited": round(waited / self.ranks.world / seconds, 4),
                "memory_gb": round(max(self.ranks.gather(memory_gb(self.device))), 3)}

    def _draws(self, epoch: int, cuts: list[np.ndarray], turns: list[np.ndarray]) -> Generator[Draw, None, None]:
        """What is random about the ears of each batch. turns: how often each of its samples was seen in this epoch before."""
        seed = self.config.training.seed
        for samples, turn in zip(cuts, turns, strict=True):
            place, ear = np.nonzero(self.train.present[samples])
            row = self.train.row[samples[place]]
            yield draw(self.config.augment, seed=seed, epoch=epoch, row=row, ear=ear, turn=turn[place])

    def _step(self, batch: Batch, drawn: Draw, kept: list[torch.Tensor], *, epoch: int, drop: float, record: Record) -> float:
        """The mean loss of a step on these samples. kept: gets the network's outputs, part by part."""
        target = self.loss.targets(batch.code[batch.present].to(self.device, non_blocking=True))

        def sums(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
            """Of the loss of these ears, and of how many targets they have."""
            seen = augment(batch.ears[part], drawn[part], self.config.augment)
            with self.arithmetic.autocast():
                output = self.network(seen)
            record.seen(epoch, seen, output.attention)
            if part.start == 0:                                  # the first try, or one in smaller parts
                kept.clear()
            kept.append(output.logits.detach().clone())
            return self.loss.parts(output.logits, target[part], drop=drop)

        key = self.config.training.seed, epoch, self.progress.step, self.ranks.rank
        with compiling():
            return float(self.step(len(batch.ears), sums, seed=int(np.random.SeedSequence(key).generate_state(1)[0]),
                                   names=lambda: f"manifest rows {sorted(set(batch.row.tolist()))}"))

    def _measure_tune(self, epoch: int, record: Record) -> dict[str, float]:
        """Numbers of the tune set; each class stands in `reports/epoch_<n>.json`."""
        if self.tune is None:
            return {}
        own = self.ranks.share(np.arange(len(self.tune)))
        found = infer(self.measured, self.tune, samples=own, augment=self.config.augment, arithmetic=self.arithmetic,
                      batch_size=max(1, self.config.training.batch_size // self.step.parts // self.ranks.world),
                      until=lambda: self.stop.asked)
        each = self.ranks.gather(found)
        self._leave_if_asked()
        whole = Inferred.joined(each)
        if not np.isfinite(whole.logits).all():
            raise CheckFailed(f"epoch {epoch}: the network's outputs on the tune set are not finite; a lower --lr or "
                              "--precision fp32 may help")
        measured, report = measures_over(tables_of(whole, self.tune.ears_in_order, self.tasks), self.tasks)
        record.report(epoch, report)
        return measured

    def _note_progress(self, epoch: int, line: dict[str, Any]) -> bool:
        """Whether this epoch is the best so far. Without a tune set the latest is; where the measure is undefined, which counts
        for less than any value, the tune loss decides."""
        at, metric = self.progress, self.config.training.early_stop_metric
        value = line.get(f"tune_{metric.removeprefix('val_')}", math.nan)
        if self.tune is None:
            improved = True
        else:
            first = -math.inf if math.isnan(value) else -value if metric in FALLING else value
            rank = (first, -line["tune_loss"])
            improved = rank > at.best or not at.best_epoch
            at.best = rank if improved else at.best
        if improved:
            at.best_epoch, at.best_value = epoch, value
        at.epoch, at.step, at.loss, at.taken = epoch, 0, 0.0, 0
        return improved

    def _leave_if_asked(self) -> None:
        """Raises Stopped, after saving, if a signal came to any of the processes."""
        if self.ranks.any(self.stop.asked):
            at = self.progress
            if self.saved_at != (at.epoch, at.step):
                self._save(improved=False)
            self.ranks.any(True)                                 # all wait for that: torchrun ends those who are left
            raise Stopped(f"saved after epoch {at.epoch}" + (f" and {at.step} steps of the next" if at.step else "")
                          + f"; --resume {self.run.folder} goes on")

    def _save(self, improved: bool) -> None:
        self.saved_at, self.saved = (self.progress.epoch, self.progress.step), time.monotonic()
        if not self.ranks.first:
            return
        plan, last = self.config.training, self.run.checkpoint("last")
        best = Checkpoint(kind=self.config.kind, config=self.config, weights=self.measured.state_dict(),
                          epoch=self.progress.epoch, metric=plan.early_stop_metric if self.tune is not None else "",
                          value=self.progress.best_value, trained_on=TrainedOn.of(self.train.ears).plain())
        if improved:
            write_checkpoint(self.run.checkpoint("best"), best)
        step_back(last, plan.keep_last)
        state = {"step": self.step.state_dict(), "progress": vars(self.progress)}
        write_checkpoint(last, replace(best, weights=self.model.state_dict(), state=state))

    def go_on(self) -> None:
        """Take weights and state of the last checkpoint, where there is one. Raises UserError if the run had other settings."""
        path = self.run.checkpoint("last")
        last = self.ranks.first_alone(lambda: read_last(path, self.config.training.keep_last, kind=self.config.kind))
        if last is None:
            self._tidy(0)
            return
        if settings.to_json(last.config) != settings.to_json(self.config) or last.state is None:
            raise UserError(f"{path}: was made with other settings than {self.run.config_json}")
        self.model.load_state_dict(last.weights)
        self.step.load_state_dict(last.state["step"])
        self.progress = Progress(**last.state["progress"])
        self.saved_at = (self.progress.epoch, self.progress.step)
        self._tidy(last.epoch)
        LOG.info("going on after epoch %d%s", last.epoch,
                 f" and {self.progress.step} steps of the next" if self.progress.step else "")

    def _tidy(self, epoch: int) -> None:
        """Remove what a kill left: files that it cut short, lines of epochs after this one, which come again."""
        if self.ranks.first:
            self.run.keep_metrics(until=epoch)
            for part in self.run.folder.rglob(".*.part"):
                part.unlink(missing_ok=True)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases and normalisation (vectors) do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
