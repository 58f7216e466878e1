"""Which voxels of an ear speak for a class: maps of the whole volume, by integrated gradients and by class activation.

Every map explains the ear's logit, not a slice's: a slice to which the pooling gives little weight is dim in it, and the
hottest voxel of the volume is the one that speaks most for the class.
"""
from dataclasses import dataclass, replace

import numpy as np
import torch

from medical_fenlei.config import BONE
from medical_fenlei.data.augment import window
from medical_fenlei.data.blocks import block_starts, mean_over_blocks
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.explanations.class_activation import class_activation, find_stage
from medical_fenlei.explanations.integrated_gradients import integrated_gradients
from medical_fenlei.explanations.logit import ClassLogit, EarBlocks, class_logits, split_into_blocks
from medical_fenlei.explanations.methods import INTEGRATED, check_methods
from medical_fenlei.metrics.calibration import tempered
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.spatial import Affine
from medical_fenlei.tasks import Task
from medical_fenlei.trained.calibration import TaskCalibration
from medical_fenlei.trained.network import TrainedNetwork

DEFAULT_METHODS = (INTEGRATED, "hirescam")
"""The finest map of all, above chance with both networks measured, and the finest class activation (docs/explanations.md)."""
NOT_FINITE = "not_finite"
"""Reason of an ear for which the network computes NaN or infinity."""
PREDICTED = "predicted"
"""Stands for the class with the highest probability."""


@dataclass(frozen=True, kw_only=True)
class ExplanationRequest:
    """How an ear is explained."""

    methods: tuple[str, ...] = DEFAULT_METHODS
    """Some of `methods.METHODS`; the first is the one shown most."""

    top: int = 5
    """Number of slices to show."""

    target: str = PREDICTED
    """The class to explain: PREDICTED, or a class of the task by its name."""

    layer: str | None = None
    """The stage of the backbone that class activation maps; by default the one that `find_stage` chooses."""


@dataclass(frozen=True)
class Map:
    """How much each voxel speaks for a class, by one method."""

    method: str
    layer: str
    """Module of the backbone whose activations are mapped; `input` for the voxels themselves."""

    heat: np.ndarray
    """float32 (K, H, W), 0 to 1, where 1 is the hottest voxel of the volume; all 0 if nothing speaks for the class."""

    scale: float
    """Value of heat 1, in the method's own unit of the logit."""

    @property
    def peak(self) -> tuple[int, int, int] | None:
        """(k, row, column) of the hottest voxel; None if nothing speaks for the class."""
        if self.scale == 0:
            return None
        k, row, column = (int(i) for i in np.unravel_index(self.heat.argmax(), self.heat.shape))
        return k, row, column


@dataclass(frozen=True)
class Explanation:
    """What a network's prediction for one ear rests on, for one class. K slices, H rows, W columns."""

    class_name: str
    probabilities: dict[str, float]
    """Probability of every class, by its name."""

    weights: np.ndarray
    """float32 (K,): weight of each slice, which ranks the slices."""

    ranked_by: str
    """`attention`; or, if the pooling has none, `gradient × features`."""

    slices: np.ndarray
    """int (S,): numbers k of the slices with the highest weights, the highest first."""

    grey: np.ndarray
    """float32 (K, H, W): 0 to 1 over the network's bone window."""

    maps: tuple[Map, ...]
    """One map for each method, in the order of the request."""

    @property
    def probability(self) -> float:
        """Probability of the explained class."""
        return self.probabilities[self.class_name]

    def calibrated(self, fitted: TaskCalibration) -> "Explanation":
        """Return the same explanation with the probabilities after the temperature of the task."""
        if fitted.temperature == 1:
            return self
        each = tempered(np.array([list(self.probabilities.values())]), fitted.temperature)[0]
        return replace(self, probabilities=dict(zip(self.probabilities, map(float, each), strict=True)))


def explain(
    network: TrainedNetwork, volume: np.ndarray, affine: Affine, task: Task, request: ExplanationRequest
) -> Explanation:
    """Map which voxels of one ear speak for a class of one of the network's tasks.

    volume: int16 HU (K, H, W); affine: its voxel index to LPS mm. A network that sees an ear in B blocks of M slices predicts
    their mean, which is what is mapped. Integrated gradients are computed in the run's precision, as its predictions are; class
    activation in float32. Raises Rejected (not_finite) if output or map is not finite; UserError for an unknown class, method
    or layer, or a backbone that does not name its stages.
    """
    check_request(network, task, request)
    model = network.model
    assert isinstance(model, Ear2d)
    config = network.config.augment
    hu = torch.from_numpy(volume)[None].to(network.compute.device)
    image, starts = window(hu, replace(config, slice_context=0)), block_starts(len(volume), config.model_slices)
    blocks = EarBlocks(split_into_blocks(image, config, starts), starts, volume.shape)
    with torch.enable_grad():
        vectors = model.backbone(blocks.slices.flatten(0, 1)).detach().unflatten(0, blocks.slices.shape[:2]).requires_grad_()
        pooled, attention = model.pooling(vectors)
        outputs = model.head(pooled).mean(0)[network.columns(task)]
        logits = class_logits(outputs)
        number = int(logits.argmax()) if request.target == PREDICTED else task.class_names.index(request.target)
        if attention is None:
            weights = (torch.autograd.grad(logits[number], vectors)[0] * vectors).sum(2).detach()
        else:
            weights = attention.detach()
    weights = mean_over_blocks(weights, starts, len(volume))
    if attention is not None and len(starts) > 1:
        weights = weights / weights.sum()
    target = ClassLogit(network.columns(task), number)
    maps = [_map(network, image, blocks, target, method, request.layer, affine) for method in request.methods]
    if not (outputs.isfinite().all() and weights.isfinite().all() and all(np.isfinite(own.heat).all() for own in maps)):
        raise Rejected(NOT_FINITE, "got NaN or infinity from the network, expected numbers")
    probabilities = task.probabilities(outputs.detach().double().cpu().numpy())
    return Explanation(
        class_name=task.class_names[number],
        probabilities=dict(zip(task.class_names, map(float, probabilities), strict=True)),
        weights=weights.float().cpu().numpy(),
        ranked_by="gradient × features" if attention is None else "attention",
        slices=torch.argsort(weights, descending=True, stable=True)[:request.top].cpu().numpy(),
        grey=((window(hu, replace(config, windows=(BONE,), slice_context=0))[0, :, 0] + 1) / 2).cpu().numpy(),
        maps=tuple(maps),
    )


def check_request(network: TrainedNetwork, task: Task, request: ExplanationRequest) -> None:
    """Raise, before anything is computed, the UserError that `explain` would raise."""
    if request.target not in (PREDICTED, *task.class_names):
        raise UserError(f"--target: got {request.target!r}, expected {PREDICTED} or one of {', '.join(task.class_names)}")
    check_methods(request.methods)
    for method in request.methods:
        if method != INTEGRATED:
            assert isinstance(network.model, Ear2d)
            find_stage(network.model.backbone, method, request.layer)


def _map(
    network: TrainedNetwork, image: torch.Tensor, blocks: EarBlocks, target: ClassLogit, method: str, layer: str | None,
    affine: Affine,
) -> Map:
    """The map of one method, scaled to its hottest voxel."""
    if method == INTEGRATED:
        name, heat = "input", integrated_gradients(network, image, blocks.starts, target, affine)
    else:
        assert isinstance(network.model, Ear2d)
        name, channels = find_stage(network.model.backbone, method, layer)
        heat = class_activation(network.model, blocks, target, method=method, layer=name, channels=channels)
    heat = np.maximum(heat, 0)
    scale = float(heat.max())
    return Map(method, name, (heat / scale if scale else heat).astype(np.float32), scale)
