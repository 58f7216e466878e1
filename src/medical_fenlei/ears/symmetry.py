"""The midsagittal plane, from bone alone. LPS, mm.

Assumption, with its reason: the skull is symmetric about the midsagittal plane within a few mm, its base more so than its vault
(hair, head rests and a deviated nose are not bone of the head, and are left out). The plane is the one about which the bone of
the head mirrors best onto itself: found roughly in a projection, then exactly in 3D, rotation and tilt together.
"""
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

from medical_fenlei.spatial import Affine

BONE_HU = (200.0, 1000.0)
"""HU that count as no bone and as bone, with a ramp between them, so that a partly filled voxel counts in part."""

TISSUE_HU = -300.0
"""Above this a voxel belongs to a body, or to what it lies on."""

MAX_ROTATION_DEG = 26.0
ROUGH_MM = 4.0
"""Pixel of the projection in which rotation and position are first sought."""

SMOOTH_MM = 3.0
"""Standard deviation by which bone is smoothed before it is compared with its mirror image: the skull's asymmetry."""

POINTS = 1000
"""Largest number of points of bone that are mirrored."""

MIN_POINTS = 50
"""With fewer points of bone only the rough plane is returned, with match 0."""

TILT_PENALTY = 1e-5
"""Cost in overlap of a square degree of tilt: where bone does not decide (few slices), the head is taken to lie straight."""

SLOPE_STEP = 0.2
"""Change of rotation, tilt (degrees) and shift (mm) over which slopes are measured: interpolated bone changes at that scale."""


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return 0 up to `low`, 1 from `high` on, and a straight line between."""
    return np.clip((values - low) / (high - low), 0, 1)


def head_mask(hu: np.ndarray) -> np.ndarray:
    """Return the head with a rim around it, without its rest, bool (K, rows, columns): the largest piece of tissue.

    hu: HU, some 2 mm per pixel.
    """
    disc = ndimage.generate_binary_structure(2, 1)[None]
    labels, count = ndimage.label(ndimage.binary_erosion(hu[:, ::2, ::2] > TISSUE_HU, disc))
    if not count:
        return np.ones(hu.shape, bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    coarse = ndimage.binary_dilation(labels == sizes.argmax(), disc, iterations=3)
    mask: np.ndarray = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :hu.shape[1], :hu.shape[2]]
    return mask


@dataclass(frozen=True)
class MidsagittalPlane:
    """The plane that separates the left half of the head from the right one."""

    point: np.ndarray
    """(3,) LPS mm: a point of the plane."""

    normal: np.ndarray
    """(3,): unit normal, to the patient's left."""

    match: float
    """How well bone mirrors in the plane, 0 to 1."""

    @property
    def axes(self) -> np.ndarray:
        """(3, 3): unit vectors to the left, back and up of the head, as rows. Pitch is not found, so back is level."""
        back = np.array([-self.normal[1], self.normal[0], 0.0])
        back /= np.linalg.norm(back)
        return np.stack([self.normal, back, np.cross(self.normal, back)])

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Return the distance (…) of LPS points (…, 3) from the plane in mm, positive to the left."""
        distance: np.ndarray = (points - self.point) @ self.normal
        return distance

    def to_head(self, points: np.ndarray) -> np.ndarray:
        """Map LPS points (…, 3) to head coordinates: mm to the left, back and up of the plane's point along `axes`."""
        coordinates: np.ndarray = (points - self.point) @ self.axes.T
        return coordinates

    def to_lps(self, coordinates: np.ndarray) -> np.ndarray:
        """Map head coordinates (…, 3), mm, to LPS."""
        points: np.ndarray = self.point + coordinates @ self.axes
        return points


class _MirroredBone:
    """Points of bone about `centre`, and the bone at their mirror images in a plane given as (rotation, tilt, shift)."""

    def __init__(self, smooth: np.ndarray, voxels: np.ndarray, affine: Affine, centre: np.ndarray) -> None:
        """smooth (K, rows, columns): bone; voxels (N, 3): indices of the points; centre (3,): LPS mm, on a plane of shift 0."""
        self._smooth, self._last = smooth, np.array(smooth.shape) - 1
        self._bone = smooth[tuple(voxels.T)]
        self._points = affine.apply(voxels) - centre
        self._to_index = affine.linear_inverse
        self._offset = self._to_index @ (affine.origin - centre)

    def _compare(self, plane: np.ndarray, every: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the bone at points, the bone at their mirror images, and which of these lie in the scan."""
        normal, points = _normal(plane[0], plane[1]), self._points[::every]
        images = (points - 2 * (points @ normal - plane[2])[:, None] * normal) @ self._to_index.T - self._offset
        seen = ((images >= 0) & (images <= self._last)).all(axis=1)
        return self._bone[::every], ndimage.map_coordinates(self._smooth, images.T, order=1), seen

    def overlap(self, plane: np.ndarray, every: int = 1) -> float:
        """Return the correlation of bone with its mirror image, over what lies in the scan; uses every n-th point."""
        bone, mirrored, seen = self._compare(plane, every)
        bone, mirrored, share = bone[seen], mirrored[seen], seen.mean()
        energy = float(np.sqrt((bone @ bone) * (mirrored @ mirrored)))
        return float(bone @ mirrored) / energy * min(1.0, share / 0.7) ** 0.5 if energy and share > 0.1 else 0.0

    def difference(self, plane: np.ndarray) -> np.ndarray:
        """Return the residuals (N + 1,) of a least-squares fit: bone less mirrored bone, and the tilt."""
        bone, mirrored, seen = self._compare(plane)
        return np.append((mirrored - bone) * seen, np.sqrt(TILT_PENALTY * len(bone)) * plane[1])

    def slopes(self, plane: np.ndarray) -> np.ndarray:
        """Return the derivatives (N + 1, 3) of the residuals."""
        here = self.difference(plane)
        return np.stack([(self.difference(plane + step) - here) / SLOPE_STEP for step in SLOPE_STEP * np.eye(3)], axis=1)

    def search(self, rotation: float, tilt: float) -> np.ndarray:
        """Return the plane of the largest overlap near this one. A simplex search works where gradients lead nowhere."""
        simplex = np.array([rotation, tilt, 0.0]) + np.vstack([np.zeros(3), np.diag([3.0, 4.0, 3.0])])

        def cost(plane: np.ndarray) -> float:
            return TILT_PENALTY * float(plane[1]) ** 2 - self.overlap(plane, 4)

        found = optimize.minimize(
            cost, simplex[0], method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 0.3, "fatol": 1e-4, "maxfev": 30})
        best: np.ndarray = found.x
        return best


def find_plane(bone: np.ndarray, affine: Affine) -> MidsagittalPlane:
    """Return the plane about which `bone` mirrors best.

    bone (K, rows, columns): share of bone, 0 to 1, some 2 mm per pixel; affine: its voxel index to LPS mm.
    """
    rotation, point = _rough_plane(bone.mean(axis=0), affine, (len(bone) - 1) / 2)
    bone = (bone[:, :-1:2, :-1:2] + bone[:, 1::2, :-1:2] + bone[:, :-1:2, 1::2] + bone[:, 1::2, 1::2]) / 4
    affine = affine @ Affine.from_steps(np.diag([1, 2, 2]), [0, 0.5, 0.5])
    smooth = ndimage.gaussian_filter(bone.astype(np.float32), SMOOTH_MM / affine.spacing, truncate=2.5)
    voxels = np.argwhere(bone > 0.3)
    if len(voxels) < MIN_POINTS:
        return MidsagittalPlane(point, _normal(rotation, 0.0), 0.0)
    voxels = voxels[np.linspace(0, len(voxels) - 1, min(POINTS, len(voxels))).astype(int)]
    mirrored = _MirroredBone(smooth, voxels, affine, point)
    start = max((mirrored.search(rotation, tilt) for tilt in (-6.0, 6.0)), key=lambda plane: mirrored.overlap(plane, 4))
    best = optimize.least_squares(mirrored.difference, start, mirrored.slopes, bounds=(start - 4, start + 4), max_nfev=5).x
    normal = _normal(best[0], best[1])
    return MidsagittalPlane(point + best[2] * normal, normal, mirrored.overlap(best))


def _normal(rotation_deg: float, tilt_deg: float) -> np.ndarray:
    rotation, tilt = np.deg2rad([rotation_deg, tilt_deg])
    return np.array([np.cos(rotation) * np.cos(tilt), np.sin(rotation) * np.cos(tilt), np.sin(tilt)])


def _rough_plane(projection: np.ndarray, affine: Affine, k: float) -> tuple[float, np.ndarray]:
    """Return the rotation (degrees) and a point (LPS, in slice k) of the best mirror axis of a projection along the slices."""
    spacing = affine.spacing[1:]
    even = ndimage.zoom(projection, spacing / ROUGH_MM, order=1, grid_mode=True, mode="grid-constant")
    size = int(np.hypot(*even.shape)) + 2                        # nothing leaves the square, however it is rotated
    square = np.zeros((size, size))
    low = [(size - n) // 2 for n in even.shape]
    square[low[0]:low[0] + even.shape[0], low[1]:low[1] + even.shape[1]] = even

    def mirror_axis(angle: float) -> tuple[float, float]:
        rotated = ndimage.rotate(square, angle, reshape=False, order=1)
        spectrum = np.fft.rfft(rotated, 2 * size, axis=1)
        mirrored = np.fft.irfft((spectrum**2).sum(axis=0), 2 * size)        # Σ I(x) I(s - x), for every s
        return float(mirrored.max()), int(mirrored.argmax()) / 2

    angle = max(np.arange(-MAX_ROTATION_DEG, MAX_ROTATION_DEG + 1, 4.0), key=lambda a: mirror_axis(a)[0])
    rotation, centre = np.deg2rad(angle), (size - 1) / 2
    back = np.array([[np.cos(rotation), np.sin(rotation)], [-np.sin(rotation), np.cos(rotation)]])
    pixel = back @ (np.array([centre, mirror_axis(angle)[1]]) - centre) + centre - low
    return float(angle), affine.apply([k, *((pixel + 0.5) * ROUGH_MM / spacing - 0.5)])
