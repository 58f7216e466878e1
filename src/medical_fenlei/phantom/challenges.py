"""Series that are drawn on demand instead of read from files, and unusual heads and scans to test the localizer."""
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medical_fenlei.dicom.header import Header
from medical_fenlei.dicom.volume import Series
from medical_fenlei.phantom.anatomy import Person, Pose, landmarks, sample_person
from medical_fenlei.phantom.disease import EarChange, sample_change, sample_operated_ear
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.phantom.scanner import Scan, acquire, sample_scan
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, Side

OUTSIDE_CIRCLE = -1024
"""HU outside the reconstruction circle."""


class DrawnSeries(Series):
    """A `Series` whose slices are drawn on demand; their geometry passes through the same code as that of files.

    affine: from voxel index of the stored series to patient LPS mm; seed: of the noise.
    """

    def __init__(
        self, person: Person, changes: Mapping[Side, EarChange], pose: Pose, scan: Scan, affine: Affine, seed: int,
    ) -> None:
        self._drawn = person, dict(changes), pose, scan, affine, seed
        along_row, along_column = affine.direction(2), affine.direction(1)
        spacing = (float(np.linalg.norm(affine.step(1))), float(np.linalg.norm(affine.step(2))))
        super().__init__(
            Header(path=Path(f"{k}"), transfer_syntax="", sop_uid=str(k), series_uid="", image_type=(), rows=scan.matrix,
                   columns=scan.matrix, position=tuple(affine.apply([k, 0, 0]).tolist()),
                   row_cosines=tuple(along_row.tolist()), column_cosines=tuple(along_column.tolist()), pixel_spacing=spacing,
                   slice_thickness=scan.thickness_mm, manufacturer=scan.vendor, model=scan.model, kernel="",
                   slope=1.0, intercept=0.0, padding=None)
            for k in range(scan.n_slices))

    def slice(self, k: int) -> np.ndarray:
        """Draw slice k: int16 HU (rows, columns)."""
        person, changes, pose, scan, affine, seed = self._drawn
        stored = int(self.headers[k].path.name)
        thin = max(1, min(3, round(scan.thickness_mm / 0.8)))    # a thick slice is the mean of thin slices
        thin_step = affine.step(0) * (scan.thickness_mm / thin / scan.increment_mm)
        first = affine.origin + (stored * affine.step(0) - thin_step * (thin - 1) / 2)
        at = Affine.from_steps([thin_step, affine.step(1), affine.step(2)], first)
        hu = draw_head(person, changes, pose, at, (thin, scan.matrix, scan.matrix), scan.gravity_lps).hu
        hu = acquire(hu.mean(axis=0, keepdims=True), scan, np.random.default_rng([seed, stored]))[0]
        r, c = (np.linspace(-1, 1, scan.matrix) for _ in range(2))
        hu[np.hypot(r[:, None], c) > 1] = OUTSIDE_CIRCLE
        turned: np.ndarray = self._turn.apply(hu)
        return turned


KINDS = ("plain", "whole_head", "short", "rotated", "tilted", "gantry_tilt", "off_centre", "feet_first", "stored_backwards",
         "thin", "thick", "sclerotic", "opacified", "operated", "child", "one_ear")
"""Ways in which a scan may be unusual."""

EXCLUSIVE = ({"whole_head", "short"}, {"whole_head", "one_ear"}, {"whole_head", "thin"}, {"thin", "thick"})
"""Pairs of KINDS that cannot occur together."""


@dataclass(frozen=True)
class Challenge:
    """An unusual scan with the true positions of its landmarks."""

    kinds: frozenset[str]
    series: DrawnSeries
    landmarks_lps: dict[str, list[float]]
    """The `anatomy.landmarks` in patient mm."""

    sides: tuple[Side, ...]
    """Sides whose ear lies in the scan."""


def sample_challenge(number: int, seed: int) -> Challenge:
    """Sample the scan with this number: one of KINDS in turn, and each other kind with a probability of 0.1."""
    rng = np.random.default_rng([seed, 5, number])
    main = KINDS[number % len(KINDS)]
    kinds = {main} | {kind for kind in KINDS[1:] if rng.random() < 0.1}
    for pair in EXCLUSIVE:
        if pair <= kinds:
            kinds -= pair - {main} if main in pair else {max(pair)}
    kinds -= {"plain"} if len(kinds) > 1 else set()
    person, changes = _patient(kinds, rng)
    tilted, turned, off = "tilted" in kinds, "rotated" in kinds, "off_centre" in kinds
    pose = Pose(
        yaw_deg=_signed(rng, *((10, 20) if turned else (0, 6))), pitch_deg=_signed(rng, *((8, 18) if tilted else (0, 6))),
        roll_deg=_signed(rng, *((5, 12) if tilted else (0, 3))),
        offset_mm=(_signed(rng, *((12, 30) if off else (0, 6))), _signed(rng, *((12, 25) if off else (0, 6))),
                   _signed(rng, 0, 500)))
    landmarks_lps = landmarks(person, pose)
    sides: tuple[Side, ...] = (SIDES[rng.integers(2)],) if "one_ear" in kinds else SIDES
    ears = np.mean([landmarks_lps[f"tympanum_{side}"] for side in sides], axis=0)
    scan, above = _scan(kinds, person, pose, rng)
    centre = np.array([0.0, -8.0, ears[2] + above + rng.normal(0, 2)])
    if "one_ear" in kinds:
        centre[:2] = ears[:2] + rng.normal(0, 5, 2) + [sides[0].sign * 3, 4]
    series = DrawnSeries(person, changes, pose, scan, scan.affine(centre), number)
    return Challenge(frozenset(kinds), series, landmarks_lps, sides)


def _signed(rng: np.random.Generator, low: float, high: float) -> float:
    """A number whose absolute value is uniform between low and high, with a random sign."""
    return float(rng.uniform(low, high) * rng.choice([-1, 1]))


def _patient(kinds: set[str], rng: np.random.Generator) -> tuple[Person, dict[Side, EarChange]]:
    """A person and the diseases of both ears."""
    sclerotic = "sclerotic" in kinds
    person = sample_person(rng, age_years=float(rng.uniform(1, 9)) if "child" in kinds else None,
                         aeration=float(rng.uniform(0, 0.03)) if sclerotic else None)
    if sclerotic:
        ivory = {side: replace(ear, marrow=float(rng.uniform(0, 0.3))) for side, ear in person.ears.items()}
        person = replace(person, ears=ivory)
    codes = [3, 1, 4] if "opacified" in kinds else [1, 2, 3, 4, 5, 5, 6]
    changes = {side: sample_change(int(rng.choice(codes)), rng) for side in SIDES}
    if "operated" in kinds:
        changes[SIDES[rng.integers(2)]] = sample_operated_ear(rng)
    return person, changes


def _scan(kinds: set[str], person: Person, pose: Pose, rng: np.random.Generator) -> tuple[Scan, float]:
    """The scan, and the height of its middle above the ears in mm."""
    increment = 0.3 if "thin" in kinds else 3.0 if "thick" in kinds else float(rng.uniform(0.4, 1.0))
    both = 84 * abs(np.sin(np.deg2rad(pose.roll_deg)))           # a tilted head needs a longer scan to cover both ears
    extent, above = float(rng.uniform(22, 30) if "short" in kinds else rng.uniform(38, 60)) + both, 0.0
    if "whole_head" in kinds:
        increment = increment if "thick" in kinds else float(rng.uniform(0.6, 2.0))
        below, over = float(rng.uniform(35, 90)), float(rng.uniform(100, 130)) * person.scale[2]
        extent, above = below + over, (over - below) / 2
    backwards = "stored_backwards" in kinds
    scan = replace(
        sample_scan(rng), n_slices=max(9, round(extent / increment)), increment_mm=increment,
        thickness_mm=max(0.4, increment * float(rng.choice([1.0, 1.25]))),
        gantry_tilt_deg=_signed(rng, 6, 20) if "gantry_tilt" in kinds else 0.0,
        columns_to="right" if backwards else "left", rows_to="anterior" if backwards else "posterior",
        patient_position="FFS" if "feet_first" in kinds else "HFS", slices_to="feet" if "feet_first" in kinds else "head")
    return (replace(scan, fov_mm=float(rng.uniform(90, 100))) if "one_ear" in kinds else scan), above
