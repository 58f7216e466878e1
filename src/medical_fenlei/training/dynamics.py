"""Training dynamics: the output for each training ear, epoch by epoch (Swayamdipta et al. 2020).

A network learns wrong labels last. `<run>/answers/ears.csv` names the ears; `epoch_<n>.npy` holds float32 (N, O), the mean
output of each ear over the steps of the epoch, as the network saw it (augmented). It is NaN for an ear that had no step: a
sampler drew others, or the run was interrupted within the epoch.
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


class TrainingDynamics:
    """Collects the outputs of the current epoch."""

    def __init__(self) -> None:
        self._steps: list[tuple[np.ndarray, list[torch.Tensor]]] = []

    def step(self, ears: np.ndarray) -> list[torch.Tensor]:
        """Begin a step on these ears, int64 (N,) positions in the training set; return the list that takes its outputs.

        The list holds one tensor per micro-batch, together (N, O), in the order of the ears.
        """
        outputs: list[torch.Tensor] = []
        self._steps.append((ears, outputs))
        return outputs

    def end_epoch(self, epoch: int, run: Run, ears: pd.DataFrame, ranks: Ranks) -> None:
        """Write the outputs of all processes and begin the next epoch. ears: manifest rows of the training set."""
        steps, self._steps = [step for step in self._steps if step[1]], []
        own = None
        if steps:
            own = np.concatenate([positions for positions, _ in steps]), torch.cat(
                [output for _, outputs in steps for output in outputs]).float().cpu().numpy()
        each = [pair for pair in ranks.gather(own) if pair is not None]
        if not (ranks.is_first and each):
            return
        positions, outputs = (np.concatenate(part) for part in zip(*each, strict=True))
        total = np.zeros((len(ears), outputs.shape[1]))
        np.add.at(total, positions, outputs)
        times = np.bincount(positions, minlength=len(ears))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(times[:, None] > 0, total / times[:, None], np.nan).astype(np.float32)
        names = run.training_dynamics / "ears.csv"
        if not names.is_file():
            tables.TRAINING_EARS.write(names, tables.TRAINING_EARS.frame(ears[list(tables.TRAINING_EARS.columns)]))
        with atomic(run.training_dynamics / f"epoch_{epoch:04d}.npy") as file:
            np.save(file, mean)


def read_training_dynamics(run: Run) -> tuple[pd.DataFrame, np.ndarray]:
    """Read the ears (`tables.TRAINING_EARS`, N rows) and their outputs, float32 (epochs, N, O).

    Raises UserError if the run has none, or if they do not fit together.
    """
    folder = run.training_dynamics
    names, files = folder / "ears.csv", sorted(folder.glob("epoch_*.npy"))
    if not names.is_file() or not files:
        raise UserError(f"{folder}: no training dynamics; the run is of an earlier version, or has completed no epoch")
    ears, epochs = tables.TRAINING_EARS.read(names), [_load(path) for path in files]
    if {outputs.shape for outputs in epochs} != {(len(ears), epochs[0].shape[-1])}:
        raise UserError(f"{folder}: expected outputs for each of the {len(ears)} ears in every epoch; train the run again")
    return ears, np.stack(epochs)


def _load(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise UserError(f"{path}: cannot be read as an array of NumPy") from None
    if found.ndim != 2 or found.dtype.kind != "f":
        raise UserError(f"{path}: got {found.dtype} {found.shape}, expected float32 (ears, outputs); train the run again")
    return found
