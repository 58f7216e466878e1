"""A small 3D network that says which structure of the ear each voxel belongs to."""
import itertools
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from medical_fenlei.vocabulary import EarPoint, Structure

CHANNELS = (8, 16, 32, 64)
"""Channels at full resolution, and at each halving."""
HU_WINDOWS = ((500.0, 3000.0), (40.0, 400.0))
"""Level and width, HU, of the two windows that the network sees: bone, and soft tissue."""


class AnatomyOutput(NamedTuple):
    """What the network finds in N ears."""

    logits: torch.Tensor
    """float32 (N, 8, K, H, W): the logits of each `Structure`."""

    landmarks: torch.Tensor
    """float32 (N, 3, 3): the voxel index (k, row, column) of each `EarPoint`, always within the volume."""


class AnatomyNet(nn.Module):
    """A U-Net (Ronneberger 2015, arXiv:1505.04597; 3D: Çiçek 2016, arXiv:1606.06650), narrow enough for a CPU.

    At full resolution, where most of the time goes, it has one convolution on the way down and one on the way up.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(len(HU_WINDOWS), CHANNELS[0])
        self.down = nn.ModuleList(nn.Sequential(_convolution(low, high), _convolution(high, high))
                                  for low, high in itertools.pairwise(CHANNELS))
        self.up = nn.ModuleList(_convolution(low + high, low) for low, high in itertools.pairwise(CHANNELS))
        self.head = nn.Conv3d(CHANNELS[0], len(Structure), 1)
        self.heat = nn.Conv3d(CHANNELS[0], len(EarPoint), 1)

    def features(self, hu: torch.Tensor) -> torch.Tensor:
        """Return features (N, CHANNELS[0], K, H, W) of HU (N, K, H, W), whose edges are divisible by 8."""
        x = self.stem(torch.stack([((hu - level) / (width / 2)).clamp(-1, 1) for level, width in HU_WINDOWS], 1))
        levels = [x]
        for down in self.down:
            x = down(functional.max_pool3d(x, 2))
            levels.append(x)
        for up, level in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            x = up(torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), level], 1))
        return x

    def forward(self, hu: torch.Tensor) -> AnatomyOutput:
        """Segment HU (N, K, H, W). A landmark is the mean place under a softmax over voxels (Sun 2018, arXiv:1711.08229)."""
        features = self.features(hu)
        heat = self.heat(features).flatten(2).softmax(2).unflatten(2, hu.shape[1:])
        along = [heat.sum((3, 4)), heat.sum((2, 4)), heat.sum((2, 3))]
        places = [share @ torch.arange(share.shape[-1], dtype=share.dtype, device=share.device) for share in along]
        return AnatomyOutput(self.head(features), torch.stack(places, -1))


def _convolution(channels: int, out: int) -> nn.Module:
    return nn.Sequential(nn.Conv3d(channels, out, 3, padding=1, bias=False), nn.InstanceNorm3d(out, affine=True),
                         nn.LeakyReLU(0.01, inplace=True))
