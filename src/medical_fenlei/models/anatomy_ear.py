"""A network that looks structure by structure: how much air, fluid and bone each part of the middle ear holds."""
import math

import torch
from torch import nn
from torch.nn import functional

from medical_fenlei.config import PhysicalScale
from medical_fenlei.models.anatomy_net import AnatomyNet
from medical_fenlei.models.network import Network, NetworkOutput, NetworkStage
from medical_fenlei.vocabulary import Structure

GRID_MM = (1.0, 0.7, 0.7)
"""Distance of voxels (slices, rows, columns) on which the anatomy network learnt."""
GRID_STEP = 8
"""The grid's edges are multiples of this, at least two, since the anatomy network halves them three times and normalises what
is left."""
TISSUE_HU = (-900.0, -450.0, 0.0, 300.0, 1000.0)
"""HU of the tissues into which each voxel is divided, linearly between neighbours: air, partly aerated, soft tissue or fluid,
thin or eroded bone, bone."""
EDGE_MM = 1.5
"""How gradually the quarters of the cavity pass into each other."""
WALL = (3, 5, 5)
"""Voxels (slices, rows, columns) around one of the cavity whose maximum reaches into its wall."""
IMPORTANCE = {"quarters": 3.0, Structure.CAVITY: 3.0, Structure.CANAL: 1.5, Structure.CELLS: 1.5, Structure.OSSICLES: 0.5,
              Structure.OTIC_CAPSULE: 0.5, Structure.FACIAL_CANAL: 0.5, Structure.SINUS: 0.5, "wall": 1.0}
"""Factor of the normalised measures of each region: how fast the head learns from it, since the head begins at zero. Chosen on
ears of the hard hospital drawn with seed 5."""
QUARTERS = 4
REGIONS = QUARTERS + len(IMPORTANCE) - 1
MEASURES = REGIONS * (len(TISSUE_HU) + 1)
"""For each region: the share of each tissue, and the logarithm of its volume."""


class AnatomyEar(Network):
    """The anatomy network, and a linear head on what each region that it finds holds.

    Regions are the structures, the quarters of the middle-ear cavity, and its wall. Every measure is a mean over the voxels of
    a region, each voxel weighted by the probability that it belongs there: few numbers, which a linear head learns from few
    ears.
    """

    importance: torch.Tensor
    to_z: torch.Tensor
    to_y: torch.Tensor
    to_x: torch.Tensor

    def __init__(self, shape: tuple[int, int, int], scale: PhysicalScale, *, dropout: float, outputs: int) -> None:
        """shape (K, H, W): of the ears; scale: what their voxels and values stand for."""
        super().__init__()
        self.anatomy, self.scale = AnatomyNet(), scale
        for name, length, own, grid in zip("zyx", shape, scale.voxel_mm, GRID_MM, strict=True):
            self.register_buffer(f"to_{name}", resampling_matrix(length, own, grid), persistent=False)
        quarters, *others = IMPORTANCE.values()
        of_regions = torch.tensor([quarters] * QUARTERS + others)
        self.register_buffer("importance", of_regions.repeat_interleave(len(TISSUE_HU) + 1), persistent=False)
        self.contents, self.normalise = _Contents(), nn.BatchNorm1d(MEASURES)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(MEASURES, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def trunk(self) -> nn.Module:
        """The anatomy network."""
        return self.anatomy

    def enable_grad_checkpointing(self) -> None:
        """See `Network`; nothing is recomputed, since the anatomy network is small."""

    def stages(self) -> tuple[NetworkStage, ...]:
        """See `Network`; the contents of the regions, of whose means the logit is a linear function."""
        return NetworkStage("contents", self.contents, 1, self._without_margin),

    def _without_margin(self, values: torch.Tensor) -> torch.Tensor:
        """Leave out what of the grid lies beyond the ear, of values (N, C, z, y, x)."""
        axes = zip((self.to_z, self.to_y, self.to_x), self.scale.voxel_mm, GRID_MM, strict=True)
        for axis, (to, own_mm, grid_mm) in enumerate(axes, start=2):
            covered = 2 * max(1, round(to.shape[1] * own_mm / grid_mm / 2))          # even as the grid: the middle stays
            values = values.narrow(axis, (len(to) - covered) // 2, covered)
        return values

    def encode(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the measures (N, MEASURES) of ears (N, K, C, H, W) in [-1, 1]."""
        with torch.autocast(volume.device.type, enabled=False):
            bone = volume[:, :, self.scale.channel].float()
            hu = self.on_grid(bone * (self.scale.width / 2) + self.scale.level)
            region = regions(self.anatomy(hu).logits.softmax(1))
            return measures(self.contents(region, tissues(hu)), region)

    def decode(self, features: torch.Tensor) -> NetworkOutput:
        """Classify the measures."""
        with torch.autocast(features.device.type, enabled=False):
            embedding = self.normalise(features.float()) * self.importance
            return NetworkOutput(self.head(self.dropout(embedding)), embedding, None)

    def on_grid(self, hu: torch.Tensor) -> torch.Tensor:
        """Resample HU (N, K, H, W) to the grid of the anatomy network."""
        return torch.einsum("zk,nkyx->nzyx", self.to_z, self.to_y @ (hu @ self.to_x.T))


def regions(probability: torch.Tensor) -> torch.Tensor:
    """Return the share (N, REGIONS, k, h, w) of each voxel in each region, for its probability of each `Structure` (N, 8, …).

    The quarters of the cavity lie about its centre of mass, in planes of the grid: upper front, upper back, lower front, lower
    back; front is row 0, and slice 0 is the lowest.
    """
    cavity = probability[:, Structure.CAVITY]
    upper, back = (_beyond_centre(cavity, axis, GRID_MM[axis - 1]) for axis in (1, 2))
    quarters = [cavity * of_height * of_depth for of_height in (upper, 1 - upper) for of_depth in (1 - back, back)]
    around = functional.max_pool3d(cavity[:, None], WALL, stride=1, padding=[edge // 2 for edge in WALL])[:, 0]
    spaces = cavity + probability[:, Structure.CANAL] + probability[:, Structure.CELLS]
    wall = (around - spaces).clamp(min=0)
    return torch.cat([torch.stack(quarters, 1), probability[:, 1:], wall[:, None]], 1)


def _beyond_centre(cavity: torch.Tensor, axis: int, voxel_mm: float) -> torch.Tensor:
    """A weight from 0 to 1 along an axis of (N, k, h, w), one half at the centre of mass of the cavity."""
    along = cavity.sum([other for other in (1, 2, 3) if other != axis])
    place = torch.arange(along.shape[1], dtype=cavity.dtype, device=cavity.device)
    centre = (along @ place) / (along.sum(1) + 1e-6)
    weight = torch.sigmoid((place - centre[:, None]) * (voxel_mm / EDGE_MM))
    return weight.view(len(weight), *(-1 if dimension == axis else 1 for dimension in (1, 2, 3)))


class _Contents(nn.Module):
    """How much of each tissue of each region is in a voxel: a module, so that explanations can map it."""

    def forward(self, region: torch.Tensor, tissue: torch.Tensor) -> torch.Tensor:
        """Return (N, REGIONS × 5, k, h, w) for shares (N, REGIONS, …) and (N, 5, …)."""
        return (region[:, :, None] * tissue[:, None]).flatten(1, 2)


def measures(contents: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Return the measures (N, MEASURES), region after region.

    contents (N, REGIONS × 5, k, h, w); region (N, REGIONS, k, h, w): the share of each voxel in each region.
    """
    volume = region.sum((2, 3, 4))[:, :, None]
    means = contents.sum((2, 3, 4)).unflatten(1, (REGIONS, -1)) / (volume + 1)
    return torch.cat([means, (volume + 1).log()], 2).flatten(1)


def tissues(hu: torch.Tensor) -> torch.Tensor:
    """Return the share of each tissue in each voxel, (N, 5, k, h, w), which sum to 1, for HU (N, k, h, w)."""
    places = hu.new_tensor(TISSUE_HU)
    hu = hu.clamp(TISSUE_HU[0], TISSUE_HU[-1])
    above = torch.searchsorted(places, hu.detach().contiguous()).clamp(1, len(places) - 1)
    share = (hu - places[above - 1]) / (places[above] - places[above - 1])
    number = torch.arange(len(places), device=hu.device).view(1, -1, 1, 1, 1)
    above, share = above[:, None], share[:, None]
    return (number == above) * share + (number == above - 1) * (1 - share)


def resampling_matrix(length: int, own_mm: float, grid_mm: float) -> torch.Tensor:
    """Return the matrix (k, length) that resamples an axis about its middle: linear, and averaging where the grid is coarser.

    The grid covers the axis, and up to GRID_STEP voxels more, or twice as many in all; beyond the ends stands the last voxel.
    Its kernel is a triangle as wide as the coarser of both (Pillow's antialiased bilinear filter).
    """
    step = grid_mm / own_mm
    steps = GRID_STEP * max(2, math.ceil(length / step / GRID_STEP - 1e-6))
    centre = (torch.arange(steps) - (steps - 1) / 2) * step + (length - 1) / 2
    reach = max(step, 1.0)
    more = math.ceil(reach) + math.ceil(steps * step)
    at = torch.arange(-more, length + more)
    weight = (1 - (at - centre[:, None]).abs() / reach).clamp(min=0)
    weight = weight / weight.sum(1, keepdim=True)
    return torch.zeros(steps, length).index_add_(1, at.clamp(0, length - 1), weight)
