"""What is said of a new exam: of each ear an answer to each task, what is doubtful about it, or why there is none.

As JSON and back, so that an answer that was written down need not be found again.
"""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medical_fenlei.vocabulary import SIDES, Side


@dataclass(frozen=True, kw_only=True)
class Said:
    """Why an ear is refused, or what is doubtful about it."""

    code: str
    text: str
    """A plain sentence."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One that the answer rests on, as the volume counts them, and where its map is hottest (LPS mm)."""

    k: int
    z_mm: float
    weight: float
    peak_lps_mm: list[float]


@dataclass(frozen=True, kw_only=True)
class TaskAnswer:
    task: str
    classes: dict[str, float]
    """Probability of each class, by name; after calibration, where there is one."""

    codes: dict[str, list[int]]
    decision: str
    """Name of a class."""

    threshold: float | None
    """Of the last class's probability, in binary tasks."""

    point: str
    """The operating point that gives the threshold."""

    calibrated: bool
    ranked_by: str = ""
    slices: list[Slice] = field(default_factory=list)
    picture: str = ""
    """Below the exam's folder; "" without one."""


@dataclass(frozen=True, kw_only=True)
class EarAnswer:
    side: Side
    refused: Said | None = None
    forced: list[Said] = field(default_factory=list)
    """Why it had been refused without --force."""

    flags: list[Said] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Series and preparation: header facts, confidence, method, padded share; NaN or absent where unknown."""

    tasks: list[TaskAnswer] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ExamAnswer:
    exam_id: str
    key: str
    """Follows from the files, the checkpoint and all settings: the same key, the same answer."""

    ears: list[EarAnswer]
    """Left, right."""

    scan_picture: str = ""

    def of(self, side: Side) -> EarAnswer:
        return self.ears[SIDES.index(side)]

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "ExamAnswer":
        """The inverse of `plain`. Raises KeyError or TypeError for other content."""
        def task(own: Mapping[str, Any]) -> TaskAnswer:
            return TaskAnswer(**{**own, "slices": [Slice(**one) for one in own["slices"]]})

        def ear(own: Mapping[str, Any]) -> EarAnswer:
            return EarAnswer(**{**own, "side": Side(own["side"]), "refused": Said(**own["refused"]) if own["refused"] else None,
                                "forced": [Said(**one) for one in own["forced"]],
                                "flags": [Said(**one) for one in own["flags"]], "tasks": [task(one) for one in own["tasks"]]})

        return cls(**{**plain, "ears": [ear(own) for own in plain["ears"]]})
