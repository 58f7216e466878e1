"""Which voxels of an ear speak for a class: maps of the whole volume, by integrated gradients and by class activation.

Every map is of the ear's logit, not of a slice's: a slice that the pooling weighs little is dim in it, and the hottest voxel of
the volume is what speaks most for the class.
"""
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from medical_fenlei.config import BONE, AugmentConfig
from medical_fenlei.data.augment import window
from medical_fenlei.data.blocks import block_starts, over_slices, with_neighbours
from medical_fenlei.errors import UserError
from medical_fenlei.metrics.calibration import tempered
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.tasks import Task
from medical_fenlei.trained.calibration import Fitted
from medical_fenlei.trained.network import Trained

INTEGRATED = "integrated"
"""Integrated gradients on the way from air to the ear."""
CAMS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM", "layercam": "LayerCAM",
        "xgradcam": "XGradCAM"}
"""Our names of the grad-cam library's classes."""
BY_CELL = ("hirescam", "layercam")
"""Those that weigh each cell by its own gradient, and so can look at an early, fine stage; the others take the gradient's mean
over a slice for a channel's weight, which only holds behind the last stage."""
METHODS = (INTEGRATED, *CAMS)

FINE = 4
"""Stride of the stage that BY_CELL look at, or the next coarser one."""
STEPS = 16
"""Gradients on the way from air to the ear. With half as many the peak of 23 of 27 ears of the demo lay within 2 mm."""
SMOOTH_MM = 1.5
"""Standard deviation of the Gaussian under which integrated gradients are seen: those of single voxels are noise."""


@dataclass(frozen=True)
class Map:
    """How much each voxel speaks for the class, by one method."""

    method: str
    layer: str
    """Module of the backbone whose activations are mapped; `input` for the voxels themselves."""

    heat: np.ndarray
    """float32 (K, H, W), 0 to 1, which is the hottest voxel of the volume; all 0 where nothing speaks for the class."""

    scale: float
    """What heat 1 stands for, in the method's own measure of the logit."""

    @property
    def peak(self) -> tuple[int, int, int] | None:
        """(k, row, column) of the hottest voxel; None where there is none."""
        if self.scale == 0:
            return None
        k, row, column = (int(i) for i in np.unravel_index(self.heat.argmax(), self.heat.shape))
        return k, row, column


@dataclass(frozen=True)
class Explanation:
    """One ear, one class. K slices, H rows, W columns."""

    class_name: str
    probabilities: dict[str, float]
    """Of every class."""

    weights: np.ndarray
    """float32 (K,), what ranks the slices."""

    ranked_by: str
    """`attention`, or where the pooling has none `gradient × features`."""

    slices: np.ndarray
    """int (S,), the numbers k of the most telling ones, most telling first."""

    grey: np.ndarray
    """float32 (K, H, W), 0 to 1 over the network's bone window."""

    maps: tuple[Map, ...]
    """One a method, in the order asked for."""

    @property
    def probability(self) -> float:
        """Of the class."""
        return self.probabilities[self.class_name]

    def calibrated(self, fitted: Fitted) -> "Explanation":
        """The same with the probabilities after the temperature of the task."""
        each = tempered(np.array([list(self.probabilities.values())]), fitted.temperature)[0]
        return replace(self, probabilities=dict(zip(self.probabilities, map(float, each), strict=True)))


def explain(
    trained: Trained, volume: np.ndarray, affine: np.ndarray, task: Task, *, methods: tuple[str, ...], top: int,
    target: str = "predicted", layer: str | None = None,
) -> Explanation:
    """volume: int16 HU (K, H, W). affine: (4, 4), its voxels to LPS mm. task: one of the network's. methods: of METHODS.
    target: `predicted` or the name of a class of the task. layer: a module of the backbone for class activation (default:
    the last stage; for BY_CELL that of stride FINE).

    A network that sees an ear in B blocks of M slices answers with their mean, whose maps these are. Integrated gradients are
    computed in the run's precision, as its predictions are; class activation in float32.
    Raises UserError for an unknown class, method or layer, or a backbone whose stages are unknown.
    """
    model = trained.model
    assert isinstance(model, Ear2d)
    check_request(trained, task, methods=methods, target=target, layer=layer)
    names, columns = task.class_names, trained.columns(task)
    config, hu = trained.config.augment, torch.from_numpy(volume)[None].to(trained.arithmetic.device)
    image, starts = window(hu, replace(config, slice_context=0)), block_starts(len(volume), config.model_slices)
    seen = _blocks(image, config, starts)
    with torch.enable_grad():
        vectors = model.backbone(seen.flatten(0, 1)).detach().unflatten(0, seen.shape[:2]).requires_grad_()
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
    # of a binary task the two numbers are -l and l, and the classes' probabilities are σ(±l)
    each = (torch.sigmoid(logits) if task.binary else logits.softmax(0)).detach().double().cpu().tolist()
    maps = []
    for method in methods:
        if method == INTEGRATED:
            name, heat = "input", _integrated(trained, image, starts, columns, wanted)
            heat = gaussian_filter(heat, SMOOTH_MM / np.linalg.norm(affine[:3, :3], axis=0), mode="constant")
        else:
            name, channels = _stage(model.backbone, method, layer)
            heat = _activation(model, seen, starts, volume.shape, name, channels, columns, wanted, method)
        heat = np.maximum(heat, 0)
        scale = float(heat.max())
        maps.append(Map(method, name, (heat / scale if scale else heat).astype(np.float32), scale))
    grey = (window(hu, replace(config, windows=(BONE,), slice_context=0))[0, :, 0] + 1) / 2
    return Explanation(
        names[wanted], dict(zip(names, each, strict=True)), weights.float().cpu().numpy(),
        "attention" if attention is not None else "gradient × features",
        torch.argsort(weights, descending=True, stable=True)[:top].cpu().numpy(), grey.cpu().numpy(), tuple(maps),
    )


def check_request(trained: Trained, task: Task, *, methods: tuple[str, ...], target: str, layer: str | None = None) -> None:
    """Raises UserError, before anything is computed, where `explain` would."""
    if target != "predicted" and target not in task.class_names:
        raise UserError(f"--target: got {target!r}, expected predicted or one of {', '.join(task.class_names)}")
    for method in methods:
        if method not in METHODS:
            raise UserError(f"--method: got {method!r}, expected some of {', '.join(METHODS)}")
        if method != INTEGRATED:
            assert isinstance(trained.model, Ear2d)
            _stage(trained.model.backbone, method, layer)


def _blocks(image: torch.Tensor, config: AugmentConfig, starts: list[int]) -> torch.Tensor:
    """(B, M, C, H, W) that the network is shown of an ear's windowed slices (1, K, windows, H, W)."""
    seen = config.model_slices or image.shape[1]
    return torch.cat([with_neighbours(image[:, start:start + seen], config.slice_context) for start in starts])


def _of_classes(logits: torch.Tensor) -> torch.Tensor:
    """(C,) of a task's (outputs,): a single logit speaks for the positive class and as much against the negative one."""
    return torch.cat([-logits, logits]) if len(logits) == 1 else logits


def _integrated(trained: Trained, image: torch.Tensor, starts: list[int], columns: slice, wanted: int) -> np.ndarray:
    """float64 (K, H, W): each voxel's share of what the logit gains from air (the lowest value of every window) to the ear.

    Integrated gradients, Sundararajan 2017 (arXiv:1703.01365), equation 3, by the midpoint rule. The shares sum up to the gain.
    """
    way, total = image + 1, torch.zeros_like(image)
    for step in range(STEPS):
        with torch.enable_grad():
            there = (way * ((step + 0.5) / STEPS) - 1).requires_grad_()
            with trained.arithmetic.autocast():
                logits = trained.model(_blocks(there, trained.config.augment, starts)).logits
            logit = _of_classes(logits.mean(0)[columns])[wanted]
            total += torch.autograd.grad(logit, there)[0]
    shares: np.ndarray = (total / STEPS * way)[0].sum(1).double().cpu().numpy()
    return shares


def _stage(backbone: nn.Module, method: str, layer: str | None) -> tuple[str, int]:
    """The module to look at, and its number of channels."""
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
    # behind the last block of a transformer only the class token is read: look at what goes into it
    inner = isinstance(getattr(backbone.get_submodule(name), "norm1", None), nn.LayerNorm)
    return (f"{name}.norm1" if inner else name), stage["num_chs"]


class _OneEar(nn.Module):
    """The slices of one ear as a batch (B M, C, H, W), so that the library maps each of them; B M times the same answer."""

    def __init__(self, model: Ear2d, times: int, columns: slice) -> None:
        super().__init__()
        self.model, self.times, self.columns = model, times, columns

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        logits = self.model(slices.unflatten(0, (self.times, -1))).logits.mean(0)[self.columns]
        return _of_classes(logits).expand(len(slices), -1)


def _activation(
    model: Ear2d, seen: torch.Tensor, starts: list[int], shape: tuple[int, ...], layer: str, channels: int, columns: slice,
    wanted: int, method: str,
) -> np.ndarray:
    """float32 (K, H, W), at least 0. seen: (B, M, C, H, W); shape: (K, H, W).

    The library's own call scales every slice to 1 and so hides which of them matter: its maps are taken before that.
    """
    import pytorch_grad_cam as library

    prefix = getattr(model.backbone, "num_prefix_tokens", 0)

    def as_maps(activation: torch.Tensor) -> torch.Tensor:
        """(K, C, h, w) from that, from (K, h, w, C), or from (K, tokens, C)."""
        if activation.ndim == 3:
            activation = activation[:, prefix:]
            edge = round(activation.shape[1] ** 0.5)
            activation = activation.unflatten(1, (edge, edge))
        return activation if activation.shape[1] == channels else activation.permute(0, 3, 1, 2)

    slices, target = seen.flatten(0, 1), model.backbone.get_submodule(layer)
    kind = getattr(library, CAMS[method])
    cam = kind(model=_OneEar(model, len(seen), columns), target_layers=[target], reshape_transform=as_maps)
    try:
        with torch.enable_grad():
            cam.activations_and_grads(slices)[0, wanted].backward()
        (activation,), (gradient,) = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
        raw = cam.get_cam_image(slices, target, None, activation.cpu().numpy(), gradient.cpu().numpy(), False)
    finally:
        cam.activations_and_grads.release()
        model.zero_grad(set_to_none=True)
    of_blocks = torch.from_numpy(np.maximum(raw, 0).astype(np.float32)).unflatten(0, seen.shape[:2])
    total = torch.zeros(shape[0], *of_blocks.shape[2:])
    for start, own in zip(starts, of_blocks, strict=True):       # each block's share of the ear's logit
        total[start:start + len(own)] += own
    heat: np.ndarray = F.interpolate(total[None], size=shape[1:], mode="bilinear", align_corners=False)[0].numpy()
    return heat
