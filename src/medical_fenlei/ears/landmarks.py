"""The tissues around a tympanic cavity, and how many of them show at each position of a head. mm.

Every tympanic cavity, diseased or not, has the surroundings listed in `LANDMARKS`, at distances that vary by a few mm and grow
with the width of the skull. Landmarks that disease changes least (otic capsule, brain above and behind, bony walls) are
combined with those that it may remove (air in the canal and in the cavity), so that none of them decides alone.

Head coordinates are (u, v, w): mm to the left, back and up of a point of the midsagittal plane, along the axes of the head.
"""
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from medical_fenlei.ears.symmetry import BONE_HU, TISSUE_HU, MidsagittalPlane, ramp
from medical_fenlei.spatial import Affine, corners, middle
from medical_fenlei.vocabulary import AIR, SIDES, Side

GRID_MM = 2.0
"""Voxel in which landmarks are sought."""

Tissue = Literal["capsule", "firm", "soft", "open", "air"]


class Landmark(NamedTuple):
    """A tissue at a position relative to the tympanic centre of an adult."""

    tissue: Tissue
    offset: tuple[float, float, float]
    """mm outwards, back and up."""

    weight: float
    wide: bool = False
    """Whether the tissue is averaged over WIDE_MM instead of NEAR_MM around the position."""


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
"""Share that is assumed for a landmark beyond the scan."""

ADULT_HALF_WIDTH = 71.0
"""Plane to outer table at the ears in an adult, mm (146 mm across)."""

SCALES = (0.65, 1.1)
"""Smallest and largest size relative to an adult, from infant to large adult."""

SIDE_MM, DEPTH_MM = 74.0, 54.0
"""Extent of the head grid from the plane, and to the front and back of the middle of the head."""


class HeadGrid:
    """A scan resampled along the axes of the head: HU [u, v, w] and shares of tissue, GRID_MM apart."""

    def __init__(self, hu: np.ndarray, affine: Affine, plane: MidsagittalPlane) -> None:
        """hu (K, rows, columns): HU; affine: its voxel index to LPS mm."""
        self.plane = plane
        spread = plane.to_head(affine.apply(corners((0, 0, 0), np.array(hu.shape) - 1)))
        low, high = spread.min(axis=0), spread.max(axis=0)
        rows = np.flatnonzero((hu > TISSUE_HU).mean(axis=(0, 2)) > 0.1)
        front, back = rows[[0, -1]] if len(rows) else (0, hu.shape[1] - 1)
        k, _, column = middle(hu.shape)
        self.middle = float(plane.to_head(affine.apply([[k, front, column], [k, back, column]]))[:, 1].mean())
        low[1], high[1] = max(low[1], self.middle - DEPTH_MM), min(high[1], self.middle + DEPTH_MM)
        low[0], high[0] = -SIDE_MM, SIDE_MM
        low = np.floor(low / GRID_MM) * GRID_MM
        shape = tuple((np.ceil((high - low) / GRID_MM).astype(int) + 1).tolist())
        to_index = affine.linear_inverse
        self.hu = ndimage.affine_transform(
            hu.astype(np.float32), to_index @ plane.axes.T * GRID_MM, to_index @ (plane.to_lps(low) - affine.origin), shape,
            order=1, mode="constant", cval=AIR)
        self.axes = tuple(start + GRID_MM * np.arange(n) for start, n in zip(low, shape, strict=True))
        """Coordinates along u, v and w, mm."""

        self._tissue: dict[tuple[Tissue, bool], np.ndarray] = {}

    def scale(self, level: float | None = None) -> float:
        """Return the size of the skull relative to an adult's, from its width: everywhere, or near the height `level` (w)."""
        bone = self.hu > 300
        if level is not None:
            bone = bone[..., np.abs(self.axes[2] - level) < 12]
        u = self.axes[0][:, None, None]
        left, right = (np.where(bone, u * side.sign, -np.inf).max(axis=0) for side in SIDES)
        both = (left > 20) & (right > 20)
        half = float(np.percentile((left + right)[both] / 2, 90)) if both.any() else ADULT_HALF_WIDTH
        return float(np.clip(half / ADULT_HALF_WIDTH, *SCALES))

    def tissue(self, kind: Tissue, wide: bool) -> np.ndarray:
        """Return the share of this tissue around each voxel, 0 to 1, float32 [u, v, w]."""
        if (kind, wide) not in self._tissue:
            if wide:                                             # smooth enough to compute at every other voxel
                more = np.sqrt(WIDE_MM**2 - NEAR_MM**2) / (2 * GRID_MM)
                near = self.tissue(kind, False)
                found = _double(ndimage.gaussian_filter(near[::2, ::2, ::2], more, truncate=2.5), near.shape)
            else:
                found = ndimage.gaussian_filter(self._share(kind).astype(np.float32), NEAR_MM / GRID_MM, truncate=2.5)
            self._tissue[kind, wide] = found
        return self._tissue[kind, wide]

    def _share(self, kind: Tissue) -> np.ndarray:
        hu = self.hu
        if kind == "open":
            return 1 - ramp(hu, *BONE_HU)
        if kind == "soft":
            return 1 - ramp(np.abs(hu - 40), 100, 250)
        if kind == "capsule":                                    # denser than the rest of this skull, with this kernel
            bone = hu[hu > 300]
            dense = float(np.percentile(bone, 80)) if bone.size else 1000.0
            return ramp(hu, 0.85 * dense, 1.5 * dense)
        return self._inside() * (ramp(-hu, 200, 700) if kind == "air" else ramp(np.abs(hu - 40), 100, 250))

    def _inside(self) -> np.ndarray:
        """Return where tissue lies both in front and behind, as around the ear canal, bool [u, v, w]."""
        tissue = self.hu > TISSUE_HU
        in_front = np.logical_or.accumulate(tissue, axis=1)
        behind = np.logical_or.accumulate(tissue[:, ::-1], axis=1)[:, ::-1]
        both: np.ndarray = in_front & behind
        return both


def _double(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Double the resolution: keep the values, and put their means between them."""
    for axis, n in enumerate(shape):
        both = np.moveaxis(np.repeat(values, 2, axis=axis), axis, 0)[:n]
        both[1:-1:2] += both[2::2][:len(both[1:-1:2])]
        both[1:-1:2] /= 2
        values = np.moveaxis(both, 0, axis)
    return values


def landmark_share(
    grid: HeadGrid, side: Side, scale: float, pitch_deg: float, rotation_deg: float, positions: tuple[slice, ...],
    axes: tuple[int, int, int] = (1, 1, 1),
) -> np.ndarray:
    """Return the share of the landmarks, 0 to 1, that show with the tympanic centre at each of the positions.

    positions: parts of the grid's axes, with u counted outwards on either side. pitch_deg, rotation_deg: of the head; axes: -1
    where the landmarks lie mirrored along u, v or w.
    """
    a, b = np.deg2rad([pitch_deg, rotation_deg])
    pitch = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rotation = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    offsets = np.rint(OFFSETS * axes @ (rotation @ pitch).T * (scale / GRID_MM)).astype(int)
    total = np.zeros(tuple(len(range(part.start, part.stop, part.step)) for part in positions), np.float32)
    for mark, offset in zip(LANDMARKS, offsets.tolist(), strict=True):
        tissue = grid.tissue(mark.tissue, mark.wide)[:: side.sign]
        parts = [_overlap(part, o, n) for part, o, n in zip(positions, offset, tissue.shape, strict=True)]
        seen, there = zip(*parts, strict=True)
        total[seen] += mark.weight * (tissue[there] - UNSEEN)
    return UNSEEN + total / np.float32(sum(mark.weight for mark in LANDMARKS))


def _overlap(part: slice, offset: int, length: int) -> tuple[slice, slice]:
    """Return which positions of `part`, moved by `offset`, lie on an axis of this length, and where on it they lie."""
    start = part.start + offset
    first = max(0, -(start // part.step))
    count = len(range(part.start, part.stop, part.step))
    stop = max(first, min(count, (length - 1 - start) // part.step + 1))
    begin = start + first * part.step
    end = start + (stop - 1) * part.step + 1 if stop > first else begin
    return slice(first, stop), slice(begin, end, part.step)
