"""Any 2D network of timm as the encoder of slices."""
import difflib
from typing import Any

import timm
import torch
from torch import nn

from medical_fenlei.errors import UserError


def build_backbone(name: str, *, channels: int = 1, image_size: int, pretrained: bool) -> tuple[nn.Module, int]:
    """Build the backbone for slices (N, channels, image_size, image_size); return it and the number of its features.

    timm adapts published weights for three channels to any other number. Raises UserError for an unknown name, an unsupported
    image size, or missing published weights.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4)
        raise UserError(f"--backbone: timm has no {name!r}" + (f"; near names: {', '.join(near)}" if near else ""))
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": channels, "num_classes": 0}
    facts = timm.get_pretrained_cfg(name, allow_unregistered=True)
    size: dict[str, Any] = {"img_size": image_size} if facts is not None and facts.fixed_input_size else {}
    try:
        try:
            backbone = timm.create_model(name, **options, **size)
        except TypeError:                                        # some fixed-size networks do not take the argument
            backbone = timm.create_model(name, **options)
        features = _count_features(backbone, channels, image_size)
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"--backbone {name}: cannot be used with slices of {image_size} × {image_size}"
                        f"{' and --pretrained' if pretrained else ''}: {why}") from None
    return backbone, features


@torch.no_grad()
def _count_features(backbone: nn.Module, channels: int, image_size: int) -> int:
    """Return D if the backbone maps a slice to one vector (D,). Raises ValueError otherwise."""
    backbone.eval()
    shape = backbone(torch.zeros(1, channels, image_size, image_size)).shape
    backbone.train()
    if len(shape) != 2:
        raise ValueError(f"returns shape {tuple(shape)} for a slice, expected one vector")
    return int(shape[1])
