"""Are left and right exchanged, in all exams or in some: would the other ear's label fit better?"""
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.special import logit

from medical_fenlei import tables
from medical_fenlei.audits.checks import ENOUGH, Audit, Verdict
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Interval, patient_intervals
from medical_fenlei.metrics.predictions import SEED
from medical_fenlei.vocabulary import SIDES

SOME, EXCHANGED = 0.02, 0.1
"""Share of one-sided exams whose sides look exchanged, at the interval's lower end, that deserves a look, and that is neither
chance nor taste."""
TOLD_APART = 1.5
"""Deviations that the mean lead lies from 0, from where exchanged exams can be told from want of skill."""
LEAST, STEPS = 1e-6, 100


def exchanged_sides(ears: pd.DataFrame, *, draws: int) -> tuple[Audit, pd.DataFrame]:
    """Would the other ear's label fit better? And the exams whose ears differ, the most suspicious first (`tables.ONE_SIDED`).

    In an exam with one positive and one negative ear the positive one should score higher: it leads. How often it does not, for
    want of skill alone, is read from exams whose ears agree, where nothing can be exchanged: e, one minus their AUROC. With a
    share q of exchanged exams the wrong ear leads in q (1 − e) + (1 − q) e of them, so q follows. Where too few exams agree, q
    is the weight of the mirrored half in a mixture of two normal distributions of the leads (`mirrored`), as far as these are
    apart; else only the share of wrong leads can be told. ears: `binary_view`.
    """
    wide = ears.pivot(index="exam_id", columns="side", values=["y", "score", "patient_key"])
    both = wide.reindex(columns=pd.MultiIndex.from_product([["y", "score", "patient_key"], map(str, SIDES)])).dropna()
    question, figure = "Are left and right exchanged?", "share of one-sided exams with exchanged sides"
    y, score = (both[name].to_numpy(np.float64).reshape(-1, 2) for name in ("y", "score"))
    patient = both["patient_key"].to_numpy().reshape(-1, 2)[:, 0]
    one_sided, left = y[:, 0] != y[:, 1], y[:, 0] > y[:, 1]
    positive, other = np.where(left, score[:, 0], score[:, 1]), np.where(left, score[:, 1], score[:, 0])
    suspects = pd.DataFrame({
        "exam_id": both.index, "positive_side": np.where(left, *map(str, SIDES)), "score_positive": positive,
        "score_other": other, "lead": positive - other})[one_sided].sort_values("lead", kind="stable")
    listed, number = tables.ONE_SIDED.frame(suspects), int(one_sided.sum())
    if number < ENOUGH:
        return Audit(question, figure, np.nan, np.nan, np.nan, "undecided",
                     f"only {number} exams have one positive and one negative ear"), listed
    apart = logit(np.clip(positive, LEAST, 1 - LEAST)) - logit(np.clip(other, LEAST, 1 - LEAST))
    content = np.column_stack([y, score])
    wrong = np.where(apart < 0, 1.0, np.where(apart == 0, 0.5, 0.0))[one_sided]
    words = f"in {wrong.mean():.0%} of {number} one-sided exams the ear labelled healthier scores higher"
    agreeing = min(int((~one_sided & (y[:, 0] == c)).sum()) for c in (0, 1))

    def of_one_sided(measure: Callable[[np.ndarray], np.ndarray]) -> Interval:
        return patient_intervals(lambda weight: {"share": measure(weight)}, patient[one_sided], content[one_sided], seed=SEED,
                                 draws=draws).values["share"]

    def led(weight: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            found: np.ndarray = weight @ wrong / weight.sum(1)
            return found

    if agreeing >= ENOUGH and wrong.any():
        skill = BinaryMeasures(y[~one_sided].ravel(), score[~one_sided].ravel())

        def beyond_chance(weight: np.ndarray) -> dict[str, np.ndarray]:
            error = 1 - skill(np.repeat(weight[:, ~one_sided], 2, axis=1))["auroc"]
            with np.errstate(invalid="ignore", divide="ignore"):
                return {"share": (led(weight[:, one_sided]) - error) / (1 - 2 * error)}

        i = patient_intervals(beyond_chance, patient, content, seed=SEED, draws=draws, unbounded=("share",)).values["share"]
        told = True
    else:
        leads = apart[one_sided]
        told = bool(mirrored(leads, np.ones((1, number)))[1][0] > TOLD_APART)
        i = of_one_sided(lambda weight: mirrored(leads, weight)[0]) if told and wrong.any() else of_one_sided(led)
        if not told:
            figure = "share of one-sided exams with a wrong lead"
            words += "; that may be want of skill or exchanged sides"
    if np.isnan(i.low):
        verdict: Verdict = "undecided"
    elif i.low > (EXCHANGED if told else 0.5):
        verdict = "wrong"
        words += ": labels or geometry are crossed in " + ("most" if i.estimate > 0.75 else "some of them")
    else:
        verdict = "look" if i.high > 0.5 or i.low > (SOME if told else EXCHANGED) else "ok"
    if i.high < 0:
        words += ", even more seldom than want of skill gives"
    return Audit(question, figure, *_within(i), verdict, words), listed


def mirrored(lead: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of leads (N,), for each row of weights (R, N): the share that a normal distribution mirrored at 0 has in a mixture with
    the one that it mirrors (R,), and how many deviations their mean lies from 0 (R,). By expectation and maximisation."""
    total = weight.sum(1)
    mean, spread = weight @ np.abs(lead) / total, 0.6 * np.sqrt(weight @ lead**2 / total) + LEAST
    share = np.clip(weight @ (lead < 0) / total, 0.02, 0.98)
    for _ in range(STEPS):
        odds = np.exp(np.clip(2 * mean[:, None] * lead / spread[:, None] ** 2, -50, 50)) * ((1 - share) / share)[:, None]
        turned = weight / (1 + odds)
        share = np.clip(turned.sum(1) / total, LEAST, 1 - LEAST)
        mean = np.abs((weight * lead - 2 * turned * lead).sum(1) / total)
        spread = np.sqrt(np.maximum(weight @ lead**2 / total - mean**2, 0)) + LEAST
    return share, mean / spread


def _within(i: Interval) -> tuple[float, float, float]:
    """A share cannot leave 0 to 1, though its estimate by subtraction can."""
    estimate, low, high = (float(np.clip(value, 0, 1)) for value in i[:3])
    return estimate, low, high
