"""The answer to one audit question: a figure with its interval (patients resampled), a verdict and a sentence.

Audits need two classes: those of a binary task, or normal against all others.
"""
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medical_fenlei.audits.verdicts import ENOUGH, THRESHOLDS, Verdict
from medical_fenlei.metrics.bootstrap import Interval
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import NORMAL


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

    patients_to_decide: int | None = None
    """How many patients like these would decide an undecided question; None if it is decided, or if that is unknown."""

    @classmethod
    def undecided(cls, question: str, figure: str, reason: str, *, patients: int, found: int) -> "Audit":
        """Return the answer to a question that these ears cannot decide at all.

        found: how many of the ENOUGH exams, or ears of a class, these patients have.
        """
        needed = int(np.ceil(patients * ENOUGH / found)) if found else None
        more = f"; about {needed} patients like the {patients} here would be enough" if needed else ""
        return cls(question=question, figure=figure, estimate=np.nan, verdict="undecided", explanation=reason + more,
                   patients_to_decide=needed)

    @classmethod
    def from_interval(
        cls, question: str, figure: str, interval: Interval, *, thresholds: str, patients: int,
        explanation: str | Mapping[Verdict, str], needed: int | None = None,
    ) -> "Audit":
        """Return the answer that an interval from these patients gives.

        thresholds: their name in THRESHOLDS; explanation: one for every verdict, or by verdict; needed: how many patients would
        decide, where the width of the interval does not tell.
        """
        law = THRESHOLDS[thresholds]
        verdict = law.verdict(interval.low, interval.high)
        words = explanation if isinstance(explanation, str) else explanation.get(verdict, "")
        needed = (needed or law.patients_to_decide(patients, interval.low, interval.high)) if verdict == "undecided" else None
        if np.isnan(interval.low):
            words = "; ".join(filter(None, (words, interval.reason)))
        elif verdict == "undecided":
            beyond = f"{'more' if law.tolerable > law.sound else 'less'} than {law.tolerable:g}"
            words = "; ".join(filter(None, (words, f"neither {law.sound:g} (no fault) nor {beyond} is excluded")))
            words += f"; about {needed} patients like these {patients} would decide" if needed else ""
        return cls(question=question, figure=figure, estimate=interval.estimate, low=interval.low, high=interval.high,
                   verdict=verdict, explanation=words, patients_to_decide=needed)

    @property
    def summary(self) -> str:
        """The figure, its estimate with the interval, each where there is one, and the explanation, in one line."""
        estimate = "–" if np.isnan(self.estimate) else f"{self.estimate:.3f}"
        interval = "" if np.isnan(self.low) else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.figure} {estimate}{interval}; {self.explanation}"

    def to_row(self) -> dict[str, object]:
        """Return the row of `tables.AUDITS`."""
        return {"question": self.question, "figure": self.figure, "estimate": self.estimate, "low": self.low,
                "high": self.high, "verdict": self.verdict, "patients_to_decide": self.patients_to_decide,
                "words": self.explanation}


def fewest_of_a_class(y: np.ndarray) -> int:
    """Return the number of ears of the rarer class. y: labels (N,) in {0, 1}."""
    return int(np.bincount(y, minlength=2).min())


def binary_view(predictions: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return exam_id, side, patient_key, label_code, y (0 or 1) and score of the ears within the task.

    predictions: `tables.PREDICTIONS` of the task.
    """
    known = predictions[predictions.y_true != OUTSIDE].reset_index(drop=True)
    names = ["exam_id", "side", "patient_key", "label_code"]
    if task.binary:
        return known[names].assign(y=known.y_true.astype(int), score=known.y_prob)
    return known[names].assign(y=(known.label_code != NORMAL).astype(int), score=1 - known[f"prob_{NORMAL}"])
