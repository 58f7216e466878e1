"""Temperature scaling and operating points. N ears, C classes.

Both are fitted on one set and applied to others; the caller chooses the set.
"""
import numpy as np
from scipy.special import expit, log_softmax, logit, softmax

PRIOR = 0.5
"""Standard deviation of the normal prior of the log temperature, around 0: 95 % of temperatures lie between 0.4 and 2.7."""
SEARCH_RANGE = (-4.0, 4.0)
"""Log temperatures between which the optimum is sought."""
TINY = 1e-15
"""Distance that probabilities keep from 0 and 1, where a logit is infinite."""
HALF, YOUDEN, AT_SPECIFICITY, PREVALENCE = "half", "youden", "specificity_95", "prevalence"
"""Names of operating points. PREVALENCE: the share of positive ears in the training set, for a network that it was not balanced
for; where a threshold cannot be chosen it does for such a network what HALF does for others."""

SENSITIVITY = 0.95
"""Sensitivity that one of the operating points has, where no other is asked for."""


def tempered(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities (N, C) with their logits divided by the temperature (Guo 2017, arXiv:1706.04599).

    A temperature above 1 makes them less confident. Neither the order of ears by a binary score nor the most probable class
    changes.
    """
    safe = np.clip(np.asarray(probability, np.float64), TINY, 1 - TINY)
    if safe.shape[1] == 2:
        positive = expit(logit(safe[:, 1]) / temperature)
        return np.column_stack([1 - positive, positive])
    each: np.ndarray = softmax(np.log(safe) / temperature, axis=1)
    return each


def fit_temperature(probability: np.ndarray, y_true: np.ndarray) -> float:
    """Return the maximum a posteriori temperature for these labels (N,) under PRIOR; NaN if only one class occurs.

    Without a prior, perfectly separated ears would drive the temperature to 0, as the few ears of a tune set nearly do. The
    more ears, the less the prior matters. probability (N, C): uncalibrated. Raises ValueError for other shapes.
    """
    probability, y_true = np.asarray(probability, np.float64), np.asarray(y_true)
    if probability.ndim != 2 or y_true.shape != probability.shape[:1]:
        raise ValueError(f"got probabilities {probability.shape} and labels {y_true.shape}, expected (N, C) and (N,)")
    log = np.log(np.clip(probability, TINY, 1 - TINY))

    def negative_log_posterior(log_temperature: float) -> float:
        log_likelihood = log_softmax(log / np.exp(log_temperature), axis=1)[np.arange(len(y_true)), y_true].sum()
        return 0.5 * (log_temperature / PRIOR) ** 2 - float(log_likelihood)

    if len(np.unique(y_true)) < 2:
        return float("nan")
    from scipy.optimize import minimize_scalar  # slow to import

    found = minimize_scalar(negative_log_posterior, bounds=SEARCH_RANGE, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def operating_points(score: np.ndarray, y_true: np.ndarray, *, sensitivity: float) -> dict[str, float]:
    """Return thresholds by name; a score at or above the threshold is predicted positive.

    `half`: 0.5. `youden`: the threshold with the greatest sensitivity + specificity (Youden 1950), the nearest to 0.5 of
    several. `specificity_95`: the lowest with a specificity of at least 0.95. `sensitivity_<percent>`: the highest with at
    least the given sensitivity. All but `half` lie midway between two scores of these ears, or as far beyond the lowest or the
    highest as midway to the next one: a threshold never leaves the range of scores that the ears have.
    score (N,) in 0 to 1; y_true (N,) in {0, 1}. Raises ValueError if a class is missing or an argument is out of range.
    """
    score, positive = np.asarray(score, np.float64), np.asarray(y_true) == 1
    if score.shape != positive.shape or not 0 < positive.sum() < len(positive):
        raise ValueError(f"got {positive.sum()} positive ears among {len(positive)}, expected ears of both classes")
    if not 0 < sensitivity <= 1:
        raise ValueError(f"got a sensitivity of {sensitivity}, expected above 0 and at most 1")
    score = np.minimum(score, np.nextafter(1, 0))                # so that there is a threshold above it
    distinct = np.unique(score)
    half = np.diff(distinct) / 2 if len(distinct) > 1 else np.zeros(1)
    threshold = np.clip([distinct[0] - half[0], *(distinct[1:] + distinct[:-1]) / 2, distinct[-1] + half[-1]], 0, 1)
    threshold[-1] = max(threshold[-1], np.nextafter(distinct[-1], 1))    # above it, also where all scores are alike
    sensitivities = (score[positive] >= threshold[:, None]).mean(1)
    specificities = (score[~positive] < threshold[:, None]).mean(1)
    index = sensitivities + specificities
    best = threshold[index >= index.max() - 1e-12]
    return {
        HALF: 0.5, YOUDEN: float(best[np.abs(best - 0.5).argmin()]),
        AT_SPECIFICITY: float(threshold[specificities >= 0.95 - 1e-12].min()),
        f"sensitivity_{100 * sensitivity:g}": float(threshold[sensitivities >= sensitivity - 1e-12].max()),
    }
