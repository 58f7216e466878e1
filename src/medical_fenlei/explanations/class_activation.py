"""Maps by class activation: Grad-CAM and its relatives, of any stage that a network names."""
import numpy as np
import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.explanations.methods import CAMS, INTEGRATED
from medical_fenlei.models.network import Network, NetworkStage

BY_CELL = ("hirescam", "layercam")
"""Methods that weight each cell by its own gradient, and so can map an early, fine stage. The others weight a channel by the
mean of its gradient over a slice or volume, which is meaningful only after the last stage."""
FINE = 4
"""Stride of the stage that BY_CELL map, or the next coarser one; the last stage where all are finer."""


def find_stage(network: Network, method: str, layer: str | None) -> NetworkStage:
    """Return the stage whose activations a method maps.

    layer: a stage by its name; None takes the method's default. Raises UserError if the network has no such stage or
    names none.
    """
    stages = network.stages()
    if not stages:
        raise UserError(f"this network ({type(network.trunk).__name__}) does not name its stages; class activation ({method}) "
                        f"cannot be drawn, but --method {INTEGRATED} can")
    if layer is not None:
        named = [stage for stage in stages if stage.name == layer]
        if not named:
            raise UserError(f"--layer: got {layer!r}, expected one of {', '.join(stage.name for stage in stages)}")
        return named[0]
    if method not in BY_CELL:
        return stages[-1]
    finest = min((stage.stride for stage in stages if stage.stride >= FINE), default=stages[-1].stride)
    return [stage for stage in stages if stage.stride == finest][-1]


def class_activation(activation: torch.Tensor, gradient: torch.Tensor, *, method: str) -> np.ndarray:
    """Return the map of one method for each slice or volume, float32 (S, h, w) or (N, k, h, w), at least 0.

    activation, gradient: of a stage, (S, C, h, w) or (N, C, k, h, w), as `NetworkStage.to_cells` returns them. The library
    scales each map to 1 and so hides which slices matter: its maps are taken before that.
    """
    import pytorch_grad_cam as library

    cam = getattr(library, CAMS[method])(model=nn.Linear(1, 1), target_layers=[])        # which it would only run and watch
    raw = cam.get_cam_image(None, None, None, activation.detach().float().cpu().numpy(), gradient.float().cpu().numpy(), False)
    heat: np.ndarray = np.maximum(raw, 0).astype(np.float32)
    return heat
