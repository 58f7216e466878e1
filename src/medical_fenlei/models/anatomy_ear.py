"""A network that looks structure by structure: what the anatomy network sees, averaged over each structure it finds."""
import math

import torch
from torch import nn

from medical_fenlei.config import PhysicalScale
from medical_fenlei.models.anatomy_net import CHANNELS, AnatomyNet
from medical_fenlei.models.network import Network, NetworkOutput, NetworkStage
from medical_fenlei.vocabulary import Structure

GRID_MM = (1.0, 0.7, 0.7)
"""Distance of voxels (slices, rows, columns) on which the anatomy network learnt."""
GRID_STEP = 8
"""The grid's edges are multiples of this, since the anatomy network halves them three times."""
TISSUE_HU = (-900.0, -400.0, 0.0, 150.0, 500.0, 1000.0, 1700.0)
"""HU of the tissues into which each voxel is divided, linearly between neighbours: air, partly aerated, fluid and soft tissue,
enhanced or calcified tissue, thin, usual and dense bone."""
STRUCTURES = len(Structure) - 1
MEASURES = STRUCTURES * (CHANNELS[0] + len(TISSUE_HU) + 1)
"""For each structure: means of the features, shares of the tissues, and the logarithm of its volume."""


class AnatomyEar(Network):
    """The anatomy network, its measures of each structure, and a linear head on them.

    Every measure is a mean over the voxels of one structure, each voxel weighted by the probability that it belongs to it: few
    numbers, which a linear head learns from few ears. Attention is the share of each slice in the middle ear and mastoid cells.
    """

    def __init__(self, shape: tuple[int, int, int], scale: PhysicalScale, *, dropout: float, outputs: int) -> None:
        """shape (K, H, W): of the ears; scale: what their voxels and values stand for."""
        super().__init__()
        self.to_z: torch.Tensor
        self.to_y: torch.Tensor
        self.to_x: torch.Tensor
        self.anatomy, self.scale = AnatomyNet(), scale
        for name, length, own, grid in zip("zyx", shape, scale.voxel_mm, GRID_MM, strict=True):
            self.register_buffer(f"to_{name}", resampling_matrix(length, own, grid), persistent=False)
        self.normalise = nn.BatchNorm1d(MEASURES)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(MEASURES, outputs)

    @property
    def trunk(self) -> nn.Module:
        """The anatomy network."""
        return self.anatomy

    def enable_grad_checkpointing(self) -> None:
        """See `Network`; nothing is recomputed, since the anatomy network is small."""

    def stages(self) -> tuple[NetworkStage, ...]:
        """See `Network`; the features that the measures are means of, at the voxels of the ear."""
        return NetworkStage("features", self.anatomy.up[0], 1, self._to_voxels),

    def _to_voxels(self, values: torch.Tensor) -> torch.Tensor:
        """Interpolate values on the grid, (N, C, z, y, x), at the voxels of the ear, (N, C, K, H, W)."""
        axes = zip((self.to_z, self.to_y, self.to_x), self.scale.voxel_mm, GRID_MM, strict=True)
        k, h, w = (interpolation_matrix(to.shape[1], to.shape[0], own / grid).to(values) for to, own, grid in axes)
        return torch.einsum("kz,nczyx->nckyx", k, h @ (values @ w.T))

    def encode(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the measures and the weight of each slice, (N, MEASURES + K), of ears (N, K, C, H, W) in [-1, 1]."""
        with torch.autocast(volume.device.type, enabled=False):
            bone = volume[:, :, self.scale.channel].float()
            hu = self.on_grid(bone * (self.scale.width / 2) + self.scale.level)
            features = self.anatomy.features(hu)
            mask = self.anatomy.head(features).softmax(1)[:, 1:]
            return torch.cat([measures(hu, features, mask), self._attention(mask)], 1)

    def decode(self, features: torch.Tensor) -> NetworkOutput:
        """Classify the measures; the weights of the slices are passed on."""
        with torch.autocast(features.device.type, enabled=False):
            embedding = self.normalise(features[:, :MEASURES])
            return NetworkOutput(self.head(self.dropout(embedding)), embedding, features[:, MEASURES:])

    def on_grid(self, hu: torch.Tensor) -> torch.Tensor:
        """Resample HU (N, K, H, W) to the grid of the anatomy network."""
        return torch.einsum("zk,nkyx->nzyx", self.to_z, self.to_y @ (hu @ self.to_x.T))

    def _attention(self, mask: torch.Tensor) -> torch.Tensor:
        """The share of each slice of the ear (N, K) in the voxels of middle ear and mastoid cells."""
        spaces = [Structure.CAVITY - 1, Structure.CELLS - 1]
        weight = mask.detach()[:, spaces].sum((1, 3, 4)) @ self.to_z + 1e-6
        return weight / weight.sum(1, keepdim=True)


def measures(hu: torch.Tensor, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the measures (N, MEASURES) of each structure, structure after structure.

    hu (N, k, h, w); features (N, 8, k, h, w); mask (N, 7, k, h, w): probability of each structure but OTHER.
    """
    seen = torch.cat([features, tissues(hu)], 1).flatten(2)
    mask = mask.flatten(2)
    volume = mask.sum(2, keepdim=True)
    means = mask @ seen.transpose(1, 2) / (volume + 1)
    return torch.cat([means, (volume + 1).log()], 2).flatten(1)


def tissues(hu: torch.Tensor) -> torch.Tensor:
    """Return the share of each tissue in each voxel, (N, 7, k, h, w), which sum to 1, for HU (N, k, h, w)."""
    places = hu.new_tensor(TISSUE_HU)
    hu = hu.clamp(TISSUE_HU[0], TISSUE_HU[-1])
    above = torch.searchsorted(places, hu.detach().contiguous()).clamp(1, len(places) - 1)
    share = (hu - places[above - 1]) / (places[above] - places[above - 1])
    number = torch.arange(len(places), device=hu.device).view(1, -1, 1, 1, 1)
    above, share = above[:, None], share[:, None]
    return (number == above) * share + (number == above - 1) * (1 - share)


def interpolation_matrix(length: int, steps: int, step: float) -> torch.Tensor:
    """Return the matrix (length, steps) that interpolates an axis of a grid linearly at the voxels of an ear.

    Both axes have the same middle; step: distance of the voxels, in voxels of the grid.
    """
    at = ((torch.arange(length) - (length - 1) / 2) * step + (steps - 1) / 2).clamp(0, steps - 1)
    return (1 - (at[:, None] - torch.arange(steps)).abs()).clamp(min=0)


def resampling_matrix(length: int, own_mm: float, grid_mm: float) -> torch.Tensor:
    """Return the matrix (k, length) that resamples an axis about its middle: linear, and averaging where the grid is coarser.

    The grid covers the axis, up to GRID_STEP voxels more; beyond the ends stands the last voxel. Its kernel is a triangle as
    wide as the coarser of both (Pillow's antialiased bilinear filter).
    """
    step = grid_mm / own_mm
    steps = GRID_STEP * math.ceil(length / step / GRID_STEP - 1e-6)
    centre = (torch.arange(steps) - (steps - 1) / 2) * step + (length - 1) / 2
    reach = max(step, 1.0)
    more = math.ceil(reach) + math.ceil(steps * step)
    at = torch.arange(-more, length + more)
    weight = (1 - (at - centre[:, None]).abs() / reach).clamp(min=0)
    weight = weight / weight.sum(1, keepdim=True)
    return torch.zeros(steps, length).index_add_(1, at.clamp(0, length - 1), weight)
