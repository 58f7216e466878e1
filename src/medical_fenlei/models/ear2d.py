"""One ear in, one diagnosis out: every slice through a 2D encoder, one vector an ear, a linear head."""
import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.models.output import Network, Output
from medical_fenlei.models.pooling import POOLINGS


class Ear2d(Network):
    """Slices are folded into the batch for the encoder; pooling and head compute in float32 whatever the encoder does."""

    def __init__(self, backbone: nn.Module, features: int, *, pooling: str, dropout: float, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = POOLINGS[pooling](features)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.pooling.features, outputs)

    @property
    def trunk(self) -> nn.Module:
        return self.backbone

    def recompute(self) -> None:
        try:
            self.backbone.set_grad_checkpointing(True)           # type: ignore[operator]
        except (AttributeError, AssertionError):
            raise UserError("--grad-checkpointing: this backbone cannot; leave it away, or take --grad-accum") from None

    def forward(self, volume: torch.Tensor) -> Output:
        """volume: (N, K, C, H, W) in [-1, 1]."""
        slices = volume.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        vectors = self.backbone(slices).unflatten(0, volume.shape[:2])
        with torch.autocast(volume.device.type, enabled=False):
            embedding, attention = self.pooling(vectors.float())
            return Output(self.head(self.dropout(embedding)), embedding, attention)
