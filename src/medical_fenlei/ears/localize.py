"""Where the middle ears are, from the midsagittal plane and the tissues around each tympanic cavity. LPS, mm.

Assumptions, each with its anatomical reason:
- The skull base mirrors about the midsagittal plane (`symmetry`), so both ears lie at nearly the same height and depth, and a
  place counts where both sides look like an ear: one ear alone may be operated, filled or malformed.
- Every tympanic cavity, diseased or not, has the neighbours of `LANDMARKS`, at distances that vary by a few mm and grow with
  the width of the skull. Those that disease changes least (otic capsule, brain above and behind, bony walls) stand beside those
  that it may take away (air in the canal and in the cavity), so that none of them decides alone.
- Heads nod in the scanner by up to some 20 degrees, which symmetry does not show: nodding is tried. Rotation and tilt come from
  the plane; where a scan holds one ear only, and no symmetry, rotation is tried too.
- What lies far to the side and opens to air is lateral: it tells which ear a scan of one ear holds.
"""
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import ndimage

from medical_fenlei.dicom.pixels import AIR
from medical_fenlei.ears.symmetry import BONE_HU, TISSUE_HU, Plane, find_plane, head_mask, ramp
from medical_fenlei.vocabulary import SIDES, Side

GRID_MM = 2.0
"""Voxel in which landmarks are sought."""

Tissue = Literal["capsule", "firm", "soft", "open", "air"]


class Landmark(NamedTuple):
    """A tissue at `offset` mm (outwards, back, up) from the tympanic centre of an adult, and how much it counts."""

    tissue: Tissue
    offset: tuple[float, float, float]
    weight: float
    wide: bool = False
    """Averaged over WIDE_MM instead of NEAR_MM around it."""


NEAR_MM, WIDE_MM = 2.5, 5.0
"""Standard deviations of the means around a landmark: half a centimetre and a centimetre across."""


LANDMARKS = (
    Landmark("capsule", (-7, 2, 2), 2.0),                        # the otic capsule: the densest bone of the body
    Landmark("firm", (-9, -3, 2), 1.0, wide=True),               # the petrous pyramid, forward and inward, and its borders
    Landmark("firm", (-6, 8, 2), 0.7), Landmark("firm", (-6, 2, 6), 0.7), Landmark("firm", (-3, -14, -2), 0.7),
    Landmark("firm", (12, 14, -4), 1.0, wide=True),              # the mastoid: cells, marrow or ivory, never plain soft tissue
    Landmark("firm", (20, -12, 4), 1.0),                         # root of the zygoma and squama: beyond them bone ends
    Landmark("open", (2, 1, -2), 0.5), Landmark("open", (6, 0, -2), 0.5),                # the ear canal: no bone in it …
    Landmark("open", (11, 0, -2), 0.5), Landmark("open", (16, 0, -2), 0.5),
    Landmark("air", (1, 0, 0), 1.0), Landmark("air", (10, 0, -2), 1.0), Landmark("air", (16, 0, -2), 1.0),   # … but air
    Landmark("firm", (11, 9, -3), 0.7), Landmark("firm", (12, 0, 8), 0.7), Landmark("firm", (8, 0, -10), 0.7),    # its walls
    Landmark("soft", (0, 0, 19), 1.0, wide=True), Landmark("soft", (4, -10, 10), 1.0),   # the temporal lobe over the tegmen
    Landmark("soft", (-14, 18, -1), 1.0, wide=True), Landmark("soft", (-8, 17, 2), 0.7),  # the posterior fossa
    Landmark("open", (-6, 0, -23), 0.5, wide=True),              # vessels and muscle below the skull base
)
OFFSETS = np.array([mark.offset for mark in LANDMARKS], float)
UNSEEN = 0.4
"""Taken for a landmark beyond the scan."""

NOD_DEG = (-16.0, -8.0, 0.0, 8.0, 16.0)
NOD_COST = 0.01 / 16**2
"""A square degree of nodding, or of rotation where it is tried, costs so much: heads lie straight unless landmarks say more."""

ADULT_HALF_WIDTH = 71.0
"""Plane to outer table at the ears, mm (146 mm across), and the scale that other widths give, infant to large adult."""
SCALES = (0.65, 1.1)

SAME_SCALE = 0.05
"""A difference of scale that moves no landmark by more than about half a voxel."""

CENTRE_MM = 41.0
"""Plane to tympanic centre in an adult."""

REACH_MM, WIDE_REACH_MM = (24.0, 56.0), (14.0, 70.0)
"""How far from the plane a tympanic centre is sought: infant to large adult; and where the plane itself is a guess."""

ONE_EAR_SCALE = 0.95
"""Taken where the skull's width is not seen: between a child's and an adult's."""

ONE_EAR_MM = 165.0
"""A narrower field of view that cuts through the head may hold one ear only: it does where bone does not mirror (MATCH), or
where a side shows too few landmarks (SEEN)."""
MATCH, SEEN = 0.9, 0.53

LOW_MM = 16.0
"""A scan less high holds hardly more than the cavity: too little of what surrounds it."""

SURE, UNSURE = 0.65, 0.45
"""Share of the landmarks at a certain ear, and at a place that is no better than chance."""


@dataclass(frozen=True)
class EarPlace:
    """One ear. `centre` (x, y, z): of its tympanic cavity, mm."""

    centre: np.ndarray
    confidence: float
    """0 to 1."""

    reasons: tuple[str, ...] = ()
    """Why it is not surer."""

    method: Literal["landmarks", "mirrored", "geometric"] = "landmarks"


@dataclass(frozen=True)
class Localization:
    """The midsagittal plane and the ears that the scan can hold."""

    plane: Plane
    ears: dict[Side, EarPlace]

    def lateral(self, points: np.ndarray, side: Side) -> np.ndarray:
        """Distance (…) from the plane towards `side` of points (…, 3), mm; negative beyond the plane."""
        return (points - self.plane.point) @ self.plane.normal * side.sign

    def facts(self, side: Side) -> dict[str, Any]:
        """What is written beside an ear's volume."""
        ear = self.ears[side]
        return {
            "method": ear.method, "confidence": round(ear.confidence, 3), "reasons": list(ear.reasons),
            "ear_centre": ear.centre.round(2).tolist(), "midsagittal_point": self.plane.point.round(2).tolist(),
            "midsagittal_normal": self.plane.normal.round(5).tolist(),
        }


def locate(hu: np.ndarray, affine: np.ndarray) -> Localization:
    """Find the plane and the ears in a coarse copy of a scan.

    hu (K, rows, columns): HU, K upwards, rows to the back, columns to the left, some 2 mm apart; affine (4, 4): to LPS mm.
    """
    hu = np.where(head_mask(hu), hu, AIR).astype(np.float32)    # no rest, no pillow
    both, share = _both_ears(hu, affine)
    narrow = hu.shape[2] * float(np.linalg.norm(affine[:3, 2])) < ONE_EAR_MM and min(_open_sides(hu, affine).values()) < 0.3
    if not narrow or (both.plane.match > MATCH and share > SEEN):
        return both
    one, share = _one_ear(hu, affine)
    return one if share > SEEN else both                         # nothing is certain: no ear is dropped


def _low(hu: np.ndarray, affine: np.ndarray) -> list[str]:
    """The doubt that a scan of little height raises, if it does."""
    height = len(hu) * float(np.linalg.norm(affine[:3, 0]))
    return [f"only {height:.1f} mm of height are seen"] if height < LOW_MM else []


def _open_sides(hu: np.ndarray, affine: np.ndarray) -> dict[Side, float]:
    """How much of a strip along either side of the field of view is air; at its middle height, where the circle is widest."""
    mm = float(np.linalg.norm(affine[:3, 2]))
    front = hu.shape[1] * 3 // 8
    air = hu[:, front:hu.shape[1] - front] <= TISSUE_HU
    strip = slice(round(2 / mm), max(1, round(8 / mm)))
    return {Side.LEFT: float(air[..., ::-1][..., strip].mean()), Side.RIGHT: float(air[..., strip].mean())}


def _both_ears(hu: np.ndarray, affine: np.ndarray) -> tuple[Localization, float]:
    """From symmetry; and the landmarks that the less certain side shows."""
    plane = find_plane(ramp(hu, *BONE_HU), affine)
    grid = _Grid(hu, affine, plane)
    scale = grid.scale()
    found = _search(grid, SIDES, scale, reach=REACH_MM, turns=(0.0,))
    there = grid.scale(float(np.mean([centre[2] for centre, _ in found.values()])))
    if abs(there - scale) > SAME_SCALE:                          # the skull was measured elsewhere than at the ears
        scale = there
        found = _search(grid, SIDES, scale, reach=REACH_MM, turns=(0.0,))
    (_, back, up), (_, other_back, other_up) = (centre for centre, _ in found.values())
    doubts = _low(hu, affine)
    if plane.match < 0.85:
        doubts.append(f"bone mirrors by {plane.match:.2f} only")
    if np.hypot(back - other_back, up - other_up) > 8:
        doubts.append("the two ears lie differently")
    places = {side: _place(grid, side, found, scale, doubts) for side in SIDES}
    return Localization(plane, places), min(share for _, share in found.values())


def _one_ear(hu: np.ndarray, affine: np.ndarray) -> tuple[Localization, float]:
    """Without symmetry: the ear of the side where the head ends, and the plane at its usual distance; and its landmarks."""
    open_sides, middle = _open_sides(hu, affine), affine[:3] @ np.append((np.array(hu.shape) - 1) / 2, 1.0)
    more = open_sides[Side.LEFT] - open_sides[Side.RIGHT]
    side = Side.LEFT if (more if abs(more) > 0.1 else middle[0]) > 0 else Side.RIGHT
    normal = np.array([1.0, 0.0, 0.0])
    plane = Plane(middle - normal * side.sign * CENTRE_MM, normal, 0.0)
    grid, scale = _Grid(hu, affine, plane), ONE_EAR_SCALE
    found = _search(grid, (side,), scale, reach=WIDE_REACH_MM, turns=NOD_DEG)
    ear = _place(grid, side, found, scale, [*_low(hu, affine), "one ear in the scan: the midsagittal plane is a guess"])
    plane = replace(plane, point=ear.centre - normal * side.sign * CENTRE_MM * scale)
    return Localization(plane, {side: ear}), found[side][1]


class _Grid:
    """A scan in the axes of the head: HU [u, v, w], u to the left, v back, w up from the plane's point, GRID_MM apart."""

    REACH, DEPTH = 74.0, 54.0
    """Mm from the plane, and to the front and back of the middle of the head, that are looked at."""

    def __init__(self, hu: np.ndarray, affine: np.ndarray, plane: Plane) -> None:
        self.plane = plane
        ends = np.stack(np.meshgrid(*([0, n - 1] for n in hu.shape), indexing="ij"), -1).reshape(-1, 3)
        spread = self._to_head(ends, affine)
        low, high = spread.min(axis=0), spread.max(axis=0)
        rows = np.flatnonzero((hu > TISSUE_HU).mean(axis=(0, 2)) > 0.1)
        ends_of_head = rows[[0, -1]] if len(rows) else (0, hu.shape[1] - 1)
        of_head = np.array([[(len(hu) - 1) / 2, row, (hu.shape[2] - 1) / 2] for row in ends_of_head])
        self.middle = float(self._to_head(of_head, affine)[:, 1].mean())
        low[1], high[1] = max(low[1], self.middle - self.DEPTH), min(high[1], self.middle + self.DEPTH)
        low[0], high[0] = -self.REACH, self.REACH
        self.low = np.floor(low / GRID_MM) * GRID_MM
        shape = tuple((np.ceil((high - self.low) / GRID_MM).astype(int) + 1).tolist())
        back = np.linalg.inv(affine[:3, :3])
        self.hu = ndimage.affine_transform(
            hu.astype(np.float32), back @ plane.axes.T * GRID_MM, back @ (self.to_lps(self.low) - affine[:3, 3]), shape,
            order=1, mode="constant", cval=AIR)
        self.axes = tuple(start + GRID_MM * np.arange(n) for start, n in zip(self.low, shape, strict=True))
        self._fields: dict[tuple[Tissue, bool], np.ndarray] = {}

    def _to_head(self, voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
        found: np.ndarray = (voxels @ affine[:3, :3].T + affine[:3, 3] - self.plane.point) @ self.plane.axes.T
        return found

    def to_lps(self, place: np.ndarray) -> np.ndarray:
        """(3,) LPS mm of (u, v, w)."""
        point: np.ndarray = self.plane.point + place @ self.plane.axes
        return point

    def scale(self, level: float | None = None) -> float:
        """Of this skull to an adult's, from its width, at this height (w) where one is given."""
        bone = self.hu > 300
        if level is not None:
            bone = bone[..., np.abs(self.axes[2] - level) < 12]
        u = self.axes[0][:, None, None]
        left, right = (np.where(bone, u * side.sign, -np.inf).max(axis=0) for side in SIDES)
        both = (left > 20) & (right > 20)
        half = float(np.percentile((left + right)[both] / 2, 90)) if both.any() else ADULT_HALF_WIDTH
        return float(np.clip(half / ADULT_HALF_WIDTH, *SCALES))

    def field(self, tissue: Tissue, wide: bool) -> np.ndarray:
        """Share of this tissue around each voxel, 0 to 1, float32 [u, v, w]."""
        if (tissue, wide) not in self._fields:
            if wide:                                             # smooth enough for every other voxel
                more = np.sqrt(WIDE_MM**2 - NEAR_MM**2) / (2 * GRID_MM)
                near = self.field(tissue, False)
                found = _double(ndimage.gaussian_filter(near[::2, ::2, ::2], more, truncate=2.5), near.shape)
            else:
                found = ndimage.gaussian_filter(self._share(tissue).astype(np.float32), NEAR_MM / GRID_MM, truncate=2.5)
            self._fields[tissue, wide] = found
        return self._fields[tissue, wide]

    def _share(self, tissue: Tissue) -> np.ndarray:
        hu = self.hu
        if tissue == "open":
            return 1 - ramp(hu, *BONE_HU)
        if tissue == "soft":
            return 1 - ramp(np.abs(hu - 40), 100, 250)
        if tissue == "capsule":                                  # denser than the rest of this skull, with this kernel
            bone = hu[hu > 300]
            dense = float(np.percentile(bone, 80)) if bone.size else 1000.0
            return ramp(hu, 0.85 * dense, 1.5 * dense)
        return self._inside() * (ramp(-hu, 200, 700) if tissue == "air" else ramp(np.abs(hu - 40), 100, 250))

    def _inside(self) -> np.ndarray:
        """bool: tissue lies before and behind, as on both sides of the ear canal."""
        tissue = self.hu > TISSUE_HU
        before = np.logical_or.accumulate(tissue, axis=1)
        behind = np.logical_or.accumulate(tissue[:, ::-1], axis=1)[:, ::-1]
        both: np.ndarray = before & behind
        return both


def _double(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values at every other voxel, and their means between them."""
    for axis, n in enumerate(shape):
        both = np.moveaxis(np.repeat(values, 2, axis=axis), axis, 0)[:n]
        both[1:-1:2] += both[2::2][:len(both[1:-1:2])]
        both[1:-1:2] /= 2
        values = np.moveaxis(both, 0, axis)
    return values


Found = dict[Side, tuple[np.ndarray, float]]
"""(u, v, w) of each ear, and the share of the landmarks that are there."""


def _search(
    grid: _Grid, sides: tuple[Side, ...], scale: float, *, reach: tuple[float, float], turns: tuple[float, ...],
) -> Found:
    """The place that looks most like an ear on all `sides` together, at `reach` mm from the plane; then each side by itself."""
    def every_other(axis: np.ndarray, low: float, high: float) -> slice:
        inside = np.flatnonzero((axis >= low) & (axis <= high))
        return slice(int(inside[0]), int(inside[-1]) + 1, 2)

    u, v, w = grid.axes
    rough = (every_other(u, *reach), every_other(v, grid.middle - 44, grid.middle + 44),
             slice(0, len(w), 2 if len(w) > 12 else 1))
    cost = (0.05 * ((u[rough[0]] - CENTRE_MM * scale) / 12)[:, None, None] ** 2
            + 0.05 * ((v[rough[1]] - grid.middle) / 30)[:, None] ** 2)
    found: tuple[float, tuple[float, float], list[int]] = (-np.inf, (0.0, 0.0), [0, 0, 0])
    for nod in NOD_DEG:
        for turn in turns:
            seen = [ndimage.maximum_filter(_likeness(grid, side, scale, nod, turn, rough), 3) for side in sides]
            total = sum(seen) / len(seen) - cost
            best = int(total.argmax())
            here = float(total.flat[best]) - NOD_COST * (nod**2 + turn**2)
            if here > found[0]:
                at = np.unravel_index(best, total.shape)
                found = here, (nod, turn), [part.start + part.step * int(i) for part, i in zip(rough, at, strict=True)]
    near = tuple(slice(max(0, i - 4), min(len(axis), i + 5), 1) for i, axis in zip(found[2], grid.axes, strict=True))
    ears = {}
    for side in sides:
        likeness = _likeness(grid, side, scale, *found[1], near)
        weight = np.exp(40 * (likeness - likeness.max()))
        lines = np.meshgrid(*(axis[part] for axis, part in zip(grid.axes, near, strict=True)), indexing="ij")
        centre = np.array([(weight * line).sum() for line in lines]) / weight.sum()
        ears[side] = centre * [side.sign, 1, 1], float(likeness.max())
    return ears


def _likeness(grid: _Grid, side: Side, scale: float, nod: float, turn: float, places: tuple[slice, ...]) -> np.ndarray:
    """Share of the landmarks, 0 to 1, that are there if the tympanic centre were at each of the places.

    places: parts of the grid's axes, u counted outwards on either side. nod, turn: of the head, degrees.
    """
    a, b = np.deg2rad([nod, turn])
    nodding = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turning = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    offsets = np.rint(OFFSETS @ (turning @ nodding).T * (scale / GRID_MM)).astype(int)
    total = np.zeros(tuple(len(range(part.start, part.stop, part.step)) for part in places), np.float32)
    for mark, offset in zip(LANDMARKS, offsets.tolist(), strict=True):
        field = grid.field(mark.tissue, mark.wide)[:: side.sign]
        parts = [_overlap(part, o, n) for part, o, n in zip(places, offset, field.shape, strict=True)]
        seen, there = zip(*parts, strict=True)
        total[seen] += mark.weight * (field[there] - UNSEEN)
    return UNSEEN + total / np.float32(sum(mark.weight for mark in LANDMARKS))


def _overlap(part: slice, offset: int, length: int) -> tuple[slice, slice]:
    """Which of the places of `part`, moved by `offset`, lie on an axis of this length; and where they lie there."""
    start = part.start + offset
    first = max(0, -(start // part.step))
    count = len(range(part.start, part.stop, part.step))
    stop = max(first, min(count, (length - 1 - start) // part.step + 1))
    return slice(first, stop), slice(start + first * part.step, start + (stop - 1) * part.step + 1 if stop > first else
                                     start + first * part.step, part.step)


def _place(grid: _Grid, side: Side, found: Found, scale: float, doubts: list[str]) -> EarPlace:
    """An ear with its confidence. Where hardly any landmark shows, its place is guessed: from the other side, or from bone."""
    centre, share = found[side]
    doubt = 0.6 ** len(doubts)
    if share >= UNSURE:
        few = [f"few landmarks ({share:.2f})"] if share < (UNSURE + SURE) / 2 else []
        return EarPlace(grid.to_lps(centre), doubt * float(ramp(np.array(share), UNSURE, SURE)), (*doubts, *few))
    missing = f"no landmarks of an ear ({share:.2f})"
    other, other_share = found.get(side.other, (centre, 0.0))
    if other_share >= (UNSURE + SURE) / 2:
        return EarPlace(grid.to_lps(other * [-1, 1, 1]), 0.3 * doubt, (*doubts, f"{missing}: as on the other side"), "mirrored")
    u, v, w = grid.axes
    deep = (u * side.sign > 24 * scale) & (u * side.sign < 56 * scale)
    mass = ramp(grid.hu[deep], *BONE_HU).sum(axis=0) * np.exp(-0.5 * ((v - grid.middle) / 25) ** 2)[:, None]
    back, up = np.unravel_index(int(ndimage.gaussian_filter(mass, 6 / GRID_MM, mode="nearest").argmax()), mass.shape)
    place = np.array([side.sign * CENTRE_MM * scale, v[back], w[up]])
    return EarPlace(grid.to_lps(place), 0.0, (*doubts, f"{missing}: where bone is deepest"), "geometric")
