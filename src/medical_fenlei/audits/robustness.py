"""Does the network's answer hold when the scan is a little different? The same ears, perturbed and not."""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from medical_fenlei import tables
from medical_fenlei.audits.audit import Audit, binary_view, fewest_of_a_class
from medical_fenlei.audits.auroc import weighted_auroc
from medical_fenlei.audits.verdicts import ENOUGH, THRESHOLDS
from medical_fenlei.data.dataset import EarDataset
from medical_fenlei.metrics.bootstrap import SEED, Interval, PatientBootstrap
from medical_fenlei.metrics.predictions import resampling
from medical_fenlei.tasks import Task
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.vocabulary import AIR

Perturbation = Callable[[torch.Tensor], torch.Tensor]
"""A change of ears: int16 HU (N, K, H, W) to the same."""

NOISE_HU = 80.0
"""Standard deviation of the noise, HU."""
LEVEL_HU = 100.0
"""Shift of the window's level, HU."""
BONE_HU, STRETCH = 400.0, 1.2
"""HU around which contrast is stretched, and the factor: a narrower window does the same."""
SHIFT = 0.04
"""Shift of the image as a share of its edge: 2.6 mm of a crop of 64 mm."""


def perturbations(seed: int = SEED) -> dict[str, Perturbation]:
    """Return every perturbation by its description. seed: of the noise."""
    return {
        f"window {LEVEL_HU:.0f} HU higher": lambda ears: _to_int16(ears.float() - LEVEL_HU),
        f"window {LEVEL_HU:.0f} HU lower": lambda ears: _to_int16(ears.float() + LEVEL_HU),
        f"contrast × {STRETCH}": lambda ears: _to_int16((ears.float() - BONE_HU) * STRETCH + BONE_HU),
        f"contrast / {STRETCH}": lambda ears: _to_int16((ears.float() - BONE_HU) / STRETCH + BONE_HU),
        f"noise of {NOISE_HU:.0f} HU": _Noise(seed),
        "blurred, as by a soft kernel": lambda ears: _to_int16(_blur(ears.float(), 1.0)),
        "slices three times as thick": lambda ears: _to_int16(_thicken(ears.float())),
        f"moved back by {SHIFT:.0%}": lambda ears: _shift(ears, 2),
        f"moved inwards by {SHIFT:.0%}": lambda ears: _shift(ears, 3),
        "moved up by a slice": lambda ears: torch.cat([ears[:, :1], ears[:, :-1]], 1),
    }


def _to_int16(hu: torch.Tensor) -> torch.Tensor:
    return hu.round().clamp(-32768, 32767).to(torch.int16)


class _Noise:
    """Gaussian noise, different for every ear and the same for every `_Noise` of one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, ears: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(ears.shape, generator=self._generator).to(ears.device)
        return _to_int16(ears.float() + NOISE_HU * noise)


def _blur(hu: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur within each slice; sigma in pixels."""
    offset = torch.arange(-3, 4, device=hu.device, dtype=hu.dtype)
    kernel = torch.exp(-(offset / sigma) ** 2 / 2)
    kernel = kernel / kernel.sum()
    planes = F.pad(hu.flatten(0, 1)[:, None], (3, 3, 3, 3), mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return planes[:, 0].unflatten(0, hu.shape[:2])


def _thicken(hu: torch.Tensor) -> torch.Tensor:
    """Replace each slice by the mean of itself and its two neighbors."""
    padded = torch.cat([hu[:, :1], hu, hu[:, -1:]], 1)
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


def _shift(ears: torch.Tensor, dim: int) -> torch.Tensor:
    """Move the image along a dimension by SHIFT; air fills the gap."""
    pixels = max(1, round(SHIFT * ears.shape[dim]))
    shifted = torch.roll(ears, pixels, dim)
    shifted.narrow(dim, 0, pixels).fill_(AIR)
    return shifted


def audit_robustness(
    network: TrainedNetwork, dataset: EarDataset, task: Task, *, n_resamples: int, batch_size: int | None = None,
) -> tuple[list[Audit], pd.DataFrame]:
    """Predict the ears under every perturbation; return an answer for each, and all AUROCs as a `tables.SUBGROUPS`.

    The interval of a difference comes from the same resamples of patients for both AUROCs.
    """
    plain = binary_view(network.predict(dataset, batch_size=batch_size)[task.name], task)
    paired = PairedScores.from_ears(plain, n_resamples=n_resamples)
    audits, rows = [], [paired.row("as they are", paired.plain_auroc)]
    for name, perturb in tqdm(perturbations().items(), desc="perturbed scans", unit="", disable=None, leave=False):
        perturbed = binary_view(network.predict(dataset, batch_size=batch_size, perturb=perturb)[task.name], task)
        audit, auroc = paired.compare(name, perturbed.score.to_numpy())
        audits.append(audit)
        rows.append(paired.row(name, auroc))
    return audits, tables.SUBGROUPS.frame(rows)


@dataclass(frozen=True)
class PairedScores:
    """Ears whose scores are compared with their scores under a perturbation."""

    y: np.ndarray
    """Labels in {0, 1} (N,)."""

    score: np.ndarray
    """Scores without a perturbation (N,)."""

    bootstrap: PatientBootstrap
    """Resamples the patients of these ears."""

    plain_auroc: Interval
    """AUROC without a perturbation."""

    patients: int
    """Number of patients."""

    warnings: tuple[str, ...]
    """Reasons to distrust the intervals."""

    @classmethod
    def from_ears(cls, ears: pd.DataFrame, *, n_resamples: int) -> "PairedScores":
        """Return the scores of these ears (`binary_view`) without a perturbation."""
        y, score = ears.y.to_numpy(), ears.score.to_numpy()
        bootstrap = resampling(ears.assign(y_true=y), n_resamples=n_resamples)
        auroc = weighted_auroc(y, score)
        found = bootstrap.intervals(lambda weight: {"auroc": auroc(weight)})
        return cls(y, score, bootstrap, found.values["auroc"], found.patients, found.warnings)

    def compare(self, name: str, score: np.ndarray) -> tuple[Audit, Interval]:
        """Return the answer about a perturbation, and the AUROC of the scores (N,) under it."""
        plain, perturbed = weighted_auroc(self.y, self.score), weighted_auroc(self.y, score)

        def measures(weight: np.ndarray) -> dict[str, np.ndarray]:
            before, after = plain(weight), perturbed(weight)
            return {"auroc": after, "difference": after - before}

        found = self.bootstrap.intervals(measures, scales={"difference": "identity"}).values
        moved, fewest = float(np.abs(score - self.score).mean()), fewest_of_a_class(self.y)
        question, figure = f"Does it hold: {name}?", "difference of the AUROC"
        if fewest < ENOUGH:
            return Audit.undecided(question, figure, f"ears of the rarer class: {fewest}", patients=self.patients,
                                   found=fewest), found["auroc"]
        change, needed = self._with_spread(found["difference"])
        audit = Audit.from_interval(question, figure, change, thresholds="robustness", patients=self.patients, needed=needed,
                                    explanation=f"probabilities move by {moved:.3f} on average")
        return audit, found["auroc"]

    def _with_spread(self, change: Interval) -> tuple[Interval, int | None]:
        """The interval of a change and, where no resample has another change, how many patients would decide.

        The interval is then what so few patients of the rarer class can exclude: the exact one (Clopper 1934) of a share of
        0, each patient counted as one observation.
        """
        if change.low != change.high:
            return change, None
        patient, law = self.bootstrap.patient, THRESHOLDS["robustness"]
        fewest = min(len(np.unique(patient[self.y == c])) for c in (0, 1))
        reach = 1 - float(0.025 ** (1 / fewest))
        enough = np.log(0.025) / np.log(1 - abs(law.tolerable - law.sound))
        return (change._replace(low=max(-1.0, change.low - reach), high=min(1.0, change.high + reach)),
                int(np.ceil(self.patients * enough / fewest)))

    def row(self, value: str, auroc: Interval) -> dict[str, object]:
        """Return the row of `tables.SUBGROUPS` about an AUROC."""
        return {"by": value, "value": value, "ears": len(self.y), "patients": self.patients, "positive": int(self.y.sum()),
                "metric": "auroc", "estimate": auroc.estimate, "low": auroc.low, "high": auroc.high,
                "support": auroc.support,
                "note": "; ".join(filter(None, (auroc.reason, *self.warnings)))}
