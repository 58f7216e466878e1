"""The whole head: outline, skull, brain, face, and both temporal bones, painted on any grid."""
from dataclasses import dataclass

import numpy as np

from medical_fenlei.phantom.anatomy import Person, Pose, head_to_patient
from medical_fenlei.phantom.canvas import AIR, Array, Canvas, capsule, ellipsoid
from medical_fenlei.phantom.disease import EarChange
from medical_fenlei.phantom.temporal_bone import paint_ear
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import NORMAL, SIDES, Side

SUPINE = np.array([0.0, 1.0, 0.0])
"""Direction of gravity in patient LPS for a supine patient."""

LESION_BIT = {Side.LEFT: 1, Side.RIGHT: 2}
"""Bit of the lesion mask for each side."""


@dataclass(frozen=True)
class DrawnHead:
    """A head on a voxel grid, without blur or noise."""

    hu: Array
    """float32 HU (K, H, W)."""

    lesion: Array
    """uint8 lesion mask (K, H, W), with LESION_BIT of each ear."""

    structures: Array | None = None
    """uint8 (K, H, W), the `Structure` of each voxel; None if it was not asked for."""


def draw_head(
    person: Person, changes: dict[Side, EarChange], pose: Pose, affine_lps: Affine, shape: tuple[int, int, int],
    gravity_lps: Array = SUPINE, *, structures: bool = False,
) -> DrawnHead:
    """Draw this person with these diseases on a grid of `shape`; affine_lps: from its voxel index to patient LPS mm.

    gravity_lps (3,): direction of gravity, for fluid levels; structures: whether to note the structure of each voxel too.
    """
    to_patient = head_to_patient(person, pose)
    to_head = to_patient.inverse @ affine_lps
    in_plane = float(np.sqrt(np.prod(to_head.spacing[1:])))
    canvas = Canvas(shape, to_head, edge_mm=float(np.clip(in_plane, 0.4, 2.5)), structures=structures)
    _paint_skull(canvas, person)
    _paint_face(canvas, person)
    gravity = to_patient.linear_inverse @ gravity_lps
    gravity /= np.linalg.norm(gravity)
    for side in SIDES:
        ear = person.ears[side]
        from_head = ear.from_head()
        down = from_head.apply_to_vectors(gravity)
        paint_ear(canvas.in_frame(from_head), ear, changes[side], bone_hu=person.bone_hu, down=down / np.linalg.norm(down),
                  label=LESION_BIT[side] if changes[side].code != NORMAL else 0)
    return DrawnHead(canvas.hu, canvas.lesion, canvas.structures)


def _paint_skull(canvas: Canvas, person: Person) -> None:
    """Paint skin, fat, muscle, the skull with its base, the brain, and the head rest."""
    everywhere = np.array([400.0, 400.0, 400.0])
    fat, thick, bone = np.float32(person.fat_mm), np.float32(person.skull_mm), np.float32(person.bone_hu)
    for at, x, y, z in canvas.slabs(-everywhere, everywhere, pad=0):
        up = np.maximum(z - np.float32(20), 0)
        xx = x * x
        behind = y + np.float32(8)
        skin = (np.sqrt(xx * np.float32(1 / 73**2) + behind * behind * np.float32(1 / 101**2)
                        + up * up * np.float32(1 / 112**2)) - 1) * np.float32(78)
        hu = canvas.hu[at]
        if (skin < 3).any():
            canvas.blend(at, canvas.coverage(skin), 50.0)
            canvas.blend(at, canvas.coverage(skin + 2) * canvas.coverage(-2 - fat - skin), -90.0)
            behind = y + np.float32(4)
            upper = z - np.float32(38)
            inner = (np.sqrt(xx * np.float32(1 / 67**2) + behind * behind * np.float32(1 / 88**2)
                             + upper * upper * np.float32(1 / 78**2)) - 1) * np.float32(72)
            # the floor of the skull: orbital roofs, middle fossae, posterior fossa behind the petrous ridges
            ridge = y - (np.clip(np.abs(x), 12, 46) - 30) * np.float32(0.9)
            middle = np.clip((-2 - ridge) * np.float32(1 / 12), 0, 1)
            front = np.clip((-42 - y) * np.float32(1 / 10), 0, 1)
            floor = np.float32(-38) + 37 * middle + 23 * front
            cavity = np.maximum(inner, (floor - z) * np.float32(0.75))
            canvas.blend(at, canvas.coverage(cavity - thick), bone)
            canvas.blend(at, canvas.coverage(cavity), 35.0)
        rest = np.abs(skin - np.float32(9)) - np.float32(2)
        share = canvas.coverage(np.maximum(rest, np.float32(30) - y)) * np.float32(0.35)
        hu += share * (np.float32(0) - hu)


def _paint_face(canvas: Canvas, person: Person) -> None:
    """Paint eyes, sinuses, nose, jaw and spine, which a search for symmetry or for bone also meets."""
    bone, s = person.bone_hu, person.sinus
    sinus = AIR + person.sinus_fill * 0.6 * (30 - AIR)
    canvas.paint(capsule((0, -104, -8), (0, -112, -22), 9.0, 12.0), 40)
    canvas.paint(ellipsoid((0, -30, -18), (13, 11, 24)), bone * 0.8)                  # clivus and body of the sphenoid
    canvas.paint(ellipsoid((0, -62, 2), (16, 28, 17)), bone * 0.7)                    # ethmoid block
    for sign in (-1, 1):
        canvas.paint(ellipsoid((31 * sign, -68, 6), (18.5, 24, 18.5), turn_deg=20 * sign), bone)     # orbit: wall, fat, globe
        canvas.paint(ellipsoid((31 * sign, -70, 6), (16.5, 24, 16.5), turn_deg=20 * sign), -80)
        canvas.paint(ellipsoid((32 * sign, -82, 6), (12, 12, 12)), 20)
        canvas.paint(ellipsoid((24 * sign, -66, -28), (17 * s + 1.5, 19 * s + 1.5, 17 * s + 1.5)), bone)
        canvas.paint(ellipsoid((24 * sign, -66, -28), (17 * s, 19 * s, 17 * s)), sinus)
        canvas.paint(capsule((63, -17, -7) if sign > 0 else (-63, -17, -7), (58 * sign, -62, -12), 2.6), bone)    # zygoma
        canvas.paint(ellipsoid((6 * sign, -46, 0), (7 * s, 10 * s, 8 * s)), sinus)    # sphenoid sinus
        for step in range(5):                                                         # ethmoid cells
            canvas.paint(ellipsoid((7 * sign, -84 + 7.5 * step, 4 - step), (5.5 * s, 3.2, 8 * s)), sinus)
        canvas.paint(capsule((8 * sign, -45, -22), (7 * sign, -100, -22), 5.0), AIR)  # nasal cavity
        canvas.paint(capsule((48 * sign, -8, -22), (46 * sign, -28, -75), 4.5), bone)  # ramus of the mandible
        canvas.paint(capsule((46 * sign, -28, -75), (8 * sign, -88, -85), 6.0), bone)
    canvas.paint(capsule((0, -104, -10), (0, -52, -12), 1.2), bone * 0.6)             # septum
    canvas.paint(ellipsoid((0, -38, -32), (11, 7, 16)), AIR)                          # nasopharynx
    canvas.paint(capsule((0, -2, -42), (0, 8, -110), 15.0), bone * 0.7)               # spine and its canal
    canvas.paint(capsule((0, 10, -42), (0, 18, -110), 8.0), 30)
