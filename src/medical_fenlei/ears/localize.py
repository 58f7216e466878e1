"""Find the middle ears, from the midsagittal plane and the landmarks around each tympanic cavity. LPS, mm.

Assumptions, each with its anatomical reason:
- The skull base is symmetric about the midsagittal plane (`symmetry`), so both ears lie at nearly the same height and depth.
  The landmarks (`landmarks`) of both sides count together: one ear alone may be operated on, opacified or malformed.
- Heads are pitched (chin up or down) by up to some 20 degrees, which symmetry does not show: several pitches are tried.
  Rotation and tilt come from the plane; where a scan holds one ear only, and no symmetry, rotations are tried too.
- Lateral to the ear lies the air beside the head: this decides which ear a scan of one ear holds.
"""
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import ndimage

from medical_fenlei.ears.head_check import doubts_about_slices, skull_share
from medical_fenlei.ears.landmarks import GRID_MM, HeadGrid, landmark_share
from medical_fenlei.ears.symmetry import BONE_HU, TISSUE_HU, MidsagittalPlane, find_plane, head_mask, ramp
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import AIR, SIDES, Side

PITCH_DEG = (-16.0, -8.0, 0.0, 8.0, 16.0)
ANGLE_PENALTY = 0.01 / 16**2
"""Penalty, as a share of the landmarks, per squared degree of pitch, or of rotation if tried: most heads lie straight."""

SAME_SCALE = 0.05
"""Largest difference of scale that moves no landmark by more than about half a voxel."""

CENTRE_MM = 41.0
"""Distance from the midsagittal plane to the centre of the tympanic cavity in an adult."""

REACH_MM, WIDE_REACH_MM = (24.0, 56.0), (14.0, 70.0)
"""Distances from the plane at which a tympanic centre is sought: infant to large adult; and where the plane is a guess."""

ONE_EAR_SCALE = 0.95
"""Scale assumed where the width of the skull is not seen: between a child's and an adult's."""

ONE_EAR_MM = 165.0
"""Field of view below which a scan that cuts through the head may hold one ear only."""

MIN_MATCH, MIN_SHARE = 0.9, 0.53
"""A narrow scan holds both ears if the symmetry of bone (`MidsagittalPlane.match`) exceeds MIN_MATCH and the share of landmarks
exceeds MIN_SHARE on both sides."""

LOW_COVERAGE_MM = 16.0
"""z-coverage below which a scan holds hardly more than the cavity: too little of its surroundings."""

CERTAIN_SHARE, CHANCE_SHARE = 0.65, 0.45
"""Share of the landmarks at an ear that is certain, and at a position that is no better than chance."""

SCAN_DOUBT = 0.4
"""Factor by which each doubt about the scan as a whole lowers the confidence of its ears."""

TURNED_OVER = {"upside down": (1, 1, -1), "back to front": (1, -1, 1), "upside down and back to front": (1, -1, -1)}
"""How the pixels of a scan may lie that its header states otherwise: the directions in which the landmarks then lie."""

TURNED_MARGIN = 0.015
"""By how much more landmarks must show the right way round than turned over: in drawn heads it is 0.026 and more."""


@dataclass(frozen=True)
class EarLocation:
    """Where an ear lies, and how certain that is."""

    centre: np.ndarray
    """(3,) LPS mm: centre of the tympanic cavity."""

    confidence: float
    """0 to 1."""

    reasons: tuple[str, ...] = ()
    """What lowers the confidence."""

    method: Literal["landmarks", "mirrored", "geometric"] = "landmarks"
    """By its own landmarks, mirrored from the other side, or where bone is thickest."""


@dataclass(frozen=True)
class Localization:
    """The midsagittal plane and the ears that a scan can hold."""

    plane: MidsagittalPlane
    ears: dict[Side, EarLocation]
    skull: float = 1.0
    """Share of the rows beside the ears that show the skull where a head has it (`head_check.skull_share`)."""

    doubts: tuple[str, ...] = ()
    """What is doubtful about the scan as a whole, each as `<code>: <detail>`."""

    def lateral(self, points: np.ndarray, side: Side) -> np.ndarray:
        """Return the distance (…) of points (…, 3) from the plane towards `side`, mm; negative beyond the plane."""
        return self.plane.distance(points) * side.sign

    def facts(self, side: Side) -> dict[str, Any]:
        """Return what is stored about the location of an ear, as plain values for JSON."""
        ear = self.ears[side]
        return {
            "method": ear.method, "confidence": round(ear.confidence, 3), "reasons": list(ear.reasons),
            "ear_centre": ear.centre.round(2).tolist(), "midsagittal_point": self.plane.point.round(2).tolist(),
            "midsagittal_normal": self.plane.normal.round(5).tolist(),
        }


class _Candidate(NamedTuple):
    """The best position of one ear."""

    centre: np.ndarray
    """(3,) head coordinates (u, v, w), mm: left, back and up."""

    share: float
    """Share of the landmarks that show there."""

    pose: tuple[float, float]
    """Pitch and rotation of the head, degrees."""

    near: tuple[slice, ...]
    """Part of the grid in which the position was sought, u counted outwards."""


def locate(hu: np.ndarray, affine: Affine) -> Localization:
    """Find the midsagittal plane and the ears in a coarse copy of a scan.

    hu (K, rows, columns): HU in the canonical order, voxels of some 2 mm; affine: from its voxel index to LPS mm.
    """
    doubts = doubts_about_slices(hu)
    hu = np.where(head_mask(hu), hu, AIR).astype(np.float32)    # without head rest and pillow
    found, share = _both_ears(hu, affine)
    column_mm = float(affine.spacing[2])
    narrow = hu.shape[2] * column_mm < ONE_EAR_MM and min(_open_sides(hu, affine).values()) < 0.3
    if narrow and not (found.plane.match > MIN_MATCH and share > MIN_SHARE):
        one, share = _one_ear(hu, affine)
        found = one if share > MIN_SHARE else found              # nothing is certain: no ear is dropped
    doubts = (*doubts, *found.doubts)
    ears = {side: replace(ear, confidence=ear.confidence * SCAN_DOUBT ** len(doubts)) for side, ear in found.ears.items()}
    return replace(found, ears=ears, skull=skull_share(hu, column_mm, one_sided=narrow), doubts=doubts)


def _low_coverage(hu: np.ndarray, affine: Affine) -> list[str]:
    """Return the reason for doubt that a small z-coverage gives, if it does."""
    height = len(hu) * float(affine.spacing[0])
    return [f"z-coverage of only {height:.1f} mm"] if height < LOW_COVERAGE_MM else []


def _open_sides(hu: np.ndarray, affine: Affine) -> dict[Side, float]:
    """Return the share of air in a strip along either side of the field of view.

    At mid-depth, where the reconstruction circle is widest.
    """
    mm = float(affine.spacing[2])
    front = hu.shape[1] * 3 // 8
    air = hu[:, front:hu.shape[1] - front] <= TISSUE_HU
    strip = slice(round(2 / mm), max(1, round(8 / mm)))
    return {Side.LEFT: float(air[..., ::-1][..., strip].mean()), Side.RIGHT: float(air[..., strip].mean())}


def _both_ears(hu: np.ndarray, affine: Affine) -> tuple[Localization, float]:
    """Find both ears from symmetry; also return the share of the landmarks on the side that shows fewer."""
    plane = find_plane(ramp(hu, *BONE_HU), affine)
    grid = HeadGrid(hu, affine, plane)
    scale = grid.scale()
    found = _search(grid, SIDES, scale, reach=REACH_MM, rotations=(0.0,))
    at_ears = grid.scale(float(np.mean([ear.centre[2] for ear in found.values()])))
    if abs(at_ears - scale) > SAME_SCALE:                        # the skull was measured elsewhere than at the ears
        scale = at_ears
        found = _search(grid, SIDES, scale, reach=REACH_MM, rotations=(0.0,))
    (_, back, up), (_, other_back, other_up) = (ear.centre for ear in found.values())
    doubts = _low_coverage(hu, affine)
    if plane.match < 0.85:
        doubts.append(f"low symmetry of bone ({plane.match:.2f})")
    if np.hypot(back - other_back, up - other_up) > 8:
        doubts.append("the two ears differ in height or depth")
    ears = {side: _location(grid, side, found, scale, doubts) for side in SIDES}
    return Localization(plane, ears, doubts=_turned_over(grid, found, scale)), min(ear.share for ear in found.values())


def _one_ear(hu: np.ndarray, affine: Affine) -> tuple[Localization, float]:
    """Find the ear on the side where the head ends, without symmetry, and put the plane at its usual distance from it.

    Also returns the share of its landmarks.
    """
    open_sides, middle = _open_sides(hu, affine), affine.centre(hu.shape)
    more = open_sides[Side.LEFT] - open_sides[Side.RIGHT]
    side = Side.LEFT if (more if abs(more) > 0.1 else middle[0]) > 0 else Side.RIGHT
    normal = np.array([1.0, 0.0, 0.0])
    plane = MidsagittalPlane(middle - normal * side.sign * CENTRE_MM, normal, 0.0)
    grid, scale = HeadGrid(hu, affine, plane), ONE_EAR_SCALE
    found = _search(grid, (side,), scale, reach=WIDE_REACH_MM, rotations=PITCH_DEG)
    doubts = [*_low_coverage(hu, affine), "one ear in the scan: the midsagittal plane is a guess"]
    ear = _location(grid, side, found, scale, doubts)
    plane = replace(plane, point=ear.centre - normal * side.sign * CENTRE_MM * scale)
    return Localization(plane, {side: ear}, doubts=_turned_over(grid, found, scale)), found[side].share


def _search(
    grid: HeadGrid, sides: tuple[Side, ...], scale: float, *, reach: tuple[float, float], rotations: tuple[float, ...],
) -> dict[Side, _Candidate]:
    """Find the position with the most landmarks on all `sides` together, `reach` mm from the plane; then refine each side."""
    def every_other(axis: np.ndarray, low: float, high: float) -> slice:
        inside = np.flatnonzero((axis >= low) & (axis <= high))
        return slice(int(inside[0]), int(inside[-1]) + 1, 2)

    u, v, w = grid.axes
    rough = (every_other(u, *reach), every_other(v, grid.middle - 44, grid.middle + 44),
             slice(0, len(w), 2 if len(w) > 12 else 1))
    cost = (0.05 * ((u[rough[0]] - CENTRE_MM * scale) / 12)[:, None, None] ** 2
            + 0.05 * ((v[rough[1]] - grid.middle) / 30)[:, None] ** 2)
    highest, pose, start = -np.inf, (0.0, 0.0), [0, 0, 0]
    for pitch in PITCH_DEG:
        for rotation in rotations:
            seen = [ndimage.maximum_filter(landmark_share(grid, side, scale, pitch, rotation, rough), 3) for side in sides]
            total = sum(seen) / len(seen) - cost
            best = int(total.argmax())
            value = float(total.flat[best]) - ANGLE_PENALTY * (pitch**2 + rotation**2)
            if value > highest:
                at = np.unravel_index(best, total.shape)
                highest, pose = value, (pitch, rotation)
                start = [part.start + part.step * int(i) for part, i in zip(rough, at, strict=True)]
    near = tuple(slice(max(0, i - 4), min(len(axis), i + 5), 1) for i, axis in zip(start, grid.axes, strict=True))
    lines = np.meshgrid(*(axis[part] for axis, part in zip(grid.axes, near, strict=True)), indexing="ij")
    ears = {}
    for side in sides:
        share = landmark_share(grid, side, scale, *pose, near)
        weight = np.exp(40 * (share - share.max()))
        centre = np.array([(weight * line).sum() for line in lines]) / weight.sum()
        ears[side] = _Candidate(centre * [side.sign, 1, 1], float(share.max()), pose, near)
    return ears


def _turned_over(grid: HeadGrid, found: dict[Side, _Candidate], scale: float) -> tuple[str, ...]:
    """Return the doubt that the pixels lie otherwise than the header says, where as many landmarks show turned over.

    Left and right cannot be told apart so, since the landmarks of both ears are mirror images.
    """
    shown = float(np.mean([ear.share for ear in found.values()]))
    if shown < CHANCE_SHARE:                                     # no ear is seen either way
        return ()
    turned = {}
    for name, axes in TURNED_OVER.items():
        _, back, up = axes
        turned[name] = np.mean([
            landmark_share(grid, side, scale, ear.pose[0] * back * up, ear.pose[1] * back,
                           tuple(slice(part.start, part.stop, 2) for part in ear.near), axes).max()
            for side, ear in found.items()])
    name, most = max(turned.items(), key=lambda item: item[1])
    if most < shown - TURNED_MARGIN:
        return ()
    return (f"turned_over: the landmarks of the ears fit as well with the pixels {name} ({most:.2f}, else {shown:.2f})",)


def _location(grid: HeadGrid, side: Side, found: dict[Side, _Candidate], scale: float, doubts: list[str]) -> EarLocation:
    """Return an ear with its confidence; where hardly any landmark shows, guess it from the other side or from bone."""
    ear, to_lps = found[side], grid.plane.to_lps
    doubt = 0.6 ** len(doubts)
    if ear.share >= CHANCE_SHARE:
        few = [f"few landmarks ({ear.share:.2f})"] if ear.share < (CHANCE_SHARE + CERTAIN_SHARE) / 2 else []
        confidence = doubt * float(ramp(np.array(ear.share), CHANCE_SHARE, CERTAIN_SHARE))
        return EarLocation(to_lps(ear.centre), confidence, (*doubts, *few))
    missing = f"no landmarks of an ear ({ear.share:.2f})"
    other = found.get(side.other)
    if other is not None and other.share >= (CHANCE_SHARE + CERTAIN_SHARE) / 2:
        centre = to_lps(other.centre * [-1, 1, 1])
        return EarLocation(centre, 0.3 * doubt, (*doubts, f"{missing}: mirrored from the other side"), "mirrored")
    u, v, w = grid.axes
    deep = (u * side.sign > 24 * scale) & (u * side.sign < 56 * scale)
    mass = ramp(grid.hu[deep], *BONE_HU).sum(axis=0) * np.exp(-0.5 * ((v - grid.middle) / 25) ** 2)[:, None]
    back, up = np.unravel_index(int(ndimage.gaussian_filter(mass, 6 / GRID_MM, mode="nearest").argmax()), mass.shape)
    centre = to_lps(np.array([side.sign * CENTRE_MM * scale, v[back], w[up]]))
    return EarLocation(centre, 0.0, (*doubts, f"{missing}: taken where bone is thickest"), "geometric")
