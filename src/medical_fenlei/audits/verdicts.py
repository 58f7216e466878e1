"""When a figure is fine, needs a look, or is wrong: the thresholds of every audit, and the law by which they decide.

Two values divide the possible figures: up to `sound` there is no fault, beyond `tolerable` there is one that matters. An
interval that contains both decides nothing, however good its estimate looks: the verdict is then "undecided", and more
patients are needed. An interval that is narrower than the distance between the two always decides.

With 95 % intervals, a figure without a fault needs a look in 2.5 % of the studies, and one beyond `tolerable` passes as "ok" in
2.5 %. docs/benchmarks.md has the measured shares (tools/check_verdicts.py).
"""
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "look", "wrong", "undecided"]
"""ok: no fault that matters. look: needs a look. wrong: the figures cannot be trusted. undecided: too few patients to tell."""
VERDICTS: tuple[Verdict, ...] = ("wrong", "look", "undecided", "ok")
"""All verdicts, the gravest first."""
ENOUGH = 10
"""Fewest exams, or ears of a class, from which a figure is computed at all; below, the question is undecided."""


@dataclass(frozen=True)
class Thresholds:
    """What decides about the figure of an audit. Where `tolerable` is below `sound`, low figures are the fault."""

    sound: float
    """Up to here (down to here, if low figures are the fault) there is no fault."""

    tolerable: float
    """Beyond here there is a fault that matters."""

    wrong: float | None = None
    """If the whole interval is beyond this value, the figures cannot be trusted; None: the verdict is never "wrong"."""

    def verdict(self, low: float, high: float) -> Verdict:
        """Return the verdict on a figure with this 95 % interval; undecided if it has none (NaN)."""
        if math.isnan(low) or math.isnan(high):
            return "undecided"
        nearest, farthest = (low, high) if self._sign > 0 else (high, low)       # the ends as seen from `sound`
        if self.wrong is not None and self._beyond(nearest, self.wrong):
            return "wrong"
        if not self._beyond(farthest, self.tolerable):
            return "ok"
        return "look" if self._beyond(nearest, self.sound) else "undecided"

    def patients_to_decide(self, patients: int, low: float, high: float) -> int | None:
        """Return how many patients like these would decide whatever the figure is, in two digits; None if that is unknown.

        The width of an interval falls with the square root of the number of patients; it decides once it is narrower than the
        distance between `sound` and `tolerable`.
        """
        width = high - low
        if not math.isfinite(width) or width <= 0:
            return None
        needed = max(patients + 1, patients * (width / abs(self.tolerable - self.sound)) ** 2)
        digit = 10.0 ** max(0, math.floor(math.log10(needed)) - 1)
        return int(digit * math.ceil(needed / digit - 1e-9))

    @property
    def words(self) -> dict[str, str]:
        """The condition of each verdict but "undecided", in words about the interval."""
        upper, lower, above, most = ("upper", "lower", "above", "at most") if self._sign > 0 else (
            "lower", "upper", "below", "at least")
        wrong = "never" if self.wrong is None else f"{lower} {above} {self.wrong:g}"
        return {"ok": f"{upper} {most} {self.tolerable:g}", "look": f"{lower} {above} {self.sound:g}", "wrong": wrong}

    @property
    def _sign(self) -> int:
        return 1 if self.tolerable > self.sound else -1

    def _beyond(self, value: float, threshold: float) -> bool:
        return self._sign * (value - threshold) > 0


THRESHOLDS: Mapping[str, Thresholds] = {
    "exchanged sides": Thresholds(0.02, 0.1, wrong=0.1),
    "wrong leads": Thresholds(0.1, 0.25, wrong=0.5),
    "scanner": Thresholds(0.5, 0.6, wrong=0.65),
    "age and sex": Thresholds(0.5, 0.6),
    "other ear": Thresholds(0.5, 0.6),
    "chance": Thresholds(0.7, 0.5),
    "robustness": Thresholds(0.0, -0.05),
    "dates": Thresholds(0.0, 0.2),
    "wrong labels": Thresholds(0.5, 0.6),
}
"""The thresholds of each audit with an interval.

exchanged sides: share of one-sided exams; above 0.1 neither chance nor disagreement between readers explains it. wrong leads:
the same where limited skill cannot be told from exchanged sides; more than half is worse than guessing. scanner, age and sex,
other ear, wrong labels: an AUROC, which would be 0.5. A reader knows age, sex and the other ear too, so these discredit
nothing. chance: the AUROC of the network; one of use has 0.7 or more. robustness: change of the AUROC. dates: difference of
two shares of doubtful labels; the mean share is 0.15.
"""


def count_verdicts(verdicts: Collection[Verdict]) -> dict[str, int]:
    """Return the number of audits with each verdict, the gravest first."""
    return {verdict: sum(own == verdict for own in verdicts) for verdict in VERDICTS}
