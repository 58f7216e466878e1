"""Build the network that the settings of a run describe."""
from pathlib import Path

import torch

from medical_fenlei.config import ANATOMY, SLICE_ATTENTION, ModelConfig, PhysicalScale
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.models.network import Network
from medical_fenlei.models.slice_encoder import build_backbone
from medical_fenlei.models.weights import load_weights

ANATOMY_WEIGHTS = Path(__file__).with_name("anatomy.safetensors")
"""Weights of the anatomy network, made by scripts/pretrain_anatomy.py with its defaults."""


def build_model(
    config: ModelConfig, *, shape: tuple[int, int, int, int], outputs: int, scale: PhysicalScale | None = None,
    load_pretrained: bool = True,
) -> Network:
    """Build the network for ears of shape (K, C, H, W), with the weights it starts from.

    scale: what its input stands for, which ANATOMY has to know. load_pretrained=False skips pretrained weights, where those of
    a checkpoint follow. Random weights come from torch's global generator. Weights are downloaded only if `config.pretrained`
    and `load_pretrained`. Raises UserError if the backbone or its weights are unavailable.
    """
    if config.model not in SLICE_ATTENTION:
        from medical_fenlei.models.ear3d import Ear3d, build_encoder

        encoder, features = build_encoder(config.model, shape=shape)
        if config.weights and load_pretrained:
            load_weights(encoder, config.weights, flag="--weights", channels=shape[1])
        return Ear3d(encoder, features, dropout=config.dropout, outputs=outputs)
    if config.backbone == ANATOMY:
        from medical_fenlei.models.anatomy_ear import AnatomyEar

        assert scale is not None                                 # RunConfig sees to it
        ear = AnatomyEar((shape[0], *shape[2:]), scale, dropout=config.dropout, outputs=outputs)
        if load_pretrained:
            load_weights(ear.anatomy, config.backbone_weights or ANATOMY_WEIGHTS, flag="--backbone-weights")
        return ear
    backbone, features = build_backbone(config.backbone, channels=shape[1], image_size=shape[-1],
                                        pretrained=config.pretrained and load_pretrained)
    if config.backbone_weights and load_pretrained:
        load_weights(backbone, config.backbone_weights, flag="--backbone-weights", channels=shape[1])
    model = Ear2d(backbone, features, pooling=config.pooling, dropout=config.dropout, outputs=outputs)
    return model.to(memory_format=torch.channels_last)
