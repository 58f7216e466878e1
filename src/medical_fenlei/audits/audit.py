"""The answer to one audit question: a figure with its interval (patients resampled), a verdict and a sentence.

Audits need two classes: those of a binary task, or normal against all others.
"""
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from medical_fenlei.metrics.bootstrap import Interval
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import NORMAL

Verdict = Literal["ok", "look", "wrong", "undecided"]
"""ok: no sign of a fault. look: needs a look. wrong: the figures cannot be trusted. undecided: too few ears or exams."""
ENOUGH = 10
"""Fewest exams, or ears of a class, that decide a question."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The answer to one question."""

    question: str
    """The question in plain words."""

    figure: str
    """What the estimate measures."""

    estimate: float
    """The figure; NaN if undefined."""

    low: float = np.nan
    """Lower end of the 95 % interval; NaN if there is none."""

    high: float = np.nan
    """Upper end of the 95 % interval; NaN if there is none."""

    verdict: Verdict
    """The conclusion from the figure."""

    explanation: str
    """One plain sentence; the column `words` of `tables.AUDITS`."""

    @classmethod
    def undecided(cls, question: str, figure: str, reason: str) -> "Audit":
        """Return the answer to a question that these ears cannot decide."""
        return cls(question=question, figure=figure, estimate=np.nan, verdict="undecided", explanation=reason)

    @classmethod
    def from_interval(cls, question: str, figure: str, interval: Interval, verdict: Verdict, explanation: str) -> "Audit":
        """Return the answer with the estimate and the ends of an interval."""
        return cls(question=question, figure=figure, estimate=interval.estimate, low=interval.low, high=interval.high,
                   verdict=verdict, explanation=explanation)

    @property
    def summary(self) -> str:
        """The figure, its estimate with the interval, and the explanation, in one line."""
        interval = "" if np.isnan(self.low) else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.figure} {self.estimate:.3f}{interval}; {self.explanation}"

    def to_row(self) -> dict[str, object]:
        """Return the row of `tables.AUDITS`."""
        return {"question": self.question, "figure": self.figure, "estimate": self.estimate, "low": self.low,
                "high": self.high, "verdict": self.verdict, "words": self.explanation}


def binary_view(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return exam_id, side, patient_key, label_code, y (0 or 1) and score of the ears within the task.

    predictions: `tables.PREDICTIONS` of the task.
    """
    known = predictions[predictions.y_true != OUTSIDE].reset_index(drop=True)
    names = ["exam_id", "side", "patient_key", "label_code"]
    if task.binary:
        return known[names].assign(y=known.y_true.astype(int), score=known.y_prob)
    return known[names].assign(y=(known.label_code != NORMAL).astype(int), score=1 - known[f"prob_{NORMAL}"])
