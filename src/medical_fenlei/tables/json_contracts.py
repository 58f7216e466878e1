"""Every JSON file that one command writes and another reads, except settings (`config`), which their dataclasses check.

Reports may hold more than is read of them; of what is read, each field is checked.
"""
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from medical_fenlei.json_files import JsonFile, in_range

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, AfterValidator(in_range(0, 1))]
_Row = Annotated[list[float], Field(min_length=4, max_length=4)]
Point = Annotated[list[float], Field(min_length=3, max_length=3)]
Code = Annotated[int, AfterValidator(in_range(1, 6))]


class StoredLocation(TypedDict):
    """Where an ear was found (LPS, mm), and how sure that is."""

    method: NotRequired[str]
    confidence: NotRequired[float | None]
    ear_centre: NotRequired[Point | None]
    midsagittal_point: NotRequired[Point | None]
    midsagittal_normal: NotRequired[Point | None]
    reasons: NotRequired[list[str]]


class EarFacts(TypedDict):
    """The facts of a cached ear, `<exam>_<side>.json`."""

    exam_id: str
    side: Literal["left", "right"]
    sha256: Annotated[str, Field(min_length=64, max_length=64)]
    series_relpath: NotRequired[str]
    source: NotRequired[str]
    affine_lps: NotRequired[Annotated[list[_Row], Field(min_length=4, max_length=4)]]
    slice_files: NotRequired[list[str]]
    slice_images: NotRequired[list[int | None]]
    slice_z_mm: NotRequired[list[float]]
    localization: NotRequired[StoredLocation | None]
    padded_share: NotRequired[Share | None]
    scan_doubts: NotRequired[list[str]]


class Figure(TypedDict):
    """A measure with its interval; null where it is undefined."""

    estimate: float | None
    low: float | None
    high: float | None
    reason: NotRequired[str]
    support: NotRequired[Count | None]


class OperatingPoint(TypedDict):
    """The measures at a threshold."""

    threshold: Share
    sensitivity: Figure
    specificity: Figure
    ppv: Figure
    npv: Figure


class AppliedCalibration(TypedDict):
    """The temperature and the thresholds that an evaluation applied."""

    temperature: float
    points: dict[str, Share]
    point: str
    ears: Count
    patients: Count


class Metrics(TypedDict):
    """An evaluation, `metrics_<set>.json`. Those of earlier versions lack the calibration."""

    evaluation: NotRequired[str]
    task: str
    set: str
    checkpoint: NotRequired[str]
    epoch: Count
    ears: Count
    patients: Count
    per_class: dict[str, Count]
    resamples: NotRequired[Count]
    metrics: dict[str, Figure]
    cohort: NotRequired[str | None]
    calibrated: NotRequired[bool]
    calibration: NotRequired[AppliedCalibration]
    operating_points: dict[str, OperatingPoint]
    warnings: list[str]
    data: dict[str, Any]


class AuditRow(TypedDict):
    """The answer to one question."""

    question: str
    figure: str
    estimate: float | None
    low: float | None
    high: float | None
    verdict: Literal["ok", "look", "wrong", "undecided"]
    patients_to_decide: NotRequired[Count | None]
    words: str


class Audits(TypedDict):
    """The audits of a run, `audits.json`."""

    id: NotRequired[str]
    task: str
    set: str
    epoch: Count
    data: dict[str, Any]
    verdicts: NotRequired[dict[str, Count]]
    audits: list[AuditRow]


class ManifestCounts(TypedDict):
    """The counts behind a manifest."""

    index: dict[str, Count]
    manifest: dict[str, Count]


class JobState(TypedDict):
    """The state of one run of a study."""

    status: Literal["running", "done", "failed"]
    reason: str
    settings: dict[str, Any]


EAR_FACTS = JsonFile[EarFacts]("facts of an ear", EarFacts, "remove the file and build the cache again")
METRICS = JsonFile[Metrics]("measures of an evaluation", Metrics, "evaluate again, or remove the file")
AUDITS_JSON = JsonFile[Audits]("audits of a run", Audits, "run audit_run again, or remove the file")
INDEX_COUNTS = JsonFile[Mapping[str, int]]("counts of an index", dict[str, Count], "run build_index again, or remove the file")
MANIFEST_COUNTS = JsonFile[ManifestCounts](
    "counts of a manifest", ManifestCounts, "run build_manifest_ears again, or remove the file")
STUDY_STATE = JsonFile[dict[str, JobState]](
    "states of a study's runs", dict[str, JobState], "remove the file, or name another --output-dir; finished runs are kept")
