"""Which network a run trains."""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SLICE_ATTENTION = ("slice_attention", "dual_slice_attention")
"""The ear route's network under its name on each route."""
SIZE_STEP = {"dual_unet_3d": (16, 16), "dual_vit_3d": (4, 16)}
"""Networks whose strides or patches have to divide slices and edge of the volume."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    model: Literal[
        "slice_attention", "dual_slice_attention", "dual_resnet10_3d", "dual_resnet18_3d", "dual_resnet34_3d",
        "dual_resnet50_3d", "dual_resnet101_3d", "dual_resnet152_3d", "dual_resnet200_3d", "dual_unet_3d", "dual_vit_3d",
    ] = "slice_attention"
    """A 2D encoder for each slice, then one vector an ear (slice_attention, the same on both routes), or a 3D network."""

    weights: Path | None = None
    """Weights of a 3D network from a file (.safetensors or .pt; MedicalNet's names are understood)."""

    backbone: str = "resnet18"
    """Encoder of a slice, any timm name (slice_attention)."""

    pooling: Literal["mean", "max", "attention", "gated_attention", "transformer"] = "attention"
    """How the slices of an ear become one vector (slice_attention)."""

    pretrained: bool = False
    """Fetch the backbone's published weights (needs the network)."""

    backbone_weights: Path | None = None
    """The backbone's weights from a file (.safetensors or .pt), for servers without internet."""

    dropout: float = 0.2
    """Share of the pooled vector that is dropped in training."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}, expected 0 up to 1")
        if self.pretrained and self.backbone_weights:
            raise ValueError("pretrained: either this or --backbone-weights, not both")
        if self.model in SLICE_ATTENTION and self.weights:
            raise ValueError(f"weights: is for 3D networks; {self.model} takes --backbone-weights")
        if self.model not in SLICE_ATTENTION and (self.pretrained or self.backbone_weights):
            raise ValueError(f"{'pretrained' if self.pretrained else 'backbone-weights'}: {self.model} has no 2D backbone; "
                             "its weights come from --weights FILE")
