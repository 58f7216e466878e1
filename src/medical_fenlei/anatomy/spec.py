"""How the anatomy network learns."""
from dataclasses import dataclass

from medical_fenlei.settings import check_seed


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """How the anatomy network learns."""

    steps: int = 6000
    """Steps of the optimizer."""

    batch_size: int = 2
    """Drawn ears per step, never the same twice."""

    lr: float = 3e-3
    """Peak learning rate of AdamW: it rises for a twentieth of the steps, then falls by half a cosine to zero."""

    seed: int = 0
    """Seed of the ears and of the first weights."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(f"steps, batch-size: got {self.steps} and {self.batch_size}, expected at least 1")
