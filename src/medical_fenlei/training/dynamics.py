"""What a network answered to each training ear, epoch by epoch: ears whose label is wrong are those it agrees with last.

`<run>/answers/ears.csv` names the ears, `epoch_<n>.npy` holds float32 (N, O), the mean output of each ear as the network saw it
in that epoch's steps (augmented), NaN where it did not (a sampler drew others, or the run was stopped and went on).
"""
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.files import atomic
from medical_fenlei.runs import Run
from medical_fenlei.training.distributed import Ranks


class Answers:
    """Of the epoch that is under way."""

    def __init__(self) -> None:
        self._kept: list[tuple[np.ndarray, list[torch.Tensor]]] = []

    def step(self, ears: np.ndarray) -> list[torch.Tensor]:
        """Where the step on these ears, int64 (N,) places in the training set, puts its outputs (parts of N, O) in order."""
        outputs: list[torch.Tensor] = []
        self._kept.append((ears, outputs))
        return outputs

    def end_epoch(self, epoch: int, run: Run, ears: pd.DataFrame, ranks: Ranks) -> None:
        """Write what all processes kept. ears: manifest rows of the training set."""
        kept, self._kept = [pair for pair in self._kept if pair[1]], []
        own = None
        if kept:
            own = np.concatenate([places for places, _ in kept]), torch.cat(
                [output for _, outputs in kept for output in outputs]).float().cpu().numpy()
        each = [pair for pair in ranks.gather(own) if pair is not None]
        if not (ranks.first and each):
            return
        places, outputs = (np.concatenate(part) for part in zip(*each, strict=True))
        total = np.zeros((len(ears), outputs.shape[1]))
        np.add.at(total, places, outputs)
        times = np.bincount(places, minlength=len(ears))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(times[:, None] > 0, total / times[:, None], np.nan).astype(np.float32)
        names = run.answers / "ears.csv"
        if not names.is_file():
            tables.TRAINING_EARS.write(names, tables.TRAINING_EARS.frame(ears[list(tables.TRAINING_EARS.columns)]))
        with atomic(run.answers / f"epoch_{epoch:04d}.npy") as file:
            np.save(file, mean)


def read_answers(run: Run) -> tuple[pd.DataFrame, np.ndarray]:
    """`tables.TRAINING_EARS` (N rows) and float32 (epochs, N, O).

    Raises UserError where the run has none, or they do not fit.
    """
    names, files = run.answers / "ears.csv", sorted(run.answers.glob("epoch_*.npy"))
    if not names.is_file() or not files:
        raise UserError(f"{run.answers}: no answers of training; the run is of an earlier version, or has no whole epoch")
    ears, each = tables.TRAINING_EARS.read(names), [_load(path) for path in files]
    if {epoch.shape for epoch in each} != {(len(ears), each[0].shape[-1])}:
        raise UserError(f"{run.answers}: its epochs do not have an output for each of the {len(ears)} ears; train the run anew")
    return ears, np.stack(each)


def _load(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise UserError(f"{path}: is no array") from None
    return found
