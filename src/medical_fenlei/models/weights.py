"""Weights from a file into a network, by name and shape."""
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.log import LOG

CONTAINERS = ("model", "state_dict", "weights")
"""Names under which weight files hold their tensors."""
PREFIXES = ("module.", "backbone.", "encoder.")
"""What wrappers put before a tensor's name (MedicalNet's files have `module.`)."""
NAMED = 6
"""So many of the tensors that did not match are named."""


def load_weights(network: nn.Module, path: Path, *, flag: str, channels: int = 1) -> None:
    """Fill the network from a .safetensors or .pt file; log how many tensors matched by name and shape, and which did not.

    channels: those that the network reads. A first convolution of the file for one or three is fitted to them (`_spread`).
    Raises UserError if the file cannot be read, nothing fits, or it reads yet another number of channels.
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
                raise UserError(f"{flag} {path}: {name} reads {given.shape[1]} channels, this network's {channels} (windows × "
                                "(2 × slice-context + 1)); weights for 1 or 3 would be fitted")
            given = _spread(given, channels)
        if given.shape == tensor.shape:
            matched[name] = given
    if not matched:
        raise UserError(f"{flag} {path}: none of its {len(found)} tensors fits this network by name and shape")
    network.load_state_dict(matched, strict=False)
    LOG.info("%s: %d of the network's %d tensors matched", path, len(matched), len(own))
    unmatched = {"not in the file, so random": own.keys() - matched, "in the file, but not used": found.keys() - matched}
    for what, names in unmatched.items():
        if names:
            listed = ", ".join(sorted(names)[:NAMED]) + (", …" if len(names) > NAMED else "")
            LOG.info("%d tensors are %s: %s", len(names), what, listed)


def _spread(kernel: torch.Tensor, channels: int) -> torch.Tensor:
    """A kernel (O, I, …) for C channels: shown one picture in all of them it answers as before (where C is 1 or I divides it).

    The rule by which timm adapts its published weights (`adapt_input_conv`): summed to one, else repeated and scaled.
    """
    given = kernel.shape[1]
    if channels == given:
        return kernel
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    return kernel[:, [channel % given for channel in range(channels)]] * (given / channels)


def _read_weights(path: Path, flag: str) -> dict[str, torch.Tensor]:
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{flag} {path}: no such file") from None
    except Exception as error:  # a damaged file raises whatever its format met first
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
