"""The header of one CT image, typed and checked: every value of a `Header` can be used without further checks."""
import math
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from medical_fenlei.dicom.dataset import damage_refused, read_dataset
from medical_fenlei.dicom.elements import value_of
from medical_fenlei.dicom.functional_groups import GROUPS, frame_dataset
from medical_fenlei.dicom.identity import IDENTITY_TAGS, identity_mark
from medical_fenlei.dicom.pixel_place import PixelPlace
from medical_fenlei.dicom.stored_bits import WORD_TAGS, Word, plain_word, stored_bits
from medical_fenlei.dicom.study import STUDY_TAGS, StatedStudy, study_of
from medical_fenlei.errors import Rejected

ENHANCED_CLASSES = (EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
"""SOP classes whose files hold many frames, with their geometry in functional groups (DICOM PS3.3 A.38, C.7.6.16)."""
CT_CLASSES = (CTImageStorage, *ENHANCED_CLASSES)
MAX_EDGE, MAX_FRAMES = 4096, 8192
"""Largest plausible rows or columns, and frames of a file; nothing is allocated beyond."""

MAX_MM = 1e5
"""Largest plausible coordinate of a position, mm."""

IMAGE_TAGS = ("SOPInstanceUID", "ImagePositionPatient", "InstanceNumber", "AcquisitionNumber", "AcquisitionDate",
              "AcquisitionTime", "AcquisitionDateTime")
"""Elements that differ from image to image of a series."""

HEADER_TAGS = (
    *IMAGE_TAGS, "SOPClassUID", "SeriesInstanceUID", "ImageType", "Rows", "Columns", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "Manufacturer", "ManufacturerModelName", "ConvolutionKernel", "BodyPartExamined",
    *WORD_TAGS, "NumberOfFrames", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "FrameOfReferenceUID", *STUDY_TAGS, *IDENTITY_TAGS,
)
"""Elements that a header is made of, in files without functional groups."""

_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Header:
    """One CT image: a file, or a frame of one. Positions and directions are LPS, mm. Holds nothing that identifies a person."""

    path: Path
    frame: int | None = None
    """Number of the frame in its file, from 0; None for a file of a single image."""

    transfer_syntax: str
    sop_uid: str
    series_uid: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    position: tuple[float, float, float]
    """Centre of the first pixel, mm."""

    row_cosines: tuple[float, float, float]
    """Direction in which the column index grows."""

    column_cosines: tuple[float, float, float]
    """Direction in which the row index grows."""

    pixel_spacing: tuple[float, float]
    """Distance between rows and between columns, mm."""

    slice_thickness: float
    """Nominal thickness in mm, NaN where absent; never used as a spacing."""

    manufacturer: str
    model: str
    kernel: str
    """Multi-valued kernels joined by a backslash, as DICOM writes them."""

    body_part: str = ""
    """BodyPartExamined, as the device or its operator states it; often wrong."""

    identity: bytes = field(default=b"", repr=False)
    """Mark that images share whose patient is stated alike (`identity.identity_mark`)."""

    acquisition: str = ""
    """Acquisition number: distinguishes scans of the same positions within a series."""

    acquired: str = ""
    """Day and time of the acquisition, as text that sorts by time; empty where the time is unknown."""

    instance: int | None = None
    """Number of the image in its series, or of the frame in its file, from 1; None where it is unknown."""

    frame_of_reference: str = ""
    """UID that images share if their positions can be compared."""

    study: StatedStudy = field(default=StatedStudy(), repr=False)
    slope: float
    intercept: float
    rescale_type: str = ""
    """Unit of the rescaled values, as the header has it; where it is empty, they are HU."""

    padding: tuple[int, int] | None
    """Lowest and highest stored value that mark missing data."""

    word: Word | None = field(default=None, repr=False)
    """How a stored value lies in its word; None where this is unusual."""

    place: PixelPlace | None = field(default=None, repr=False, compare=False)
    """Where the pixels lie; None where that is not known."""

    @property
    def normal(self) -> np.ndarray:
        """(3,): unit normal of the slice, row cosines × column cosines."""
        return np.cross(self.row_cosines, self.column_cosines)

    @property
    def is_axial(self) -> bool:
        """Whether the slice lies within 30 degrees of the axial plane: gantry and head tilt do, reformats do not."""
        return bool(abs(self.normal[2]) > math.cos(math.radians(30)))

    @property
    def plane(self) -> str:
        """axial, coronal, sagittal, or oblique: more than 30 degrees from each."""
        if self.is_axial:
            return "axial"
        cosines = np.abs(self.normal)
        return "oblique" if cosines.max() < math.cos(math.radians(30)) else ("sagittal", "coronal", "axial")[cosines.argmax()]


def _numbers(dataset: Dataset, name: str, count: int, default: float | None = None) -> tuple[float, ...]:
    return _as_numbers(value_of(dataset, name), name, count, default)


def _as_numbers(value: Any, name: str, count: int, default: float | None = None) -> tuple[float, ...]:
    if value is None or value == "":
        if default is not None:
            return (default,)
        raise Rejected("missing_attribute", f"{name}: missing from the header")
    try:                                                         # pydicom's MultiValue is neither list nor tuple
        numbers = tuple(float(v) for v in ([value] if count == 1 else value))
    except (TypeError, ValueError):
        raise Rejected("bad_attribute", f"{name}: expected {count} numbers") from None
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise Rejected("bad_attribute", f"{name}: got {len(numbers)} numbers, expected {count} finite ones")
    return numbers


def _optional(dataset: Dataset, name: str, default: float) -> float:
    return _numbers(dataset, name, 1, default)[0]


def _text(dataset: Dataset, name: str) -> str:
    return _as_text(value_of(dataset, name))


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value).strip()
    return "\\".join(str(v).strip() for v in value)


@lru_cache(maxsize=64)                                           # the slices of a series share one orientation
def _axes(orientation: tuple[float, ...]) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    if abs(np.linalg.norm(along_row) - 1) > 0.01 or abs(np.linalg.norm(along_column) - 1) > 0.01 or (
            abs(along_row @ along_column) > 0.01):
        raise Rejected("bad_attribute", "ImageOrientationPatient: expected two perpendicular unit vectors")
    row, column = ((along / np.linalg.norm(along)).tolist() for along in (along_row, along_column))
    return tuple(row), tuple(column)


@damage_refused()
def headers_of(dataset: Dataset, path: Path) -> list[Header]:
    """Check a dataset and return its header, or one header per frame. Raises Rejected with the first fault found."""
    kind = value_of(dataset, "SOPClassUID")
    if kind not in CT_CLASSES:
        known = str(kind or dataset.file_meta.get("MediaStorageSOPClassUID") or "")        # a DICOMDIR has only the second
        if known in CT_CLASSES:
            raise Rejected("damaged_header", "the file ends before its SOP class: copy it again")
        raise Rejected("not_ct", f"got SOP class {UID(known).name if _UID.fullmatch(known) else 'missing or damaged'}")
    if kind in ENHANCED_CLASSES and "PerFrameFunctionalGroupsSequence" in dataset:
        return _of_frames(dataset, path)
    if _optional(dataset, "NumberOfFrames", 1) != 1:
        raise Rejected("bad_size", "got several frames, expected one: only enhanced CT holds the position of each")
    return [_header(dataset, path, None)]


def _of_frames(dataset: Dataset, path: Path) -> list[Header]:
    each, shared = dataset.PerFrameFunctionalGroupsSequence, dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    frames = int(_numbers(dataset, "NumberOfFrames", 1)[0])
    if frames != len(each) or frames > MAX_FRAMES:
        raise Rejected("bad_size", f"got {frames} frames, {len(each)} of them described, expected all, at most {MAX_FRAMES}")
    headers = []
    for number, own in enumerate(each):
        image = frame_dataset(dataset, own, shared[0])
        context = (own.get("FrameContentSequence") or [Dataset()])[0]
        part = (_text(context, name) for name in ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber"))
        headers.append(replace(_header(image, path, number), acquisition="/".join(part), instance=number + 1))
    return headers


def _header(dataset: Dataset, path: Path, frame: int | None) -> Header:
    rows, columns = (int(_numbers(dataset, name, 1)[0]) for name in ("Rows", "Columns"))
    if not (0 < rows <= MAX_EDGE and 0 < columns <= MAX_EDGE):
        raise Rejected("bad_size", f"got {rows} × {columns}, expected 1 to {MAX_EDGE}")
    if _optional(dataset, "SamplesPerPixel", 1) != 1:
        raise Rejected("bad_size", f"got {dataset.SamplesPerPixel} samples per pixel, expected 1")
    if _optional(dataset, "BitsAllocated", 16) not in (8, 16, 32):
        raise Rejected("bad_attribute", f"BitsAllocated: got {dataset.BitsAllocated}, expected 8, 16 or 32")
    stored_bits(dataset)                                         # refused here where it cannot be decoded
    row_cosines, column_cosines = _axes(_numbers(dataset, "ImageOrientationPatient", 6))
    spacing = _numbers(dataset, "PixelSpacing", 2)
    if min(spacing) <= 0:
        raise Rejected("bad_attribute", f"PixelSpacing: got {spacing}, expected positive")
    slope = _numbers(dataset, "RescaleSlope", 1)[0]
    if slope == 0:
        raise Rejected("bad_attribute", "RescaleSlope: got 0, expected another number")
    return Header(
        path=path, frame=frame, **_of_image(partial(value_of, dataset)),
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        image_type=tuple(_text(dataset, "ImageType").split("\\")), rows=rows, columns=columns,
        row_cosines=row_cosines, column_cosines=column_cosines,
        pixel_spacing=(spacing[0], spacing[1]), slice_thickness=_optional(dataset, "SliceThickness", math.nan),
        manufacturer=_text(dataset, "Manufacturer"), model=_text(dataset, "ManufacturerModelName"),
        kernel=_text(dataset, "ConvolutionKernel"), body_part=_text(dataset, "BodyPartExamined"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"), study=study_of(dataset), identity=identity_mark(dataset),
        slope=slope, intercept=_numbers(dataset, "RescaleIntercept", 1)[0], padding=_padding(dataset),
        rescale_type=_text(dataset, "RescaleType"), word=plain_word(dataset),
    )


def next_image(header: Header, own: Mapping[str, Any], path: Path, place: PixelPlace) -> Header:
    """Return the header of another file of a single image that differs in IMAGE_TAGS alone. Raises Rejected.

    own: the values of these elements in the other file, as `value_of` returns them.
    """
    following = copy(header)                                     # `replace` takes far longer
    vars(following).update(path=path, place=place, **_of_image(own.get))
    return following


def _of_image(value: Callable[[str], Any]) -> dict[str, Any]:
    """Return the part of a header that IMAGE_TAGS state. value: returns the value of an element."""
    position = _as_numbers(value("ImagePositionPatient"), "ImagePositionPatient", 3)
    if (far := max(map(abs, position))) > MAX_MM:
        raise Rejected("bad_attribute", f"ImagePositionPatient: got {far:.3g} mm, expected at most {MAX_MM:g}")
    try:
        instance = int(value("InstanceNumber"))
    except (TypeError, ValueError):
        instance = None
    acquired = _digits(_as_text(value("AcquisitionDateTime")))
    if not acquired and (time := _digits(_as_text(value("AcquisitionTime")))):
        acquired = _digits(_as_text(value("AcquisitionDate"))) + time
    return {"sop_uid": _as_text(value("SOPInstanceUID")), "position": position, "instance": instance,
            "acquisition": _as_text(value("AcquisitionNumber")), "acquired": acquired}


def _digits(text: str) -> str:
    return re.sub(r"[^\d.]", "", text)


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """Return the range of stored values that mark missing data, modulo the word: some writers get the sign wrong."""
    value = value_of(dataset, "PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = value_of(dataset, "PixelPaddingRangeLimit")
    bits = int(_optional(dataset, "BitsAllocated", 16))
    signed = _optional(dataset, "PixelRepresentation", 0) == 1

    def stored(number: int) -> int:
        number %= 1 << bits
        return number - (1 << bits) if signed and number >= 1 << (bits - 1) else number

    ends = sorted((stored(value), stored(limit if isinstance(limit, int) else value)))
    return ends[0], ends[1]


@damage_refused()
def read_headers_of(path: Path) -> list[Header]:
    """Read and check the header of a CT image, or of each of its frames. Raises Rejected (not_dicom, not_ct, …)."""
    dataset = read_dataset(path, HEADER_TAGS)
    if value_of(dataset, "SOPClassUID") in ENHANCED_CLASSES:
        dataset = read_dataset(path, [*HEADER_TAGS, *GROUPS])
    return headers_of(dataset, path)


def read_header(path: Path) -> Header:
    """Read and check the header of a single-frame CT image. Raises Rejected (not_dicom, not_ct, bad_attribute, …)."""
    headers = read_headers_of(path)
    if len(headers) != 1:
        raise Rejected("bad_size", f"got {len(headers)} frames, expected one")
    return headers[0]
