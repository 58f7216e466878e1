"""How well scores tell two classes apart, and how good the decisions are. R rows of weights, N ears, G distinct scores.

Every number follows from how much weight of each class lies at or above each distinct score, so the ears are sorted once, and
all rows of weights are counted together. Undefined is NaN: a row that leaves one class without weight has no ranking.
"""
import numpy as np

THRESHOLD = 0.5
"""A score at or above it is called positive, where nothing else was fitted."""
WANTED = 0.95
"""The specificity at which `sensitivity_at_95_specificity` is read, and the sensitivity of the reverse."""
RANKING = ("auroc", "auprc", "sensitivity_at_95_specificity", "specificity_at_95_sensitivity")
DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "f1", "balanced_accuracy", "accuracy")
NAMES = ("auroc", "auprc", *DECISIONS, *RANKING[2:])


class BinaryMeasures:
    """Called with weights (R, N), at least 0, it returns each of NAMES as (R,).

    y_true (N,) in {0, 1}; y_score (N,) finite, higher is more positive; called (N,) bool, which ears are called positive (by
    default those with a score of THRESHOLD or more). Raises ValueError otherwise.
    """

    def __init__(self, y_true: np.ndarray, y_score: np.ndarray, called: np.ndarray | None = None) -> None:
        y_true, y_score = np.asarray(y_true), np.asarray(y_score, np.float64)
        called = y_score >= THRESHOLD if called is None else np.asarray(called, bool)
        if y_true.shape != y_score.shape or y_true.ndim != 1 or called.shape != y_true.shape:
            raise ValueError(f"got {y_true.shape} labels, {y_score.shape} scores, {called.shape} decisions, expected one of "
                             "each an ear")
        if not np.isin(y_true, (0, 1)).all() or not np.isfinite(y_score).all():
            raise ValueError("labels have to be 0 or 1, and scores finite")
        self._order = np.argsort(-y_score, kind="stable")
        falling = y_score[self._order]
        self._starts = np.flatnonzero(np.diff(falling, prepend=np.nan) != 0)     # first place of each tied group
        self.thresholds = falling[self._starts]
        self._positive = y_true[self._order].astype(np.float64)
        self._cells = np.column_stack([y_true * called, (1 - y_true) * called, y_true, 1 - y_true]).astype(np.float64)

    def counts(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives (R, G): weight of the positives and negatives at or above each distinct score, falling."""
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
        found = {**self._ranking(weight), **self.decided(weight)}
        return {name: found[name] for name in NAMES}

    def decided(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Only DECISIONS."""
        return decisions(*(self._checked(weight) @ self._cells).T)

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
                _highest_within(true, false, (1 - WANTED) * negatives) / positives,
                1 - _lowest_reaching(false, true, WANTED * positives) / negatives,
            )
            return {name: np.where(both, value, np.nan) for name, value in zip(RANKING, values, strict=True)}


def decisions(
    hits: np.ndarray, alarms: np.ndarray, positives: np.ndarray, negatives: np.ndarray
) -> dict[str, np.ndarray]:
    """Each of DECISIONS (R,), from the weight (R,) of positives and negatives, and of those called positive among either."""
    called, passed, misses = hits + alarms, negatives - alarms, positives - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = hits / positives, passed / negatives
        return {
            "sensitivity": sensitivity, "specificity": specificity, "ppv": hits / called, "npv": passed / (passed + misses),
            "f1": np.where(positives > 0, 2 * hits / (called + positives), np.nan),
            "balanced_accuracy": (sensitivity + specificity) / 2, "accuracy": (hits + passed) / (positives + negatives),
        }


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


def _lowest_reaching(false: np.ndarray, true: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Fewest false positives at a threshold with at least `wanted` (R,) true ones."""
    return np.where(true >= wanted[:, None] * (1 - 1e-9), false, np.inf).min(axis=1)
