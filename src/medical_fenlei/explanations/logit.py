"""What a map explains: the logit of one class of one task."""
from typing import NamedTuple

import torch

from medical_fenlei.config import AugmentConfig
from medical_fenlei.data.blocks import with_neighbors


class ClassLogit(NamedTuple):
    """One class of one task of a network."""

    columns: slice
    """The task's outputs among those of the network."""

    number: int
    """Number of the class."""

    def of(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the scalar logit of the class from the network's (B, O) logits of all blocks."""
        return class_logits(logits.mean(0)[self.columns])[self.number]


def class_logits(outputs: torch.Tensor) -> torch.Tensor:
    """Return a logit per class from a task's outputs; a single output is that of the positive class, its negative the other."""
    return torch.cat([-outputs, outputs]) if len(outputs) == 1 else outputs


def split_into_blocks(image: torch.Tensor, config: AugmentConfig, starts: list[int]) -> torch.Tensor:
    """Return the blocks (B, M, C, H, W) of an ear's windowed slices (1, K, windows, H, W)."""
    length = config.model_slices or image.shape[1]
    return torch.cat([with_neighbors(image[:, start:start + length], config.slice_context) for start in starts])
