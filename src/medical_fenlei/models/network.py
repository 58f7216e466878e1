"""The interface of every network: what it takes and what it returns."""
from typing import NamedTuple

import torch
from torch import nn


class NetworkOutput(NamedTuple):
    """What a network returns for N ears."""

    logits: torch.Tensor
    """float32 (N, O): the logits of all tasks side by side."""

    embedding: torch.Tensor
    """float32 (N, D): the input of the head."""

    attention: torch.Tensor | None
    """float32 (N, K), sums to 1 over the slices; None where the network has none."""


class Network(nn.Module):
    """A network for single ears: `forward` takes (N, K, C, H, W) in [-1, 1] and returns a `NetworkOutput`.

    It encodes each ear by itself, with the weights that a frozen backbone keeps, then decodes the features.
    """

    def encode(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the features (N, …) of ears (N, K, C, H, W): all that `decode` needs of them."""
        raise NotImplementedError

    def decode(self, features: torch.Tensor) -> NetworkOutput:
        """Return the output for the features of N ears."""
        raise NotImplementedError

    def forward(self, volume: torch.Tensor) -> NetworkOutput:
        """Compute the output for ears (N, K, C, H, W) in [-1, 1]. Raises UserError as `encode` does."""
        return self.decode(self.encode(volume))

    @property
    def trunk(self) -> nn.Module:
        """The part that pretrained weights initialise; the other parts are new for every task."""
        raise NotImplementedError

    def enable_grad_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them: less memory, about a third more work.

        Gradients stay the same. Raises UserError where the network does not support it.
        """
        raise NotImplementedError
