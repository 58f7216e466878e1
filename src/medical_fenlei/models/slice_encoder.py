"""Any 2D network of timm as the encoder of slices."""
import functools
import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.models.late_dynamo import late_dynamo
from medical_fenlei.models.network import NetworkStage
from medical_fenlei.near_names import near_names

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

CONNECT_SECONDS = 5.0
"""How long a server of published weights may take to answer."""


def build_backbone(name: str, *, channels: int = 1, image_size: int, pretrained: bool) -> tuple[nn.Module, int]:
    """Build the backbone for slices (N, channels, image_size, image_size); return it and the number of its features.

    timm adapts published weights for three channels to any other number. Raises UserError for an unknown name, an unsupported
    image size, or missing published weights.
    """
    with late_dynamo():
        import timm  # slow to import

    if not timm.is_model(name):
        near = near_names(name, timm.list_models())
        raise UserError(f"--backbone: timm has no {name!r}" + (f"; near names: {', '.join(near)}" if near else ""))
    options: dict[str, Any] = {"pretrained": pretrained, "in_chans": channels, "num_classes": 0}
    facts = timm.get_pretrained_cfg(name, allow_unregistered=True)
    size: dict[str, Any] = {"img_size": image_size} if facts is not None and facts.fixed_input_size else {}
    if pretrained and facts is not None:
        _require_published_weights(name, facts)
    try:
        try:
            backbone = timm.create_model(name, **options, **size)
        except TypeError:                                        # some fixed-size networks do not take the argument
            backbone = timm.create_model(name, **options)
        features = _count_features(backbone, channels, image_size)
    except (OSError, RuntimeError, AssertionError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"--backbone {name}: cannot be used with slices of {image_size} × {image_size}"
                        f"{' and --pretrained' if pretrained else ''}: {why}") from None
    return backbone, features


def _require_published_weights(name: str, facts: "PretrainedCfg") -> None:
    """Raise UserError at once if published weights are neither on this machine nor to be had; a download tries for a minute."""
    from huggingface_hub import constants, try_to_load_from_cache  # needed for this alone
    from timm.models._hub import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    if not facts.hf_hub_id or os.environ.get("HF_HUB_OFFLINE"):
        return
    files = (facts.hf_hub_filename, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    if any(isinstance(try_to_load_from_cache(facts.hf_hub_id, file), str) for file in files if file):
        return
    server = constants.ENDPOINT
    try:
        urllib.request.urlopen(urllib.request.Request(server, method="HEAD"), timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:                               # it answers, if not to this request
        return
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise UserError(f"--pretrained: the published weights of {name} are not on this machine, and {server} cannot be "
                        f"reached ({why}); copy {facts.hf_hub_id} here from a machine with internet and name its file with "
                        "--backbone-weights FILE (docs/SETUP.md)") from None


@torch.no_grad()
def _count_features(backbone: nn.Module, channels: int, image_size: int) -> int:
    """Return D if the backbone maps a slice to one vector (D,). Raises ValueError otherwise."""
    backbone.eval()
    shape = backbone(torch.zeros(1, channels, image_size, image_size)).shape
    backbone.train()
    if len(shape) != 2:
        raise ValueError(f"returns shape {tuple(shape)} for a slice, expected one vector")
    return int(shape[1])


def backbone_stages(backbone: nn.Module) -> tuple[NetworkStage, ...]:
    """Return the stages that a backbone of timm names, from input to output; none if it does not."""
    facts: list[dict[str, Any]] = list(getattr(backbone, "feature_info", []))
    if not all({"module", "num_chs", "reduction"} <= set(own) for own in facts):
        return ()
    stages = []
    for own in facts:
        module = backbone.get_submodule(own["module"])
        first = getattr(module, "norm1", None)
        # after the last block of a transformer only the class token is read: the input of the block is mapped
        stages.append(NetworkStage(own["module"], first if isinstance(first, nn.LayerNorm) else module, own["reduction"],
                            functools.partial(_to_channels_first, channels=own["num_chs"],
                                              prefix_tokens=getattr(backbone, "num_prefix_tokens", 0))))
    return tuple(stages)


def _to_channels_first(activation: torch.Tensor, *, channels: int, prefix_tokens: int) -> torch.Tensor:
    """Bring activations to (S, C, h, w), from (S, h, w, C) or (S, tokens, C) where necessary."""
    if activation.ndim == 3:
        activation = activation[:, prefix_tokens:]
        edge = round(activation.shape[1] ** 0.5)
        activation = activation.unflatten(1, (edge, edge))
    return activation if activation.shape[1] == channels else activation.permute(0, 3, 1, 2)
