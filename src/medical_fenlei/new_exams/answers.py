"""The answer for a new exam: for each ear and task a prediction, remarks on what is doubtful, or why there is none.

Answers are written as JSON and read back, so that a written answer need not be computed again.
"""
from dataclasses import asdict, dataclass, field
from typing import Any

from medical_fenlei.tables import SourceImage
from medical_fenlei.vocabulary import SIDES, Side


@dataclass(frozen=True, kw_only=True)
class Remark:
    """Why an ear is refused, or what is doubtful about it."""

    code: str
    """A short code that can be counted."""

    text: str
    """A plain sentence."""


@dataclass(frozen=True, kw_only=True)
class ExplainedSlice:
    """A slice that the prediction rests on."""

    k: int
    """Its number in the volume, from the lowest slice up."""

    z_mm: float
    """z of its middle, LPS mm."""

    image: int | None
    """Number of the nearest image of the scan; None where its header has none."""

    image_z_mm: float | None
    """z of that image's position, LPS mm."""

    weight: float
    peak_lps_mm: list[float]
    """Position of the map's hottest voxel in the slice."""

    @property
    def source(self) -> SourceImage:
        """The nearest image of the scan."""
        return SourceImage(self.image, self.image_z_mm)


@dataclass(frozen=True, kw_only=True)
class TaskAnswer:
    """The prediction of one task for one ear."""

    task: str
    classes: dict[str, float]
    """Probability of each class, by name; calibrated if the task has a calibration."""

    codes: dict[str, list[int]]
    """Codes of the diagnoses of each class, by name."""

    decision: str
    """Name of the predicted class."""

    threshold: float | None
    """Threshold of the last class's probability; None for several classes."""

    point: str
    """The operating point that sets the threshold."""

    calibrated: bool
    ranked_by: str = ""
    """What ranks the slices."""

    slices: list[ExplainedSlice] = field(default_factory=list)
    picture: str = ""
    """Path in the exam's folder; "" without a picture."""


@dataclass(frozen=True, kw_only=True)
class EarAnswer:
    """The answer for one ear."""

    side: Side
    refused: Remark | None = None
    forced: list[Remark] = field(default_factory=list)
    """Why the ear would be refused without --force."""

    flags: list[Remark] = field(default_factory=list)
    """What is doubtful about scan or prediction."""

    facts: dict[str, Any] = field(default_factory=dict)
    """Series and preparation: header facts, confidence, method, padded share; NaN or absent if unknown."""

    tasks: list[TaskAnswer] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ExamAnswer:
    """The answer for both ears of one exam."""

    exam_id: str
    key: str
    """Identifies files, checkpoint and settings: the same key means the same answer."""

    ears: list[EarAnswer]
    """Left, right."""

    scan_picture: str = ""
    """Path in the exam's folder; "" without a picture."""

    def of(self, side: Side) -> EarAnswer:
        """Return the answer for one ear."""
        return self.ears[SIDES.index(side)]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as values for JSON."""
        return asdict(self)
