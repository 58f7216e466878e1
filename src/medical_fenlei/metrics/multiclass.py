"""How well probabilities tell several classes apart: each class against the rest, then the plain mean over classes."""
from collections.abc import Sequence

import numpy as np

from medical_fenlei.metrics.binary import BinaryMeasures


class MulticlassMeasures:
    """Called with weights (R, N) it returns `auroc`, `auprc` (macro, one against the rest), `accuracy`, `sensitivity_<name>`.

    y_true (N,) class numbers 0 to C - 1; probability (N, C); names: of the classes. Classes without any ear are left out of the
    means; a row of weights that leaves out one of the others has no mean (NaN).
    """

    def __init__(self, y_true: np.ndarray, probability: np.ndarray, names: Sequence[str]) -> None:
        y_true, probability = np.asarray(y_true), np.asarray(probability, np.float64)
        if probability.shape != (len(y_true), len(names)):
            raise ValueError(f"got probabilities {probability.shape}, expected {(len(y_true), len(names))}")
        if not np.isin(y_true, np.arange(len(names))).all() or not np.isfinite(probability).all():
            raise ValueError(f"labels have to be 0 to {len(names) - 1}, and probabilities finite")
        self._is = {name: (y_true == c).astype(np.float64) for c, name in enumerate(names)}
        self._hit = (probability.argmax(1) == y_true).astype(np.float64) if len(y_true) else np.zeros(0)
        self._against_rest = [BinaryMeasures(own, probability[:, c]) for c, own in enumerate(self._is.values()) if own.any()]

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        weight = np.asarray(weight, np.float64)
        one_by_one = [measures(weight) for measures in self._against_rest]
        hit = weight * self._hit
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {name: np.mean([m[name] for m in one_by_one], axis=0) if one_by_one else np.full(len(weight), np.nan)
                      for name in ("auroc", "auprc")}
            values["accuracy"] = hit.sum(1) / weight.sum(1)
            return values | {f"sensitivity_{name}": (hit @ own) / (weight @ own) for name, own in self._is.items()}
