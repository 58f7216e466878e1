"""How well probabilities tell several classes apart: each class against the rest, then the plain mean over classes."""
from collections.abc import Sequence

import numpy as np

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.confusion import confusion
from medical_fenlei.metrics.reliability import BINS

EACH = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "f1")
"""Measured of each class against the rest, as `<measure>_<class>`."""
MEANS = {"auroc": "auroc", "auprc": "auprc", "f1": "macro_f1", "sensitivity": "macro_recall"}
"""Of which there is a plain mean over the classes, and its name."""


class MulticlassMeasures:
    """Called with weights (R, N) it returns `auroc`, `auprc` (one against the rest), `macro_f1`, `macro_recall`, which are
    plain means over classes; `accuracy`; `brier` (half the squared distance between probabilities and outcome, so that two
    classes have the binary score); `calibration_error` of the predicted class's probability; and each of EACH for every class.

    y_true (N,) class numbers 0 to C - 1; probability (N, C); names: of the classes. Classes without any ear are left out of the
    means; a row of weights that leaves out one of the others has no mean (NaN).
    """

    def __init__(self, y_true: np.ndarray, probability: np.ndarray, names: Sequence[str]) -> None:
        y_true, probability = np.asarray(y_true), np.asarray(probability, np.float64)
        if probability.shape != (len(y_true), len(names)):
            raise ValueError(f"got probabilities {probability.shape}, expected {(len(y_true), len(names))}")
        if not np.isin(y_true, np.arange(len(names))).all() or not np.isfinite(probability).all():
            raise ValueError(f"labels have to be 0 to {len(names) - 1}, and probabilities finite")
        self._names = tuple(names)
        self._true, self._called = y_true.astype(np.int64), probability.argmax(1)
        self._occurs = np.flatnonzero(np.bincount(self._true, minlength=len(names)) > 0)
        self._against_rest = [BinaryMeasures((y_true == c).astype(np.float64), probability[:, c], self._called == c)
                              for c in range(len(names))]
        highest = probability.max(1, initial=0)
        bins = np.zeros((len(y_true), BINS))
        place = np.clip((highest * BINS).astype(np.int64), 0, BINS - 1)
        bins[np.arange(len(y_true)), place] = highest - (self._called == self._true)
        distance = ((probability - np.eye(len(names))[self._true]) ** 2).sum(1) / 2
        self._sums = np.column_stack([np.ones(len(y_true)), distance, bins])

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        weight = np.asarray(weight, np.float64)
        each = [measures(weight) for measures in self._against_rest]
        undefined = np.full(len(weight), np.nan)
        values = {mean: np.mean([each[c][name] for c in self._occurs], axis=0) if len(self._occurs) else undefined
                  for name, mean in MEANS.items()}
        matrix = confusion(weight, self._true, self._called, classes=len(self._names))
        total, distance, *bins = (weight @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            values["accuracy"] = np.einsum("rcc->r", matrix) / matrix.sum((1, 2))
            values["brier"], values["calibration_error"] = distance / total, np.abs(bins).sum(0) / total
        return values | {f"{name}_{of}": each[c][name] for c, of in enumerate(self._names) for name in EACH}
