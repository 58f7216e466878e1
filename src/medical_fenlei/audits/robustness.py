"""Does a network's answer hold when the scan is a little different? The same ears, changed, against themselves."""
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from medical_fenlei import tables
from medical_fenlei.audits.checks import Audit, Verdict, binary_view
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import patient_intervals
from medical_fenlei.metrics.predictions import SEED
from medical_fenlei.tasks import Task
from medical_fenlei.trained.network import Trained

Change = Callable[[torch.Tensor], torch.Tensor]
"""Of int16 HU (N, K, H, W)."""

DROP = 0.05
"""Loss of AUROC that deserves a look."""
NOISE_HU, LEVEL_HU, STRETCH, SHIFT = 80.0, 100.0, 1.2, 0.04
"""Standard deviation of noise; shift of the window; stretch of the HU around BONE_HU, as a narrower window does; share of the
image's edge by which it is moved (2.6 mm of a crop of 64 mm)."""
BONE_HU = 400.0
AIR = -1024


def changes(seed: int = SEED) -> dict[str, Change]:
    """By what is said of each."""
    return {
        f"window {LEVEL_HU:.0f} HU higher": lambda ears: _hu(ears.float() - LEVEL_HU),
        f"window {LEVEL_HU:.0f} HU lower": lambda ears: _hu(ears.float() + LEVEL_HU),
        f"contrast × {STRETCH}": lambda ears: _hu((ears.float() - BONE_HU) * STRETCH + BONE_HU),
        f"contrast / {STRETCH}": lambda ears: _hu((ears.float() - BONE_HU) / STRETCH + BONE_HU),
        f"noise of {NOISE_HU:.0f} HU": _Noise(seed),
        "blurred, as by a soft kernel": lambda ears: _hu(_blurred(ears.float(), 1.0)),
        "slices three times as thick": lambda ears: _hu(_thick(ears.float())),
        f"moved back by {SHIFT:.0%}": lambda ears: _moved(ears, 2),
        f"moved inwards by {SHIFT:.0%}": lambda ears: _moved(ears, 3),
        "moved up by a slice": lambda ears: torch.cat([ears[:, :1], ears[:, :-1]], 1),
    }


def _hu(values: torch.Tensor) -> torch.Tensor:
    return values.round().clamp(-32768, 32767).to(torch.int16)


class _Noise:
    """Of its own for every ear, the same in every pass."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, ears: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(ears.shape, generator=self._generator).to(ears.device)
        return _hu(ears.float() + NOISE_HU * noise)


def _blurred(values: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gauss in the plane, sigma in pixels."""
    at = torch.arange(-3, 4, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-(at / sigma) ** 2 / 2)
    kernel = kernel / kernel.sum()
    planes = F.pad(values.flatten(0, 1)[:, None], (3, 3, 3, 3), mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return planes[:, 0].unflatten(0, values.shape[:2])


def _thick(values: torch.Tensor) -> torch.Tensor:
    """Each slice the mean of itself and its two neighbours."""
    padded = torch.cat([values[:, :1], values, values[:, -1:]], 1)
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


def _moved(ears: torch.Tensor, dim: int) -> torch.Tensor:
    pixels = max(1, round(SHIFT * ears.shape[dim]))
    moved = torch.roll(ears, pixels, dim)
    moved.narrow(dim, 0, pixels).fill_(AIR)
    return moved


def robustness(
    trained: Trained, dataset: EarDataset, task: Task, *, draws: int, batch_size: int | None = None,
    progress: Callable[[dict[str, Change]], Iterable[tuple[str, Change]]] = dict.items,
) -> tuple[list[Audit], pd.DataFrame]:
    """An answer a change, and `tables.SUBGROUPS` of the AUROC under each, as they are first.

    The interval of the difference comes from the same draws of patients for both. progress: goes over the changes.
    """
    before = binary_view(trained.predict(dataset, batch_size=batch_size)[task.name], task)
    y, patient = before.y.to_numpy(), before.patient_key.to_numpy()
    plain = BinaryMeasures(y, before.score.to_numpy())
    content = np.column_stack([y, before.score])
    base = patient_intervals(lambda w: {"auroc": plain(w)["auroc"]}, patient, content, seed=SEED, draws=draws, classes=y)

    def row(value: str, i: tuple[float, float, float, str]) -> dict[str, object]:
        return {"by": value, "value": value, "ears": len(y), "metric": "auroc",
                "patients": base.patients, "positive": int(y.sum()), "estimate": i[0], "low": i[1], "high": i[2],
                "note": "; ".join(filter(None, (i[3], *base.warnings)))}

    audits, rows = [], [row("as they are", base.values["auroc"])]
    for name, change in progress(changes()):
        after = binary_view(trained.predict(dataset, batch_size=batch_size, change=change)[task.name], task)
        other = BinaryMeasures(y, after.score.to_numpy())

        def both(weight: np.ndarray, other: BinaryMeasures = other) -> dict[str, np.ndarray]:
            one, two = plain(weight)["auroc"], other(weight)["auroc"]
            return {"auroc": two, "difference": two - one}

        found = patient_intervals(both, patient, np.column_stack([content, after.score]), seed=SEED, draws=draws, classes=y,
                                  unbounded=("difference",)).values
        i, moved = found["difference"], float(np.abs(after.score - before.score).mean())
        verdict: Verdict = "undecided" if np.isnan(i.low) else "look" if i.high < 0 and i.estimate < -DROP else "ok"
        audits.append(Audit(f"Does it hold: {name}?", "difference of the AUROC", *i[:3], verdict,
                            f"probabilities move by {moved:.3f} on average"))
        rows.append(row(name, found["auroc"]))
    return audits, tables.SUBGROUPS.frame(rows)
