"""Do probabilities say how often? Brier score, calibration error, slope and intercept. R rows of weights, N ears."""
import numpy as np
from scipy.special import expit, logit

BINS = 10
"""Of the calibration error, equally wide."""
NAMES = ("brier", "calibration_error", "calibration_slope", "calibration_intercept")
TINY = 1e-15
STEPS = 12
TOLERANCE = 1e-7
FARTHEST = 1e3
"""A slope or intercept beyond it is that of classes which a threshold separates: it has no value."""


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
    (Van Calster 2019, doi:10.1186/s12916-019-1466-7). The last two are NaN where a class is missing or a threshold separates
    the classes. y_true (N,) in {0, 1}; probability (N,) of the positive class, in 0 to 1. Raises ValueError otherwise.
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
        self._slope, self._intercept = ((start[0] if np.isfinite(start).all() else None) for start in (
            self._fit(one, np.zeros(2), free=2), self._fit(one, np.array([0.0, 1.0]), free=1)))

    def __call__(self, weight: np.ndarray) -> dict[str, np.ndarray]:
        weight = np.asarray(weight, np.float64)
        total, squares, *bins = (weight @ self._sums).T
        with np.errstate(invalid="ignore", divide="ignore"):
            brier, error = squares / total, np.abs(bins).sum(0) / total
        undefined = np.full(len(weight), np.nan)
        slope = undefined if self._slope is None else self._fit(weight, self._slope, free=2)[:, 1]
        intercept = undefined if self._intercept is None else self._fit(weight, self._intercept, free=1)[:, 0]
        return dict(zip(NAMES, (brier, error, slope, intercept), strict=True))

    def _fit(self, weight: np.ndarray, start: np.ndarray, *, free: int) -> np.ndarray:
        """Intercept and slope (R, 2) of each row's logistic regression, by Newton's steps from (2,); the first `free` move."""
        at = np.tile(start, (len(weight), 1))
        moving = np.flatnonzero((weight @ self._y > 0) & (weight @ (1 - self._y) > 0))
        lost = np.setdiff1d(np.arange(len(weight)), moving)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            for _ in range(STEPS):
                if not len(moving):
                    break
                w, now = weight[moving], at[moving]
                p = expit(now[:, :1] + now[:, 1:] * self._x)
                slope = (w * (self._y - p)) @ self._powers[:, :free]
                p *= 1 - p
                p *= w
                a, b, c = (p @ self._powers[:, :2 * free - 1]).T if free == 2 else (p.sum(1), 0.0, 1.0)
                step = np.zeros_like(now)
                if free == 2:
                    ground = a * c - b * b
                    step[:, 0] = (c * slope[:, 0] - b * slope[:, 1]) / ground
                    step[:, 1] = (a * slope[:, 1] - b * slope[:, 0]) / ground
                else:
                    step[:, 0] = slope[:, 0] / a
                at[moving] = now + step
                going = np.abs(step).max(1) > TOLERANCE
                at[moving[~(np.abs(at[moving]) < FARTHEST).all(1)]] = np.nan
                moving = moving[going & np.isfinite(at[moving]).all(1)]
        at[lost] = np.nan
        at[moving] = np.nan
        return at
