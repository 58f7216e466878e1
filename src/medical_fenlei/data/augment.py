"""Window and augmentation of a batch on the device. What is random is drawn once a sample, in one step, and applied in another.

N ears of K slices, H rows, W columns; C channels: of each neighbouring slice, the lowest first, the windows in the order of the
settings. The draw depends on (seed, epoch, row, ear, turn) alone, so neither feeding, batch composition nor the number of
processes changes it. No mirror: the columns of every ear run from lateral to medial, and that is information.
"""
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from medical_fenlei.config import AugmentConfig
from medical_fenlei.data.blocks import block_starts, random_block, with_neighbours

NOISE_SEEDS = 2**63


@dataclass(frozen=True)
class Draw:
    """What is random about N ears, (N,) each."""

    level: torch.Tensor
    """Level of the bone window, HU. Others move by the same share of their width."""

    width: torch.Tensor
    """Width of the bone window, HU. Others are widened alike."""

    angle: torch.Tensor
    """Rotation, radians."""

    scale: torch.Tensor
    """Magnification."""

    shift_rows: torch.Tensor
    """Share of the height by which the content moves to higher rows."""

    shift_columns: torch.Tensor
    """Share of the width by which the content moves to higher columns."""

    blur: torch.Tensor
    """Share of the image replaced by its blurred copy."""

    noise: torch.Tensor
    """Standard deviation in units of half a bone window."""

    noise_seed: tuple[int, ...]
    """Of the noise field of each ear."""

    place: torch.Tensor
    """Of the block of slices that is seen, from 0 (lowest) to 1."""

    def to(self, device: torch.device) -> "Draw":
        names = [f.name for f in fields(self) if f.name != "noise_seed"]
        together = torch.stack([getattr(self, name) for name in names]).to(device, non_blocking=True)      # one copy, not nine
        return Draw(noise_seed=self.noise_seed, **dict(zip(names, together, strict=True)))

    def __getitem__(self, part: slice) -> "Draw":
        """That of some of the ears."""
        return Draw(**{f.name: getattr(self, f.name)[part] for f in fields(self)})


def draw(config: AugmentConfig, *, seed: int, epoch: int, row: np.ndarray, ear: np.ndarray, turn: np.ndarray) -> Draw:
    """row, ear, turn: (N,) the sample's manifest row, the ear's place in it, and how often it was seen before in this epoch.

    Tensors float32 (N,) on the host.
    """
    numbers, seeds, places = np.empty((len(row), 8), np.float32), [], np.empty(len(row), np.float32)
    for n, name in enumerate(zip(row.tolist(), ear.tolist(), turn.tolist(), strict=True)):
        rng = np.random.default_rng([seed, epoch, *name])
        numbers[n] = rng.uniform(-1, 1, 8)
        seeds.append(int(rng.integers(NOISE_SEEDS)))
        places[n] = rng.random()
    level, width, angle, scale, rows, columns, blur, noise = torch.from_numpy(numbers).T
    return Draw(
        level=config.wl + config.jitter_level * level,
        width=config.ww * (1 + config.jitter_width * width),
        angle=np.deg2rad(config.rotate_deg) * angle,
        scale=1 + config.scale * scale,
        shift_rows=config.shift * rows,
        shift_columns=config.shift * columns,
        blur=config.blur * (blur + 1) / 2,
        noise=config.noise * (noise + 1) / 2,
        noise_seed=tuple(seeds),
        place=torch.from_numpy(places),
    )


def window(volume: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """float32 (N, K, C, H, W) in [-1, 1] from HU (N, K, H, W).

    Of each window [level - width/2, level + width/2] maps to [-1, 1], the rest is clamped.
    """
    image = torch.empty(*volume.shape[:2], len(config.windows), *volume.shape[2:], device=volume.device)
    for channel, (level, width) in zip(image.unbind(2), config.hu_windows, strict=True):
        channel.copy_(volume).sub_(level).mul_(2 / width).clamp_(-1, 1)
    return with_neighbours(image, config.slice_context)


def blocks(volume: torch.Tensor, config: AugmentConfig) -> Iterator[torch.Tensor]:
    """What a network is shown after training, one after another: `window` of each block of `block_starts`, (N, M, C, H, W)."""
    seen = config.model_slices or volume.shape[1]
    for start in block_starts(volume.shape[1], seen):
        yield window(volume[:, start:start + seen], config)


def augment(volume: torch.Tensor, drawn: Draw, config: AugmentConfig) -> torch.Tensor:
    """As `window`, of one block: each ear with its own draw. What comes in from outside is -1. (N, M, C, H, W).

    The voxels are turned, shifted, scaled, blurred and made noisy once, before they are seen through each window.
    """
    drawn = drawn.to(volume.device)
    volume = random_block(volume, config.model_slices, drawn.place)
    low, gain = drawn.level - drawn.width / 2, 2 / drawn.width
    stretch = [width / config.ww for _, width in config.hu_windows]     # from the bone window to each, whatever was drawn
    lows = [low * s + (level - config.wl * s) for (level, _), s in zip(config.hu_windows, stretch, strict=True)]
    lowest = torch.stack(lows).amin(0)                           # to become 0, which is what comes in from outside
    image = volume.float().sub(_each(lowest)).mul_(_each(gain))  # HU are interpolated before the clamp
    grid = F.affine_grid(_output_to_input(drawn, volume.shape[-1] / volume.shape[-2]), list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, align_corners=False)      # the K slices are channels: one geometry for all of them
    image.lerp_(_binomial(image), _each(drawn.blur))
    for ear, deviation, seed in zip(image, drawn.noise, drawn.noise_seed, strict=True):
        generator = torch.Generator(volume.device).manual_seed(seed)
        ear.add_(torch.randn(ear.shape, generator=generator, device=ear.device).mul_(deviation))
    windowed = torch.empty(*image.shape[:2], len(lows), *image.shape[2:], device=image.device)
    for channel, own, s in zip(windowed.unbind(2), lows, stretch, strict=True):
        torch.add(_each((lowest - own) * gain / s - 1), image, alpha=1 / s, out=channel)
    return with_neighbours(windowed.clamp_(-1, 1), config.slice_context)


def _each(value: torch.Tensor) -> torch.Tensor:
    return value[:, None, None, None]


def _output_to_input(drawn: Draw, aspect: float) -> torch.Tensor:
    """(N, 2, 3) in grid coordinates (x along columns, edges at ±1; aspect = W / H): where each output point comes from."""
    cos, sin = torch.cos(drawn.angle) / drawn.scale, torch.sin(drawn.angle) / drawn.scale
    turn = torch.stack([cos, sin / aspect, -sin * aspect, cos], -1).reshape(-1, 2, 2)
    shift = 2 * torch.stack([drawn.shift_columns, drawn.shift_rows], -1)
    return torch.cat([turn, -(turn @ shift[..., None])], -1)


def _binomial(image: torch.Tensor) -> torch.Tensor:
    """Each slice under the 3 × 3 binomial kernel (1, 2, 1)ᵀ(1, 2, 1) / 16, edges repeated. As sums, several times as fast on a
    CPU as by pooling or convolving."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + padded[..., 2:, :]).add_(padded[..., 1:-1, :], alpha=2)
    return (rows[..., :-2] + rows[..., 2:]).add_(rows[..., 1:-1], alpha=2).div_(16)
