"""Window and augmentation of a batch on the device. What is random is drawn once a sample, in one step, and applied in another.

N ears of K slices, H rows, W columns. The draw depends on (seed, epoch, row, ear) alone, so neither feeding, batch composition
nor the number of processes changes it. No mirror: the columns of every ear run from lateral to medial, and that is information.
"""
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F

from medical_fenlei.training.config import AugmentConfig

NOISE_SEEDS = 2**63


@dataclass(frozen=True)
class Draw:
    """What is random about N ears, (N,) each."""

    level: torch.Tensor
    """Window level, HU."""

    width: torch.Tensor
    """Window width, HU."""

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
    """Standard deviation in units of half a window."""

    noise_seed: tuple[int, ...]
    """Of the noise field of each ear."""

    def to(self, device: torch.device) -> "Draw":
        return Draw(**{f.name: getattr(self, f.name) if f.name == "noise_seed" else getattr(self, f.name).to(device)
                       for f in fields(self)})


def draw(config: AugmentConfig, *, seed: int, epoch: int, row: np.ndarray, ear: np.ndarray) -> Draw:
    """row, ear: (N,) the sample's manifest row and the ear's place in it. Tensors float32 (N,) on the host."""
    numbers, seeds = np.empty((len(row), 8), np.float32), []
    for n, name in enumerate(zip(row.tolist(), ear.tolist(), strict=True)):
        rng = np.random.default_rng([seed, epoch, *name])
        numbers[n] = rng.uniform(-1, 1, 8)
        seeds.append(int(rng.integers(NOISE_SEEDS)))
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
    )


def window(volume: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """float32 (N, K, 1, H, W) in [-1, 1] from HU (N, K, H, W): [wl - ww/2, wl + ww/2] maps to [-1, 1], the rest is clamped."""
    image = volume.float().sub(config.wl).mul_(2 / config.ww)
    return image.clamp_(-1, 1).unsqueeze(2)


def augment(volume: torch.Tensor, drawn: Draw) -> torch.Tensor:
    """As `window`, each ear with its own draw: turned, shifted, scaled, blurred, noisy. What comes in from outside is -1."""
    drawn = drawn.to(volume.device)
    low, gain = drawn.level - drawn.width / 2, 2 / drawn.width
    image = volume.float().sub(_each(low)).mul_(_each(gain))    # 0 to 2 in the window; HU are interpolated before the clamp
    grid = F.affine_grid(_output_to_input(drawn, volume.shape[-1] / volume.shape[-2]), list(image.shape), align_corners=False)
    image = F.grid_sample(image, grid, align_corners=False)      # the K slices are channels: one geometry for all of them
    image.lerp_(_binomial(image), _each(drawn.blur))
    for ear, deviation, seed in zip(image, drawn.noise, drawn.noise_seed, strict=True):
        generator = torch.Generator(volume.device).manual_seed(seed)
        ear.add_(torch.randn(ear.shape, generator=generator, device=ear.device).mul_(deviation))
    return image.sub_(1).clamp_(-1, 1).unsqueeze(2)


def _each(value: torch.Tensor) -> torch.Tensor:
    return value[:, None, None, None]


def _output_to_input(drawn: Draw, aspect: float) -> torch.Tensor:
    """(N, 2, 3) in grid coordinates (x along columns, edges at ±1; aspect = W / H): where each output point comes from."""
    cos, sin = torch.cos(drawn.angle) / drawn.scale, torch.sin(drawn.angle) / drawn.scale
    turn = torch.stack([cos, sin / aspect, -sin * aspect, cos], -1).reshape(-1, 2, 2)
    shift = 2 * torch.stack([drawn.shift_columns, drawn.shift_rows], -1)
    return torch.cat([turn, -(turn @ shift[..., None])], -1)


def _binomial(image: torch.Tensor) -> torch.Tensor:
    """Each slice under the 3 × 3 binomial kernel (1, 2, 1)ᵀ(1, 2, 1) / 16, edges repeated: two 2 × 2 means in turn."""
    return F.avg_pool2d(F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 2, stride=1), 2, stride=1)
