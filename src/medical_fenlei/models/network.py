"""The interface of every network: what it takes and returns, and which of its stages can be mapped onto the ear."""
from collections.abc import Callable
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


def unchanged(activation: torch.Tensor) -> torch.Tensor:
    """Return an activation that has the axes of `NetworkStage.to_cells` already."""
    return activation


class NetworkStage(NamedTuple):
    """A stage of a network whose activations can be mapped onto the ear, cell by cell."""

    name: str
    """The name by which it is chosen and reported, unique in the network."""

    module: nn.Module
    """The module whose output is mapped."""

    stride: int
    """Pixels of a slice per cell, along rows and columns."""

    to_cells: Callable[[torch.Tensor], torch.Tensor] = unchanged
    """Brings the module's output, or its gradient, to (S, C, h, w) for S slices, or to (N, C, k, h, w) for N volumes, with
    C channels in each cell. The cells have the order of slices, rows and columns and cover the ear evenly."""


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

    @property
    def slice_vectors(self) -> nn.Module | None:
        """The module that returns one vector (S, D) for each of S slices; None where the network has none."""
        return None

    def stages(self) -> tuple[NetworkStage, ...]:
        """Return the stages that can be mapped onto the ear, from input to output; none where activations have no place."""
        return ()

    def enable_grad_checkpointing(self) -> None:
        """Recompute activations in the backward pass instead of keeping them: less memory, about a third more work.

        Gradients stay the same. Raises UserError where the network does not support it.
        """
        raise NotImplementedError
