"""A 2D network: each slice goes through one encoder, pooling makes one vector per ear, a linear head makes the logits."""
import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.models.network import Network, NetworkOutput, NetworkStage
from medical_fenlei.models.pooling import POOLINGS
from medical_fenlei.models.slice_encoder import backbone_stages


class Ear2d(Network):
    """A 2D backbone, pooling over slices and a linear head.

    The encoder sees slices as a batch. Pooling and head compute in float32, whatever the precision of the encoder.
    """

    def __init__(self, backbone: nn.Module, features: int, *, pooling: str, dropout: float, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = POOLINGS[pooling](features)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.pooling.features, outputs)

    @property
    def trunk(self) -> nn.Module:
        """The encoder of slices."""
        return self.backbone

    @property
    def slice_vectors(self) -> nn.Module:
        """The encoder of slices."""
        return self.backbone

    def stages(self) -> tuple[NetworkStage, ...]:
        """See `Network`; those that the backbone names."""
        return backbone_stages(self.backbone)

    def enable_grad_checkpointing(self) -> None:
        """See `Network`; timm decides which activations are recomputed."""
        try:
            self.backbone.set_grad_checkpointing(True)           # type: ignore[operator]
        except (AttributeError, AssertionError):
            raise UserError("--grad-checkpointing: not supported by this backbone; omit it, or use --grad-accum") from None

    def encode(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the vector of each slice, (N, K, D), of ears (N, K, C, H, W) in [-1, 1]."""
        slices = volume.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        vectors: torch.Tensor = self.backbone(slices).unflatten(0, volume.shape[:2])
        return vectors

    def decode(self, features: torch.Tensor) -> NetworkOutput:
        """Pool the vectors of the slices, (N, K, D), and classify."""
        with torch.autocast(features.device.type, enabled=False):
            embedding, attention = self.pooling(features.float())
            return NetworkOutput(self.head(self.dropout(embedding)), embedding, attention)
