"""Measures of several classes: each class against the rest, and unweighted means over classes. R rows of weights, N ears."""
from collections.abc import Sequence

import numpy as np

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.confusion import confusion
from medical_fenlei.metrics.reliability import BINS

EACH = ("auroc", "auprc", "sensitivity", "specificity", "ppv", "npv", "f1")
"""Measured of each class against the rest, as `<measure>_<class>`."""
MEANS = {"auroc": "auroc", "auprc": "auprc", "f1": "macro_f1", "sensitivity": "macro_recall"}
"""The measures of which there is an unweighted mean over classes, and the name of that mean."""


class MulticlassMeasures:
    """The measures of a classification with C classes; called with weights (R, N), it returns each as (R,).

    `auroc` and `auprc` (each class against the rest), `macro_f1` and `macro_recall` are unweighted means over classes; `brier`
    is half the squared distance between probabilities and outcome, which for two classes is the binary score;
    `calibration_error` is that of the predicted class's probability; `accuracy`; and each of EACH for every class, as
    `<measure>_<class>`. Classes without ears are left out of the means; a mean is NaN in a row in which one of the other
    classes has no weight.

    y_true (N,): class numbers 0 to C - 1; probability (N, C); names: the C class names. Raises ValueError otherwise.
    """

    def __init__(self, y_true: np.ndarray, probability: np.ndarray, names: Sequence[str]) -> None:
        y_true, probability = np.asarray(y_true), np.asarray(probability, np.float64)
        if probability.shape != (len(y_true), len(names)):
            raise ValueError(f"got probabilities {probability.shape}, expected {(len(y_true), len(names))}")
        if not np.isin(y_true, np.arange(len(names))).all() or not np.isfinite(probability).all():
            raise ValueError(f"got labels outside 0 to {len(names) - 1}, or probabilities that are not finite")
        self._names = tuple(names)
        self._true, self._predicted = y_true.astype(np.int64), probability.argmax(1)
        self._occurs = np.flatnonzero(np.bincount(self._true, minlength=len(names)) > 0)
        self._against_rest = [BinaryMeasures((y_true == c).astype(np.float64), probability[:, c], self._predicted == c)
                              for c in range(len(names))]
        highest = probability.max(1, initial=0)
        bins = np.zeros((len(y_true), BINS))
        bin_of = np.clip((highest * BINS).astype(np.int64), 0, BINS - 1)
        bins[np.arange(len(y_true)), bin_of] = highest - (self._predicted == self._true)
        distance = ((probability - np.eye(len(names))[self._true]) ** 2).sum(1) / 2
        self._sums = np.column_stack([np.ones(len(y_true)), distance, bins])

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return each measure (R,) for weights (R, N)."""
        weight = np.asarray(weight, np.float64)
        each = [measures(weight) for measures in self._against_rest]
        undefined = np.full(len(weight), np.nan)
        values = {mean: np.mean([each[c][name] for c in self._occurs], axis=0) if len(self._occurs) else undefined
                  for name, mean in MEANS.items()}
        matrix = confusion(weight, self._true, self._predicted, classes=len(self._names))
        total, distance, *bins = (weight @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            values["accuracy"] = np.einsum("rcc->r", matrix) / matrix.sum((1, 2))
            values["brier"], values["calibration_error"] = distance / total, np.abs(bins).sum(0) / total
        return values | {f"{name}_{of}": each[c][name] for c, of in enumerate(self._names) for name in EACH}
