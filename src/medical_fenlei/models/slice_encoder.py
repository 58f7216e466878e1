"""Any 2D network of timm as the encoder of slices."""
import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from medical_fenlei.errors import UserError
from medical_fenlei.models.late_dynamo import late_dynamo
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
