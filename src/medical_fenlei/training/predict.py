"""The one prediction writer: from a network and a set of ears to one row an ear."""
import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from medical_fenlei import tables
from medical_fenlei.config import AugmentConfig
from medical_fenlei.data.augment import blocks
from medical_fenlei.data.blocks import block_starts, over_slices
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.data.loaders import cut
from medical_fenlei.metrics.binary import THRESHOLD
from medical_fenlei.metrics.predictions import class_codes
from medical_fenlei.models.output import Output
from medical_fenlei.tasks import Task
from medical_fenlei.training.device import Arithmetic

TOP_SLICES = 5
"""How many slices a prediction names."""


class Inferred(NamedTuple):
    """What a network returns for N ears, on the host."""

    logits: np.ndarray
    """float64 (N, O), the outputs of its tasks side by side."""

    embedding: np.ndarray
    """float32 (N, D)."""

    attention: np.ndarray | None
    """float32 (N, K)."""

    @classmethod
    def joined(cls, pieces: Sequence["Inferred | None"]) -> "Inferred":
        """One after another; None for one without ears. Raises ValueError if there is no ear at all."""
        there = [piece for piece in pieces if piece is not None]
        if not there:
            raise ValueError("got no ears, expected at least one")
        logits, embedding, attention = zip(*there, strict=True)
        return cls(np.concatenate(logits), np.concatenate(embedding),
                   None if attention[0] is None else np.concatenate(attention))


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
    model: nn.Module, dataset: EarDataset, *, augment: AugmentConfig, arithmetic: Arithmetic, batch_size: int,
    samples: np.ndarray | None = None, until: Callable[[], bool] = lambda: False,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda ears: ears,
) -> Inferred | None:
    """One row for each ear that is present, in the order of `dataset.ears_in_order`. The model is left in eval mode.

    samples: int64 (B,), only these; until: asked after each batch, True ends it; change: what is done to the ears of each batch
    first, int16 HU (N, K, H, W), to see how the answer depends on it. None if no ear was looked at.
    """
    model.eval()
    outputs = []
    samples = np.arange(len(dataset)) if samples is None else samples
    with contextlib.closing(dataset.batches(cut(samples, batch_size), arithmetic.device)) as batches:
        for batch in batches:
            with arithmetic.autocast():
                outputs.append(look(model, change(batch.ears), augment))
            if until():
                break
    if not outputs:
        return None
    logits, embedding, attention = zip(*outputs, strict=True)
    return Inferred(torch.cat(logits).double().cpu().numpy(), torch.cat(embedding).float().cpu().numpy(),
                    torch.cat(attention).float().cpu().numpy() if attention[0] is not None else None)


def tables_of(found: Inferred, ears: pd.DataFrame, tasks: Sequence[Task]) -> dict[str, pd.DataFrame]:
    """`tables.PREDICTIONS` by the name of each task. ears: manifest rows of those that the network looked at, in that order.

    y_true is OUTSIDE for an ear that the task does not concern. Slices are numbers k in the cached volume, most attended first.
    """
    ends = np.cumsum([task.outputs for task in tasks])
    each = np.split(found.logits, ends[:-1], axis=1)
    return {task.name: _table(logits, found.attention, ears, task) for task, logits in zip(tasks, each, strict=True)}


def _table(logits: np.ndarray, attention: np.ndarray | None, ears: pd.DataFrame, task: Task) -> pd.DataFrame:
    score = torch.from_numpy(logits)
    target = task.targets(ears.label_code.to_numpy())
    frame = ears[["exam_id", "side", "patient_key", "label_code"]].assign(y_true=target.astype(np.int64))
    if task.binary:
        probability = score[:, 0].sigmoid().numpy()
        frame = frame.assign(y_prob=probability, y_pred=(probability >= THRESHOLD).astype(np.int64))
    else:
        each = score.softmax(1).numpy()
        frame = frame.assign(y_prob=each.max(1), y_pred=each.argmax(1))
        frame = frame.assign(**{f"prob_{name}": p for name, p in zip(class_codes(task), each.T, strict=True)})
    numbers, shares = ("", "") if attention is None else zip(*map(_top, attention), strict=True)
    return tables.PREDICTIONS.frame(frame.assign(top_slices=numbers, top_slice_weights=shares).reset_index(drop=True))


def _top(attention: np.ndarray) -> tuple[str, str]:
    top = np.argsort(-attention, kind="stable")[:TOP_SLICES]
    return ";".join(map(str, top)), ";".join(f"{attention[k]:.4f}" for k in top)
