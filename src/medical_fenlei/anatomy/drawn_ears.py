"""Drawn ears, never the same twice, with the structure of each voxel.

Contrast, sharpness, noise, slice thickness, posture, disease and field of view vary well beyond what is real, so that a network
which learns from them has to go by shape (domain randomisation; SynthSeg, doi 10.1016/j.media.2023.102789).
"""
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from medical_fenlei.phantom.anatomy import MASTOID, TYMPANUM, VESTIBULE, EarAnatomy, Person, Pose, ear_point, sample_person
from medical_fenlei.phantom.disease import EarChange, Mass, sample_change, sample_operated_ear
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import AIR, DIAGNOSES, SIDES, EarPoint, Side, Structure

SHAPE, SPACING = (40, 80, 80), (1.0, 0.7, 0.7)
"""Voxels of the grid on which the network sees an ear, and their distances in mm: from inferior to superior, from front to
back, from lateral to medial, centred near the tympanic cavity."""

POINTS = {EarPoint.TYMPANUM: TYMPANUM, EarPoint.MASTOID: MASTOID, EarPoint.VESTIBULE: VESTIBULE}
NEVER_TAUGHT = 4
"""Code of the diagnosis that no training shows (cholesterol granuloma), to measure the network on a disease that it never
saw."""

PER_SLICE = 2
"""Thin slices that are drawn for each slice of the grid."""
MARGIN = 4
"""Slices of the grid that are drawn beyond it on either side, for slices thicker than the grid's."""
KNOTS_HU = np.array([-1000.0, -500, -100, 0, 60, 300, 800, 1400, 2200, 3000])
"""HU at which the curve of contrast is bent."""
LOW_HU, HIGH_HU = -1024, 3071
"""Range of HU that scanners store."""


@dataclass(frozen=True)
class DrawnEar:
    """An ear as a scanner might show it, and what it is."""

    hu: np.ndarray
    """int16 HU of SHAPE."""

    structures: np.ndarray
    """uint8 of SHAPE, the `Structure` of each voxel."""

    landmarks: np.ndarray
    """float32 (3, 3), the voxel index (k, row, column) of each `EarPoint`, which may lie beyond the grid."""


def draw_ear(seed: int, number: int, code: int | None = None) -> DrawnEar:
    """Draw the ear with this number; code: its diagnosis (None: any but NEVER_TAUGHT, or an operated ear)."""
    rng = np.random.default_rng([seed, 18, number])
    person, change, pose = _person(rng), _change(rng, code), _pose(rng)
    z, row, column = SPACING
    steps = [np.array([0, 0, z / PER_SLICE]), np.array([0, row, 0]), np.array([-column, 0, 0])]
    shape = ((SHAPE[0] + 2 * MARGIN) * PER_SLICE, *SHAPE[1:])
    points = [ear_point(person, pose, Side.LEFT, POINTS[landmark]) for landmark in EarPoint]
    grid = Affine.centred(steps, shape, points[EarPoint.TYMPANUM] + _offset(rng))
    drawn = draw_head(person, {Side.LEFT: change, Side.RIGHT: EarChange()}, pose, grid, shape, _gravity(rng), structures=True)
    found = (grid.inverse.apply(points) - [MARGIN * PER_SLICE, 0, 0]) / [PER_SLICE, 1, 1]
    assert drawn.structures is not None
    hu = _scan(_contrast(drawn.hu, rng), rng)
    structures = drawn.structures[MARGIN * PER_SLICE:-MARGIN * PER_SLICE:PER_SLICE].copy()
    for gone in _cut_off(rng):
        hu[gone], structures[gone] = AIR, Structure.OTHER
    return DrawnEar(np.rint(np.clip(hu, LOW_HU, HIGH_HU)).astype(np.int16), structures, found.astype(np.float32))


def _person(rng: np.random.Generator) -> Person:
    """A person whose temporal bone varies more than those of the hospital."""
    person = sample_person(rng, age_years=float(rng.uniform(0.5, 80)), aeration=float(rng.uniform(0, 0.95)))

    def varied(ear: EarAnatomy) -> EarAnatomy:
        shift = np.add(ear.shift, rng.normal(0, 1, 3))
        return replace(
            ear, scale=ear.scale * float(rng.uniform(0.9, 1.1)), shift=(float(shift[0]), float(shift[1]), float(shift[2])),
            turn_deg=ear.turn_deg + float(rng.normal(0, 5)), jugular=float(rng.uniform(-4, 5)),
            sigmoid=float(rng.uniform(-4, 7)), cell_mm=float(rng.uniform(1.8, 5.5)), wall_mm=float(rng.uniform(0.2, 0.9)))

    return replace(person, bone_hu=float(rng.uniform(800, 1900)),
                   ears={side: varied(person.ears[side]) for side in SIDES})


def _change(rng: np.random.Generator, code: int | None) -> EarChange:
    """A disease, or an operated ear, sometimes with a further mass of any density anywhere (a tumour, a clip of metal)."""
    operated, drawn = rng.random() < 0.1, int(rng.choice([taught for taught in DIAGNOSES if taught != NEVER_TAUGHT]))
    change = sample_operated_ear(rng) if operated and code is None else sample_change(code or drawn, rng)
    if rng.random() < 0.3:
        u, y, z = rng.uniform((32, -10, -16), (60, 20, 10)).tolist()
        wide, deep, high = (rng.uniform(1, 7) * rng.uniform(0.7, 1.3, 3)).tolist()
        mass = Mass(centre=(u, y, z), radii=(wide, deep, high), hu=float(rng.uniform(-100, 3000)))
        change = replace(change, masses=(*change.masses, mass))
    return change


def _pose(rng: np.random.Generator) -> Pose:
    yaw, pitch, roll = rng.uniform(-1, 1, 3) * (18, 22, 12)
    return Pose(yaw_deg=float(yaw), pitch_deg=float(pitch), roll_deg=float(roll))


def _offset(rng: np.random.Generator) -> np.ndarray:
    """Return how far from the tympanic cavity the ear was looked for, (3,) mm: mostly a little, sometimes far."""
    return rng.uniform(-12, 12, 3) if rng.random() < 0.3 else rng.normal(0, 3, 3)


def _gravity(rng: np.random.Generator) -> np.ndarray:
    """Direction of gravity, (3,) LPS: to the back or to the face, not quite upright."""
    down = np.array([0.0, rng.choice([1.0, -1.0]), 0.0]) + rng.normal(0, 0.2, 3)
    return down / np.linalg.norm(down)


def _contrast(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bend the scale of HU: every tissue gets other values, in the same order."""
    steps = np.diff(KNOTS_HU) * rng.uniform(0.6, 1.4, len(KNOTS_HU) - 1)
    bent = np.concatenate([[0.0], np.cumsum(steps)])
    bent += KNOTS_HU[3] - bent[3] + rng.normal(0, 30)            # water stays near 0
    return np.interp(hu, KNOTS_HU, bent).astype(np.float32)


def _scan(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what a scanner makes of thin slices: float32 HU of SHAPE, from slices of any thickness, sharpness and noise."""
    thin_mm, inner = SPACING[0] / PER_SLICE, MARGIN * PER_SLICE
    thickness = float(np.exp(rng.uniform(np.log(0.4), np.log(4.0))))
    together = max(1, round(thickness / thin_mm))
    hu = ndimage.uniform_filter1d(hu, together, axis=0)
    increment = thickness * float(rng.choice([0.5, 1.0, 1.0, 1.2]))
    first = np.arange(rng.uniform(0, increment / thin_mm), len(hu) - 1, max(1.0, increment / thin_mm))
    taken = np.rint(first).astype(int)
    slices, places = hu[taken], taken - (together % 2 == 0) / 2  # the mean of an even number lies before its place
    blurred = ndimage.gaussian_filter(slices, (0, *[float(rng.uniform(0.2, 1.1))] * 2))
    slices = slices + float(rng.uniform(-1.0, 0.6)) * (slices - blurred)             # soft kernel to edge-enhancing one
    noise = ndimage.gaussian_filter(rng.standard_normal(slices.shape, np.float32), (0, *[float(rng.uniform(0, 0.9))] * 2))
    slices = slices + noise * (float(np.exp(rng.uniform(np.log(5), np.log(200)))) / noise.std())
    at = np.interp(inner + PER_SLICE * np.arange(SHAPE[0]), places, np.arange(len(places)))
    below = np.minimum(at.astype(int), len(slices) - 2) if len(slices) > 1 else np.zeros(len(at), int)
    share = (at - below)[:, None, None].astype(np.float32)
    above = np.minimum(below + 1, len(slices) - 1)
    mixed: np.ndarray = slices[below] * (1 - share) + slices[above] * share
    return mixed


def _cut_off(rng: np.random.Generator) -> list[tuple[slice, ...]]:
    """Return the parts of the grid beyond the end of the scan: sometimes below, above, or towards the midline."""
    parts = []
    for axis, at_start in ((0, True), (0, False), (2, False)):
        if rng.random() < 0.15:
            gone = int(rng.integers(1, SHAPE[axis] // 3))
            parts.append((slice(None),) * axis + (slice(None, gone) if at_start else slice(-gone, None),))
    return parts
