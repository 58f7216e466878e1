"""Confusion matrices and the measures of each class. R rows of weights, N ears, C classes."""
from collections.abc import Sequence
from typing import Any

import numpy as np

BY_CLASS = ("precision", "recall", "specificity", "f1")
"""Measures of each class; recall is sensitivity."""


def confusion(weight: np.ndarray, y_true: np.ndarray, y_pred: np.ndarray, *, classes: int) -> np.ndarray:
    """Return float64 (R, C, C): the weight of the ears of class i (rows) with predicted class j (columns).

    weight (R, N); y_true, y_pred (N,): class numbers; classes: C.
    """
    cell = np.zeros((len(y_true), classes * classes))
    cell[np.arange(len(y_true)), np.asarray(y_true) * classes + np.asarray(y_pred)] = 1
    return (np.asarray(weight, np.float64) @ cell).reshape(-1, classes, classes)


def by_class(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Return each of BY_CLASS and `support` (R, C), from confusion matrices (R, C, C).

    Undefined measures are NaN: a class that is never predicted has no precision, a class without ears no recall and no F1.
    """
    true_positives = np.einsum("rcc->rc", matrix)
    support, predicted = matrix.sum(2), matrix.sum(1)
    total = support.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "precision": true_positives / predicted, "recall": true_positives / support,
            "specificity": 1 - (predicted - true_positives) / (total - support),
            "f1": np.where(support > 0, 2 * true_positives / (support + predicted), np.nan), "support": support,
        }


def class_report(y_true: np.ndarray, y_pred: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Return `classes` (the measures of each class), `macro` (means over the classes that occur), `accuracy` and `confusion`.

    The rows of the confusion matrix are the true classes. A mean is NaN if it is undefined for one of its classes.
    """
    matrix = confusion(np.ones((1, len(y_true))), y_true, y_pred, classes=len(names))
    each = {name: values[0] for name, values in by_class(matrix).items()}
    occurs = each["support"] > 0
    macro = {name: float(each[name][occurs].mean()) if occurs.any() else float("nan") for name in BY_CLASS}
    total = matrix.sum()
    return {
        "accuracy": float(np.trace(matrix[0]) / total) if total else float("nan"), "macro": macro,
        "classes": {name: {k: float(v[c]) for k, v in each.items()} for c, name in enumerate(names)},
        "confusion": matrix[0].astype(int).tolist(),
    }
