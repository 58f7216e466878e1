"""Weights from a file into a network, by name and shape."""
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.runs import LOG

CONTAINERS = ("model", "state_dict")
"""Names under which weight files hold their tensors."""
PREFIXES = ("module.", "backbone.", "encoder.")
"""What wrappers put before a tensor's name (MedicalNet's files have `module.`)."""
NAMED = 6
"""So many of the tensors that did not match are named."""


def load_weights(network: nn.Module, path: Path, *, flag: str) -> None:
    """Fill the network from a .safetensors or .pt file; log how many tensors matched by name and shape, and which did not.

    A first convolution for three input channels is summed to one. Raises UserError if the file cannot be read or nothing fits.
    """
    found = _read_weights(path, flag)
    own = network.state_dict()
    matched = {}
    for name, tensor in own.items():
        given = found.get(name)
        if given is None:
            continue
        if given.ndim == tensor.ndim >= 4 and tensor.shape[1] == 1 and given.shape[1] == 3:
            given = given.sum(1, keepdim=True)
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
