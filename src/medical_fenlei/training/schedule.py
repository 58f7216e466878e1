"""What changes in the course of training: the learning rate of each step, and the share of ears that an epoch drops."""
import math

from medical_fenlei.config import TrainConfig


def learning_rate(plan: TrainConfig, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate of a step. Epochs count from 1, steps of an epoch from 0; steps: their number per epoch."""
    return warmup_cosine((epoch - 1) * steps + step, steps=plan.epochs * steps, warmup=plan.warmup_epochs * steps, peak=plan.lr)


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
