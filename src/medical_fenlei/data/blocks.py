"""Blocks of neighboring slices: the part of an ear that a network sees at once. N ears of K slices, B blocks of M slices."""
import torch


def block_starts(slices: int, size: int | None) -> list[int]:
    """Return the first slice of each block of M slices (None: K). As few as cover all K slices, evenly spaced."""
    size = size or slices
    count = -(-slices // size)
    return [(slices - size) * block // max(1, count - 1) for block in range(count)]


def random_block(volume: torch.Tensor, size: int | None, position: torch.Tensor) -> torch.Tensor:
    """Return one block of each ear, (N, M, H, W) of (N, K, H, W). position: (N,) from 0 (lowest) to 1 (highest)."""
    if size is None or size == volume.shape[1]:
        return volume
    spare = volume.shape[1] - size
    first = (position * (spare + 1)).long().clamp(max=spare)
    ears, slices = (torch.arange(n, device=volume.device) for n in (len(volume), size))
    return volume[ears[:, None], first[:, None] + slices]


def mean_over_blocks(values: torch.Tensor, starts: list[int], slices: int) -> torch.Tensor:
    """Return the value of each slice, (K, ...): the mean over the blocks that contain it. values: (B, M, ...) of B blocks."""
    total, count = values.new_zeros(slices, *values.shape[2:]), values.new_zeros(slices)
    for start, own in zip(starts, values, strict=True):
        total[start:start + len(own)] += own
        count[start:start + len(own)] += 1
    return total / count.reshape(-1, *[1] * (values.ndim - 2))


def with_neighbors(image: torch.Tensor, context: int) -> torch.Tensor:
    """Add neighboring slices as channels: (N, K, W, H, W') becomes (N, K, (2 context + 1) W, H, W'). The ends are repeated.

    The W windows of the lowest neighbor come first, those of the slice itself in the middle.
    """
    if not context:
        return image
    slices = torch.arange(image.shape[1], device=image.device)
    around = slices[:, None] + torch.arange(-context, context + 1, device=image.device)
    return image[:, around.clamp(0, image.shape[1] - 1)].flatten(2, 3)
