"""Other parts of the body than a head, drawn from ellipses in the HU of their tissues, as in a scan with a bone kernel."""
from collections.abc import Callable

import numpy as np

FAT, MUSCLE, ORGAN, LUNG, AIR = -90, 50, 40, -850, -1000
SPONGY, CORTEX, SHAFT = 350, 950, 1500
SHAPE, SPACING = (18, 116, 112), (2.4, 2.0, 2.0)


class _Section:
    """A section that is painted from the outside in; mm, x to the left, y to the back, z up."""

    def __init__(self, xyz: np.ndarray) -> None:
        self.x, self.y, self.z = xyz
        self.hu = np.full(self.x.shape, float(AIR))

    def ellipse(self, x: float, y: float, wide: float, deep: float) -> np.ndarray:
        return ((self.x - x) / wide) ** 2 + ((self.y - y) / deep) ** 2 < 1

    def paint(self, hu: float, *ellipse: float) -> None:
        self.hu[self.ellipse(*ellipse)] = hu

    def bone(self, x: float, y: float, wide: float, deep: float, wall: float = 3, hu: float = CORTEX) -> None:
        self.paint(hu, x, y, wide, deep)
        self.paint(SPONGY, x, y, wide - wall, deep - wall)

    def spine(self, y: float) -> None:
        self.bone(0, y, 20, 17)
        self.paint(30, 0, y + 25, 9, 8)
        self.hu[(abs(self.x) < 4) & (self.y > y + 32) & (self.y < y + 46)] = CORTEX


def _chest(draw: _Section, rng: np.random.Generator) -> None:
    wide, deep = rng.uniform(150, 190), rng.uniform(100, 125)
    draw.paint(FAT, 0, 0, wide, deep)
    draw.paint(MUSCLE, 0, 0, wide - 15, deep - 15)
    ribs = draw.ellipse(0, 0, wide - 24, deep - 24) & (np.sin((draw.z + 0.35 * draw.y) / 4) > 0.2)
    draw.hu[ribs] = rng.uniform(500, 900)
    draw.paint(ORGAN, 0, 0, wide - 30, deep - 30)
    for side in (-1, 1):
        draw.paint(LUNG, side * 0.45 * wide, 5, 0.33 * wide, 0.62 * deep)
    draw.paint(ORGAN, 15, -20, 55, 45)
    draw.paint(AIR, 0, 10, 9, 9)
    draw.spine(60)


def _abdomen(draw: _Section, rng: np.random.Generator) -> None:
    wide, deep = rng.uniform(140, 190), rng.uniform(95, 125)
    draw.paint(FAT, 0, 0, wide, deep)
    draw.paint(MUSCLE, 0, 0, wide - 20, deep - 20)
    draw.paint(FAT, 0, -10, wide - 32, deep - 38)
    draw.paint(60, -0.35 * wide, -10, 50, 50)
    for _ in range(8):
        radius = rng.uniform(10, 22)
        draw.paint(rng.choice([30, AIR]), rng.uniform(-60, 60), rng.uniform(-60, 10), radius, radius)
    draw.spine(45)


def _shoulders(draw: _Section, rng: np.random.Generator) -> None:
    wide = rng.uniform(200, 230)
    draw.paint(FAT, 0, 0, wide, 90)
    draw.paint(MUSCLE, 0, 0, wide - 12, 78)
    for side in (-1, 1):
        draw.bone(side * 150, 0, 25, 25)
        draw.paint(LUNG, side * 55, 0, 35, 45)
    draw.paint(AIR, 0, 5, 9, 9)
    draw.spine(40)


def _thighs(draw: _Section, rng: np.random.Generator) -> None:
    apart, radius = rng.uniform(75, 95), rng.uniform(60, 80)
    for side in (-1, 1):
        draw.paint(FAT, side * apart, 0, radius, radius)
        draw.paint(MUSCLE, side * apart, 0, radius - 10, radius - 10)
        draw.bone(side * apart, 0, 15, 15, wall=7, hu=SHAFT)


def _neck(draw: _Section, rng: np.random.Generator) -> None:
    radius = rng.uniform(55, 70)
    draw.paint(FAT, 0, 0, radius, radius)
    draw.paint(MUSCLE, 0, 0, radius - 6, radius - 6)
    draw.paint(AIR, 0, -18, 9, 9)
    draw.spine(12)


def _wrist(draw: _Section, rng: np.random.Generator) -> None:
    draw.paint(ORGAN, 0, 0, rng.uniform(29, 35), 22)
    draw.bone(-12, 0, 9, 9, hu=SHAFT)
    draw.bone(10, 0, 7, 7, hu=SHAFT)


def _bottle(draw: _Section, rng: np.random.Generator) -> None:
    """A phantom to calibrate scanners: water with rods in plastic."""
    radius = rng.uniform(90, 102)
    draw.paint(120, 0, 0, radius, radius)
    draw.paint(0, 0, 0, radius - 6, radius - 6)
    for hu, x, y in ((AIR, 50, 0), (CORTEX, 0, 50), (FAT, -50, 0), (SPONGY, 0, -50)):
        draw.paint(hu, x, y, 10, 10)


BODIES: dict[str, Callable[[_Section, np.random.Generator], None]] = {
    "chest": _chest, "abdomen": _abdomen, "shoulders": _shoulders, "thighs": _thighs, "neck": _neck, "wrist": _wrist,
    "bottle": _bottle}


def draw_body(name: str, seed: int, xyz: np.ndarray) -> np.ndarray:
    """Return the int16 HU of a body at positions (3, K, rows, columns) in mm, rotated and shifted a little, with noise."""
    rng = np.random.default_rng([seed, *name.encode()])
    angle, (x, y) = np.deg2rad(rng.normal(0, 4)), xyz[:2] - rng.normal(0, 8, (2, 1, 1, 1))
    section = _Section(np.stack([x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle), xyz[2]]))
    BODIES[name](section, rng)
    noise = rng.normal(0, rng.uniform(10, 40), section.hu.shape)
    return np.clip(section.hu + noise, -1024, 3071).astype(np.int16)


def coarse_body(name: str, seed: int, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the HU of a body in a coarse axial scan with a round field of view, and its affine. size: that of the body."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[::-1]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    xyz = np.tensordot(affine[:3, :3], np.indices(SHAPE), 1) + affine[:3, 3, None, None, None]
    hu = draw_body(name, seed, xyz / size)
    row, column = (np.linspace(-1, 1, n) for n in SHAPE[1:])
    hu[:, np.hypot(row[:, None], column) > 1] = -1024
    return hu, affine
