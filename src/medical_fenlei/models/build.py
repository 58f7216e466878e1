"""Build the network that the settings of a run describe."""
import torch

from medical_fenlei.config import SLICE_ATTENTION, ModelConfig
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.models.network import Network
from medical_fenlei.models.slice_encoder import build_backbone
from medical_fenlei.models.weights import load_weights


def build_model(
    config: ModelConfig, *, shape: tuple[int, int, int, int], outputs: int, load_pretrained: bool = True
) -> Network:
    """Build the network for ears of shape (K, C, H, W), with the weights it starts from.

    load_pretrained=False skips pretrained weights, where those of a checkpoint follow. Random weights come from torch's global
    generator. Weights are downloaded only if `config.pretrained` and `load_pretrained`. Raises UserError if the backbone or its
    weights are unavailable.
    """
    if config.model not in SLICE_ATTENTION:
        from medical_fenlei.models.ear3d import Ear3d, build_encoder

        encoder, features = build_encoder(config.model, shape=shape)
        if config.weights and load_pretrained:
            load_weights(encoder, config.weights, flag="--weights", channels=shape[1])
        return Ear3d(encoder, features, dropout=config.dropout, outputs=outputs)
    backbone, features = build_backbone(config.backbone, channels=shape[1], image_size=shape[-1],
                                        pretrained=config.pretrained and load_pretrained)
    if config.backbone_weights and load_pretrained:
        load_weights(backbone, config.backbone_weights, flag="--backbone-weights", channels=shape[1])
    model = Ear2d(backbone, features, pooling=config.pooling, dropout=config.dropout, outputs=outputs)
    return model.to(memory_format=torch.channels_last)
