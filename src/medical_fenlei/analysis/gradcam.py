"""Which pixels speak for a class: class activation maps of one ear's slices, through the grad-cam library."""
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from medical_fenlei.analysis.trained import Trained
from medical_fenlei.data.augment import blocks, window
from medical_fenlei.data.blocks import block_starts, over_slices
from medical_fenlei.errors import UserError
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.tasks import Task
from medical_fenlei.training.config import BONE

METHODS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM", "layercam": "LayerCAM",
           "xgradcam": "XGradCAM"}
"""Our names of the library's classes."""

CELLS = 7
"""A map needs so many cells an edge (224 pixels at stride 32 give them); where it has fewer, an earlier stage is taken."""


@dataclass(frozen=True)
class Explanation:
    """One ear, one class, its S most telling slices, most telling first. H rows, W columns."""

    class_name: str
    probability: float
    """Of that class."""

    layer: str
    """Module of the backbone whose activations are mapped."""

    slices: np.ndarray
    """int (S,), numbers k in the cached volume."""

    weights: np.ndarray
    """float32 (S,), what ranks the slices."""

    ranked_by: str
    """`attention`, or where the pooling has none `gradient × features`."""

    grey: np.ndarray
    """float32 (S, H, W), 0 to 1 over the bone window."""

    heat: np.ndarray
    """float32 (S, H, W), 0 to 1, each slice by its own maximum; where several blocks of slices saw it, the mean."""


def explain(
    trained: Trained, volume: np.ndarray, task: Task, *, target: str = "predicted", method: str = "gradcam", top: int
) -> Explanation:
    """volume: int16 HU (K, H, W). task: one of the network's. target: `predicted` or the name of a class of the task. method:
    one of METHODS.

    A network that sees an ear in B blocks of M slices answers with their mean, whose maps these are. Computed in float32.
    Raises UserError for an unknown class or method, or a backbone whose stages are unknown.
    """
    model = trained.model
    assert isinstance(model, Ear2d)
    names, columns = task.class_names, trained.columns(task)
    if target != "predicted" and target not in names:
        raise UserError(f"--target: got {target!r}, expected predicted or one of {', '.join(names)}")
    if method not in METHODS:
        raise UserError(f"--method: got {method!r}, expected one of {', '.join(METHODS)}")
    config, hu = trained.config.augment, torch.from_numpy(volume)[None].to(trained.arithmetic.device)
    image, starts = torch.cat([*blocks(hu, config)]), block_starts(len(volume), config.model_slices)        # (B, M, C, H, W)
    with torch.enable_grad():
        vectors = model.backbone(image.flatten(0, 1)).detach().unflatten(0, image.shape[:2]).requires_grad_()
        pooled, attention = model.pooling(vectors)
        logits = _of_classes(model.head(pooled).mean(0)[columns])
        wanted = int(logits.argmax()) if target == "predicted" else names.index(target)
        if attention is None:
            weights = (torch.autograd.grad(logits[wanted], vectors)[0] * vectors).sum(2).detach()
        else:
            weights = attention.detach()
    weights = over_slices(weights, starts, len(volume))
    if attention is not None and len(starts) > 1:
        weights = weights / weights.sum()
    # of a binary task the two numbers are -l and l, and the class's probability is σ(±l)
    probability = torch.sigmoid(logits[wanted]) if task.binary else logits.softmax(0)[wanted]
    layer, channels = _layer(model.backbone, volume.shape[-1])
    heat = over_slices(_maps(model, image, layer, channels, columns, wanted, method), starts, len(volume)).numpy()
    grey = (window(hu, replace(config, windows=(BONE,), slice_context=0))[0, :, 0] + 1) / 2
    slices = torch.argsort(weights, descending=True, stable=True)[:top].cpu().numpy()
    return Explanation(
        names[wanted], float(probability.detach()), layer, slices, weights.float().cpu().numpy()[slices],
        "attention" if attention is not None else "gradient × features",
        grey.cpu().numpy()[slices], heat[slices],
    )


def _layer(backbone: nn.Module, edge: int) -> tuple[str, int]:
    """The deepest stage whose map is not too coarse, and its number of channels."""
    stages: list[dict[str, Any]] = list(getattr(backbone, "feature_info", []))
    if not stages or not all({"module", "num_chs", "reduction"} <= set(stage) for stage in stages):
        raise UserError(f"this backbone ({type(backbone).__name__}) does not name its stages; Grad-CAM cannot be drawn")
    finest = min(stage["reduction"] for stage in stages)
    fine = [stage for stage in stages if edge // stage["reduction"] >= CELLS or stage["reduction"] == finest]
    name, channels = fine[-1]["module"], fine[-1]["num_chs"]
    block = backbone.get_submodule(name)
    # behind the last block of a transformer only the class token is read: look at what goes into it
    return (f"{name}.norm1" if isinstance(getattr(block, "norm1", None), nn.LayerNorm) else name), channels


def _of_classes(logits: torch.Tensor) -> torch.Tensor:
    """(C,) of a task's (outputs,): a single logit speaks for the positive class and as much against the negative one."""
    return torch.cat([-logits, logits]) if len(logits) == 1 else logits


class _OneEar(nn.Module):
    """The slices of one ear as a batch (B M, C, H, W), so that the library maps each of them; B M times the same answer."""

    def __init__(self, model: Ear2d, times: int, columns: slice) -> None:
        super().__init__()
        self.model, self.times, self.columns = model, times, columns

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        logits = self.model(slices.unflatten(0, (self.times, -1))).logits.mean(0)[self.columns]
        return _of_classes(logits).expand(len(slices), -1)


def _maps(
    model: Ear2d, image: torch.Tensor, layer: str, channels: int, columns: slice, wanted: int, method: str
) -> torch.Tensor:
    """float32 (B, M, H, W) for the slices of one ear in blocks (B, M, C, H, W). columns: the task's; wanted: its class."""
    import pytorch_grad_cam as library

    prefix = getattr(model.backbone, "num_prefix_tokens", 0)

    def as_maps(activation: torch.Tensor) -> torch.Tensor:
        """(K, C, h, w) from that, from (K, h, w, C), or from (K, tokens, C)."""
        if activation.ndim == 3:
            activation = activation[:, prefix:]
            edge = round(activation.shape[1] ** 0.5)
            activation = activation.unflatten(1, (edge, edge))
        return activation if activation.shape[1] == channels else activation.permute(0, 3, 1, 2)

    first = iter([lambda logits: logits[wanted]])
    slices = image.flatten(0, 1)
    targets = [next(first, lambda logits: 0 * logits.sum()) for _ in slices]    # the ear's logit once, not once a slice
    wrapped = _OneEar(model, len(image), columns)
    kind = getattr(library, METHODS[method])
    cam = kind(model=wrapped, target_layers=[model.backbone.get_submodule(layer)], reshape_transform=as_maps)
    try:
        heat: np.ndarray = cam(input_tensor=slices, targets=targets)
    finally:
        cam.activations_and_grads.release()
        model.zero_grad(set_to_none=True)
    return torch.from_numpy(heat.astype(np.float32)).unflatten(0, image.shape[:2])
