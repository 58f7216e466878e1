"""Maps by class activation: Grad-CAM and its relatives, of any stage of a timm backbone."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.explanations.logit import ClassLogit, EarBlocks, class_logits
from medical_fenlei.explanations.methods import CAMS
from medical_fenlei.models.ear2d import Ear2d

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


def class_activation(
    model: Ear2d, blocks: EarBlocks, target: ClassLogit, *, method: str, layer: str, channels: int
) -> np.ndarray:
    """Return the map of one method, float32 (K, H, W), at least 0; layer, channels: as `find_stage` returns them.

    The library scales each slice to 1 and so hides which slices matter: its maps are taken before that.
    """
    import pytorch_grad_cam as library

    slices, module = blocks.slices.flatten(0, 1), model.backbone.get_submodule(layer)
    cam = getattr(library, CAMS[method])(
        model=_OneEar(model, len(blocks.slices), target.columns), target_layers=[module],
        reshape_transform=_to_channels_first(channels, getattr(model.backbone, "num_prefix_tokens", 0)))
    try:
        with torch.enable_grad():
            cam.activations_and_grads(slices)[0, target.number].backward()
        (activation,), (gradient,) = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
        raw = cam.get_cam_image(slices, module, None, activation.cpu().numpy(), gradient.cpu().numpy(), False)
    finally:
        cam.activations_and_grads.release()
        model.zero_grad(set_to_none=True)
    by_block = torch.from_numpy(np.maximum(raw, 0).astype(np.float32)).unflatten(0, blocks.slices.shape[:2])
    total = torch.zeros(blocks.shape[0], *by_block.shape[2:])
    for start, own in zip(blocks.starts, by_block, strict=True):        # each block's share of the ear's logit
        total[start:start + len(own)] += own
    heat: np.ndarray = F.interpolate(total[None], size=blocks.shape[1:], mode="bilinear", align_corners=False)[0].numpy()
    return heat


class _OneEar(nn.Module):
    """The slices of one ear as a batch (B M, C, H, W), so that the library maps each; the ear's logits, repeated B M times."""

    def __init__(self, model: Ear2d, blocks: int, columns: slice) -> None:
        super().__init__()
        self.model, self.blocks, self.columns = model, blocks, columns

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        logits = self.model(slices.unflatten(0, (self.blocks, -1))).logits.mean(0)[self.columns]
        return class_logits(logits).expand(len(slices), -1)


def _to_channels_first(channels: int, prefix_tokens: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function that brings activations to (K, C, h, w), from (K, h, w, C) or (K, tokens, C) where necessary."""
    def reshape(activation: torch.Tensor) -> torch.Tensor:
        if activation.ndim == 3:
            activation = activation[:, prefix_tokens:]
            edge = round(activation.shape[1] ** 0.5)
            activation = activation.unflatten(1, (edge, edge))
        return activation if activation.shape[1] == channels else activation.permute(0, 3, 1, 2)

    return reshape
