"""Windowing and augmentation of a batch on the device. Random parameters are drawn in one step and applied in another.

N ears of K slices, H rows, W columns; C channels: for each neighboring slice, the lowest first, the windows in the order of the
settings. The parameters depend on (seed, epoch, row, ear, occurrence) alone, not on the storage of the ears, the composition
of a batch or the number of processes. Ears are never mirrored: the columns of every ear run from lateral to medial, which
carries information.
"""
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from medical_fenlei.config import AugmentConfig
from medical_fenlei.data.blocks import block_starts, random_block, with_neighbors

NOISE_SEEDS = 2**63


@dataclass(frozen=True)
class AugmentParams:
    """Random parameters of N ears, each (N,)."""

    level: torch.Tensor
    """Level of the bone window, HU. Other windows move by the same fraction of their width."""

    width: torch.Tensor
    """Width of the bone window, HU. Other windows widen by the same factor."""

    angle: torch.Tensor
    """Rotation, radians."""

    scale: torch.Tensor
    """Magnification."""

    shift_rows: torch.Tensor
    """Shift towards higher rows, as a fraction of the height."""

    shift_columns: torch.Tensor
    """Shift towards higher columns, as a fraction of the width."""

    blur: torch.Tensor
    """Weight of the blurred copy that is blended in, 0 to 1."""

    noise: torch.Tensor
    """Standard deviation of the noise, in units of half a bone window."""

    noise_seed: tuple[int, ...]
    """Seed of each ear's noise field."""

    block_position: torch.Tensor
    """Position of the block of slices that the network sees, from 0 (lowest) to 1."""

    def to(self, device: torch.device) -> "AugmentParams":
        """Copy all tensors to a device, in one transfer."""
        names = [f.name for f in fields(self) if f.name != "noise_seed"]
        together = torch.stack([getattr(self, name) for name in names]).to(device, non_blocking=True)
        return AugmentParams(noise_seed=self.noise_seed, **dict(zip(names, together, strict=True)))

    def __getitem__(self, part: slice) -> "AugmentParams":
        """The parameters of some of the ears."""
        return AugmentParams(**{f.name: getattr(self, f.name)[part] for f in fields(self)})


def draw_params(config: AugmentConfig, *, seed: int, epoch: int, row: np.ndarray, ear: np.ndarray,
                occurrence: np.ndarray) -> AugmentParams:
    """Draw the parameters of N ears, float32 (N,) on the host.

    row, ear, occurrence: (N,): the sample's manifest row, the ear's position in the sample, and how often the sample occurred
    before in this epoch.
    """
    numbers, seeds, positions = np.empty((len(row), 8), np.float32), [], np.empty(len(row), np.float32)
    for n, key in enumerate(zip(row.tolist(), ear.tolist(), occurrence.tolist(), strict=True)):
        rng = np.random.default_rng([seed, epoch, *key])
        numbers[n] = rng.uniform(-1, 1, 8)
        seeds.append(int(rng.integers(NOISE_SEEDS)))
        positions[n] = rng.random()
    level, width, angle, scale, rows, columns, blur, noise = torch.from_numpy(numbers).T
    return AugmentParams(
        level=config.wl + config.jitter_level * level,
        width=config.ww * (1 + config.jitter_width * width),
        angle=np.deg2rad(config.rotate_deg) * angle,
        scale=1 + config.scale * scale,
        shift_rows=config.shift * rows,
        shift_columns=config.shift * columns,
        blur=config.blur * (blur + 1) / 2,
        noise=config.noise * (noise + 1) / 2,
        noise_seed=tuple(seeds),
        block_position=torch.from_numpy(positions),
    )


def window(volume: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Return float32 (N, K, C, H, W) in [-1, 1] from HU (N, K, H, W).

    Each window maps [level - width/2, level + width/2] to [-1, 1] and clamps the rest.
    """
    image = torch.empty(*volume.shape[:2], len(config.windows), *volume.shape[2:], device=volume.device)
    for channel, (level, width) in zip(image.unbind(2), config.hu_windows, strict=True):
        channel.copy_(volume).sub_(level).mul_(2 / width).clamp_(-1, 1)
    return with_neighbors(image, config.slice_context)


def windowed_blocks(volume: torch.Tensor, config: AugmentConfig) -> Iterator[torch.Tensor]:
    """Yield what a network sees outside training: `window` of each block of `block_starts`, (N, M, C, H, W)."""
    size = config.model_slices or volume.shape[1]
    for start in block_starts(volume.shape[1], size):
        yield window(volume[:, start:start + size], config)


def augment(volume: torch.Tensor, params: AugmentParams, config: AugmentConfig) -> torch.Tensor:
    """Augment and window one block of each ear, (N, M, C, H, W) from HU (N, K, H, W). Points from outside the volume become -1.

    The voxels are rotated, shifted, scaled, blurred and made noisy once, then windowed once per channel.
    """
    params = params.to(volume.device)
    volume = random_block(volume, config.model_slices, params.block_position)
    low, gain = params.level - params.width / 2, 2 / params.width
    stretch = [width / config.ww for _, width in config.hu_windows]     # from the nominal bone window to each other window
    lows = [low * s + (level - config.wl * s) for (level, _), s in zip(config.hu_windows, stretch, strict=True)]
    lowest = torch.stack(lows).amin(0)                           # becomes 0, with which grid_sample pads
    image = volume.float().sub(_per_ear(lowest)).mul_(_per_ear(gain))    # HU are interpolated before they are clamped
    grid = F.affine_grid(_output_to_input(params, volume.shape[-1] / volume.shape[-2]), list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, align_corners=False)      # the K slices are channels: one geometry for all of them
    image.lerp_(_binomial(image), _per_ear(params.blur))
    for ear, deviation, seed in zip(image, params.noise, params.noise_seed, strict=True):
        generator = torch.Generator(volume.device).manual_seed(seed)
        ear.add_(torch.randn(ear.shape, generator=generator, device=ear.device).mul_(deviation))
    windowed = torch.empty(*image.shape[:2], len(lows), *image.shape[2:], device=image.device)
    for channel, own, s in zip(windowed.unbind(2), lows, stretch, strict=True):
        torch.add(_per_ear((lowest - own) * gain / s - 1), image, alpha=1 / s, out=channel)
    return with_neighbors(windowed.clamp_(-1, 1), config.slice_context)


def _per_ear(value: torch.Tensor) -> torch.Tensor:
    return value[:, None, None, None]


def _output_to_input(params: AugmentParams, aspect: float) -> torch.Tensor:
    """Return the affine map (N, 2, 3) from each output point to its input point, for `affine_grid`.

    Grid coordinates: x along the columns, edges at ±1; aspect = W / H.
    """
    cos, sin = torch.cos(params.angle) / params.scale, torch.sin(params.angle) / params.scale
    turn = torch.stack([cos, sin / aspect, -sin * aspect, cos], -1).reshape(-1, 2, 2)
    shift = 2 * torch.stack([params.shift_columns, params.shift_rows], -1)
    return torch.cat([turn, -(turn @ shift[..., None])], -1)


def _binomial(image: torch.Tensor) -> torch.Tensor:
    """Filter each slice with the 3 × 3 binomial kernel (1, 2, 1)ᵀ(1, 2, 1) / 16, edges repeated.

    Written as sums: on a CPU several times as fast as pooling or convolution.
    """
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + padded[..., 2:, :]).add_(padded[..., 1:-1, :], alpha=2)
    return (rows[..., :-2] + rows[..., 2:]).add_(rows[..., 1:-1], alpha=2).div_(16)
