"""Where the midsagittal plane and the two ears are, from bone alone. LPS, mm.

Assumptions, each with its anatomical reason: the skull base is symmetric about the midsagittal plane (so the best mirror of the
bone is the plane); the temporal bones are the largest mass of bone at the side of the skull base between face and occiput (so
they show where the ears are from front to back); the tympanic cavity lies at a fixed share of the way from the plane to the
outer table (42 of 73 mm in adults, and skulls grow evenly in width).
"""
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from medical_fenlei.vocabulary import Side

COARSE_MM = 2.0
"""Pixel of the coarse map in which everything is found."""

MAX_ROTATION_DEG = 26.0
TYMPANUM_SHARE = 42 / 73
"""Distance of the tympanic cavity from the plane, as a share of the skull's half width there."""

HALF_WIDTH_MM = (48.0, 90.0)
"""Plausible half widths of a skull, infant to large adult."""


@dataclass(frozen=True)
class Localization:
    """The midsagittal plane (a point and a unit normal to the patient's left) and both ears' centres (x, y)."""

    point: np.ndarray
    normal: np.ndarray
    ears: dict[Side, np.ndarray]
    confidence: float
    """How well the bone mirrors onto itself, 0 to 1."""

    def lateral(self, points: np.ndarray, side: Side) -> np.ndarray:
        """Distance (…) from the plane towards `side` of points (…, 3), mm; negative beyond the plane."""
        return (points - self.point) @ self.normal * side.sign

    def facts(self, side: Side) -> dict[str, Any]:
        """What is written beside an ear's volume."""
        return {
            "method": "bone_symmetry", "confidence": round(self.confidence, 4),
            "ear_centre_xy": self.ears[side].round(2).tolist(),
            "midsagittal_point": self.point.round(2).tolist(), "midsagittal_normal": self.normal.round(5).tolist(),
        }


def locate(bone: np.ndarray, affine: np.ndarray) -> Localization:
    """Find the plane and the ears in a map of bone.

    bone (rows, columns): mean share of bone over the slices, 0 to 1, rows to the back, columns to the left;
    affine (4, 4): (0, row, column, 1) of that map to LPS mm.
    """
    spacing = np.linalg.norm(affine[:3, 1:3], axis=0)
    even = ndimage.zoom(bone, spacing / COARSE_MM, order=1, grid_mode=True, mode="grid-constant")
    size = int(np.hypot(*even.shape)) + 2                        # nothing leaves the square, however it is turned
    square = np.zeros((size, size))
    low = [(size - n) // 2 for n in even.shape]
    square[low[0]:low[0] + even.shape[0], low[1]:low[1] + even.shape[1]] = even
    square = ndimage.gaussian_filter(square, 1.0)

    angle, column, confidence = _symmetry(square)
    upright = ndimage.rotate(square, angle, reshape=False, order=1)
    ears_rc = {side: _ear(upright, column, side) for side in Side}

    centre = (size - 1) / 2
    turn = np.deg2rad(angle)
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    def to_lps(row: float, col: float) -> np.ndarray:
        place = back @ (np.array([row, col]) - centre) + centre - low
        voxel = (place + 0.5) * COARSE_MM / spacing - 0.5
        return affine[:3] @ np.array([0.0, *voxel, 1.0])

    point = to_lps(float(np.mean([rc[0] for rc in ears_rc.values()])), column)
    # the plane holds its trace in a slice and the way from slice to slice, which a tilted gantry shears
    normal = np.cross(to_lps(1, column) - to_lps(0, column), affine[:3, 0])
    normal *= np.sign(normal[0]) / np.linalg.norm(normal)
    return Localization(point, normal,
                        {side: to_lps(*rc)[:2] for side, rc in ears_rc.items()}, confidence)


def _symmetry(square: np.ndarray) -> tuple[float, float, float]:
    """The rotation (degrees) that sets the plane upright, its column then, and the share of bone that mirrors (0 to 1)."""
    def try_angle(angle: float) -> tuple[float, float]:
        turned = ndimage.rotate(square, angle, reshape=False, order=1)
        width = turned.shape[1]
        spectrum = np.fft.rfft(turned, 2 * width, axis=1)
        mirrored = np.fft.irfft((spectrum**2).sum(axis=0), 2 * width)       # Σ I(x) I(s - x), for every s
        best = int(mirrored.argmax())
        left, peak, right = mirrored[best - 1], mirrored[best], mirrored[(best + 1) % (2 * width)]
        bend = left - 2 * peak + right
        return float(peak), (best + (0.5 * (left - right) / bend if bend else 0.0)) / 2

    wide = np.arange(-MAX_ROTATION_DEG, MAX_ROTATION_DEG + 1, 2.0)
    rough = max(wide, key=lambda a: try_angle(a)[0])
    angle = float(max(rough + np.arange(-2, 2.01, 0.5), key=lambda a: try_angle(a)[0]))
    peak, column = try_angle(angle)
    energy = float((ndimage.rotate(square, angle, reshape=False, order=1) ** 2).sum())
    return angle, column, min(1.0, peak / energy) if energy else 0.0


def _ear(upright: np.ndarray, column: float, side: Side) -> tuple[float, float]:
    """(row, column) of one ear's centre in the upright map: columns grow to the patient's left."""
    lateral = (np.arange(upright.shape[1]) - column) * side.sign * COARSE_MM
    outside = np.flatnonzero((lateral > HALF_WIDTH_MM[0] * 0.4) & (lateral < HALF_WIDTH_MM[1]))
    half = upright[:, outside]
    rows_of_bone = np.flatnonzero(upright.sum(axis=1) > 0.1 * upright.sum(axis=1).max())
    if not len(rows_of_bone) or not half.any():
        return (upright.shape[0] - 1) / 2, column + side.sign * 42 / COARSE_MM
    middle = (rows_of_bone[0] + rows_of_bone[-1]) / 2
    near = np.exp(-0.5 * ((np.arange(len(half)) - middle) * COARSE_MM / 25) ** 2)      # between face and occiput
    mass = ndimage.gaussian_filter1d(half.sum(axis=1), 6 / COARSE_MM) * near
    row = int(mass.argmax())
    band = upright[max(0, row - 8):row + 9].sum(axis=0)
    beyond = lateral[(band > 0.2 * band.max()) & (lateral > 0) & (lateral < HALF_WIDTH_MM[1])]
    width = float(np.clip(beyond.max(initial=0), *HALF_WIDTH_MM))
    return float(row), column + side.sign * TYMPANUM_SHARE * width / COARSE_MM
