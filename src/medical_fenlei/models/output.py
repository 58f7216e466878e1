"""What every network returns."""
from typing import NamedTuple

import torch


class Output(NamedTuple):
    """Of N ears."""

    logits: torch.Tensor
    """float32 (N, O)."""

    embedding: torch.Tensor
    """float32 (N, D), what the head sees."""

    attention: torch.Tensor | None
    """float32 (N, K), sums to 1 over the slices; None where the network has none."""
