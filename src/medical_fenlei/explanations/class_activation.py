"""Maps by class activation: Grad-CAM and its relatives, of any stage of a timm backbone."""
from typing import Any

import numpy as np
import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.explanations.methods import CAMS

BY_CELL = ("hirescam", "layercam")
"""Methods that weight each cell by its own gradient, and so can map an early, fine stage. The others weight a channel by the
mean of its gradient over a slice, which is meaningful only after the last stage."""
FINE = 4
"""Stride of the stage that BY_CELL map, or the next coarser one."""


def find_stage(backbone: nn.Module, method: str, layer: str | None) -> tuple[str, int]:
    """Return the module whose activations are mapped, and its number of channels.

    layer: a stage by its name; None takes the method's default. Raises UserError if the backbone has no such stage, or does not
    name its stages.
    """
    stages: list[dict[str, Any]] = list(getattr(backbone, "feature_info", []))
    if not stages or not all({"module", "num_chs", "reduction"} <= set(stage) for stage in stages):
        raise UserError(f"this backbone ({type(backbone).__name__}) does not name its stages; class activation cannot be drawn")
    if layer is not None:
        named = [stage for stage in stages if stage["module"] == layer]
        if not named:
            raise UserError(f"--layer: got {layer!r}, expected one of {', '.join(stage['module'] for stage in stages)}")
        stage = named[0]
    else:
        finest = min((s["reduction"] for s in stages if s["reduction"] >= FINE), default=stages[-1]["reduction"])
        fine = [s for s in stages if s["reduction"] == finest]
        stage = fine[-1] if method in BY_CELL else stages[-1]
    name = str(stage["module"])
    # after the last block of a transformer only the class token is read: map the input of the block
    in_block = isinstance(getattr(backbone.get_submodule(name), "norm1", None), nn.LayerNorm)
    return (f"{name}.norm1" if in_block else name), stage["num_chs"]


def class_activation(activation: torch.Tensor, gradient: torch.Tensor, *, method: str) -> np.ndarray:
    """Return the map of one method for each slice, float32 (S, h, w), at least 0.

    activation, gradient (S, C, h, w): of a stage, as `to_channels_first` returns them. The library scales each slice to 1 and
    so hides which slices matter: its maps are taken before that.
    """
    import pytorch_grad_cam as library

    cam = getattr(library, CAMS[method])(model=nn.Linear(1, 1), target_layers=[])        # which it would only run and watch
    raw = cam.get_cam_image(None, None, None, activation.detach().float().cpu().numpy(), gradient.float().cpu().numpy(), False)
    heat: np.ndarray = np.maximum(raw, 0).astype(np.float32)
    return heat


def to_channels_first(activation: torch.Tensor, channels: int, prefix_tokens: int) -> torch.Tensor:
    """Bring activations to (S, C, h, w), from (S, h, w, C) or (S, tokens, C) where necessary."""
    if activation.ndim == 3:
        activation = activation[:, prefix_tokens:]
        edge = round(activation.shape[1] ** 0.5)
        activation = activation.unflatten(1, (edge, edge))
    return activation if activation.shape[1] == channels else activation.permute(0, 3, 1, 2)
