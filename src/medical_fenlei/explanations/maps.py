"""Which voxels of an ear speak for a class: maps of the whole volume, by integrated gradients and by class activation.

Every map explains the ear's logit, not a slice's: a slice to which the pooling gives little weight is dim in it, and the
hottest voxel of the volume is the one that speaks most for the class.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from medical_fenlei.config import BONE
from medical_fenlei.data.augment import window
from medical_fenlei.data.blocks import mean_over_blocks
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.explanations.class_activation import class_activation, find_stage
from medical_fenlei.explanations.integrated_gradients import integrated_gradients
from medical_fenlei.explanations.kept_pass import VECTORS, KeptPass, look
from medical_fenlei.explanations.logit import ClassLogit, class_logits
from medical_fenlei.explanations.methods import INTEGRATED, check_methods
from medical_fenlei.metrics.calibration import tempered
from medical_fenlei.models.network import NetworkStage
from medical_fenlei.spatial import Affine
from medical_fenlei.tasks import Task
from medical_fenlei.trained.calibration import TaskCalibration
from medical_fenlei.trained.network import TrainedNetwork

DEFAULT_METHODS = (INTEGRATED, "hirescam")
"""The finest map of all, above chance with both networks measured, and the finest class activation (docs/explanations.md)."""
NOT_FINITE = "not_finite"
"""Reason of an ear for which the network computes NaN or infinity."""
NOT_FINITE_DETAIL = "got NaN or infinity from the network, expected numbers"
ATTENTION, GRADIENT = "attention", "gradient × features"
"""What slices are ranked by: the attention of a network; without it, the vectors of its slices."""
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
    """The stage of the network that class activation maps; by default the one that `find_stage` chooses."""


@dataclass(frozen=True)
class Map:
    """How much each voxel speaks for a class, by one method."""

    method: str
    layer: str
    """Stage of the network whose activations are mapped; `input` for the voxels themselves."""

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
    """ATTENTION; where a network has none, GRADIENT; where it has no vectors of slices either, `share of the heat (METHOD)`, of
    the heat of the first map, and `number` without a map."""

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


class _SliceWeights(NamedTuple):
    weights: np.ndarray
    """float32 (K,)."""

    ranked_by: str
    """See `Explanation`."""


def explain(
    network: TrainedNetwork, volume: np.ndarray, affine: Affine, task: Task, request: ExplanationRequest
) -> Explanation:
    """Map which voxels of one ear speak for a class of one of the network's tasks.

    volume: int16 HU (K, H, W); affine: its voxel index to LPS mm. A network that sees an ear in B blocks of M slices predicts
    their mean, which is what is mapped, in the run's precision, as its predictions are. Raises Rejected (not_finite) if output
    or map is not finite; UserError for an unknown class, method or layer, or a method that the network does not support.
    """
    check_request(network, task, request)
    only, = explain_pass(look_for(network, volume[None], request), [affine], task, request)
    if only is None:
        raise Rejected(NOT_FINITE, NOT_FINITE_DETAIL)
    return only


def look_for(network: TrainedNetwork, volumes: np.ndarray, request: ExplanationRequest) -> KeptPass:
    """Run a network over ears, int16 HU (N, K, H, W), and keep what `explain_pass` needs for a request."""
    return look(network, volumes, [*_stages(network, request).values()])


def explain_pass(
    seen: KeptPass, affines: Sequence[Affine], task: Task, request: ExplanationRequest, targets: Sequence[str] | None = None,
) -> list[Explanation | None]:
    """Explain each of the ears that `look_for` ran; None for an ear whose output or map is not finite.

    affines: voxel index to LPS mm of each ear; targets: the class to explain of each, in place of the request's.
    """
    outputs = seen.logits.detach().mean(1)[:, seen.network.columns(task)]
    numbers = [int(class_logits(own).argmax()) if target == PREDICTED else task.class_names.index(target)
               for own, target in zip(outputs, targets or [request.target] * len(outputs), strict=True)]
    logits = [ClassLogit(seen.network.columns(task), number) for number in numbers]
    slopes, stages = seen.gradients(logits), _stages(seen.network, request)
    found: list[Explanation | None] = []
    for n, (target, affine) in enumerate(zip(logits, affines, strict=True)):
        maps = tuple(_integrated(seen, n, target, affine) if method == INTEGRATED else
                     _activated(seen, n, slopes, method, stages[method]) for method in request.methods)
        slices = _slice_weights(seen, n, slopes, maps)
        values = (outputs[n].cpu().numpy(), slices.weights, *(own.heat for own in maps))
        finite = all(np.isfinite(own).all() for own in values)
        found.append(_explanation(seen, n, task, target, slices, maps, request.top) if finite else None)
    return found


def _explanation(
    seen: KeptPass, n: int, task: Task, target: ClassLogit, slices: _SliceWeights, maps: tuple[Map, ...], top: int
) -> Explanation:
    bone = replace(seen.network.config.augment, windows=(BONE,), slice_context=0)
    probabilities = task.probabilities(seen.result.logits[n, target.columns])
    return Explanation(
        class_name=task.class_names[target.number],
        probabilities=dict(zip(task.class_names, map(float, probabilities), strict=True)),
        weights=slices.weights, ranked_by=slices.ranked_by, slices=np.argsort(-slices.weights, kind="stable")[:top],
        grey=((window(seen.hu[n:n + 1], bone)[0, :, 0] + 1) / 2).cpu().numpy(), maps=maps)


def _slice_weights(seen: KeptPass, n: int, slopes: Mapping[str, torch.Tensor], maps: Sequence[Map]) -> _SliceWeights:
    """The weight of each slice of one ear."""
    if seen.attention is not None:
        return _SliceWeights(seen.attention[n].float().cpu().numpy(), ATTENTION)
    if VECTORS in slopes:
        speaks = seen.of_blocks(seen.of_ear((slopes[VECTORS] * seen.activations[VECTORS]).sum(1).detach(), n))
        weights = mean_over_blocks(speaks, seen.starts, seen.hu.shape[1])
        return _SliceWeights(weights.float().cpu().numpy(), GRADIENT)
    if not maps:
        return _SliceWeights(np.zeros(seen.hu.shape[1], np.float32), "number")
    heat = maps[0].heat.sum((1, 2), dtype=np.float64)
    return _SliceWeights((heat / (heat.sum() or 1)).astype(np.float32), f"share of the heat ({maps[0].method})")


def check_request(network: TrainedNetwork, task: Task, request: ExplanationRequest) -> None:
    """Raise, before anything is computed, the UserError that `explain` would raise."""
    if request.target not in (PREDICTED, *task.class_names):
        raise UserError(f"--target: got {request.target!r}, expected {PREDICTED} or one of {', '.join(task.class_names)}")
    check_methods(request.methods)
    _stages(network, request)


def _stages(network: TrainedNetwork, request: ExplanationRequest) -> dict[str, NetworkStage]:
    """The stage that each method of class activation maps, by method."""
    return {method: find_stage(network.model, method, request.layer) for method in request.methods if method != INTEGRATED}


def _activated(seen: KeptPass, n: int, slopes: Mapping[str, torch.Tensor], method: str, stage: NetworkStage) -> Map:
    """The map of one ear by class activation."""
    activation, gradient = (stage.to_cells(seen.of_ear(values[stage.name], n)) for values in (seen.activations, slopes))
    heat = torch.from_numpy(class_activation(activation, gradient, method=method))
    heat = heat if heat.ndim == 4 else seen.of_blocks(heat)      # (B, k, h, w), where slices are the k of a block
    size = (seen.network.config.augment.model_slices or seen.hu.shape[1], *seen.hu.shape[2:])
    total = torch.zeros(seen.hu.shape[1:])
    for start, own in zip(seen.starts, F.interpolate(heat[:, None], size=size, mode="trilinear")[:, 0], strict=True):
        total[start:start + len(own)] += own                     # each block's share of the ear's logit
    return _scaled(method, stage.name, total.numpy())


def _integrated(seen: KeptPass, n: int, target: ClassLogit, affine: Affine) -> Map:
    """The map of one ear by integrated gradients."""
    image = window(seen.hu[n:n + 1], replace(seen.network.config.augment, slice_context=0))
    return _scaled(INTEGRATED, "input", integrated_gradients(seen.network, image, seen.starts, target, affine))


def _scaled(method: str, layer: str, heat: np.ndarray) -> Map:
    """A map scaled to its hottest voxel."""
    heat = np.maximum(heat, 0)
    scale = float(heat.max())
    return Map(method, layer, (heat / scale if scale else heat).astype(np.float32), scale)
