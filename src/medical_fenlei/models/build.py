"""From a run's settings to its network."""
import torch

from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.models.slice_encoder import build_backbone, load_backbone
from medical_fenlei.training.config import ModelConfig


def build_ear2d(config: ModelConfig, *, image_size: int, outputs: int, start: bool = True) -> Ear2d:
    """The network with the weights it starts from; `start=False` leaves published weights aside, for those of a checkpoint.

    Random weights come from torch's global generator. Nothing is fetched unless `config.pretrained` and `start`.
    Raises UserError if the backbone or its weights cannot be had.
    """
    backbone, features = build_backbone(config.backbone, image_size=image_size, pretrained=config.pretrained and start)
    if config.backbone_weights and start:
        load_backbone(backbone, config.backbone_weights)
    model = Ear2d(backbone, features, pooling=config.pooling, dropout=config.dropout, outputs=outputs)
    return model.to(memory_format=torch.channels_last)
