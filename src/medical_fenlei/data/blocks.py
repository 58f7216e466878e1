"""Blocks of neighbouring slices: what a network sees of an ear at once. N ears of K slices, B blocks of M."""
import torch


def block_starts(slices: int, seen: int | None) -> list[int]:
    """First slice of each of the fewest blocks of M (None: K) that hold all K slices, evenly placed, overlapping as needed."""
    seen = seen or slices
    count = -(-slices // seen)
    return [(slices - seen) * block // max(1, count - 1) for block in range(count)]


def random_block(volume: torch.Tensor, seen: int | None, place: torch.Tensor) -> torch.Tensor:
    """(N, M, H, W) of (N, K, H, W), each ear its own block; place: (N,), 0 for the lowest, towards 1 for the highest."""
    if seen is None or seen == volume.shape[1]:
        return volume
    spare = volume.shape[1] - seen
    first = (place * (spare + 1)).long().clamp(max=spare)
    ears, slices = (torch.arange(n, device=volume.device) for n in (len(volume), seen))
    return volume[ears[:, None], first[:, None] + slices]


def over_slices(values: torch.Tensor, starts: list[int], slices: int) -> torch.Tensor:
    """(K, ...) from what B blocks say of their M slices each (B, M, ...): the mean over the blocks that saw a slice."""
    total, seen = values.new_zeros(slices, *values.shape[2:]), values.new_zeros(slices)
    for start, own in zip(starts, values, strict=True):
        total[start:start + len(own)] += own
        seen[start:start + len(own)] += 1
    return total / seen.reshape(-1, *[1] * (values.ndim - 2))


def with_neighbours(image: torch.Tensor, context: int) -> torch.Tensor:
    """(N, K, (2 context + 1) W, H, W') of (N, K, W, H, W'): each slice with its neighbours as channels, the ends repeated.

    The W windows of the lowest neighbour come first, those of the slice itself in the middle.
    """
    if not context:
        return image
    slices = torch.arange(image.shape[1], device=image.device)
    around = slices[:, None] + torch.arange(-context, context + 1, device=image.device)
    return image[:, around.clamp(0, image.shape[1] - 1)].flatten(2, 3)
