"""One step of training, whatever befalls it: accumulated over parts, summed over processes, split further where memory runs
out, left out where the loss is not a number."""
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

PATIENCE = 5
"""So many steps in a row without a finite loss end the training."""

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]

Sums = Callable[[slice], tuple[torch.Tensor, torch.Tensor]]
"""From a part of the step's ears to the sum of their loss and the number of targets in it."""


@dataclass
class Stepper:
    """Takes steps of an optimizer. Weights change in whole steps only: what fails half-way leaves no trace."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    clip_norm: float
    parts: int = 1
    """A step's ears are computed in so many parts; more, for the rest of the run, once memory has run out."""

    average: AveragedModel | None = None
    """The running mean of the weights, where one is kept."""

    recomputes: bool = False
    """Whether the backward pass computes activations again, which must not count twice in BatchNorm's statistics."""

    ranks: Ranks = field(default_factory=Ranks)
    """Each takes the same step on ears of its own, and ends it with the same weights and statistics."""

    left_out: int = 0
    """Steps in a row whose loss or gradient was not finite."""

    _before: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, ears: int, sums: Sums, *, seed: int, names: Callable[[], str]) -> torch.Tensor:
        """Take a step on so many ears; returns the mean loss over the targets of all processes, () float32 on the device.

        A mean that is not finite means that no step was taken. seed: of all that is random in the step. names: of the samples,
        for the log. Raises CheckFailed after PATIENCE such steps in a row.
        """
        with self._undoing() as undo:
            while True:
                torch.manual_seed(seed)                          # each try draws the same; no random state outlives a step
                failed = False
                try:
                    total, count = self._gradients(ears, sums)
                except Exception as error:
                    if not is_out_of_memory(error) or self.parts >= ears:
                        raise
                    failed = True
                if not self.ranks.any(failed):
                    break
                undo()
                self.parts = min(2 * self.parts, ears)
                LOG.warning("out of memory: from now on a step is computed in %d parts", self.parts)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            loss = self._mean(total, count, ears)
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm or float("inf"))
            if not (bool(loss.isfinite()) and bool(norm.isfinite())):
                undo()
                overflow = self.scaler.is_enabled() and bool(loss.isfinite()) and self.scaler.get_scale() > 1
                self.scaler.update()
                if overflow:                                     # of fp16 gradients, now and then: the scale is halved
                    return loss
                self.left_out += 1
                LOG.warning("the loss is %s, its gradient %s: no step on %s", float(loss), float(norm), names())
                if self.left_out >= PATIENCE:
                    raise CheckFailed(f"{PATIENCE} steps in a row had no finite loss ({float(loss)} at last); a lower --lr or "
                                      "--precision fp32 may help")
                return loss
            self.left_out = 0
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.average is not None:
                self.average.update_parameters(self.model)
            return loss

    def _gradients(self, ears: int, sums: Sums) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of the loss's sum over ears, divided by their number; the sum, and how many targets it holds.

        In parts of nearly equal size: one after the other they need the memory of one.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = count = torch.zeros((), device=next(self.model.parameters()).device)
        parts = min(self.parts, ears)
        ends = [ears * n // parts for n in range(parts + 1)]
        for first, stop in itertools.pairwise(ends):
            part, targets = sums(slice(first, stop))
            counted = [buffer.clone() for buffer in self.model.buffers()] if self.recomputes else []
            self.scaler.scale(part / ears).backward()            # of that size whatever the parts; the exact mean comes later
            for buffer, once in zip(self.model.buffers(), counted, strict=False):
                buffer.copy_(once)
            total, count = total + part.detach(), count + targets
        return total, count

    def _mean(self, total: torch.Tensor, count: torch.Tensor, ears: int) -> torch.Tensor:
        """The mean loss over all targets of all processes; makes the gradients its own, and BatchNorm's statistics the mean."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        count = count.to(total.dtype, copy=True)
        if self.ranks.world > 1:
            statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
            torch._foreach_mul_(gradients, ears)
            self.ranks.sum([*gradients, *statistics, total, count])
            for buffer in statistics:
                buffer.div_(self.ranks.world)
            ears = 1
        torch._foreach_mul_(gradients, ears / count.clamp(min=1))
        return total / count.clamp(min=1)

    @contextlib.contextmanager
    def _undoing(self) -> Iterator[Callable[[], None]]:
        """Puts BatchNorm's statistics back to what they were, and gradients away."""
        buffers = list(self.model.buffers())
        if not self._before:
            self._before = [torch.empty_like(buffer) for buffer in buffers]
        if buffers:
            torch._foreach_copy_(self._before, buffers)

        def undo() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            if buffers:
                torch._foreach_copy_(buffers, self._before)

        yield undo

    def state_dict(self) -> dict[str, Any]:
        """All but the weights."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), "parts": self.parts,
                "average": None if self.average is None else self.average.state_dict(), "left_out": self.left_out}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.parts, self.left_out = state["parts"], state["left_out"]


def running_mean(model: nn.Module, decay: float) -> AveragedModel | None:
    """A running mean of weights and buffers, of which step n replaces 1 - min(decay, (1 + n) / (10 + n)); None for decay 0.

    The ramp (as in TensorFlow's ExponentialMovingAverage) lets the mean forget where training began, in short runs too.
    """
    if not decay:
        return None

    def average(means: Tensors, weights: Tensors, taken: torch.Tensor | int) -> None:
        n = int(taken)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(means, weights, taken)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
