"""Discrimination and decision measures of two classes. R rows of weights, N ears, G distinct scores.

Every ranking measure follows from the weight of each class at or above each distinct score, so the ears are sorted once and all
rows of weights are counted together. Undefined measures are NaN: a row in which one class has no weight has no ranking.
"""
import numpy as np

THRESHOLD = 0.5
"""Default threshold: a score at or above it is predicted positive."""
FIXED_LEVEL = 0.95
"""Specificity at which `sensitivity_at_95_specificity` is read, and sensitivity for the reverse."""
RANKING = ("auroc", "auprc", "sensitivity_at_95_specificity", "specificity_at_95_sensitivity")
DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "f1", "balanced_accuracy", "accuracy")
NAMES = ("auroc", "auprc", *DECISIONS, *RANKING[2:])


class BinaryMeasures:
    """The measures NAMES of a binary classification; called with weights (R, N) of at least 0, it returns each as (R,).

    y_true (N,) in {0, 1}; y_score (N,), finite, higher is more positive; predicted (N,) bool, the predicted positive ears (by
    default those with a score of at least THRESHOLD). Raises ValueError otherwise.
    """

    def __init__(self, y_true: np.ndarray, y_score: np.ndarray, predicted: np.ndarray | None = None) -> None:
        y_true, y_score = np.asarray(y_true), np.asarray(y_score, np.float64)
        predicted = y_score >= THRESHOLD if predicted is None else np.asarray(predicted, bool)
        if y_true.shape != y_score.shape or y_true.ndim != 1 or predicted.shape != y_true.shape:
            raise ValueError(f"got labels {y_true.shape}, scores {y_score.shape} and predictions {predicted.shape}, expected "
                             "(N,) for each")
        if not np.isin(y_true, (0, 1)).all() or not np.isfinite(y_score).all():
            raise ValueError("got labels other than 0 and 1, or scores that are not finite")
        self._order = np.argsort(-y_score, kind="stable")
        falling = y_score[self._order]
        self._starts = np.flatnonzero(np.diff(falling, prepend=np.nan) != 0)     # first position of each tied group
        self.thresholds = falling[self._starts]
        self._positive = y_true[self._order].astype(np.float64)
        self._cells = np.column_stack([y_true * predicted, (1 - y_true) * predicted, y_true, 1 - y_true]).astype(np.float64)

    def counts(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return true and false positives (R, G): the weight of either class at or above each distinct score, highest first."""
        weight = self._checked(weight)[:, self._order]
        if not len(self._starts):
            return np.zeros((len(weight), 0)), np.zeros((len(weight), 0))
        positive = weight * self._positive
        groups = [positive, np.subtract(weight, positive, out=weight)]
        if len(self._starts) < weight.shape[1]:
            groups = [np.add.reduceat(group, self._starts, axis=1) for group in groups]
        true, false = (np.cumsum(group, axis=1, out=group) for group in groups)
        return true, false

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return each of NAMES (R,) for weights (R, N)."""
        found = {**self._ranking(weight), **self.decisions(weight)}
        return {name: found[name] for name in NAMES}

    def decisions(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return each of DECISIONS (R,) for weights (R, N)."""
        return _decisions(*(self._checked(weight) @ self._cells).T)

    def _checked(self, weight: np.ndarray) -> np.ndarray:
        weight = np.asarray(weight, np.float64)
        if weight.ndim != 2 or weight.shape[1] != len(self._order):
            raise ValueError(f"got weights {weight.shape}, expected (R, {len(self._order)})")
        return weight

    def _ranking(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        true, false = self.counts(weight)
        if not true.shape[1]:
            return {name: np.full(len(true), np.nan) for name in RANKING}
        positives, negatives = true[:, -1], false[:, -1]
        both = (positives > 0) & (negatives > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (
                _area(true, false) / (positives * negatives), _average_precision(true, false) / positives,
                _most_true_positives(true, false, (1 - FIXED_LEVEL) * negatives) / positives,
                1 - _fewest_false_positives(true, false, FIXED_LEVEL * positives) / negatives,
            )
            return {name: np.where(both, value, np.nan) for name, value in zip(RANKING, values, strict=True)}


def _decisions(
    true_positives: np.ndarray, false_positives: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> dict[str, np.ndarray]:
    """Each of DECISIONS (R,) from the weights (R,) of the confusion matrix."""
    predicted_positive = true_positives + false_positives
    true_negatives, false_negatives = negatives - false_positives, positives - true_positives
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = true_positives / positives, true_negatives / negatives
        return {
            "sensitivity": sensitivity, "specificity": specificity,
            "ppv": true_positives / predicted_positive, "npv": true_negatives / (true_negatives + false_negatives),
            "f1": np.where(positives > 0, 2 * true_positives / (predicted_positive + positives), np.nan),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "accuracy": (true_positives + true_negatives) / (positives + negatives),
        }


def _steps(counts: np.ndarray) -> np.ndarray:
    """Weight of each tied group (R, G), from cumulative counts (R, G)."""
    return np.diff(counts, axis=1, prepend=0)


def _area(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Weight (R,) of the pairs whose positive ear scores higher, ties counted half (Hanley 1982,
    doi:10.1148/radiology.143.1.7063747)."""
    steps = _steps(true)
    return np.einsum("rg,rg->r", steps, false[:, -1:] - false) + np.einsum("rg,rg->r", steps, _steps(false)) / 2


def _average_precision(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Σ (true positives of a tied group) × (precision at its threshold) (R,): each tied group is one step."""
    predicted_positive = true + false
    precision = np.divide(true, predicted_positive, out=np.zeros_like(true), where=predicted_positive > 0)
    return np.einsum("rg,rg->r", _steps(true), precision)


def _most_true_positives(true: np.ndarray, false: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Most true positives (R,) at a threshold with at most `allowed` (R,) false positives; 0 without such a threshold."""
    return np.where(false <= allowed[:, None] * (1 + 1e-9), true, 0).max(axis=1)


def _fewest_false_positives(true: np.ndarray, false: np.ndarray, required: np.ndarray) -> np.ndarray:
    """Fewest false positives (R,) at a threshold with at least `required` (R,) true positives."""
    return np.where(true >= required[:, None] * (1 - 1e-9), false, np.inf).min(axis=1)
