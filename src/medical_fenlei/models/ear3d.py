"""3D networks of MONAI. On the dual route both ears go through the same weights."""
import contextlib
import functools
import re
from collections.abc import Iterator

import torch
from monai.networks.blocks.convolutions import Convolution, ResidualUnit
from monai.networks.blocks.transformerblock import TransformerBlock
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck, get_inplanes, resnet_params
from monai.networks.nets.unet import UNet
from monai.networks.nets.vit import ViT
from torch import nn
from torch.utils.checkpoint import checkpoint

from medical_fenlei.config import SIZE_STEP
from medical_fenlei.errors import UserError
from medical_fenlei.models.network import Network, NetworkOutput, NetworkStage

UNET_CHANNELS = (16, 32, 64, 128, 256)
UNET_FEATURES = 64
RESNET_STAGES = {"layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
"""Stride along rows and columns of each group of blocks."""
BLOCKS = (ResNetBlock, ResNetBottleneck, ResidualUnit, Convolution, TransformerBlock)
"""MONAI's blocks; gradient checkpointing recomputes what lies inside one. (A Convolution includes its normalisation.)"""
VIT_WIDTH, VIT_LAYERS, VIT_HEADS = 384, 12, 6
"""The size of ViT-S (Touvron 2021, arXiv:2012.12877, table 1)."""


class VolumeEncoder(nn.Module):
    """An encoder of volumes, (N, C, K, H, W) → (N, D)."""

    def stages(self) -> tuple[NetworkStage, ...]:
        """Return the stages that can be mapped onto the ear, from input to output."""
        raise NotImplementedError


class Ear3d(Network):
    """A 3D encoder and a linear head.

    The head computes in float32, whatever the precision of the encoder. On a CPU the encoder does too: there the weight
    gradients of a convolution over a depth of two slices are wrong in bfloat16 (oneDNN 3.13 in torch 2.15).
    """

    def __init__(self, encoder: VolumeEncoder, features: int, *, dropout: float, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, outputs)

    @property
    def trunk(self) -> nn.Module:
        """The encoder of volumes."""
        return self.encoder

    def stages(self) -> tuple[NetworkStage, ...]:
        """See `Network`; those of the encoder."""
        return self.encoder.stages()

    def enable_grad_checkpointing(self) -> None:
        """See `Network`; activations inside each of the outermost BLOCKS are recomputed."""
        for block in _blocks(self.encoder):
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)

    def encode(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the vector (N, D) of each ear of (N, K, C, H, W) in [-1, 1].

        Raises UserError if batch normalisation gets a single value per channel.
        """
        on_cpu = volume.device.type == "cpu"
        try:
            with torch.autocast("cpu", enabled=False) if on_cpu else contextlib.nullcontext():
                vector: torch.Tensor = self.encoder(volume.transpose(1, 2))
                return vector
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError("--batch-size: batch normalisation needs more than one voxel per channel; take a larger batch, "
                            "fewer micro-batches (--grad-accum), or a larger --image-size") from None

    def decode(self, features: torch.Tensor) -> NetworkOutput:
        """Classify the vectors (N, D)."""
        with torch.autocast(features.device.type, enabled=False):
            embedding = features.float()
            return NetworkOutput(self.head(self.dropout(embedding)), embedding, None)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost BLOCKS: a block inside another would be computed a third time."""
    for child in module.children():
        if isinstance(child, BLOCKS):
            yield child
        else:
            yield from _blocks(child)


def build_encoder(model: str, *, shape: tuple[int, int, int, int]) -> tuple[VolumeEncoder, int]:
    """Build the encoder (N, C, K, H, W) → (N, D) of this name for volumes of shape (K, C, H, W); return it and D."""
    slices, channels, *edges = shape
    if model == "dual_unet_3d":
        return _PooledUNet(channels), UNET_FEATURES
    if model == "dual_vit_3d":
        return _PooledViT(channels, (slices, *edges), SIZE_STEP[model]), VIT_WIDTH
    resnet = re.fullmatch(r"dual_(resnet\d+)_3d", model)
    assert resnet
    block, layers, shortcut, bias, _ = resnet_params[resnet[1]]
    return _ResNet(channels, block, layers, shortcut, bias), get_inplanes()[-1] * (4 if block == "bottleneck" else 1)


class _ResNet(ResNet, VolumeEncoder):
    """The residual networks of MedicalNet (Chen 2019, arXiv:1904.00625) without their head; the published weights fit.

    The first convolution keeps all slices and halves rows and columns: slices lie several times farther apart than pixels.
    """

    def __init__(self, channels: int, block: str, layers: list[int], shortcut: str, bias: bool) -> None:
        super().__init__(block, layers, get_inplanes(), n_input_channels=channels, conv1_t_stride=(1, 2, 2),  # type: ignore[arg-type]
                         shortcut_type=shortcut, bias_downsample=bias, feed_forward=False)

    def stages(self) -> tuple[NetworkStage, ...]:
        """See `VolumeEncoder`; the four groups of blocks. Their stride along the slices is half of that along the rows."""
        return tuple(NetworkStage(name, self.get_submodule(name), stride) for name, stride in RESNET_STAGES.items())

    def _downsample_basic_block(self, x: torch.Tensor, planes: int, stride: int, spatial_dims: int = 3) -> torch.Tensor:
        """A shortcut without weights: every `stride`-th voxel, new channels zero. MONAI's own stops the gradient."""
        kept = x[:, :, ::stride, ::stride, ::stride]
        return nn.functional.pad(kept, (0, 0) * spatial_dims + (0, planes - kept.shape[1]))


class _PooledUNet(UNet, VolumeEncoder):
    """A U-Net that returns the mean of its decoded map."""

    def __init__(self, channels: int) -> None:
        strides = (2,) * (len(UNET_CHANNELS) - 1)
        super().__init__(3, channels, UNET_FEATURES, UNET_CHANNELS, strides, num_res_units=2, norm="batch")

    def stages(self) -> tuple[NetworkStage, ...]:
        """See `VolumeEncoder`; the decoded map alone, which the features are the mean of."""
        return NetworkStage("decoded", self.model, 1),

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).float().mean((2, 3, 4))


class _PooledViT(ViT, VolumeEncoder):
    """A vision transformer that returns the mean over its patches."""

    def __init__(self, channels: int, shape: tuple[int, ...], patch: tuple[int, int]) -> None:
        super().__init__(channels, shape, (patch[0], patch[1], patch[1]), VIT_WIDTH, 4 * VIT_WIDTH, VIT_LAYERS, VIT_HEADS)
        for block in self.blocks:
            block.norm_cross_attn = nn.Identity()                # MONAI creates it but does not use it
        self.patch_edge, self.grid = patch[1], (shape[0] // patch[0], shape[1] // patch[1], shape[2] // patch[1])

    def stages(self) -> tuple[NetworkStage, ...]:
        """See `VolumeEncoder`; the patches that the features are the mean of, alone.

        The input of an earlier norm is only a part of what a block passes on: the rest goes around it.
        """
        return NetworkStage("norm", self.norm, self.patch_edge, self._to_cells),

    def _to_cells(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens.transpose(1, 2).unflatten(2, self.grid)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = super().forward(x)[0]
        return tokens.float().mean(1)
