"""The training loop, to be read from top to bottom.

An epoch draws an order of the samples, augments each batch on the device, takes a step per batch, then evaluates the tune set;
the best epoch by that measure is kept. Everything random follows from (seed, epoch, step, sample), and a checkpoint records how
far the epoch has come, so a run resumed from `last.pt` takes the same steps as one that was never stopped. With several
processes, each takes its part of every batch and of the tune set; all of them have all figures, the first one writes.
"""
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from medical_fenlei import settings
from medical_fenlei.config import RunConfig
from medical_fenlei.data.augment import AugmentParams, augment, draw_params
from medical_fenlei.data.batching import occurrence_index, split_into_batches, training_order
from medical_fenlei.data.dataset import Batch, EarDataset
from medical_fenlei.data.transfer import prefetch
from medical_fenlei.data.wait_timer import WaitTimer
from medical_fenlei.errors import CheckFailed, Stopped, UserError
from medical_fenlei.files import remove_partial
from medical_fenlei.log import LOG
from medical_fenlei.metrics.predictions import measures_over
from medical_fenlei.models.network import Network
from medical_fenlei.runs import CHOSEN_BY, Run
from medical_fenlei.set_sizes import EPOCHS_AVERAGED
from medical_fenlei.signals import StopRequest
from medical_fenlei.tasks import OUTSIDE, find_tasks
from medical_fenlei.training.batch_progress import BatchProgress
from medical_fenlei.training.checkpoint import Checkpoint, read_newest_checkpoint, rotate_checkpoints, write_checkpoint
from medical_fenlei.training.device import ComputeSettings, compile_errors, compiled, peak_memory_gb
from medical_fenlei.training.distributed import Ranks
from medical_fenlei.training.dynamics import TrainingDynamics
from medical_fenlei.training.epoch_choice import EpochChoice
from medical_fenlei.training.frozen import VERSIONS, freeze
from medical_fenlei.training.logger import TrainingLogger
from medical_fenlei.training.losses import training_loss
from medical_fenlei.training.predict import InferenceResult, infer, prediction_tables
from medical_fenlei.training.progress import Progress
from medical_fenlei.training.schedule import Schedule, drop_share
from medical_fenlei.training.step import Stepper, moving_average
from medical_fenlei.training.training_set import TrainingSetSummary


@dataclass
class Trainer:
    """Trains one network on one training set."""

    config: RunConfig
    run: Run
    model: Network
    """With its initial weights, on the device of `compute`, and with gradient checkpointing where the settings ask for it."""

    compute: ComputeSettings
    train: EarDataset
    tune: EarDataset | None
    ranks: Ranks = field(default_factory=Ranks)
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        plan = self.config.training
        self.tasks, self.device = find_tasks(self.config.data.label_task), self.compute.device
        optimizer = torch.optim.AdamW(parameter_groups(self.model, plan.weight_decay), lr=plan.lr, fused=True)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.compute.dtype == torch.float16)
        targets = np.stack([task.targets(self.train.code) for task in self.tasks])
        self.targets = targets[0] if len(targets) == 1 else np.where((targets != OUTSIDE).any(0), 0, OUTSIDE)
        self.schedule = Schedule.of(plan, int((self.targets != OUTSIDE).any(1).sum()))
        self.loss = training_loss(plan, self.tasks, self.train.code, balancing=self.config.balancing).to(self.device)
        self.step = Stepper(self.model, optimizer, scaler, clip_norm=plan.clip_norm, micro_batches=plan.grad_accum,
                            ema=moving_average(self.model, plan.ema), grad_checkpointing=plan.grad_checkpointing,
                            ranks=self.ranks)
        if self.config.trains_head_alone:
            for network in {id(each): each for each in (self.model, self.evaluated_model)}.values():
                freeze(network)
        self.network = compiled(self.model) if plan.compile and not self.config.trains_head_alone else self.model
        self.choice = EpochChoice.on(self.tune.ears if self.tune else None, self.tasks, plan.early_stop_metric)
        self.dynamics, self.stop = TrainingDynamics(), StopRequest()
        self.saved_at, self.saved = (0, 0), time.monotonic()

    @property
    def evaluated_model(self) -> Network:
        """The network that is evaluated and kept as `best.pt`: the moving average of the weights, if there is one."""
        return self.model if self.step.ema is None else cast(Network, self.step.ema.module)

    def fit(self) -> Progress:
        """Train to the last epoch, or until the tune set has not improved for `patience` epochs.

        Raises CheckFailed if no step of an epoch has a finite loss; Stopped, after saving, on a signal.
        """
        plan, at = self.config.training, self.progress
        logged = TrainingLogger(self.run, self.config, self.compute, self.schedule, active=self.ranks.is_first)
        with self.stop.on_signals(), logged as logger:
            logger.log_start(self.model, self.tasks, self.train, self.tune, self.ranks.world_size)
            if at.epoch >= self.schedule.epochs:
                LOG.info("all %d epochs are already done", self.schedule.epochs)
            while at.epoch < self.schedule.epochs:
                if self.choice.on_tune and self.schedule.out_of_patience(plan, epoch=at.epoch, best=at.best_epoch):
                    LOG.info("no improvement in %d epochs: training ends", plan.patience)
                    break
                began, epoch = time.monotonic(), at.epoch + 1
                line: dict[str, Any] = {"epoch": epoch, **self.train_epoch(epoch, logger)}
                line |= {f"tune_{name}": value for name, value in self._evaluate_tune(epoch, logger).items()}
                improved = self._end_epoch(epoch, line)
                line |= {"best_epoch": at.best_epoch, CHOSEN_BY: self.choice.by,
                         "seconds": round(time.monotonic() - began, 2)}
                logger.log_epoch(line)                           # before the checkpoint: a kill in between repeats a line
                self._save(improved)
                self._stop_if_requested()
        return at

    def train_epoch(self, epoch: int, logger: TrainingLogger) -> dict[str, float]:
        """Take the steps of an epoch that remain; return its figures for `metrics.jsonl`."""
        plan, at = self.config.training, self.progress
        rng = np.random.default_rng([plan.seed, epoch])
        order = training_order(self.targets, balanced=self.config.balancing == "sampler", passes=self.schedule.passes, rng=rng)
        batches, occurrences = (split_into_batches(each, plan.batch_size) for each in (order, occurrence_index(order)))
        steps, smallest = len(batches), min(map(len, batches))
        if smallest < self.ranks.world_size:
            raise UserError(f"--batch-size: a batch of {smallest} among {self.ranks.world_size} processes leaves some "
                            "without work; use a larger batch, or fewer processes")
        drop = drop_share(epoch, share=plan.drop_high_loss, warmup=plan.drop_warmup_epochs)
        self.model.train()
        if frozen := self.config.trains_head_alone or epoch <= plan.freeze_backbone_epochs:
            self.model.trunk.eval()                              # keeps the statistics of BatchNorm too
        self.model.trunk.requires_grad_(not frozen)
        began, timer, ears = time.monotonic(), WaitTimer(self.device), 0
        own, own_occurrences = ([self.ranks.share(part) for part in each[at.step:]] for each in (batches, occurrences))
        with (closing(self.train.batches(own, self.device)) as loaded,
              closing(prefetch(self._augment_params(epoch, own, own_occurrences))) as drawn,
              BatchProgress(f"epoch {epoch}", steps, done=at.step, later=(self.schedule.epochs - epoch) * steps,
                            last=f"epoch {self.schedule.epochs}") as progress):
            for samples, batch, params in zip(own, timer.timed(loaded), drawn, strict=True):
                for group in self.step.optimizer.param_groups:
                    group["lr"] = self.schedule.learning_rate(plan, epoch, at.step)
                outputs = self.dynamics.step(self.train.groups[samples][self.train.present[samples]])
                loss = self._step(epoch, batch, params, outputs, drop=drop, logger=logger)
                at.step += 1
                if math.isfinite(loss):
                    at.loss, at.taken = at.loss + loss, at.taken + 1
                ears += len(batch.ears)
                progress.update()
                if at.step < steps:
                    self._stop_if_requested()
                    if time.monotonic() - self.saved >= 60 * plan.save_minutes:
                        self._save(improved=False)
        if not at.taken:
            raise CheckFailed(f"epoch {epoch}: no step had a finite loss; a lower --lr or --precision fp32 may help")
        self.dynamics.end_epoch(epoch, self.run, self.train.ears, self.ranks)
        seconds, (ears, waited) = time.monotonic() - began, np.sum(self.ranks.gather((ears, timer.seconds)), axis=0)
        return {"lr": self.schedule.learning_rate(plan, epoch, steps - 1), "train_loss": at.loss / at.taken,
                "ears_per_s": round(ears / seconds, 2), "waited": round(waited / self.ranks.world_size / seconds, 4),
                "memory_gb": round(max(self.ranks.gather(peak_memory_gb(self.device))), 3)}

    def _augment_params(self, epoch: int, batches: list[np.ndarray], occurrences: list[np.ndarray]
                        ) -> Generator[AugmentParams, None, None]:
        """Yield the augmentation of each batch. occurrences: how often each sample occurred before in this epoch.

        A frozen backbone sees the same few augmentations of each ear in turn.
        """
        seed = self.config.training.seed
        if self.config.trains_head_alone:
            before = (epoch - 1) * self.schedule.passes
            epoch, occurrences = 0, [(before + each) % VERSIONS for each in occurrences]
        for samples, occurrence in zip(batches, occurrences, strict=True):
            position, ear = np.nonzero(self.train.present[samples])
            yield draw_params(self.config.augment, seed=seed, epoch=epoch, row=self.train.row[samples[position]], ear=ear,
                              occurrence=occurrence[position])

    def _step(self, epoch: int, batch: Batch, params: AugmentParams, outputs: list[torch.Tensor], *, drop: float,
              logger: TrainingLogger) -> float:
        """Take a step on a batch; return its mean loss. outputs: receives the logits of each micro-batch."""
        target = self.loss.targets(batch.code[batch.present].to(self.device, non_blocking=True))

        def part_loss(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
            """Sum of the loss over some ears of the batch, and the number of their targets."""
            image = augment(batch.ears[part], params[part], self.config.augment)
            with self.compute.autocast():
                output = self.network(image)
            logger.show_input(epoch, image, output.attention)
            if part.start == 0:                                  # the step begins, or begins again in smaller parts
                outputs.clear()
            outputs.append(output.logits.detach().clone())
            return self.loss.sum_and_count(output.logits, target[part], drop=drop)

        key = self.config.training.seed, epoch, self.progress.step, self.ranks.rank
        with compile_errors():
            return float(self.step(len(batch.ears), part_loss, seed=int(np.random.SeedSequence(key).generate_state(1)[0]),
                                   describe=lambda: f"manifest rows {sorted(set(batch.row.tolist()))}"))

    def _evaluate_tune(self, epoch: int, logger: TrainingLogger) -> dict[str, float]:
        """Return the measures of the tune set; those of each class go to `reports/epoch_<n>.json`."""
        if self.tune is None:
            return {}
        own = self.ranks.share(np.arange(len(self.tune)))
        found = infer(self.evaluated_model, self.tune, samples=own, augment=self.config.augment, compute=self.compute,
                      batch_size=max(1, self.config.training.batch_size // self.step.micro_batches // self.ranks.world_size),
                      until=lambda: self.stop.received)
        each = self.ranks.gather(found)
        self._stop_if_requested()
        whole = InferenceResult.concatenate(each)
        if not np.isfinite(whole.logits).all():
            raise CheckFailed(f"epoch {epoch}: the network's outputs on the tune set are not finite; a lower --lr or "
                              "--precision fp32 may help")
        measures, report = measures_over(prediction_tables(whole, self.tune.ears_in_order, self.tasks), self.tasks)
        logger.write_report(epoch, report)
        return measures

    def _end_epoch(self, epoch: int, line: dict[str, Any]) -> bool:
        """Advance to the next epoch; return whether this one is the best so far."""
        at, improved, value = self.progress, True, math.nan
        if self.choice.on_tune:
            at.losses = [*at.losses, line["tune_loss"]][-EPOCHS_AVERAGED:]
            value = self.choice.value(line, at.losses)
            rank = self.choice.rank(value, line["tune_loss"])
            improved = rank > at.best or at.best_epoch < self.schedule.chosen_from
            at.best = rank if improved else at.best
        if improved:
            at.best_epoch, at.best_value = epoch, value
        at.epoch, at.step, at.loss, at.taken = epoch, 0, 0.0, 0
        return improved

    def _stop_if_requested(self) -> None:
        """Save and raise Stopped if a signal reached any of the processes."""
        if self.ranks.any(self.stop.received):
            at = self.progress
            if self.saved_at != (at.epoch, at.step):
                self._save(improved=False)
            self.ranks.any(True)                                 # wait until all are here: torchrun ends those left behind
            raise Stopped(f"saved after epoch {at.epoch}" + (f" and {at.step} steps of the next" if at.step else "")
                          + f"; continue with --resume {self.run.folder}")

    def _save(self, improved: bool) -> None:
        """Write `last.pt` and, if the epoch is the best so far, `best.pt`."""
        self.saved_at, self.saved = (self.progress.epoch, self.progress.step), time.monotonic()
        if not self.ranks.is_first:
            return
        last = self.run.checkpoint("last")
        best = Checkpoint(kind=self.config.kind, config=self.config, weights=self.evaluated_model.state_dict(),
                          epoch=self.progress.epoch, metric=self.choice.by if self.choice.on_tune else "",
                          value=self.progress.best_value, trained_on=TrainingSetSummary.from_ears(self.train.ears))
        if improved:
            write_checkpoint(self.run.checkpoint("best"), best)
        rotate_checkpoints(last, self.config.training.keep_last)
        state = {"step": self.step.state_dict(), "progress": vars(self.progress)}
        write_checkpoint(last, replace(best, weights=self.model.state_dict(), state=state))

    def resume(self) -> None:
        """Restore weights and state from the last checkpoint, if there is one. Raises UserError if its settings differ."""
        path = self.run.checkpoint("last")
        last = self.ranks.on_first(
            lambda: read_newest_checkpoint(path, self.config.training.keep_last, kind=self.config.kind))
        if last is None:
            return self._remove_leftovers(epoch=0)
        if settings.to_json(last.config) != settings.to_json(self.config) or last.state is None:
            raise UserError(f"{path}: was made with other settings than {self.run.config_json}")
        try:
            self.model.load_state_dict(last.weights)
            self.step.load_state_dict(last.state["step"])
            self.progress = Progress(**last.state["progress"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: field weights or state does not fit the settings ({type(error).__name__}); remove it to "
                            "resume from the one before it") from None
        self.saved_at = (self.progress.epoch, self.progress.step)
        self._remove_leftovers(last.epoch)
        LOG.info("resuming after epoch %d%s", last.epoch,
                 f" and {self.progress.step} steps of the next" if self.progress.step else "")

    def _remove_leftovers(self, epoch: int) -> None:
        """Remove what a kill left behind: partial files, and metrics of epochs after this one, which will come again."""
        if self.ranks.is_first:
            self.run.keep_metrics(until=epoch)
            for part in self.run.folder.rglob(".*.part"):
                remove_partial(part)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: weight decay for matrices and kernels, none for biases and normalisation."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
