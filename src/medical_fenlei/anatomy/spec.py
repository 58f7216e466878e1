"""How the anatomy network learns."""
from dataclasses import dataclass

from medical_fenlei.settings import check_seed


@dataclass(frozen=True, kw_only=True)
class PretrainSpec:
    """How the anatomy network learns."""

    steps: int = 3000
    """Steps of the optimizer."""

    batch_size: int = 2
    """Drawn ears per step, never the same twice."""

    lr: float = 3e-3
    """Peak learning rate of AdamW: it rises for a twentieth of the steps, then falls by half a cosine to zero."""

    seed: int = 0
    """Seed of the ears and of the first weights."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected at least 1")
        if not 0 < self.lr < 1:
            raise ValueError(f"lr: got {self.lr}, expected above 0 and below 1")
