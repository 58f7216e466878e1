"""What changes as training goes on: the learning rate of a step, the share of ears that an epoch drops."""
import math

from medical_fenlei.config import TrainConfig


def rate_of(plan: TrainConfig, epoch: int, step: int, steps: int) -> float:
    """`learning_rate` of a step of an epoch of so many. Epochs count from 1, steps from 0."""
    return learning_rate((epoch - 1) * steps + step, steps=plan.epochs * steps, warmup=plan.warmup_epochs * steps, peak=plan.lr)


def learning_rate(step: int, *, steps: int, warmup: float, peak: float) -> float:
    """Linear up to `peak` over `warmup` steps, then half a cosine that would reach 0 at `steps`. Steps count from 0."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2


def drop_share(epoch: int, *, share: float, warmup: int) -> float:
    """0 for `warmup` epochs, then linearly up to `share` over as many, for a network fits right labels before wrong ones
    (Han et al. 2018, the R(T) of co-teaching, after a pause). Epochs count from 1.
    """
    return share * min(1.0, max(0, epoch - warmup) / max(1, warmup))
