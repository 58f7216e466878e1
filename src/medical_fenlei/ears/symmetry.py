"""The midsagittal plane, from bone alone. LPS, mm.

Assumption, with its reason: the skull is symmetric about the midsagittal plane within a few mm, its base more so than its
vault (hair, rests and a deviated nose are not bone of the head, and are left out). So the plane is the one about which the bone
of the head mirrors best onto itself: found roughly in a projection, then exactly in 3D, rotation and tilt together.
"""
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize

BONE_HU = (200.0, 1000.0)
"""From no bone to bone, on a ramp, so that a partly filled voxel counts in part."""

TISSUE_HU = -300.0
"""Above this a voxel belongs to a body, or to what it lies on."""

MAX_ROTATION_DEG = 26.0
ROUGH_MM = 4.0
"""Pixel of the projection in which rotation and place are first sought."""

SMOOTH_MM = 3.0
"""Bone is compared with its mirror image this smooth: the skull's own asymmetry is of that size."""

POINTS = 1000
"""So many points of bone are mirrored."""

TILT_PENALTY = 1e-5
"""A square degree of tilt costs so much overlap: where bone does not tell (few slices), heads lie straight."""


def ramp(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 up to `low`, 1 from `high` on, a straight line between."""
    return np.clip((values - low) / (high - low), 0, 1)


def head_mask(hu: np.ndarray) -> np.ndarray:
    """bool (K, rows, columns): the head and a rim around it, without its rest: the largest piece of tissue, bridges cut.

    hu: HU, some 2 mm a pixel.
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
class Plane:
    """A point of it, its unit normal to the patient's left, and how well the bone mirrors in it, 0 to 1."""

    point: np.ndarray
    normal: np.ndarray
    match: float

    @property
    def axes(self) -> np.ndarray:
        """(3, 3): unit vectors to the left, back and up of the head, as rows; pitch is not found, so back is level."""
        back = np.array([-self.normal[1], self.normal[0], 0.0])
        back /= np.linalg.norm(back)
        return np.stack([self.normal, back, np.cross(self.normal, back)])


def find_plane(bone: np.ndarray, affine: np.ndarray) -> Plane:
    """The plane about which `bone` mirrors best.

    bone (K, rows, columns): 0 to 1, some 2 mm a pixel; affine (4, 4): its voxels to LPS mm.
    """
    rotation, point = _rough(bone.mean(axis=0), affine, (len(bone) - 1) / 2)
    bone = (bone[:, :-1:2, :-1:2] + bone[:, 1::2, :-1:2] + bone[:, :-1:2, 1::2] + bone[:, 1::2, 1::2]) / 4
    affine = affine @ np.array([[1, 0, 0, 0], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1]])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    smooth = ndimage.gaussian_filter(bone.astype(np.float32), SMOOTH_MM / spacing, truncate=2.5)
    places = np.argwhere(bone > 0.3)
    if len(places) < 50:
        return Plane(point, _normal(rotation, 0.0), 0.0)
    places = places[np.linspace(0, len(places) - 1, min(POINTS, len(places))).astype(int)]
    bone_there = smooth[tuple(places.T)]
    points = places @ affine[:3, :3].T + affine[:3, 3] - point
    back = np.linalg.inv(affine[:3, :3])
    origin, last = back @ (affine[:3, 3] - point), np.array(bone.shape) - 1

    def mirrored(at: np.ndarray, every: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bone at points, bone at their mirror images in the plane (rotation, tilt, shift), and which of those are seen."""
        normal, some = _normal(at[0], at[1]), points[::every]
        images = (some - 2 * (some @ normal - at[2])[:, None] * normal) @ back.T - origin
        seen = ((images >= 0) & (images <= last)).all(axis=1)
        return bone_there[::every], ndimage.map_coordinates(smooth, images.T, order=1), seen

    def overlap(at: np.ndarray, every: int = 1) -> float:
        """Correlation of the bone with its mirror image, over what lies in the scan."""
        here, there, seen = mirrored(at, every)
        here, there, share = here[seen], there[seen], seen.mean()
        energy = float(np.sqrt((here @ here) * (there @ there)))
        return float(here @ there) / energy * min(1.0, share / 0.7) ** 0.5 if energy and share > 0.1 else 0.0

    def difference(at: np.ndarray) -> np.ndarray:
        here, there, seen = mirrored(at)
        return np.append((there - here) * seen, np.sqrt(TILT_PENALTY * len(here)) * at[1])

    def slopes(at: np.ndarray) -> np.ndarray:
        """(points + 1, 3): by steps of a size at which interpolated bone changes."""
        here = difference(at)
        return np.stack([(difference(at + step) - here) / 0.2 for step in 0.2 * np.eye(3)], axis=1)

    def rough(tilt: float) -> np.ndarray:
        """Where the overlap is best near this tilt: the simplex goes on where gradients lead nowhere."""
        simplex = np.array([rotation, tilt, 0.0]) + np.vstack([np.zeros(3), np.diag([3.0, 4.0, 3.0])])

        def cost(at: np.ndarray) -> float:
            return TILT_PENALTY * float(at[1]) ** 2 - overlap(at, 4)

        found = optimize.minimize(
            cost, simplex[0], method="Nelder-Mead",
            options={"initial_simplex": simplex, "xatol": 0.3, "fatol": 1e-4, "maxfev": 30})
        better: np.ndarray = found.x
        return better

    start = max((rough(tilt) for tilt in (-6.0, 6.0)), key=lambda at: overlap(at, 4))
    best = optimize.least_squares(difference, start, slopes, bounds=(start - 4, start + 4), max_nfev=5).x
    normal = _normal(best[0], best[1])
    return Plane(point + best[2] * normal, normal, overlap(best))


def _normal(rotation_deg: float, tilt_deg: float) -> np.ndarray:
    turn, tilt = np.deg2rad([rotation_deg, tilt_deg])
    return np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)])


def _rough(projection: np.ndarray, affine: np.ndarray, k: float) -> tuple[float, np.ndarray]:
    """Rotation (degrees) and a point (LPS, at slice k) of the best mirror axis of a projection along the slices."""
    spacing = np.linalg.norm(affine[:3, 1:3], axis=0)
    even = ndimage.zoom(projection, spacing / ROUGH_MM, order=1, grid_mode=True, mode="grid-constant")
    size = int(np.hypot(*even.shape)) + 2                        # nothing leaves the square, however it is turned
    square = np.zeros((size, size))
    low = [(size - n) // 2 for n in even.shape]
    square[low[0]:low[0] + even.shape[0], low[1]:low[1] + even.shape[1]] = even

    def mirror_axis(angle: float) -> tuple[float, float]:
        turned = ndimage.rotate(square, angle, reshape=False, order=1)
        spectrum = np.fft.rfft(turned, 2 * size, axis=1)
        mirrored = np.fft.irfft((spectrum**2).sum(axis=0), 2 * size)        # Σ I(x) I(s - x), for every s
        return float(mirrored.max()), int(mirrored.argmax()) / 2

    angle = max(np.arange(-MAX_ROTATION_DEG, MAX_ROTATION_DEG + 1, 4.0), key=lambda a: mirror_axis(a)[0])
    turn, centre = np.deg2rad(angle), (size - 1) / 2
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    place = back @ (np.array([centre, mirror_axis(angle)[1]]) - centre) + centre - low
    voxel = (place + 0.5) * ROUGH_MM / spacing - 0.5
    return float(angle), affine[:3] @ np.array([k, *voxel, 1.0])
