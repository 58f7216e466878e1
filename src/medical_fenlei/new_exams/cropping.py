"""Crop the ears of an exam from its series, and show where they are in the scan."""
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import Series, inside, read_headers
from medical_fenlei.ears.build import NOT_IN_SCAN
from medical_fenlei.ears.prepare import EarVolume, prepare_ears
from medical_fenlei.ears.scan_view import ScanView, box_corners, outline, view_series
from medical_fenlei.errors import Rejected
from medical_fenlei.ingest.exams import refuse_several_patients
from medical_fenlei.vocabulary import Side


@dataclass(frozen=True)
class CropRequest:
    """The ears to crop from the series of an exam."""

    exam_id: str
    series: tuple[tuple[str, tuple[Side, ...]], ...]
    """Path of each series below the base folder, with the ears to crop from it."""


@dataclass(frozen=True)
class EarOverview:
    """The slice of a series through its ears, and the outlines of the volumes that were cropped."""

    view: ScanView
    outlines: dict[Side, np.ndarray]
    """(P, 2): rows and columns of a polygon."""

    centres: dict[Side, tuple[float, float]]
    """Row and column."""


@dataclass
class CroppedEars:
    """The ears that were cropped from an exam, and why others were not."""

    ears: dict[Side, EarVolume] = field(default_factory=dict)
    refused: dict[Side, tuple[str, str]] = field(default_factory=dict)
    """Reason and detail."""

    overviews: list[EarOverview] = field(default_factory=list)


def crop_ears(base: Path, spec: EarSpec, request: CropRequest) -> CroppedEars:
    """Crop the ears of one exam. A fault of a series affects only the ears of that series."""
    cropped = CroppedEars()
    for relpath, sides in request.series:
        try:
            headers, _ = read_headers(inside(base, relpath))
            refuse_several_patients(headers)
            series = Series(headers)
            with threadpool_limits(1, user_api="blas"):          # the matrices are small: more threads would only wait
                found = prepare_ears(series, spec, sides)
        except Rejected as rejected:
            cropped.refused |= dict.fromkeys(sides, (rejected.reason, rejected.detail))
            continue
        cropped.ears |= found
        cropped.refused |= {side: NOT_IN_SCAN for side in sides if side not in found}
        if found:
            cropped.overviews.append(_overview(series, found))
    return cropped


def _overview(series: Series, ears: Mapping[Side, EarVolume]) -> EarOverview:
    centres = {side: np.array(ear.facts["localization"]["ear_centre"]) for side, ear in ears.items()}
    view = view_series(series, list(centres.values()))
    outlines = {side: outline(box_corners(ear.affine, ear.volume.shape, series.affine), view.k) for side, ear in ears.items()}
    in_view = {side: series.affine.inverse.apply(centre).tolist() for side, centre in centres.items()}
    return EarOverview(view, outlines, {side: (row, column) for side, (_, row, column) in in_view.items()})
