"""The one prediction writer: from a network and a set of ears to one row an ear."""
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from medical_fenlei import tables
from medical_fenlei.data.augment import blocks
from medical_fenlei.data.blocks import block_starts, over_slices
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.loaders import cut
from medical_fenlei.metrics.binary import THRESHOLD
from medical_fenlei.metrics.predictions import class_codes
from medical_fenlei.models.output import Output
from medical_fenlei.tasks import Task
from medical_fenlei.training.config import AugmentConfig
from medical_fenlei.training.device import Arithmetic

TOP_SLICES = 5
"""How many slices a prediction names."""


class Inferred(NamedTuple):
    """What a network returns for N ears, on the host."""

    logits: np.ndarray
    """float64 (N, O)."""

    embedding: np.ndarray
    """float32 (N, D)."""

    attention: np.ndarray | None
    """float32 (N, K)."""


def look(model: nn.Module, volume: torch.Tensor, augment: AugmentConfig) -> Output:
    """What a network says of ears, int16 HU (N, K, H, W): over the blocks of slices that it is shown, the mean.

    Attention is (N, K): of each slice the mean over the blocks that saw it, scaled to sum to 1.
    """
    outputs = [model(block) for block in blocks(volume, augment)]
    if len(outputs) == 1:
        whole: Output = outputs[0]
        return whole
    logits, embedding, attention = zip(*outputs, strict=True)
    weight = None
    if attention[0] is not None:
        starts = block_starts(volume.shape[1], augment.model_slices)
        weight = over_slices(torch.stack(attention).transpose(1, 2), starts, volume.shape[1]).T
        weight = weight / weight.sum(1, keepdim=True)
    return Output(torch.stack(logits).mean(0), torch.stack(embedding).mean(0), weight)


@torch.inference_mode()
def infer(
    model: nn.Module, dataset: EarDataset, *, augment: AugmentConfig, arithmetic: Arithmetic, batch_size: int
) -> Inferred:
    """One row for each ear that is present, in the order of `dataset.ears_in_order`. The model is left in eval mode.

    Raises ValueError if there is no ear.
    """
    model.eval()
    outputs = []
    for batch in dataset.batches(cut(np.arange(len(dataset)), batch_size), arithmetic.device):
        with arithmetic.autocast():
            outputs.append(look(model, batch.ears, augment))
    if not outputs:
        raise ValueError("got no ears, expected at least one")
    logits, embedding, attention = zip(*outputs, strict=True)
    return Inferred(torch.cat(logits).double().cpu().numpy(), torch.cat(embedding).float().cpu().numpy(),
                    torch.cat(attention).float().cpu().numpy() if attention[0] is not None else None)


def predict(
    model: nn.Module, dataset: EarDataset, task: Task, *, augment: AugmentConfig, arithmetic: Arithmetic, batch_size: int
) -> pd.DataFrame:
    """`tables.PREDICTIONS` from `infer`; y_true is OUTSIDE for an ear that the task does not concern.

    Slices are numbers k in the cached volume, most attended first.
    """
    found = infer(model, dataset, augment=augment, arithmetic=arithmetic, batch_size=batch_size)
    ears, score = dataset.ears_in_order, torch.from_numpy(found.logits)
    target = task.targets(ears.label_code.to_numpy())
    frame = ears[["exam_id", "side", "patient_key", "label_code"]].assign(y_true=target.astype(np.int64))
    if task.binary:
        probability = score[:, 0].sigmoid().numpy()
        frame = frame.assign(y_prob=probability, y_pred=(probability >= THRESHOLD).astype(np.int64))
    else:
        each = score.softmax(1).numpy()
        frame = frame.assign(y_prob=each.max(1), y_pred=each.argmax(1))
        frame = frame.assign(**{f"prob_{name}": p for name, p in zip(class_codes(task), each.T, strict=True)})
    numbers, shares = ("", "") if found.attention is None else zip(*map(_top, found.attention), strict=True)
    return tables.PREDICTIONS.frame(frame.assign(top_slices=numbers, top_slice_weights=shares).reset_index(drop=True))


def _top(attention: np.ndarray) -> tuple[str, str]:
    top = np.argsort(-attention, kind="stable")[:TOP_SLICES]
    return ";".join(map(str, top)), ";".join(f"{attention[k]:.4f}" for k in top)
