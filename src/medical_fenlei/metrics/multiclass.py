"""How well probabilities tell several classes apart: each class against the rest, then the plain mean over classes."""
from collections.abc import Sequence

import numpy as np

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.confusion import by_class, confusion


class MulticlassMeasures:
    """Called with weights (R, N) it returns `auroc`, `auprc` (one against the rest), `macro_f1`, `macro_recall`, `accuracy` and
    `sensitivity_<name>`; the first four are plain means over classes.

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
        occurs = np.bincount(self._true, minlength=len(names)) > 0
        self._occurs = np.flatnonzero(occurs)
        self._against_rest = [BinaryMeasures((y_true == c).astype(np.float64), probability[:, c]) for c in self._occurs]

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        weight = np.asarray(weight, np.float64)
        one_by_one = [measures(weight) for measures in self._against_rest]
        matrix = confusion(weight, self._true, self._called, classes=len(self._names))
        each = by_class(matrix)
        undefined = np.full(len(weight), np.nan)
        values = {name: np.mean([m[name] for m in one_by_one], axis=0) if one_by_one else undefined
                  for name in ("auroc", "auprc")}
        for name in ("f1", "recall"):
            values[f"macro_{name}"] = each[name][:, self._occurs].mean(1) if len(self._occurs) else undefined
        with np.errstate(invalid="ignore", divide="ignore"):
            values["accuracy"] = np.einsum("rcc->r", matrix) / matrix.sum((1, 2))
        return values | {f"sensitivity_{name}": each["recall"][:, c] for c, name in enumerate(self._names)}
