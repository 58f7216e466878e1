"""Which series of an exam to use: readable rules over headers, each candidate with its reason."""
import math
import re
from dataclasses import dataclass
from pathlib import Path

from medical_fenlei.dicom.geometry import canonical, stack
from medical_fenlei.dicom.header import Header, read_header
from medical_fenlei.dicom.volume import read_headers, series_files
from medical_fenlei.errors import Rejected

BONE_KERNEL = re.compile(r"(?i)^(u|ur|h|hr|b|br)?[6-9]\d|bone|sharp|edge")
"""Kernels that keep bone edges: Siemens numbers from 60 up (U75u, Ur73u, H70h), GE BONE/EDGE, UIH SHARP."""

MAX_STEP_MM = 2.0
"""Slices farther apart than this do not resolve the middle ear."""

MIN_SLICES = 8


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One series that can be used, and how it ranks."""

    folder: Path
    n_instances: int
    first: Header
    step_mm: float
    bone_kernel: bool

    @property
    def rank(self) -> tuple[bool, bool, float, int]:
        """Bone kernel first, then original (not derived), then the thinner step (to 0.05 mm), then more slices."""
        return self.bone_kernel, "DERIVED" not in self.first.image_type, -round(self.step_mm / 0.05), self.n_instances

    @property
    def reason(self) -> str:
        kernel = "bone kernel" if self.bone_kernel else "no bone kernel"
        return f"{kernel} {self.first.kernel or 'unknown'}; step {self.step_mm:.2f} mm; {self.n_instances} slices"


def judge(folder: Path) -> tuple[Candidate, list[tuple[Path, Rejected]]]:
    """A series folder as a candidate, and the files in it that are no CT images.

    Raises Rejected: empty_series, not_axial, localizer, too_few_slices, too_thick, or what geometry says.
    """
    files = series_files(folder)
    if not files:
        raise Rejected("empty_series", "no files")
    _glance(files)
    headers, bad = read_headers(folder)
    if not headers:
        raise Rejected(bad[0][1].reason, f"no CT image among {len(files)} files; the first: {bad[0][1].detail}")
    geometry, _ = canonical(stack(headers))
    if len(headers) < MIN_SLICES:
        raise Rejected("too_few_slices", f"got {len(headers)}, expected at least {MIN_SLICES}")
    if geometry.step > MAX_STEP_MM:
        raise Rejected("too_thick", f"got {geometry.step:.2f} mm between slices, expected at most {MAX_STEP_MM}")
    first = headers[geometry.order[0]]
    return Candidate(folder=folder, n_instances=len(headers), first=first, step_mm=geometry.step,
                     bone_kernel=bool(BONE_KERNEL.search(first.kernel))), bad


def _glance(files: list[Path]) -> None:
    """Turn away what one header tells, so that the others need not be read."""
    for path in files[:3]:                                       # the first may be a stray text file
        try:
            header = read_header(path)
        except Rejected:
            continue
        if "LOCALIZER" in header.image_type:
            raise Rejected("localizer", "a scout")
        if not header.is_axial:
            raise Rejected("not_axial", "slices do not lie near the axial plane")
        if math.isfinite(header.slice_thickness) and header.slice_thickness > 2 * MAX_STEP_MM:
            raise Rejected("too_thick", f"slice thickness {header.slice_thickness} mm")
        return


@dataclass(frozen=True)
class Choice:
    """The series chosen for an exam (None if none can be used), and why the rest was not."""

    chosen: Candidate | None
    others: list[tuple[Path, str, str]]
    """(folder or file, reason, detail) of series that lost and of files that could not be used."""


def choose_series(folders: list[Path]) -> Choice:
    candidates: list[Candidate] = []
    others: list[tuple[Path, str, str]] = []
    for folder in folders:
        try:
            candidate, bad = judge(folder)
        except Rejected as rejected:
            others.append((folder, rejected.reason, rejected.detail))
            continue
        candidates.append(candidate)
        others += [(path, rejected.reason, rejected.detail) for path, rejected in bad]
    candidates.sort(key=lambda c: (c.rank, str(c.folder)), reverse=True)
    others += [(c.folder, "not_chosen", c.reason) for c in candidates[1:]]
    return Choice(candidates[0] if candidates else None, others)
