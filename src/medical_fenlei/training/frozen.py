"""A backbone that is not trained: each input goes through it once."""
import hashlib
from collections.abc import Callable

import torch

from medical_fenlei.models.network import Network

VERSIONS = 4
"""How many augmentations of each ear a frozen backbone sees: each costs a pass through it."""


class KeptFeatures:
    """Stands for `Network.encode` of a network whose backbone is frozen, and keeps what it returned for each ear.

    Ears are encoded one by one, so that what is kept depends neither on the batch nor on when a run was resumed.
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._encode, self._kept = encode, dict[bytes, torch.Tensor]()

    @torch.no_grad()
    def __call__(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the features (N, …) of ears (N, K, C, H, W)."""
        return torch.stack([self._features_of(ear) for ear in volume])

    def _features_of(self, ear: torch.Tensor) -> torch.Tensor:
        key = hashlib.blake2b(ear.contiguous().cpu().numpy().data, digest_size=16).digest()
        if key not in self._kept:
            self._kept[key] = self._encode(ear[None])[0].clone()
        return self._kept[key]


def freeze(network: Network) -> None:
    """Leave the backbone as it is from now on: no gradient, no new statistics, and each input is encoded once."""
    network.trunk.requires_grad_(False)
    network.encode = KeptFeatures(network.encode)                # type: ignore[method-assign]
