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

    @classmethod
    def of(cls, plan: TrainConfig, samples: int) -> "Schedule":
        """Return the schedule for a training set of so many samples.

        With --epochs an epoch is one pass; without, as many as give --min-steps in all epochs together.
        """
        epochs, passes = plan.epochs or EPOCHS, 1
        if plan.epochs is None:
            least = math.ceil(plan.min_steps / epochs)           # steps of an epoch
            passes = max(1, math.ceil(((least - 1) * plan.batch_size + 1) / samples))
        return cls(epochs, passes, steps=math.ceil(samples * passes / plan.batch_size))

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
