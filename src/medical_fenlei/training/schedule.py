"""The learning rate of a step."""
import math


def learning_rate(step: int, *, steps: int, warmup: float, peak: float) -> float:
    """Linear up to `peak` over `warmup` steps, then half a cosine that would reach 0 at `steps`. Steps count from 0."""
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1.0, steps - warmup)
    return peak * (1 + math.cos(math.pi * min(1.0, done))) / 2
