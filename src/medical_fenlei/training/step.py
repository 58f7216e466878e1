"""One step of training, whatever befalls it: accumulated over parts, split further where memory runs out, left out where the
loss is not a number."""
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medical_fenlei.errors import CheckFailed
from medical_fenlei.runs import LOG
from medical_fenlei.training.batch_size import is_out_of_memory

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

    left_out: int = 0
    """Steps in a row whose loss or gradient was not finite."""

    _buffers: list[torch.Tensor] = field(default_factory=list)

    def __call__(self, ears: int, sums: Sums, *, names: Callable[[], str]) -> torch.Tensor:
        """Take a step on so many ears; returns the mean loss over their targets, () float32 on the device.

        A mean that is not finite means that no step was taken. names: of the samples, for the log. Raises CheckFailed after
        PATIENCE such steps in a row.
        """
        with self._undoing() as undo:
            while True:
                try:
                    loss = self._gradients(ears, sums)
                    break
                except Exception as error:
                    if not is_out_of_memory(error) or self.parts >= ears:
                        raise
                    self.parts = min(2 * self.parts, ears)
                    LOG.warning("out of memory: from now on a step is computed in %d parts", self.parts)
                    undo()
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
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

    def _gradients(self, ears: int, sums: Sums) -> torch.Tensor:
        """Gradients of the mean loss, in parts of nearly equal size: one after the other they need the memory of one."""
        self.optimizer.zero_grad(set_to_none=True)
        total = count = torch.zeros((), device=next(self.model.parameters()).device)
        parts = min(self.parts, ears)
        ends = [ears * n // parts for n in range(parts + 1)]
        for first, stop in itertools.pairwise(ends):
            part, targets = sums(slice(first, stop))
            self.scaler.scale(part / ears).backward()            # of that size whatever the parts; the exact mean comes below
            total, count = total + part.detach(), count + targets
        grown = ears / count.clamp(min=1)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, grown)
        return total / count.clamp(min=1)

    @contextlib.contextmanager
    def _undoing(self) -> Iterator[Callable[[], None]]:
        """Puts BatchNorm's statistics and the random state back to what they were, and gradients away."""
        buffers = list(self.model.buffers())
        if not self._buffers:
            self._buffers = [torch.empty_like(buffer) for buffer in buffers]
        for kept, buffer in zip(self._buffers, buffers, strict=True):
            kept.copy_(buffer)
        device = next(self.model.parameters()).device
        random = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None

        def undo() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            for kept, buffer in zip(self._buffers, buffers, strict=True):
                buffer.copy_(kept)
            torch.set_rng_state(random[0])
            if random[1] is not None:
                torch.cuda.set_rng_state(random[1], device)

        yield undo


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
