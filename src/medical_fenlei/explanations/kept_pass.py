"""One forward pass over some ears, kept: the answer and every map by class activation come from it, without a second one."""
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from medical_fenlei.data.augment import windowed_blocks
from medical_fenlei.data.blocks import block_starts, mean_over_blocks
from medical_fenlei.explanations.logit import ClassLogit
from medical_fenlei.models.network import NetworkStage
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.predict import InferenceResult

VECTORS = "slice vectors"
"""Name of the activation that is one vector per slice, where a network has it."""


@dataclass(frozen=True)
class KeptPass:
    """N ears of K slices, seen by a network in B blocks of M slices each."""

    network: TrainedNetwork
    hu: torch.Tensor
    """int16 (N, K, H, W)."""

    logits: torch.Tensor
    """float32 (N, B, O), of each block."""

    embedding: torch.Tensor
    """float32 (N, D): the mean over the blocks."""

    attention: torch.Tensor | None
    """float32 (N, K), sums to 1 over the slices; None where the network has none."""

    activations: dict[str, torch.Tensor]
    """What stages returned, by their names, and VECTORS: for all slices of all blocks, (N B M, …), or all blocks, (N B, …)."""

    @property
    def starts(self) -> list[int]:
        """First slice of each block."""
        return block_starts(self.hu.shape[1], self.network.config.augment.model_slices)

    @cached_property
    def result(self) -> InferenceResult:
        """The outputs as predictions take them."""
        attention = None if self.attention is None else self.attention.float().cpu().numpy()
        logits = self.logits.detach().mean(1).double().cpu().numpy()
        return InferenceResult(logits, self.embedding.float().cpu().numpy(), attention)

    def gradients(self, targets: Sequence[ClassLogit]) -> dict[str, torch.Tensor]:
        """Return the gradient of the logit of a class of each ear, for each activation; targets: the class of each ear.

        The ears do not mix, so that one backward pass serves them all.
        """
        if not self.activations:
            return {}
        with torch.enable_grad():
            logits = torch.stack([target.of(own) for own, target in zip(self.logits, targets, strict=True)])
            slopes = torch.autograd.grad(logits.sum(), list(self.activations.values()), retain_graph=True)
        return dict(zip(self.activations, slopes, strict=True))

    def of_ear(self, values: torch.Tensor, number: int) -> torch.Tensor:
        """Return the values of one ear, (B M, …) or (B, …), of those of all ears, (N B M, …) or (N B, …)."""
        return values.unflatten(0, (len(self.hu), -1))[number]

    def of_blocks(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of each block of one ear, (B, …), of those of its slices, (B M, …)."""
        return values.unflatten(0, (len(self.starts), -1))


def look(network: TrainedNetwork, volumes: np.ndarray, stages: Sequence[NetworkStage] = ()) -> KeptPass:
    """Run a network over ears, int16 HU (N, K, H, W), in the run's precision.

    stages: those from whose activations maps are made. No gradient reaches further back than the
    first of them, and none goes to the weights.
    """
    model, config = network.model, network.config.augment
    kept: dict[str, torch.Tensor] = {}
    modules = {stage.name: stage.module for stage in stages}
    if model.slice_vectors is not None:
        modules[VECTORS] = model.slice_vectors
    hooks = [module.register_forward_hook(_keep(kept, name)) for name, module in modules.items()]
    hu = torch.from_numpy(volumes).to(network.compute.device)
    try:
        with torch.enable_grad(), _without_gradients(model), network.compute.autocast():
            output = model(torch.stack([*windowed_blocks(hu, config)], 1).flatten(0, 1))
            logits, embedding = (part.unflatten(0, (len(volumes), -1)) for part in output[:2])
    finally:
        for hook in hooks:
            hook.remove()
    found = KeptPass(network, hu, logits, embedding.detach().mean(1), None, kept)
    return found if output.attention is None else replace(found, attention=_of_slices(found, output.attention.detach()))


def _of_slices(found: KeptPass, attention: torch.Tensor) -> torch.Tensor:
    """The attention (N, K) of slices, from that of the blocks, (N B, M)."""
    if len(found.starts) == 1:
        return attention
    weight = torch.stack([mean_over_blocks(found.of_ear(attention, number), found.starts, found.hu.shape[1])
                          for number in range(len(found.hu))])
    return weight / weight.sum(1, keepdim=True)


def _keep(kept: dict[str, torch.Tensor], name: str) -> Callable[..., torch.Tensor]:
    """A hook that keeps what a module returns; the first one that does begins the graph, apart from what a later module may
    write over."""
    def keep(module: nn.Module, given: object, output: torch.Tensor) -> torch.Tensor:
        kept[name] = output if output.requires_grad else output.detach().requires_grad_()
        return kept[name] if output.requires_grad else kept[name].clone()

    return keep


@contextlib.contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Compute no gradient of the weights."""
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learnt:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learnt:
            weight.requires_grad_(True)
