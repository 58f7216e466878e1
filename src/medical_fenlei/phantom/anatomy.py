"""A person as data: head, ears and pose, sampled from a generator. Sizes follow textbooks, in mm.

Frames, all LPS-like and in mm: *patient* is that of DICOM; *head* has its origin on the midline between the ears of an adult of
mean size (a child is small because the transform from head to patient shrinks); *ear* is *head* with x pointing outwards on
either side.
"""
from dataclasses import dataclass

import numpy as np

from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, Side

TYMPANUM = np.array([42.0, 0.0, 0.0])
MASTOID = np.array([52.0, 14.0, -4.0])
VESTIBULE = np.array([36.6, 1.0, 1.5])
"""Centres of the tympanic cavity, of the mastoid and of the vestibule in the ear frame."""

HEALTHY_AERATION, OPPOSITE_AERATION, DISEASED_AERATION = 0.42, 0.28, 0.24
"""Mean aerated share of the mastoid of healthy ears, healthy ears opposite a diseased ear, and diseased ears."""


@dataclass(frozen=True, kw_only=True)
class EarAnatomy:
    """One temporal bone without disease."""

    side: Side
    aeration: float
    """Share of the mastoid that holds air cells, 0 (sclerotic or diploic) to 1."""

    marrow: float
    """Composition of the rest of the mastoid: 0 ivory bone, 1 fatty marrow between thin trabeculae."""

    cell_mm: float
    """Diameter of an air cell in mm."""

    wall_mm: float
    """Thickness of the walls between the cells in mm."""

    turn_deg: float
    """Rotation of the temporal bone about z, forwards positive."""

    shift: tuple[float, float, float]
    """Offset of the tympanic cavity in mm."""

    scale: float
    """Size relative to the mean."""

    canal_radius: float
    """Radius of the ear canal in mm."""

    canal_rise: float
    """Height of the canal's outer end above the tympanic membrane in mm."""

    cerumen: float
    """Share of the ear canal filled with wax, 0 to 1."""

    jugular: float
    """Height of the jugular bulb above the mean in mm."""

    sigmoid: float
    """Forward shift of the sigmoid sinus in mm."""

    texture_turn: np.ndarray
    """Rotation (3, 3) of the textures."""

    texture_shift: np.ndarray
    """Offset (3,) of the textures, in tiles (0 to 1)."""

    def from_head(self) -> Affine:
        """Return the map from the head frame to this ear's frame, mm to mm."""
        turn = np.deg2rad(self.turn_deg)
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]) / self.scale
        to_ear = Affine.from_steps(rotation.T, TYMPANUM - rotation @ (TYMPANUM + self.shift))
        return to_ear @ Affine.from_steps(np.diag([self.side.sign, 1, 1]), np.zeros(3))


@dataclass(frozen=True, kw_only=True)
class Person:
    """A person with a head and two ears."""

    age_years: float
    sex: str
    """`F` or `M`."""

    scale: tuple[float, float, float]
    """Size of the head relative to the mean adult along x, y, z."""

    bone_hu: float
    """HU of compact bone."""

    skull_mm: float
    """Thickness of the skull in mm."""

    fat_mm: float
    """Thickness of the subcutaneous fat in mm."""

    sinus: float
    """Size of the paranasal sinuses relative to the mean."""

    sinus_fill: float
    """Share of the sinuses filled with soft tissue, 0 to 1."""

    ears: dict[Side, EarAnatomy]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Position of the head in the scanner: rotations (yaw about z, pitch about x, roll about y), then an offset."""

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)


def head_to_patient(person: Person, pose: Pose) -> Affine:
    """Return the map from the head frame to patient LPS, mm to mm."""
    a, b, c = np.deg2rad([pose.pitch_deg, pose.roll_deg, pose.yaw_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return Affine.from_steps((about_z @ about_y @ about_x @ np.diag(person.scale)).T, pose.offset_mm)


def ear_point(person: Person, pose: Pose, side: Side, point: np.ndarray) -> np.ndarray:
    """Return where a point (3,) of the ear frame lies in the patient, LPS mm."""
    in_head = person.ears[side].from_head().inverse.apply(point)
    return head_to_patient(person, pose).apply(in_head)


def landmarks(person: Person, pose: Pose) -> dict[str, list[float]]:
    """Return the centres of both tympanic cavities and mastoids, and a point and the normal of the midsagittal plane.

    All in patient LPS (mm); the normal points to the left.
    """
    to_patient = head_to_patient(person, pose)

    def in_patient(side: Side, point: np.ndarray) -> list[float]:
        return [float(v) for v in ear_point(person, pose, side, point).round(3)]

    normal = np.cross(to_patient.step(1), to_patient.step(2))
    found = {f"tympanum_{side}": in_patient(side, TYMPANUM) for side in SIDES}
    found |= {f"mastoid_{side}": in_patient(side, MASTOID) for side in SIDES}
    found["midsagittal_point"] = to_patient.origin.round(3).tolist()
    found["midsagittal_normal"] = (normal / np.linalg.norm(normal)).round(6).tolist()
    return found


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.sign(np.diag(r))


def _size_at(age: float) -> float:
    """Head size relative to an adult: about 0.8 at two years, 1 from fifteen years."""
    return float(np.interp(age, [0.5, 2, 6, 15], [0.70, 0.82, 0.92, 1.0]))


def _aerations(rng: np.random.Generator, diseased: dict[Side, bool], age: float) -> dict[Side, float]:
    """Aeration of both mastoids: correlated between the sides, and lower on both sides of a person with disease."""
    latent = rng.standard_normal()
    found = {}
    for side in SIDES:
        mean = (DISEASED_AERATION if diseased[side] else
                OPPOSITE_AERATION if diseased[side.other] else HEALTHY_AERATION)
        spread = 0.9 * latent + 0.45 * rng.standard_normal()
        found[side] = float(np.clip(mean + 0.22 * spread, 0.0, 0.95) * np.interp(age, [0.5, 5], [0.4, 1.0]))
    return found


def sample_ear_anatomy(rng: np.random.Generator, side: Side, aeration: float, turn_deg: float) -> EarAnatomy:
    """Sample a temporal bone with this aeration, turned about `turn_deg`."""
    return EarAnatomy(
        side=side, aeration=aeration, marrow=float(rng.beta(0.7, 0.7)), cell_mm=float(rng.uniform(2.6, 4.6)),
        wall_mm=float(rng.uniform(0.25, 0.6)), turn_deg=turn_deg + float(rng.normal(0, 2)),
        shift=(float(rng.normal(0, 0.8)), float(rng.normal(0, 1.0)), float(rng.normal(0, 0.7))),
        scale=float(rng.normal(1, 0.02)), canal_radius=float(rng.uniform(2.9, 4.3)), canal_rise=float(rng.normal(0.5, 1.5)),
        cerumen=float(rng.choice([0.0, rng.uniform(0.15, 0.9)], p=[0.7, 0.3])), jugular=float(rng.normal(0, 2.0)),
        sigmoid=float(rng.normal(0, 2.0)), texture_turn=_random_rotation(rng), texture_shift=rng.random(3),
    )


def sample_person(
    rng: np.random.Generator, diseased: dict[Side, bool] | None = None, age_years: float | None = None,
    aeration: float | None = None,
) -> Person:
    """Sample a person. `diseased` (default: neither ear) only lowers the mean aeration; `aeration` fixes it on both sides."""
    diseased = diseased or dict.fromkeys(SIDES, False)
    age = float(age_years if age_years is not None else rng.choice([rng.uniform(2, 15), rng.uniform(15, 80)], p=[0.15, 0.85]))
    sex = str(rng.choice(["F", "M"]))
    size = _size_at(age) * (1.015 if sex == "M" else 0.975) * rng.normal(1, 0.02)
    air = _aerations(rng, diseased, age)
    width, length, height = (float(size * rng.normal(1, 0.025)) for _ in range(3))
    turn = float(rng.normal(0, 4))                               # the angle of the petrous axes is that of the person
    return Person(
        age_years=round(age, 1), sex=sex, scale=(width, length, height),
        bone_hu=float(rng.normal(1300, 130)), skull_mm=float(np.clip(rng.normal(5, 1.0), 3, 8)) * min(1.0, size),
        fat_mm=float(rng.uniform(1.5, 6.0)), sinus=float(np.interp(age, [2, 14], [0.5, 1.0]) * rng.normal(1, 0.1)),
        sinus_fill=float(rng.choice([0.0, rng.uniform(0.2, 1.0)], p=[0.75, 0.25])),
        ears={side: sample_ear_anatomy(rng, side, air[side] if aeration is None else aeration, turn) for side in SIDES},
    )


def sample_pose(rng: np.random.Generator, yaw_sd: float = 4.0) -> Pose:
    """Sample the position of a head: mostly straight, sometimes turned or tilted."""
    yaw, pitch, roll = rng.normal(0, [yaw_sd, 5.0, 2.5])
    x, y = rng.normal(0, [6, 8])
    return Pose(yaw_deg=float(np.clip(yaw, -20, 20)), pitch_deg=float(np.clip(pitch, -15, 15)),
                roll_deg=float(np.clip(roll, -8, 8)), offset_mm=(float(x), float(y), float(rng.uniform(-400, 400))))
