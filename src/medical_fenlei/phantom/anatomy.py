"""A person as data: sizes, ears and pose, drawn from a generator. Sizes are those of textbooks, in mm.

Frames, all right-handed LPS-like and in mm: *patient* is DICOM's; *head* has its origin at the midline between the ears of an
adult of mean size (so a child is small because head → patient shrinks); *ear* is head with x counted outwards on either side.
"""
from dataclasses import dataclass

import numpy as np

from medical_fenlei.vocabulary import SIDES, Side

TYMPANUM = np.array([42.0, 0.0, 0.0])
MASTOID = np.array([52.0, 14.0, -4.0])
"""Centres of the tympanic cavity and of the mastoid in the ear frame."""

HEALTHY_AERATION, OPPOSITE_AERATION, DISEASED_AERATION = 0.42, 0.28, 0.24
"""Mean aerated share of the mastoid: healthy ears, healthy ears opposite a diseased one, diseased ears."""


@dataclass(frozen=True, kw_only=True)
class Ear:
    """One temporal bone, as it would be without disease."""

    side: Side
    aeration: float
    """Share of the mastoid that holds air cells, 0 (sclerotic or diploic) to 1."""

    marrow: float
    """What the rest of the mastoid is: 0 ivory bone, 1 fatty marrow between thin trabeculae."""

    cell_mm: float
    wall_mm: float
    turn_deg: float
    """Rotation of the temporal bone about z, forwards positive."""

    shift: tuple[float, float, float]
    scale: float
    canal_radius: float
    canal_rise: float
    """How much higher the canal's outer end lies than the membrane."""

    cerumen: float
    """Share of the ear canal that wax fills, 0 to 1."""

    jugular: float
    sigmoid: float
    """How far the bulb rises and the sinus comes forward, mm."""

    texture_turn: np.ndarray
    texture_shift: np.ndarray

    def from_head(self) -> np.ndarray:
        """(4, 4): head frame to this ear's frame."""
        mirror = np.diag([self.side.sign, 1.0, 1.0, 1.0])
        turn = np.deg2rad(self.turn_deg)
        matrix = np.eye(4)
        matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        matrix[:3, :3] /= self.scale
        matrix[:3, 3] = TYMPANUM - matrix[:3, :3] @ (TYMPANUM + self.shift)
        return matrix @ mirror


@dataclass(frozen=True, kw_only=True)
class Person:
    age_years: float
    sex: str
    scale: tuple[float, float, float]
    """Size relative to the mean adult along x, y, z."""

    bone_hu: float
    skull_mm: float
    fat_mm: float
    sinus: float
    """Size of the paranasal sinuses relative to the mean."""

    sinus_fill: float
    ears: dict[Side, Ear]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How the head lies in the scanner: rotations in degrees (yaw about z, pitch about x, roll about y), then a shift in mm."""

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


def head_to_patient(person: Person, pose: Pose) -> np.ndarray:
    """(4, 4): head frame to patient LPS, mm."""
    a, b, c = np.deg2rad([pose.pitch_deg, pose.roll_deg, pose.yaw_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_z @ about_y @ about_x @ np.diag(person.scale)
    matrix[:3, 3] = pose.offset_mm
    return matrix


def landmarks(person: Person, pose: Pose) -> dict[str, list[float]]:
    """Centres of both tympanic cavities and mastoids, the midsagittal plane's point and normal (to the left); patient mm."""
    to_patient = head_to_patient(person, pose)

    def place(side: Side, point: np.ndarray) -> list[float]:
        in_head = np.linalg.inv(person.ears[side].from_head()) @ [*point, 1.0]
        return [float(v) for v in (to_patient @ in_head)[:3].round(3)]

    normal = np.cross(to_patient[:3, 1], to_patient[:3, 2])
    found = {f"tympanum_{side}": place(side, TYMPANUM) for side in SIDES}
    found |= {f"mastoid_{side}": place(side, MASTOID) for side in SIDES}
    found["midsagittal_point"] = to_patient[:3, 3].round(3).tolist()
    found["midsagittal_normal"] = (normal / np.linalg.norm(normal)).round(6).tolist()
    return found


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.diag(r))


def _size_at(age: float) -> float:
    """Head size relative to an adult's: some 0.8 at two years, grown at about fifteen."""
    return float(np.interp(age, [0.5, 2, 6, 15], [0.70, 0.82, 0.92, 1.0]))


def _aerations(rng: np.random.Generator, diseased: dict[Side, bool], age: float) -> dict[Side, float]:
    """Correlated between the sides, low in part of the healthy ears, and lower on both sides of a diseased person."""
    latent = rng.standard_normal()
    found = {}
    for side in SIDES:
        mean = (DISEASED_AERATION if diseased[side] else
                OPPOSITE_AERATION if diseased[side.other] else HEALTHY_AERATION)
        spread = 0.9 * latent + 0.45 * rng.standard_normal()
        found[side] = float(np.clip(mean + 0.22 * spread, 0.0, 0.95) * np.interp(age, [0.5, 5], [0.4, 1.0]))
    return found


def draw_ear(rng: np.random.Generator, side: Side, aeration: float, turn_deg: float) -> Ear:
    return Ear(
        side=side, aeration=aeration, marrow=float(rng.beta(0.7, 0.7)), cell_mm=float(rng.uniform(2.6, 4.6)),
        wall_mm=float(rng.uniform(0.25, 0.6)), turn_deg=turn_deg + float(rng.normal(0, 2)),
        shift=(float(rng.normal(0, 0.8)), float(rng.normal(0, 1.0)), float(rng.normal(0, 0.7))),
        scale=float(rng.normal(1, 0.02)), canal_radius=float(rng.uniform(2.9, 4.3)), canal_rise=float(rng.normal(0.5, 1.5)),
        cerumen=float(rng.choice([0.0, rng.uniform(0.15, 0.9)], p=[0.7, 0.3])), jugular=float(rng.normal(0, 2.0)),
        sigmoid=float(rng.normal(0, 2.0)), texture_turn=_rotation(rng), texture_shift=rng.random(3),
    )


def draw_person(
    rng: np.random.Generator, diseased: dict[Side, bool] | None = None, age_years: float | None = None,
    aeration: float | None = None,
) -> Person:
    """Somebody. `diseased` (default: neither ear) only moves the mean pneumatisation; `aeration` fixes it on both sides."""
    diseased = diseased or dict.fromkeys(SIDES, False)
    age = float(age_years if age_years is not None else rng.choice([rng.uniform(2, 15), rng.uniform(15, 80)], p=[0.15, 0.85]))
    sex = str(rng.choice(["F", "M"]))
    size = _size_at(age) * (1.015 if sex == "M" else 0.975) * rng.normal(1, 0.02)
    air = _aerations(rng, diseased, age)
    width, length, height = (float(size * rng.normal(1, 0.025)) for _ in range(3))
    turn = float(rng.normal(0, 4))                               # the angle of the petrous axis runs in the person
    return Person(
        age_years=round(age, 1), sex=sex, scale=(width, length, height),
        bone_hu=float(rng.normal(1300, 130)), skull_mm=float(np.clip(rng.normal(5, 1.0), 3, 8)) * min(1.0, size),
        fat_mm=float(rng.uniform(1.5, 6.0)), sinus=float(np.interp(age, [2, 14], [0.5, 1.0]) * rng.normal(1, 0.1)),
        sinus_fill=float(rng.choice([0.0, rng.uniform(0.2, 1.0)], p=[0.75, 0.25])),
        ears={side: draw_ear(rng, side, air[side] if aeration is None else aeration, turn) for side in SIDES},
    )


def draw_pose(rng: np.random.Generator, yaw_sd: float = 4.0) -> Pose:
    """The head as it happens to lie: mostly straight, sometimes turned or tilted."""
    yaw, pitch, roll = rng.normal(0, [yaw_sd, 5.0, 2.5])
    x, y = rng.normal(0, [6, 8])
    return Pose(yaw_deg=float(np.clip(yaw, -20, 20)), pitch_deg=float(np.clip(pitch, -15, 15)),
                roll_deg=float(np.clip(roll, -8, 8)), offset_mm=(float(x), float(y), float(rng.uniform(-400, 400))))
