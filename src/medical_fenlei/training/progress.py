"""How far a training has come."""
import math
from dataclasses import dataclass, field


@dataclass
class Progress:
    """How far training has come. `last.pt` holds these fields under their names."""

    epoch: int = 0
    """Epochs completed and evaluated."""

    step: int = 0
    """Steps taken in the current epoch."""

    loss: float = 0.0
    """Sum of the finite losses of these steps."""

    taken: int = 0
    """How many of these steps had a finite loss."""

    best: tuple[float, float] = (-math.inf, -math.inf)
    """The rank of the best epoch: its measure, and among equals the tune loss, signed so that higher is better."""

    best_epoch: int = 0
    best_value: float = math.nan
    losses: list[float] = field(default_factory=list)
    """The tune loss of the last epochs, which may be averaged."""
