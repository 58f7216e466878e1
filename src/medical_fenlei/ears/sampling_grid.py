"""Where the voxels of an ear volume lie in its scan: one rule for a square and for half a head, straight or turned."""
from dataclasses import dataclass

import numpy as np

from medical_fenlei.config import EarSpec
from medical_fenlei.ears.localize import Localization
from medical_fenlei.vocabulary import Side


@dataclass(frozen=True)
class Lattice:
    """`to_scan` (3, 4) takes voxel (k, row, column, 1) of a volume of `shape` to (k, row, column) of the scan."""

    to_scan: np.ndarray
    shape: tuple[int, int, int]

    @property
    def straight(self) -> bool:
        """Whether its axes are those of the scan."""
        turn = self.to_scan[:, :3]
        return bool((turn == np.diag(np.diagonal(turn))).all())

    def affine(self, scan: np.ndarray) -> np.ndarray:
        """(4, 4): voxel (k, row, column, 1) to LPS mm, given that of the scan."""
        return scan @ np.vstack([self.to_scan, [0, 0, 0, 1]])


class Box:
    """The rows and columns of one ear's volumes, whatever its slices: in mm along its axes, from the tympanic centre."""

    def __init__(self, scan: np.ndarray, shape: tuple[int, int, int], spec: EarSpec, side: Side, found: Localization) -> None:
        """scan (4, 4): voxel (k, row, column, 1) of the scan to LPS mm; shape: of the scan."""
        self._scan, self._into_scan, self._spec = scan, np.linalg.inv(scan), spec
        self.spacing = np.linalg.norm(scan[:3, :3], axis=0)
        self.centre = found.ears[side].centre
        left, back, up = found.plane.axes if spec.align else (scan[:3, :3] / self.spacing).T[::-1]
        self._axes = np.stack([up, back, -side.sign * left], axis=1)             # slices, rows, columns: column 0 is lateral
        self.centre_in_scan = (self._into_scan @ np.append(self.centre, 1))[:3]
        corners = np.stack(np.meshgrid(*([-0.5, n - 0.5] for n in shape), indexing="ij"), -1).reshape(-1, 3)
        corners[:, 0] = np.clip(corners[:, 0], 0, shape[0] - 1)
        corners = (corners @ scan[:3, :3].T + scan[:3, 3] - self.centre) @ np.linalg.inv(self._axes).T
        self.low, self.high = self._crop(side, found) if spec.extent == "crop" else self._half(corners, side, found)
        if spec.target_spacing is not None:
            self._resize(spec.image_size * spec.target_spacing)

    def _reach(self, places: np.ndarray, side: Side, found: Localization) -> np.ndarray:
        """How far the midsagittal plane lies inward of places given along the axes, mm."""
        normal = found.plane.normal * side.sign
        inward: np.ndarray = found.lateral(self.centre + places @ self._axes.T, side) / -(normal @ self._axes[:, 2])
        return inward

    def _crop(self, side: Side, found: Localization) -> tuple[np.ndarray, np.ndarray]:
        """A square around the ear, moved outwards where it would pass the plane."""
        edge = self._spec.crop_size * self.spacing[1:] if self._spec.crop_mm is None else np.full(2, self._spec.crop_mm)
        if self._spec.target_spacing is not None:
            edge = np.full(2, self._spec.image_size * self._spec.target_spacing)
        beyond = max(0.0, float(edge[1] / 2 - self._reach(np.zeros(3), side, found)))
        low = np.array([-edge[0] / 2, -edge[1] / 2 - beyond])
        if self._spec.crop_mm is None and self._spec.target_spacing is None and not self._spec.align:
            start = self.centre_in_scan[1:] + low / self.spacing[1:] * [1, -1 if side is Side.LEFT else 1]
            moved = np.rint(start + 0.5) - 0.5 - start           # the scan's own pixels: nothing to interpolate at equal size
            low += moved * self.spacing[1:] * [1, -1 if side is Side.LEFT else 1]
        return low, low + edge

    def _half(self, corners: np.ndarray, side: Side, found: Localization) -> tuple[np.ndarray, np.ndarray]:
        """All that lies on this side of the plane."""
        low, high = corners[:, 1:].min(axis=0), corners[:, 1:].max(axis=0)
        plane = float(self._reach(corners * [1, 1, 0], side, found).max())
        high[1] = np.clip(plane, low[1] + self.spacing[2], max(high[1], low[1] + self.spacing[2]))
        return low, high

    def _resize(self, edge: float) -> None:
        """Around the middle from front to back, and from the plane outwards."""
        middle = (self.low[0] + self.high[0]) / 2
        self.low = np.array([middle - edge / 2, self.high[1] - edge])
        self.high = self.low + edge

    def slice_mm(self) -> float:
        """How far apart along the volume's slices those of the scan lie, mm."""
        return float(1 / (self._into_scan[0, :3] @ self._axes[:, 0]))

    def lattice(self, first: float, step: float) -> Lattice:
        """With slices at `first`, `first + step`, … of the scan's, counted where they pass the ear."""
        count, size = self._spec.num_slices, self._spec.image_size
        pixel = (self.high - self.low) / size
        steps = self._axes * [step * self.slice_mm(), *pixel]
        origin = self.centre + self._axes @ [(first - self.centre_in_scan[0]) * self.slice_mm(), *(self.low + pixel / 2)]
        to_scan = self._into_scan[:3, :3] @ np.column_stack([steps, origin])
        to_scan[:, 3] += self._into_scan[:3, 3]
        if not self._spec.align:
            to_scan[:, :3] = np.diag(np.diagonal(to_scan[:, :3]))                # its own axes: the rest is rounding
        return Lattice(to_scan, (count, size, size))
