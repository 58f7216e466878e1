"""What every network returns."""
from typing import NamedTuple

import torch
from torch import nn


class Output(NamedTuple):
    """Of N ears."""

    logits: torch.Tensor
    """float32 (N, O)."""

    embedding: torch.Tensor
    """float32 (N, D), what the head sees."""

    attention: torch.Tensor | None
    """float32 (N, K), sums to 1 over the slices; None where the network has none."""


class Network(nn.Module):
    """Of one ear: (N, K, C, H, W) in [-1, 1] to `Output`."""

    @property
    def trunk(self) -> nn.Module:
        """What pretrained weights fill; the rest is new to every task."""
        raise NotImplementedError

    def recompute(self) -> None:
        """From here on keep fewer activations for the backward pass, and compute the others again in it: less memory, the same
        gradients, about a third more work. Raises UserError where the network cannot."""
        raise NotImplementedError
