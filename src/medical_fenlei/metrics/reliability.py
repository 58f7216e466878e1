"""Calibration measures: Brier score, calibration error, slope, intercept, net benefit. R rows of weights, N ears."""
import numpy as np
from scipy.special import expit, logit

BINS = 10
"""Number of equally wide bins of the calibration error."""
NAMES = ("brier", "calibration_error", "calibration_slope", "calibration_intercept")
TINY = 1e-15
"""Distance that probabilities keep from 0 and 1, where a logit is infinite."""
NEWTON_STEPS, BISECTION_STEPS = 12, 100
TOLERANCE = 1e-7
"""Change of a coefficient below which a fit has converged."""
BRACKET = 40.0
"""Bound of an intercept beyond the most confident logit: a share of one ear in 10¹⁷."""
MAX_COEFFICIENT = 1e3
"""Coefficients beyond it mean that a threshold separates the classes: the slope is undefined."""


def net_benefit(y_true: np.ndarray, probability: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Return the net benefit (T,) of treating every ear with a probability of at least each threshold (T,), in 0 to 1.

    It is the share of true positives less the share of false positives × threshold / (1 − threshold) (Vickers 2006,
    doi:10.1177/0272989X06295361).
    """
    y, predicted = np.asarray(y_true) == 1, np.asarray(probability) >= np.asarray(threshold)[:, None]
    odds = np.asarray(threshold) / (1 - np.asarray(threshold))
    benefit: np.ndarray = (predicted & y).mean(1) - (predicted & ~y).mean(1) * odds
    return benefit


class ReliabilityMeasures:
    """The measures NAMES of the probabilities of one class; called with weights (R, N), it returns each as (R,).

    `brier`: mean squared difference of probability and outcome (Brier 1950). `calibration_error`: absolute difference of mean
    probability and share of positives over BINS bins, weighted by ears (Naeini 2015); it is never negative, so it is biased
    upwards with few ears. `calibration_slope`: slope of the logistic regression of the outcome on the logit; 1 is ideal, below
    1 the probabilities are overconfident. `calibration_intercept`: intercept of the same regression with the slope fixed at 1;
    0 is ideal, above 0 the probabilities are too low (Van Calster 2019, doi:10.1186/s12916-019-1466-7). Both are NaN where a
    class is missing, the slope also where a threshold separates the classes.

    y_true (N,) in {0, 1}; probability (N,) of the positive class, in 0 to 1. Raises ValueError otherwise.
    """

    def __init__(self, y_true: np.ndarray, probability: np.ndarray) -> None:
        y, p = np.asarray(y_true, np.float64), np.asarray(probability, np.float64)
        if y.shape != p.shape or y.ndim != 1 or not np.isin(y, (0, 1)).all() or not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"got labels {y.shape} and probabilities {p.shape}, expected (N,) for both, in 0 to 1")
        bin_of = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        bins = np.zeros((len(p), BINS))
        bins[np.arange(len(p)), bin_of] = p - y
        self._sums = np.column_stack([np.ones_like(p), (p - y) ** 2, bins])
        self._y, self._x = y, logit(np.clip(p, TINY, 1 - TINY))
        self._powers = np.column_stack([np.ones_like(p), self._x, self._x ** 2])
        one = np.ones((1, len(y)))
        self._line, self._intercept = self._fit_line(one, np.zeros(2))[0], self._fit_intercept(one, 0.0)[0]

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        """Return each of NAMES (R,) for weights (R, N)."""
        weight = np.asarray(weight, np.float64)
        total, squares, *bins = (weight @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            brier, error = squares / total, np.abs(bins).sum(0) / total
        undefined = np.full(len(weight), np.nan)
        slope = self._fit_line(weight, self._line)[:, 1] if np.isfinite(self._line).all() else undefined
        intercept = self._fit_intercept(weight, self._intercept) if np.isfinite(self._intercept) else undefined
        return dict(zip(NAMES, (brier, error, slope, intercept), strict=True))

    def _fit_line(self, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Intercept and slope (R, 2) of each row's logistic regression, by Newton's method from `start` (2,)."""
        at = np.tile(start, (len(weight), 1))
        moving = self._of_both_classes(weight)
        undefined = np.setdiff1d(np.arange(len(weight)), moving)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for _ in range(NEWTON_STEPS):
                if not len(moving):
                    break
                w, now = weight[moving], at[moving]
                p = expit(now[:, :1] + now[:, 1:] * self._x)
                gain = (w * (self._y - p)) @ self._powers[:, :2]
                p *= 1 - p
                p *= w
                a, b, c = (p @ self._powers).T
                step = np.column_stack([c * gain[:, 0] - b * gain[:, 1], a * gain[:, 1] - b * gain[:, 0]])
                step /= (a * c - b * b)[:, None]
                at[moving] = now + step
                going = np.abs(step).max(1) > TOLERANCE
                at[moving[~(np.abs(at[moving]) < MAX_COEFFICIENT).all(1)]] = np.nan
                moving = moving[going & np.isfinite(at[moving]).all(1)]
        at[undefined] = np.nan
        at[moving] = np.nan                                      # not converged
        return at

    def _fit_intercept(self, weight: np.ndarray, start: float) -> np.ndarray:
        """Intercept (R,) with the slope fixed at 1; NaN where a class is missing.

        Newton's method; a step that leaves the bracket is replaced by a bisection of it.
        """
        at, positives = np.full(len(weight), np.nan), weight @ self._y
        moving = self._of_both_classes(weight)
        at[moving] = start
        high = np.full(len(weight), np.abs(self._x).max(initial=0) + BRACKET)
        low = -high
        with np.errstate(invalid="ignore", divide="ignore"):
            for _ in range(BISECTION_STEPS):
                if not len(moving):
                    break
                now = at[moving]
                p = expit(now[:, None] + self._x)
                gain = positives[moving] - (weight[moving] * p).sum(1)                # falls as the intercept grows
                low[moving], high[moving] = np.where(gain > 0, now, low[moving]), np.where(gain < 0, now, high[moving])
                p *= 1 - p
                to = now + gain / (weight[moving] * p).sum(1)
                inside = (to > low[moving]) & (to < high[moving]) | (gain == 0)
                at[moving] = np.where(inside, to, (low[moving] + high[moving]) / 2)
                moving = moving[np.abs(at[moving] - now) > TOLERANCE]
        return at

    def _of_both_classes(self, weight: np.ndarray) -> np.ndarray:
        """Indices of the rows in which both classes have weight."""
        return np.flatnonzero((weight @ self._y > 0) & (weight @ (1 - self._y) > 0))
