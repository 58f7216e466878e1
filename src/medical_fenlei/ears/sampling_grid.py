"""Where the voxels of an ear volume lie in its scan: one rule for a square and for half a head, along the scan or aligned."""
from dataclasses import dataclass

import numpy as np

from medical_fenlei.config import EarSpec
from medical_fenlei.ears.localize import Localization
from medical_fenlei.spatial import Affine, corners
from medical_fenlei.vocabulary import Side


@dataclass(frozen=True)
class SamplingGrid:
    """The positions in a scan at which an ear volume samples it."""

    to_scan: Affine
    """Voxel index of the volume to voxel index of the scan."""

    shape: tuple[int, int, int]
    """(K, H, W) of the volume."""

    @property
    def is_axis_parallel(self) -> bool:
        """Whether the axes of the volume are those of the scan."""
        linear = self.to_scan.linear
        return bool((linear == np.diag(np.diagonal(linear))).all())


class FieldOfView:
    """The extent of an ear volume along its rows and columns, whatever its slices: mm from the tympanic centre."""

    def __init__(self, scan: Affine, shape: tuple[int, int, int], spec: EarSpec, side: Side, found: Localization) -> None:
        """scan: voxel index of the scan to LPS mm; shape (K, rows, columns): of the scan."""
        self._into_scan, self._spec, self._side, self._found = scan.inverse, spec, side, found
        self._scan_spacing = scan.spacing
        self.centre = found.ears[side].centre
        left, back, up = found.plane.axes if spec.align else (scan.linear / scan.spacing).T[::-1]
        self._axes = np.stack([up, back, -side.sign * left], axis=1)             # slices, rows, columns: column 0 is lateral
        self.centre_in_scan = self._into_scan.apply(self.centre)
        """(3,) voxel index of the tympanic centre in the scan."""

        self.low, self.high = self._crop() if spec.extent == "crop" else self._half(scan, shape)
        """(2,) mm each: the ends of the rows and of the columns, from the tympanic centre."""

        if spec.target_spacing is not None:
            self._resize(spec.image_size * spec.target_spacing)

    def _distance_to_plane(self, offsets: np.ndarray) -> np.ndarray:
        """Return how far inward, along the columns, the midsagittal plane lies from offsets (…, 3) given along the axes, mm."""
        normal = self._found.plane.normal * self._side.sign
        lateral = self._found.lateral(self.centre + offsets @ self._axes.T, self._side)
        distance: np.ndarray = lateral / -(normal @ self._axes[:, 2])
        return distance

    def _crop(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a square around the ear, moved outwards where it would cross the plane."""
        spec, spacing = self._spec, self._scan_spacing[1:]
        edge = spec.crop_size * spacing if spec.fixed_edge_mm is None else np.full(2, spec.fixed_edge_mm)
        beyond = max(0.0, float(edge[1] / 2 - self._distance_to_plane(np.zeros(3))))
        low = np.array([-edge[0] / 2, -edge[1] / 2 - beyond])
        if spec.fixed_edge_mm is None and not spec.align:
            outwards = [1, -1 if self._side is Side.LEFT else 1]
            start = self.centre_in_scan[1:] + low / spacing * outwards
            moved = np.rint(start + 0.5) - 0.5 - start           # onto whole pixels: nothing to interpolate at equal size
            low += moved * spacing * outwards
        return low, low + edge

    def _half(self, scan: Affine, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return everything on this side of the plane."""
        ends = corners((-0.5, -0.5, -0.5), np.array(shape) - 0.5)
        ends[:, 0] = np.clip(ends[:, 0], 0, shape[0] - 1)
        ends = (scan.apply(ends) - self.centre) @ np.linalg.inv(self._axes).T
        low, high = ends[:, 1:].min(axis=0), ends[:, 1:].max(axis=0)
        plane = float(self._distance_to_plane(ends * [1, 1, 0]).max())
        narrowest = low[1] + self._scan_spacing[2]
        high[1] = np.clip(plane, narrowest, max(high[1], narrowest))
        return low, high

    def _resize(self, edge: float) -> None:
        """Make it a square of this edge, mm: around its middle from front to back, and outwards from its medial end."""
        middle = (self.low[0] + self.high[0]) / 2
        self.low = np.array([middle - edge / 2, self.high[1] - edge])
        self.high = self.low + edge

    def slice_mm(self) -> float:
        """Return the distance between slices of the scan along the slice axis of the volume, mm."""
        return float(1 / (self._into_scan.linear[0] @ self._axes[:, 0]))

    def sampling_grid(self, first: float, step: float) -> SamplingGrid:
        """Return the grid with slices at `first`, `first + step`, …, counted in slices of the scan at the ear's position."""
        count, size = self._spec.num_slices, self._spec.image_size
        pixel = (self.high - self.low) / size
        steps = self._axes * [step * self.slice_mm(), *pixel]
        first_voxel = [(first - self.centre_in_scan[0]) * self.slice_mm(), *(self.low + pixel / 2)]
        to_scan = self._into_scan @ Affine.from_steps(steps.T, self.centre + self._axes @ first_voxel)
        if not self._spec.align:                                 # along the axes of the scan: the rest is rounding
            to_scan = Affine.from_steps(np.diag(np.diagonal(to_scan.linear)), to_scan.origin)
        return SamplingGrid(to_scan, (count, size, size))
