"""Run a network over a set of ears; turn its outputs into the table of predictions, one row per ear."""
import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from medical_fenlei import tables
from medical_fenlei.config import AugmentConfig
from medical_fenlei.data.augment import windowed_blocks
from medical_fenlei.data.batching import split_into_batches
from medical_fenlei.data.blocks import block_starts, mean_over_blocks
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.metrics.binary import THRESHOLD
from medical_fenlei.metrics.predictions import class_codes
from medical_fenlei.models.network import NetworkOutput
from medical_fenlei.tasks import Task
from medical_fenlei.training.batch_progress import BatchProgress
from medical_fenlei.training.device import ComputeSettings

TOP_SLICES = 5
"""How many slices a prediction names."""


class InferenceResult(NamedTuple):
    """What a network returned for N ears, on the host."""

    logits: np.ndarray
    """float64 (N, O), the logits of all tasks side by side."""

    embedding: np.ndarray
    """float32 (N, D)."""

    attention: np.ndarray | None
    """float32 (N, K)."""

    @property
    def finite(self) -> np.ndarray:
        """bool (N,): whether the output for an ear has neither NaN nor infinity. Without it there is no answer."""
        parts = [part for part in (self.logits, self.embedding, self.attention) if part is not None]
        found: np.ndarray = np.all([np.isfinite(part).all(axis=1) for part in parts], axis=0)
        return found

    def of_ears(self, chosen: np.ndarray) -> "InferenceResult":
        """Return the rows that a mask or an index of the N ears chooses."""
        return InferenceResult(self.logits[chosen], self.embedding[chosen],
                               None if self.attention is None else self.attention[chosen])

    @classmethod
    def concatenate(cls, parts: Sequence["InferenceResult | None"]) -> "InferenceResult":
        """Join results one after another; None stands for one without ears. Raises ValueError if there are no ears at all."""
        present = [part for part in parts if part is not None]
        if not present:
            raise ValueError("got no ears, expected at least one")
        logits, embedding, attention = zip(*present, strict=True)
        return cls(np.concatenate(logits), np.concatenate(embedding),
                   None if attention[0] is None else np.concatenate(attention))


@torch.inference_mode()
def infer(
    model: nn.Module, dataset: EarDataset, *, augment: AugmentConfig, compute: ComputeSettings, batch_size: int,
    samples: np.ndarray | None = None, until: Callable[[], bool] = lambda: False,
    perturb: Callable[[torch.Tensor], torch.Tensor] = lambda ears: ears,
) -> InferenceResult | None:
    """Run a network over the samples of a dataset: one row per ear present, in the order of `dataset.ears_in_order`.

    samples: int64 (B,), only these; until: checked after each batch, True ends the run; perturb: applied first to the ears of
    each batch, int16 HU (N, K, H, W), to measure its effect on the output. None if no batch was run. Leaves the model in eval
    mode.
    """
    model.eval()
    outputs = []
    samples = np.arange(len(dataset)) if samples is None else samples
    parts = split_into_batches(samples, batch_size)
    with (contextlib.closing(dataset.batches(parts, compute.device)) as batches,
          BatchProgress("predictions", len(parts)) as progress):
        for batch in batches:
            with compute.autocast():
                outputs.append(forward_blocks(model, perturb(batch.ears), augment))
            progress.update()
            if until():
                break
    if not outputs:
        return None
    logits, embedding, attention = zip(*outputs, strict=True)
    return InferenceResult(torch.cat(logits).double().cpu().numpy(), torch.cat(embedding).float().cpu().numpy(),
                           torch.cat(attention).float().cpu().numpy() if attention[0] is not None else None)


def forward_blocks(model: nn.Module, volume: torch.Tensor, augment: AugmentConfig) -> NetworkOutput:
    """Run a network over each block of slices of ears, int16 HU (N, K, H, W); return the mean output over the blocks.

    The attention of a slice, (N, K), is its mean over the blocks that contain it, scaled to sum to 1 over the slices.
    """
    outputs = [model(block) for block in windowed_blocks(volume, augment)]
    if len(outputs) == 1:
        only: NetworkOutput = outputs[0]
        return only
    logits, embedding, attention = zip(*outputs, strict=True)
    weight = None
    if attention[0] is not None:
        starts = block_starts(volume.shape[1], augment.model_slices)
        weight = mean_over_blocks(torch.stack(attention).transpose(1, 2), starts, volume.shape[1]).T
        weight = weight / weight.sum(1, keepdim=True)
    return NetworkOutput(torch.stack(logits).mean(0), torch.stack(embedding).mean(0), weight)


def prediction_tables(result: InferenceResult, ears: pd.DataFrame, tasks: Sequence[Task]) -> dict[str, pd.DataFrame]:
    """Return a `tables.PREDICTIONS` for each task, by name. ears: manifest rows in the order of the result.

    y_true is OUTSIDE for an ear that the task does not concern. Slices are numbers k in the cached volume, most attended first.
    """
    ends = np.cumsum([task.outputs for task in tasks])
    of_tasks = np.split(result.logits, ends[:-1], axis=1)
    return {task.name: _prediction_table(logits, result.attention, ears, task)
            for task, logits in zip(tasks, of_tasks, strict=True)}


def _prediction_table(logits: np.ndarray, attention: np.ndarray | None, ears: pd.DataFrame, task: Task) -> pd.DataFrame:
    probability = task.probabilities(logits)
    target = task.targets(ears.label_code.to_numpy())
    frame = ears[["exam_id", "side", "patient_key", "label_code"]].assign(y_true=target.astype(np.int64))
    if task.binary:
        positive = probability[:, 1]
        frame = frame.assign(y_prob=positive, y_pred=(positive >= THRESHOLD).astype(np.int64))
    else:
        frame = frame.assign(y_prob=probability.max(1), y_pred=probability.argmax(1))
        frame = frame.assign(**{f"prob_{name}": p for name, p in zip(class_codes(task), probability.T, strict=True)})
    numbers, shares = ("", "") if attention is None else zip(*map(_top_slices, attention), strict=True)
    return tables.PREDICTIONS.frame(frame.assign(top_slices=numbers, top_slice_weights=shares).reset_index(drop=True))


def _top_slices(attention: np.ndarray) -> tuple[str, str]:
    """Return the slices of highest attention and their weights, each joined by semicolons."""
    top = np.argsort(-attention, kind="stable")[:TOP_SLICES]
    return ";".join(map(str, top)), ";".join(f"{attention[k]:.4f}" for k in top)
