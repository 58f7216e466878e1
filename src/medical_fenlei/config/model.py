"""Which network a run trains."""
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

SLICE_ATTENTION = ("slice_attention", "dual_slice_attention")
"""Names of the slice encoder with attention, on the main route and on the dual route."""
ANATOMY = "anatomy"
"""Name of the backbone whose weights are part of the package."""
SIZE_STEP = {"dual_unet_3d": (16, 16), "dual_vit_3d": (4, 16)}
"""(slices, edge) that must divide the volume, for networks with strides or patches."""


class PhysicalScale(NamedTuple):
    """What the voxels and the values of a network's input stand for."""

    voxel_mm: tuple[float, float, float]
    """Distance of slices, rows and columns."""

    level: float
    width: float
    """The bone window in HU, of which -1 and 1 are the ends."""

    channel: int
    """The channel of this window."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network and its weights."""

    model: Literal[
        "slice_attention", "dual_slice_attention", "dual_resnet10_3d", "dual_resnet18_3d", "dual_resnet34_3d",
        "dual_resnet50_3d", "dual_resnet101_3d", "dual_resnet152_3d", "dual_resnet200_3d", "dual_unet_3d", "dual_vit_3d",
    ] = "slice_attention"
    """slice_attention (the same on both routes): a 2D encoder of each slice, pooled to one vector per ear; others: 3D
    networks."""

    weights: Path | None = None
    """File with the weights of a 3D network (.safetensors or .pt; MedicalNet's names are understood)."""

    backbone: str = "resnet18"
    """Slice encoder, any timm name (not for 3D networks). anatomy: a 3D network that finds the structures of the ear, taught
    by drawn ears, with a linear head on what it sees in each; for few ears. Its weights are part of the package, and the cache
    needs voxels of one size in mm (--sampling roi --crop-mm 64)."""

    pooling: Literal["mean", "max", "attention", "gated_attention", "transformer"] = "attention"
    """How the slices of an ear become one vector (not for 3D networks)."""

    pretrained: bool = False
    """Download the published weights of the backbone (needs internet)."""

    backbone_weights: Path | None = None
    """File with the weights of the backbone (.safetensors or .pt), for servers without internet."""

    dropout: float = 0.2
    """Dropout rate of the pooled vector."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: got {self.dropout}, expected 0 up to 1")
        if self.backbone == ANATOMY and self.pretrained:
            raise ValueError("pretrained: nothing to download for --backbone anatomy, whose weights are part of the package")
        if self.pretrained and self.backbone_weights:
            raise ValueError("pretrained: either this or --backbone-weights, not both")
        if self.model in SLICE_ATTENTION and self.weights:
            raise ValueError(f"weights: is for 3D networks; {self.model} takes --backbone-weights")
        if self.model not in SLICE_ATTENTION and (self.pretrained or self.backbone_weights):
            raise ValueError(f"{'pretrained' if self.pretrained else 'backbone-weights'}: {self.model} has no 2D backbone; "
                             "its weights come from --weights FILE")
