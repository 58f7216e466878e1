"""From a run's settings to its network."""
import torch

from medical_fenlei.config import SLICE_ATTENTION, ModelConfig
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.models.output import Network
from medical_fenlei.models.slice_encoder import build_backbone
from medical_fenlei.models.weights import load_weights


def build_model(config: ModelConfig, *, shape: tuple[int, int, int, int], outputs: int, start: bool = True) -> Network:
    """The network for ears of shape (K, C, H, W), one of models/: (N, K, C, H, W) to `Output`.

    It holds the weights it starts from; `start=False` leaves published weights aside, for those of a checkpoint. Random ones
    come from torch's global generator. Nothing is fetched unless `config.pretrained` and `start`. Raises UserError if the
    backbone or the weights cannot be had.
    """
    if config.model not in SLICE_ATTENTION:
        from medical_fenlei.models.ear3d import Ear3d, build_encoder

        encoder, features = build_encoder(config.model, shape=shape)
        if config.weights and start:
            load_weights(encoder, config.weights, flag="--weights", channels=shape[1])
        return Ear3d(encoder, features, dropout=config.dropout, outputs=outputs)
    backbone, features = build_backbone(config.backbone, channels=shape[1], image_size=shape[-1],
                                        pretrained=config.pretrained and start)
    if config.backbone_weights and start:
        load_weights(backbone, config.backbone_weights, flag="--backbone-weights", channels=shape[1])
    model = Ear2d(backbone, features, pooling=config.pooling, dropout=config.dropout, outputs=outputs)
    return model.to(memory_format=torch.channels_last)
