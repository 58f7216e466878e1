"""Do probabilities say how often? Brier score, calibration error, slope and intercept. R rows of weights, N ears."""
import numpy as np
from scipy.special import expit, logit

BINS = 10
"""Of the calibration error, equally wide."""
NAMES = ("brier", "calibration_error", "calibration_slope", "calibration_intercept")
TINY = 1e-15
STEPS, HALVINGS = 12, 100
BEYOND = 40.0
"""No intercept lies farther beyond the surest logit: that would be the share of one ear among 10¹⁷."""
TOLERANCE = 1e-7
FARTHEST = 1e3
"""A slope beyond it is that of classes which a threshold separates: it has no value."""


def net_benefit(y_true: np.ndarray, probability: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """(T,), of acting on every ear with a probability of at least each threshold (T,) in 0 to 1: share of hits less share of
    false alarms × threshold / (1 − threshold) (Vickers 2006, doi:10.1177/0272989X06295361)."""
    y, called = np.asarray(y_true) == 1, np.asarray(probability) >= np.asarray(threshold)[:, None]
    odds = np.asarray(threshold) / (1 - np.asarray(threshold))
    gain: np.ndarray = (called & y).mean(1) - (called & ~y).mean(1) * odds
    return gain


class ReliabilityMeasures:
    """Called with weights (R, N) it returns each of NAMES as (R,).

    `brier`: mean squared distance of probability and outcome (Brier 1950). `calibration_error`: distance of mean probability
    and share of positives over BINS bins, weighted by ears (Naeini 2015): never below 0, so it is too high for few ears.
    `calibration_slope`: of the logistic regression of the outcome on the logit, 1 is right and below 1 too sure;
    `calibration_intercept`: of the same with the slope held at 1, 0 is right and above 0 means that probabilities are too low
    (Van Calster 2019, doi:10.1186/s12916-019-1466-7). Both are NaN where a class is missing, the slope also where a threshold
    separates the classes. y_true (N,) in {0, 1}; probability (N,) of the positive class, in 0 to 1. Raises ValueError
    otherwise.
    """

    def __init__(self, y_true: np.ndarray, probability: np.ndarray) -> None:
        y, p = np.asarray(y_true, np.float64), np.asarray(probability, np.float64)
        if y.shape != p.shape or y.ndim != 1 or not np.isin(y, (0, 1)).all() or not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f"got labels {y.shape} and probabilities {p.shape}, expected one of each an ear, in 0 to 1")
        place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        bins = np.zeros((len(p), BINS))
        bins[np.arange(len(p)), place] = p - y
        self._sums = np.column_stack([np.ones_like(p), (p - y) ** 2, bins])
        self._y, self._x = y, logit(np.clip(p, TINY, 1 - TINY))
        self._powers = np.column_stack([np.ones_like(p), self._x, self._x ** 2])
        one = np.ones((1, len(y)))
        self._line, self._intercept = self._fit_line(one, np.zeros(2))[0], self._fit_intercept(one, 0.0)[0]

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        weight = np.asarray(weight, np.float64)
        total, squares, *bins = (weight @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            brier, error = squares / total, np.abs(bins).sum(0) / total
        undefined = np.full(len(weight), np.nan)
        slope = self._fit_line(weight, self._line)[:, 1] if np.isfinite(self._line).all() else undefined
        intercept = self._fit_intercept(weight, self._intercept) if np.isfinite(self._intercept) else undefined
        return dict(zip(NAMES, (brier, error, slope, intercept), strict=True))

    def _fit_line(self, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Intercept and slope (R, 2) of each row's logistic regression, by Newton's steps from (2,)."""
        at = np.tile(start, (len(weight), 1))
        moving = self._of_both_classes(weight)
        lost = np.setdiff1d(np.arange(len(weight)), moving)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for _ in range(STEPS):
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
                at[moving[~(np.abs(at[moving]) < FARTHEST).all(1)]] = np.nan
                moving = moving[going & np.isfinite(at[moving]).all(1)]
        at[lost] = np.nan
        at[moving] = np.nan
        return at

    def _fit_intercept(self, weight: np.ndarray, start: float) -> np.ndarray:
        """(R,), with the slope held at 1: there is one wherever both classes are, however sure the probabilities. By Newton's
        steps, and where one leaves what is left between too low and too high, by halving that."""
        at, hits = np.full(len(weight), np.nan), weight @ self._y
        moving = self._of_both_classes(weight)
        at[moving] = start
        high = np.full(len(weight), np.abs(self._x).max(initial=0) + BEYOND)
        low = -high
        with np.errstate(invalid="ignore", divide="ignore"):
            for _ in range(HALVINGS):
                if not len(moving):
                    break
                now = at[moving]
                p = expit(now[:, None] + self._x)
                gain = hits[moving] - (weight[moving] * p).sum(1)                # falls as the intercept grows
                low[moving], high[moving] = np.where(gain > 0, now, low[moving]), np.where(gain < 0, now, high[moving])
                p *= 1 - p
                to = now + gain / (weight[moving] * p).sum(1)
                inside = (to > low[moving]) & (to < high[moving]) | (gain == 0)
                at[moving] = np.where(inside, to, (low[moving] + high[moving]) / 2)
                moving = moving[np.abs(at[moving] - now) > TOLERANCE]
        return at

    def _of_both_classes(self, weight: np.ndarray) -> np.ndarray:
        """Numbers of the rows in which both classes have weight."""
        return np.flatnonzero((weight @ self._y > 0) & (weight @ (1 - self._y) > 0))
