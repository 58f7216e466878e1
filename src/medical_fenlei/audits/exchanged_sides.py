"""Are left and right exchanged, in all exams or in some: would the label of the other ear fit better?

In a one-sided exam (one positive and one negative ear) the positive ear should score higher. Limited skill alone lets the wrong
ear lead in some exams: in a share e, which is one minus the AUROC of the ears of exams whose ears agree, where nothing can be
exchanged. If a share q of the one-sided exams is exchanged, the wrong ear leads in q (1 − e) + (1 − q) e of them, which gives
q. Where too few exams agree, q is estimated from the distribution of the margins between the two ears
(`fit_mirrored_mixture`), if the margins are large enough; otherwise only the share of wrong leads is reported.
"""
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import logit

from medical_fenlei import tables
from medical_fenlei.audits.audit import Audit
from medical_fenlei.audits.auroc import weighted_auroc
from medical_fenlei.audits.verdicts import ENOUGH
from medical_fenlei.metrics.bootstrap import Interval, PatientBootstrap
from medical_fenlei.vocabulary import SIDES

QUESTION, FIGURE = "Are left and right exchanged?", "share of one-sided exams with exchanged sides"
FIGURE_WITHOUT_SKILL = "share of one-sided exams with a wrong lead"

MOST = 0.75
"""Share of exchanged exams that is most of them."""
SEPARABLE = 1.5
"""Standard deviations from 0 of the mean margin, above which exchanged exams can be distinguished from limited skill."""
TINY, ITERATIONS = 1e-6, 100
"""Of the mixture fit: the distance that shares, scores and spreads keep from their bounds; expectation-maximisation steps."""


def audit_sides(ears: pd.DataFrame, *, n_resamples: int) -> tuple[Audit, pd.DataFrame]:
    """Estimate how many one-sided exams have exchanged sides; list these exams, the most suspicious first.

    ears: `binary_view`. Returns the answer and a `tables.ONE_SIDED`.
    """
    exams, patients = ExamPairs.from_ears(ears), ears.patient_key.nunique()
    number = int(exams.one_sided.sum())
    if number < ENOUGH:
        reason = f"exams with one positive and one negative ear: {number}"
        return Audit.undecided(QUESTION, FIGURE, reason, patients=patients, found=number), exams.suspects()
    return _judged(_exchanged_share(exams, n_resamples), exams, patients), exams.suspects()


@dataclass(frozen=True, eq=False)
class ExamPairs:
    """N exams with both ears; the left ear is column 0, the right ear column 1."""

    exam_id: np.ndarray
    """Exam ids (N,)."""

    patient: np.ndarray
    """Patient keys (N,)."""

    y: np.ndarray
    """Labels in {0, 1} (N, 2)."""

    score: np.ndarray
    """Scores of the positive class (N, 2)."""

    @classmethod
    def from_ears(cls, ears: pd.DataFrame) -> "ExamPairs":
        """Return the exams of these ears (`binary_view`) that have both ears."""
        names = ["y", "score", "patient_key"]
        wide = ears.pivot(index="exam_id", columns="side", values=names)
        both = wide.reindex(columns=pd.MultiIndex.from_product([names, map(str, SIDES)])).dropna()
        y, score = (both[name].to_numpy(np.float64).reshape(-1, 2) for name in ("y", "score"))
        return cls(both.index.to_numpy(), both["patient_key"].to_numpy().reshape(-1, 2)[:, 0], y, score)

    @property
    def one_sided(self) -> np.ndarray:
        """Mask (N,) of the exams with one positive and one negative ear."""
        return self.y[:, 0] != self.y[:, 1]

    @property
    def agreeing(self) -> int:
        """Number of exams whose ears are both positive, or both negative, whichever is smaller."""
        return min(int((~self.one_sided & (self.y[:, 0] == c)).sum()) for c in (0, 1))

    @property
    def observations(self) -> np.ndarray:
        """What was observed of each exam (N, 4), for `PatientBootstrap`."""
        return np.column_stack([self.y, self.score])

    @property
    def margin(self) -> np.ndarray:
        """Logit of the score of the ear labelled positive minus that of the other ear, of the one-sided exams (M,)."""
        positive, other = (logit(np.clip(score, TINY, 1 - TINY)) for score in self._scores())
        return (positive - other)[self.one_sided]

    @property
    def wrong_lead(self) -> np.ndarray:
        """1.0 where the ear labelled negative scores higher, 0.5 for a tie, else 0.0, of the one-sided exams (M,)."""
        return np.where(self.margin < 0, 1.0, np.where(self.margin == 0, 0.5, 0.0))

    def suspects(self) -> pd.DataFrame:
        """Return the one-sided exams as a `tables.ONE_SIDED`, the smallest lead of the positive ear first."""
        positive, other = self._scores()
        table = pd.DataFrame({
            "exam_id": self.exam_id, "positive_side": np.where(self._left_is_positive, *map(str, SIDES)),
            "score_positive": positive, "score_other": other, "lead": positive - other})
        return tables.ONE_SIDED.frame(table[self.one_sided].sort_values("lead", kind="stable"))

    @property
    def _left_is_positive(self) -> np.ndarray:
        return self.y[:, 0] > self.y[:, 1]

    def _scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the positive and of the other ear (N,); meaningful for one-sided exams."""
        left, right = self.score.T
        return np.where(self._left_is_positive, left, right), np.where(self._left_is_positive, right, left)


@dataclass(frozen=True)
class _Share:
    """A share of the one-sided exams."""

    interval: Interval
    identified: bool
    """Whether it is the share of exchanged exams; otherwise that of wrong leads, for which limited skill may be the reason."""


def _exchanged_share(exams: ExamPairs, n_resamples: int) -> _Share:
    margin, wrong = exams.margin, exams.wrong_lead
    if exams.agreeing >= ENOUGH and wrong.any():
        return _Share(_share_beyond_skill(exams, n_resamples), identified=True)
    _, separation = fit_mirrored_mixture(margin, np.ones((1, len(margin))))
    identified = bool(separation[0] > SEPARABLE)
    one_sided = PatientBootstrap(patient=exams.patient[exams.one_sided], observations=exams.observations[exams.one_sided],
                                 n_resamples=n_resamples)
    if identified and wrong.any():
        found = one_sided.intervals(lambda weight: {"share": fit_mirrored_mixture(margin, weight)[0]})
    else:
        found = one_sided.intervals(lambda weight: {"share": _mean(wrong, weight)})
    return _Share(found.values["share"], identified)


def _share_beyond_skill(exams: ExamPairs, n_resamples: int) -> Interval:
    """The share q of exchanged exams (see the module), from the wrong leads and the AUROC of the exams whose ears agree."""
    agree, wrong = ~exams.one_sided, exams.wrong_lead
    skill = weighted_auroc(exams.y[agree].ravel(), exams.score[agree].ravel())

    def share(weight: np.ndarray) -> dict[str, np.ndarray]:
        error = 1 - skill(np.repeat(weight[:, agree], 2, axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"share": (_mean(wrong, weight[:, ~agree]) - error) / (1 - 2 * error)}

    bootstrap = PatientBootstrap(patient=exams.patient, observations=exams.observations, n_resamples=n_resamples)
    return bootstrap.intervals(share, scales={"share": "identity"}).values["share"]


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted means (R,) of values (M,) for weights (R, M)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: np.ndarray = weight @ values / weight.sum(1)
        return mean


def _judged(share: _Share, exams: ExamPairs, patients: int) -> Audit:
    """The answer for a share that was measured on these exams; patients: of all audited ears."""
    interval, wrong = share.interval, exams.wrong_lead
    told = f"in {wrong.mean():.0%} of {len(wrong)} one-sided exams the ear labelled healthier scores higher"
    if not share.identified:
        told += "; that may be limited skill or exchanged sides"
    if interval.high < 0:
        told += ", even fewer than limited skill would give"
    exchanged = f"{told}: left and right are exchanged in " + ("most of them" if interval.estimate > MOST else "some of them")
    figure, thresholds = (FIGURE, "exchanged sides") if share.identified else (FIGURE_WITHOUT_SKILL, "wrong leads")
    found = Audit.from_interval(QUESTION, figure, interval, thresholds=thresholds, patients=patients, explanation={
        "ok": told, "look": told, "undecided": told, "wrong": exchanged})
    clipped = _clipped(interval)
    return replace(found, estimate=clipped.estimate, low=clipped.low, high=clipped.high)


def _clipped(interval: Interval) -> Interval:
    """The interval within 0 to 1, which an estimate by subtraction can leave."""
    estimate, low, high = (float(np.clip(value, 0, 1)) for value in interval[:3])
    return Interval(estimate, low, high, interval.reason)


def fit_mirrored_mixture(margin: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a normal distribution and its mirror image at 0 to margins (M,) by expectation-maximisation.

    weight (R, M): one fit per row. Returns the share of the mirror image (R,), and the distance of the mean from 0 in standard
    deviations (R,).
    """
    total = weight.sum(1)
    mean, spread = weight @ np.abs(margin) / total, 0.6 * np.sqrt(weight @ margin**2 / total) + TINY
    share = np.clip(weight @ (margin < 0) / total, 0.02, 0.98)
    for _ in range(ITERATIONS):
        odds = np.exp(np.clip(2 * mean[:, None] * margin / spread[:, None] ** 2, -50, 50)) * ((1 - share) / share)[:, None]
        mirrored = weight / (1 + odds)
        share = np.clip(mirrored.sum(1) / total, TINY, 1 - TINY)
        mean = np.abs((weight * margin - 2 * mirrored * margin).sum(1) / total)
        spread = np.sqrt(np.maximum(weight @ margin**2 / total - mean**2, 0)) + TINY
    return share, mean / spread
