"""How well scores tell two classes apart. R rows of weights, N ears, G distinct scores.

Every number follows from how much weight of each class lies at or above each distinct score, so the ears are sorted once, and
all rows of weights are counted together. Undefined is NaN: a row that leaves one class without weight has no ranking.
"""
import numpy as np

THRESHOLD = 0.5
"""A score at or above it is called positive."""
SPECIFICITY = 0.95
"""At which `sensitivity_at_95_specificity` is read."""
NAMES = ("auroc", "auprc", "sensitivity", "specificity", "f1", "sensitivity_at_95_specificity")


class BinaryMeasures:
    """Called with weights (R, N), at least 0, it returns each of NAMES as (R,).

    y_true (N,) in {0, 1}; y_score (N,) finite, higher is more positive. Raises ValueError otherwise.
    """

    def __init__(self, y_true: np.ndarray, y_score: np.ndarray) -> None:
        y_true, y_score = np.asarray(y_true), np.asarray(y_score, np.float64)
        if y_true.shape != y_score.shape or y_true.ndim != 1:
            raise ValueError(f"got {y_true.shape} labels and {y_score.shape} scores, expected one of each an ear")
        if not np.isin(y_true, (0, 1)).all() or not np.isfinite(y_score).all():
            raise ValueError("labels have to be 0 or 1, and scores finite")
        self._order = np.argsort(-y_score, kind="stable")
        falling = y_score[self._order]
        self._starts = np.flatnonzero(np.diff(falling, prepend=np.nan) != 0)     # first place of each tied group
        self.thresholds = falling[self._starts]
        self._positive = y_true[self._order].astype(np.float64)

    def counts(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives (R, G): weight of the positives and negatives at or above each distinct score, falling."""
        weight = np.asarray(weight, np.float64)
        if weight.ndim != 2 or weight.shape[1] != len(self._order):
            raise ValueError(f"got weights {weight.shape}, expected (R, {len(self._order)})")
        weight = weight[:, self._order]
        if not len(self._starts):
            return np.zeros((len(weight), 0)), np.zeros((len(weight), 0))
        positive = weight * self._positive
        groups = [positive, np.subtract(weight, positive, out=weight)]
        if len(self._starts) < weight.shape[1]:
            groups = [np.add.reduceat(group, self._starts, axis=1) for group in groups]
        true, false = (np.cumsum(group, axis=1, out=group) for group in groups)
        return true, false

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        true, false = self.counts(weight)
        if not true.shape[1]:
            return {name: np.full(len(true), np.nan) for name in NAMES}
        positives, negatives = true[:, -1], false[:, -1]
        both = (positives > 0) & (negatives > 0)
        called = np.searchsorted(-self.thresholds, -THRESHOLD, side="right") - 1   # the last group that is called positive
        hits, alarms = (true[:, called], false[:, called]) if called >= 0 else (0 * positives, 0 * negatives)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = (
                np.where(both, _area(true, false) / (positives * negatives), np.nan),
                np.where(both, _average_precision(true, false) / positives, np.nan),
                hits / positives,
                1 - alarms / negatives,
                np.where(positives > 0, 2 * hits / (hits + alarms + positives), np.nan),
                np.where(both, _highest_within(true, false, (1 - SPECIFICITY) * negatives) / positives, np.nan),
            )
        return dict(zip(NAMES, values, strict=True))


def _steps(counts: np.ndarray) -> np.ndarray:
    return np.diff(counts, axis=1, prepend=0)


def _area(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Pairs in which the positive scores higher, ties counted half (Hanley 1982, doi:10.1148/radiology.143.1.7063747)."""
    steps = _steps(true)
    return np.einsum("rg,rg->r", steps, false[:, -1:] - false) + np.einsum("rg,rg->r", steps, _steps(false)) / 2


def _average_precision(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Σ (hits of the group) × (precision at its threshold): a tied group is one step, whatever the order within it."""
    called = true + false
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    return np.einsum("rg,rg->r", _steps(true), precision)


def _highest_within(true: np.ndarray, false: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Most true positives at a threshold with at most `allowed` (R,) false ones; no threshold at all has none."""
    return np.where(false <= allowed[:, None] * (1 + 1e-9), true, 0).max(axis=1)
