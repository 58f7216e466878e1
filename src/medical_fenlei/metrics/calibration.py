"""Probabilities that mean what they say, and thresholds to decide at. N ears, C classes.

Both are fitted on one set and applied to others; which set that may be is not decided here.
"""
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

PRIOR = 0.5
"""Standard deviation, around 0, of the logarithm of the temperature that is expected before an ear is seen: 0.4 to 2.7 in 95 of
100 networks."""
ENDS = (-4.0, 4.0)
"""Logarithms of the temperatures between which one is sought."""
TINY = 1e-15
"""Probabilities are kept so far from 0 and 1, where a logit has no value."""
HALF, YOUDEN, AT_SPECIFICITY = "half", "youden", "specificity_95"


def tempered(probability: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities (N, C) of logits divided by the temperature (Guo 2017, arXiv:1706.04599): above 1 they are less sure.

    Neither the order of ears by a binary score nor the most probable class changes.
    """
    safe = np.clip(np.asarray(probability, np.float64), TINY, 1 - TINY)
    if safe.shape[1] == 2:
        positive = expit(logit(safe[:, 1]) / temperature)
        return np.column_stack([1 - positive, positive])
    each: np.ndarray = softmax(np.log(safe) / temperature, axis=1)
    return each


def fit_temperature(probability: np.ndarray, y_true: np.ndarray) -> float:
    """The temperature that is most likely by these labels (N,) and by PRIOR; NaN of one class only.

    By the labels alone a few ears that are told apart without a mistake would be the surer the better, and those of a tune set
    nearly so. The more ears, the less the prior counts. probability (N, C), of the network as it is. Raises ValueError for
    other shapes.
    """
    probability, y_true = np.asarray(probability, np.float64), np.asarray(y_true)
    if probability.ndim != 2 or y_true.shape != probability.shape[:1]:
        raise ValueError(f"got probabilities {probability.shape} and labels {y_true.shape}, expected (N, C) and (N,)")
    log = np.log(np.clip(probability, TINY, 1 - TINY))

    def surprise(log_temperature: float) -> float:
        of_labels = log_softmax(log / np.exp(log_temperature), axis=1)[np.arange(len(y_true)), y_true].sum()
        return 0.5 * (log_temperature / PRIOR) ** 2 - float(of_labels)

    if len(np.unique(y_true)) < 2:
        return float("nan")
    found = minimize_scalar(surprise, bounds=ENDS, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def operating_points(score: np.ndarray, y_true: np.ndarray, *, sensitivity: float) -> dict[str, float]:
    """Thresholds by name; a score at or above one is called positive.

    `half` 0.5; `youden` the greatest sensitivity + specificity (Youden 1950), the nearest to 0.5 of several; `specificity_95`
    the lowest with a specificity of at least 0.95; `sensitivity_<percent>` the highest with at least the wanted sensitivity.
    Each lies midway between two scores of these ears, or beyond the last. score (N,) in 0 to 1, y_true (N,) in {0, 1}, both
    there; raises ValueError otherwise.
    """
    score, positive = np.asarray(score, np.float64), np.asarray(y_true) == 1
    if score.shape != positive.shape or not 0 < positive.sum() < len(positive):
        raise ValueError(f"got {positive.sum()} positive of {len(positive)} ears, expected some of both classes")
    if not 0 < sensitivity <= 1:
        raise ValueError(f"got a sensitivity of {sensitivity}, expected above 0, at most 1")
    distinct = np.unique(score)
    threshold = np.concatenate([[0.0], (distinct[1:] + distinct[:-1]) / 2, [(distinct[-1] + 1) / 2]])
    hits = (score[positive] >= threshold[:, None]).mean(1)
    passed = (score[~positive] < threshold[:, None]).mean(1)
    index = hits + passed
    best = threshold[index >= index.max() - 1e-12]
    return {
        HALF: 0.5, YOUDEN: float(best[np.abs(best - 0.5).argmin()]),
        AT_SPECIFICITY: float(threshold[passed >= 0.95 - 1e-12].min()),
        f"sensitivity_{100 * sensitivity:g}": float(threshold[hits >= sensitivity - 1e-12].max()),
    }
