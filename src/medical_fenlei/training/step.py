"""One optimizer step: accumulated over micro-batches, summed over processes, split further when memory runs out, and skipped
when its loss or gradient is not finite."""
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medical_fenlei.errors import CheckFailed
from medical_fenlei.log import LOG
from medical_fenlei.training.batch_size import is_out_of_memory
from medical_fenlei.training.distributed import Ranks

MAX_SKIPPED = 5
"""Training ends after this many steps in a row without a finite loss."""

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

PartLoss = Callable[[slice], tuple[torch.Tensor, torch.Tensor]]
"""Computes the sum of the loss over a part of the step's ears, and the number of targets in it."""


@dataclass
class Stepper:
    """Takes steps of an optimizer. A step happens as a whole or leaves no trace."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    clip_norm: float
    """Maximum norm of the gradient; 0 does not clip."""

    micro_batches: int = 1
    """Number of parts in which the ears of a step are computed. Doubled for the rest of the run each time memory runs out."""

    ema: AveragedModel | None = None
    """The exponential moving average of the weights, if one is kept."""

    grad_checkpointing: bool = False
    """Whether the backward pass recomputes activations, which must not update BatchNorm's statistics a second time."""

    ranks: Ranks = field(default_factory=Ranks)
    """Every process takes the same step on ears of its own, and ends it with the same weights and statistics."""

    skipped: int = 0
    """Steps in a row whose loss or gradient was not finite."""

    _saved_buffers: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, ears: int, part_loss: PartLoss, *, seed: int, describe: Callable[[], str]) -> torch.Tensor:
        """Take a step; return the mean loss over the targets of all processes, () float32 on the device.

        ears: number in this process; seed: seeds everything random in the step; describe: names the samples for the log.
        If loss or gradient is not finite, no step is taken. Raises CheckFailed after MAX_SKIPPED such steps in a row.
        """
        with self._rollback() as undo:
            total, count = self._gradients_within_memory(ears, part_loss, seed, undo)
            loss = self._mean(total, count, ears)
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm or float("inf"))
            if not (bool(loss.isfinite()) and bool(norm.isfinite())):
                undo()
                overflow = self.scaler.is_enabled() and bool(loss.isfinite()) and self.scaler.get_scale() > 1
                self.scaler.update()
                if not overflow:                                 # fp16 gradients overflow now and then; the scale is halved
                    self._skip(float(loss), float(norm), describe())
                return loss
            self.skipped = 0
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.ema is not None:
                self.ema.update_parameters(self.model)
            return loss

    def _gradients_within_memory(
        self, ears: int, part_loss: PartLoss, seed: int, undo: Callable[[], None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `_gradients`; while memory runs out in any process, all of them try again with twice as many micro-batches."""
        while True:
            torch.manual_seed(seed)                              # each try draws the same numbers
            failed = False
            try:
                total, count = self._gradients(ears, part_loss)
            except Exception as error:
                if not is_out_of_memory(error) or self.micro_batches >= ears:
                    raise
                failed = True
            if not self.ranks.any(failed):
                return total, count
            undo()
            self.micro_batches = min(2 * self.micro_batches, ears)
            LOG.warning("out of memory: from now on each step is split into %d micro-batches", self.micro_batches)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _gradients(self, ears: int, part_loss: PartLoss) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the gradients of the sum of the loss, divided by the number of ears; return that sum and its target count.

        The micro-batches are of nearly equal size. They are computed one after the other, in the memory of one.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = count = torch.zeros((), device=next(self.model.parameters()).device)
        parts = min(self.micro_batches, ears)
        ends = [ears * n // parts for n in range(parts + 1)]
        for first, stop in itertools.pairwise(ends):
            loss, targets = part_loss(slice(first, stop))
            after_forward = [buffer.clone() for buffer in self.model.buffers()] if self.grad_checkpointing else []
            self.scaler.scale(loss / ears).backward()            # a scale that does not depend on the number of micro-batches
            for buffer, saved in zip(self.model.buffers(), after_forward, strict=False):
                buffer.copy_(saved)                              # undoes the second update, by the recomputed activations
            total, count = total + loss.detach(), count + targets
        return total, count

    def _mean(self, total: torch.Tensor, count: torch.Tensor, ears: int) -> torch.Tensor:
        """Return the mean loss over the targets of all processes; rescale the gradients to those of this mean.

        BatchNorm's statistics become the mean over the processes.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        count = count.to(total.dtype, copy=True)
        if self.ranks.world_size > 1:
            statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
            torch._foreach_mul_(gradients, ears)
            self.ranks.sum([*gradients, *statistics, total, count])
            for buffer in statistics:
                buffer.div_(self.ranks.world_size)
            ears = 1                                             # the sums already contain it
        torch._foreach_mul_(gradients, ears / count.clamp(min=1))
        return total / count.clamp(min=1)

    def _skip(self, loss: float, norm: float, samples: str) -> None:
        self.skipped += 1
        LOG.warning("loss %s, norm of the gradient %s: skipped the step on %s", loss, norm, samples)
        if self.skipped >= MAX_SKIPPED:
            raise CheckFailed(f"{MAX_SKIPPED} steps in a row had no finite loss (the last was {loss}); a lower --lr or "
                              "--precision fp32 may help")

    @contextlib.contextmanager
    def _rollback(self) -> Iterator[Callable[[], None]]:
        """Save BatchNorm's statistics; yield a function that restores them and discards the gradients."""
        buffers = list(self.model.buffers())
        if not self._saved_buffers:
            self._saved_buffers = [torch.empty_like(buffer) for buffer in buffers]
        if buffers:
            torch._foreach_copy_(self._saved_buffers, buffers)

        def undo() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            if buffers:
                torch._foreach_copy_(buffers, self._saved_buffers)

        yield undo

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the weights of the model."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "parts": self.micro_batches,
                "average": None if self.ema is None else self.ema.state_dict(), "left_out": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["average"])
        self.micro_batches, self.skipped = state["parts"], state["left_out"]


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """Return an exponential moving average of weights and buffers with decay min(decay, (1 + n) / (10 + n)) at step n.

    The ramp (as in TensorFlow's ExponentialMovingAverage) lets the average forget the initial weights, in short runs too.
    None for decay 0.
    """
    if not decay:
        return None

    def average(means: Tensors, weights: Tensors, taken: torch.Tensor | int) -> None:
        n = int(taken)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(means, weights, taken)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
