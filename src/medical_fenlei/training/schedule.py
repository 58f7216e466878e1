"""What changes in the course of training: the learning rate of each step, and the share of ears that an epoch drops."""
import math
from dataclasses import dataclass

from medical_fenlei.config import EPOCHS, TrainConfig


@dataclass(frozen=True)
class Schedule:
    """How many steps a run takes at most, and with which learning rates."""

    epochs: int
    """Maximum number of epochs."""

    passes: int
    """How often an epoch passes through the training set."""

    steps: int
    """Steps of an epoch."""

    stops_from: int = 0
    """Epochs before which a tune set without improvement does not end training."""

    chosen_from: int = 1
    """The first epoch that may be the best one; before it, the latest is kept."""

    @classmethod
    def of(cls, plan: TrainConfig, samples: int) -> "Schedule":
        """Return the schedule for a training set of so many samples.

        With --epochs an epoch is one pass; without, as many as give --min-steps in all epochs together. Training does not end
        before, and no epoch of the first half of these steps is the best one: where the training set is small, so is the tune
        set, on which a network that has learnt nothing may be the best of many by luck.
        """
        if plan.epochs is not None:
            return cls(plan.epochs, 1, steps=math.ceil(samples / plan.batch_size))
        least = math.ceil(plan.min_steps / EPOCHS)               # steps of an epoch
        passes = max(1, math.ceil(((least - 1) * plan.batch_size + 1) / samples))
        steps = math.ceil(samples * passes / plan.batch_size)
        return cls(EPOCHS, passes, steps, stops_from=math.ceil(plan.min_steps / steps),
                   chosen_from=max(1, math.ceil(plan.min_steps / 2 / steps)))

    def out_of_patience(self, plan: TrainConfig, *, epoch: int, best: int) -> bool:
        """Return whether training ends after this epoch, because the best one was too long ago."""
        return 0 < plan.patience <= epoch - best and epoch >= self.stops_from

    def learning_rate(self, plan: TrainConfig, epoch: int, step: int) -> float:
        """Return the learning rate of a step. Epochs count from 1, steps of an epoch from 0."""
        return warmup_cosine((epoch - 1) * self.steps + step, steps=self.epochs * self.steps,
                             warmup=plan.warmup_epochs * self.steps, peak=plan.lr)


def warmup_cosine(step: int, *, steps: int, warmup: float, peak: float) -> float:
    """Rise linearly to `peak` over `warmup` steps, then fall by half a cosine that reaches 0 at `steps`. Steps count from 0."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2


def drop_share(epoch: int, *, share: float, warmup: int) -> float:
    """Return the share of ears, those of highest loss, that an epoch drops. Epochs count from 1.

    It is 0 for `warmup` epochs, then rises linearly to `share` over as many: a network fits right labels before wrong ones
    (Han et al. 2018, R(T) of co-teaching, here after a pause).
    """
    return share * min(1.0, max(0, epoch - warmup) / max(1, warmup))
