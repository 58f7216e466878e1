"""Any 2D network of timm as the encoder of a slice."""
import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.runs import LOG

CONTAINERS = ("model", "state_dict")
"""Names under which weight files hold their tensors."""
PREFIXES = ("module.", "backbone.")


def build_backbone(name: str, *, image_size: int, pretrained: bool) -> tuple[nn.Module, int]:
    """The backbone for slices (N, 1, image_size, image_size) and the number of its features.

    Raises UserError: unknown name, a size it cannot take, no published weights.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4)
        raise UserError(f"--backbone: timm has no {name!r}" + (f"; near names: {', '.join(near)}" if near else ""))
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": 1, "num_classes": 0}
    facts = timm.get_pretrained_cfg(name, allow_unregistered=True)
    size: dict[str, Any] = {"img_size": image_size} if facts is not None and facts.fixed_input_size else {}
    try:
        try:
            backbone = timm.create_model(name, **options, **size)
        except TypeError:                                        # some of fixed size do not take it as an argument
            backbone = timm.create_model(name, **options)
        features = _count_features(backbone, image_size)
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"--backbone {name}: cannot be used with slices of {image_size} × {image_size}"
                        f"{' and --pretrained' if pretrained else ''}: {why}") from None
    return backbone, features


@torch.no_grad()
def _count_features(backbone: nn.Module, image_size: int) -> int:
    backbone.eval()
    shape = backbone(torch.zeros(1, 1, image_size, image_size)).shape
    backbone.train()
    if len(shape) != 2:
        raise ValueError(f"gives {tuple(shape)} for a slice, expected one vector")
    return int(shape[1])


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fill the backbone from a .safetensors or .pt file and log how many tensors matched by name and shape.

    Weights for three input channels are summed to one. Raises UserError if the file cannot be read or nothing matches.
    """
    found = _read_weights(path)
    own = backbone.state_dict()
    matched = {}
    for name, tensor in own.items():
        given = found.get(name)
        if given is None:
            continue
        if given.ndim == 4 and tensor.ndim == 4 and tensor.shape[1] == 1 and given.shape[1] == 3:
            given = given.sum(1, keepdim=True)
        if given.shape == tensor.shape:
            matched[name] = given
    if not matched:
        raise UserError(f"--backbone-weights {path}: none of its {len(found)} tensors fits this backbone by name and shape")
    backbone.load_state_dict(matched, strict=False)
    LOG.info("%s: %d of the backbone's %d tensors matched", path, len(matched), len(own))


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    content: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"--backbone-weights {path}: no such file") from None
    except Exception as error:  # a damaged file raises whatever its format met first
        raise UserError(f"--backbone-weights {path}: cannot be read as weights ({type(error).__name__})") from None
    for name in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict):
        raise UserError(f"--backbone-weights {path}: holds a {type(content).__name__}, expected tensors by name")
    weights = {}
    for name, tensor in content.items():
        for prefix in PREFIXES:
            name = str(name).removeprefix(prefix)
        if isinstance(tensor, torch.Tensor):
            weights[name] = tensor
    return weights
