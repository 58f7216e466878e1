"""Two periodic solid textures, computed once per process: honeycomb (air cells, marrow) and smooth noise."""
import functools

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

SAMPLES = 8
"""Samples per cell along each axis."""

CELLS = 8
"""Cells along each edge of the tile that is repeated."""


@functools.cache
def _honeycomb() -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest wall (in cells) and a random number (0 to 1) of each cell; float32 (64, 64, 64) each."""
    rng = np.random.default_rng(20_24)
    seeds = np.indices((CELLS,) * 3).reshape(3, -1).T + rng.uniform(0.1, 0.9, (CELLS**3, 3))
    points = np.indices((CELLS * SAMPLES,) * 3).reshape(3, -1).T / SAMPLES
    distance, nearest = map(np.asarray, cKDTree(seeds, boxsize=np.full(3, float(CELLS))).query(points, k=2))
    a, b = seeds[nearest[:, 0]], seeds[nearest[:, 1]]
    gap = np.abs(a - b)
    apart = np.sqrt((np.minimum(gap, CELLS - gap) ** 2).sum(1))
    wall = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * apart)
    own = rng.permutation(CELLS**3) / CELLS**3
    edge = (CELLS * SAMPLES,) * 3
    return wall.reshape(edge).astype(np.float32), own[nearest[:, 0]].reshape(edge).astype(np.float32)


@functools.cache
def _smooth() -> np.ndarray:
    """Noise of mean 0 and standard deviation 1, correlated over about one cell; (64, 64, 64) float32."""
    noise = np.random.default_rng(7).standard_normal((CELLS * SAMPLES,) * 3)
    noise = ndimage.gaussian_filter(noise, SAMPLES * 0.35, mode="wrap")
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def _texture_points(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, scale_mm: float, turn: np.ndarray, shift: np.ndarray
) -> np.ndarray:
    """Coordinates (3, N) in the texture of points given in mm."""
    points = np.stack([x, y, z]).reshape(3, -1)
    into = (turn * (SAMPLES / scale_mm)).astype(np.float32)
    return into @ points + (shift * CELLS * SAMPLES).astype(np.float32)[:, None]


def honeycomb(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, *, cell_mm: float, turn: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to the nearest wall (mm) and the random number (0 to 1) of the cell, at points given in mm.

    turn (3, 3): a rotation; shift (3,): an offset in tiles (0 to 1). Together they select the part of the texture.
    """
    wall, own = _honeycomb()
    points = _texture_points(x, y, z, cell_mm, turn, shift)
    near = np.floor(points + 0.5).astype(np.intp) % wall.shape[0]
    far = ndimage.map_coordinates(wall, points, order=1, mode="grid-wrap").reshape(x.shape)
    return far * np.float32(cell_mm), own[near[0], near[1], near[2]].reshape(x.shape)


def smooth(x: np.ndarray, y: np.ndarray, z: np.ndarray, *, scale_mm: float, turn: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return noise of mean 0 and standard deviation 1, correlated over about `scale_mm`, at points given in mm."""
    points = _texture_points(x, y, z, scale_mm, turn, shift)
    return ndimage.map_coordinates(_smooth(), points, order=1, mode="grid-wrap").reshape(x.shape).astype(np.float32)
