"""Load weights from a file into a network, matched by name and shape."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.log import LOG
from medical_fenlei.near_names import near_paths

CONTAINERS = ("model", "state_dict", "weights")
"""Keys under which weight files hold their tensors."""
PREFIXES = ("module.", "backbone.", "encoder.")
"""Prefixes that wrappers add to tensor names (MedicalNet's files have `module.`)."""
MAX_LISTED = 6
"""How many of the unmatched tensors the log names."""


def load_weights(network: nn.Module, path: Path, *, flag: str, channels: int = 1) -> None:
    """Load a .safetensors or .pt file; log how many tensors match by name and shape, and which do not.

    channels: input channels of the network. A first convolution for one or three channels is adapted to them.
    Raises UserError if the file cannot be read, no tensor matches, the first convolution has another number of channels, or a
    weight is not finite.
    """
    found = _read_weights(path, flag)
    own = network.state_dict()
    matched = {}
    for name, tensor in own.items():
        given = found.get(name)
        if given is None:
            continue
        if given.ndim == tensor.ndim >= 4 and tensor.shape[1] == channels and given[:, :1].shape == tensor[:, :1].shape:
            if given.shape[1] not in (1, 3, channels):
                raise UserError(f"{flag} {path}: {name} has {given.shape[1]} input channels, this network {channels} "
                                "(windows × (2 × slice-context + 1)); only weights for 1 or 3 channels can be adapted")
            given = _adapt_channels(given, channels)
        if given.shape == tensor.shape:
            matched[name] = given
    if not matched:
        raise UserError(f"{flag} {path}: none of its {len(found)} tensors fits this network by name and shape")
    if broken := first_not_finite(matched):
        raise UserError(f"{flag} {path}: its weights are not finite ({broken}); copy or download them again")
    network.load_state_dict(matched, strict=False)
    LOG.info("%s: %d of the network's %d tensors matched", path, len(matched), len(own))
    unmatched = {"not in the file, so random": own.keys() - matched, "in the file, but not used": found.keys() - matched}
    for what, names in unmatched.items():
        if names:
            listed = ", ".join(sorted(names)[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
            LOG.info("%d tensors are %s: %s", len(names), what, listed)


def first_not_finite(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity; None if all are finite."""
    return next((name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), None)


def _adapt_channels(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    """Adapt a kernel (O, I, …) to C input channels: summed over I for one channel, else repeated and scaled by I / C.

    The rule of timm's `adapt_input_conv`. An image repeated in all channels gets the same response if C is 1 or a multiple
    of I.
    """
    given = kernel.shape[1]
    if channels == given:
        return kernel
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, [channel % given for channel in range(channels)]] * (given / channels)


def _read_weights(path: Path, flag: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a weight file by name, without the prefixes of wrappers. Raises UserError."""
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{flag} {path}: no such file{near_paths('file', path)}") from None
    except Exception as error:  # the type depends on the format and on the damage
        raise UserError(f"{flag} {path}: cannot be read as weights ({type(error).__name__})") from None
    for name in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise UserError(f"{flag} {path}: holds a {type(content).__name__}, expected tensors by name")
    weights = {}
    for name, tensor in content.items():
        for prefix in PREFIXES:
            name = str(name).removeprefix(prefix)
        if isinstance(tensor, torch.Tensor):
            weights[name] = tensor
    return weights
