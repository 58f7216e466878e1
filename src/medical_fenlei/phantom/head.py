"""Painting a whole head: outline, skull, brain, face, and then both temporal bones."""
from dataclasses import dataclass

import numpy as np

from medical_fenlei.phantom.anatomy import Person, Pose, head_to_patient
from medical_fenlei.phantom.canvas import AIR, Array, Canvas, capsule, ellipsoid
from medical_fenlei.phantom.disease import EarChange
from medical_fenlei.phantom.temporal_bone import paint_ear
from medical_fenlei.vocabulary import NORMAL, SIDES, Side

SUPINE = np.array([0.0, 1.0, 0.0])
"""Gravity in patient coordinates for somebody who lies on the back."""

LESION_BIT = {Side.LEFT: 1, Side.RIGHT: 2}


@dataclass(frozen=True)
class Drawing:
    """hu: float32 HU (K, H, W), without blur or noise; lesion: uint8 (K, H, W), bit 1 left ear, bit 2 right ear."""

    hu: Array
    lesion: Array


def draw_head(
    person: Person, changes: dict[Side, EarChange], pose: Pose, affine_lps: Array, shape: tuple[int, int, int],
    gravity_lps: Array = SUPINE,
) -> Drawing:
    """Draw this person, with these ears, on any grid: affine_lps (4, 4) takes voxel (k, row, column, 1) to patient mm."""
    to_patient = head_to_patient(person, pose)
    to_head = np.linalg.inv(to_patient) @ affine_lps
    in_plane = float(np.sqrt(np.prod(np.linalg.norm(to_head[:3, 1:3], axis=0))))
    canvas = Canvas(shape, to_head, edge_mm=float(np.clip(in_plane, 0.4, 2.5)))
    _paint_skull(canvas, person)
    _paint_face(canvas, person)
    gravity = np.linalg.inv(to_patient[:3, :3]) @ gravity_lps
    gravity /= np.linalg.norm(gravity)
    for side in SIDES:
        ear = person.ears[side]
        from_head = ear.from_head()
        down = from_head[:3, :3] @ gravity
        paint_ear(canvas.in_frame(from_head), ear, changes[side], bone_hu=person.bone_hu, down=down / np.linalg.norm(down),
                  label=LESION_BIT[side] if changes[side].code != NORMAL else 0)
    return Drawing(canvas.hu, canvas.lesion)


def _paint_skull(canvas: Canvas, person: Person) -> None:
    """Skin, fat, muscle, the skull with its base, brain, and the rest the head lies on."""
    everywhere = np.array([400.0, 400.0, 400.0])
    fat, thick, bone = np.float32(person.fat_mm), np.float32(person.skull_mm), np.float32(person.bone_hu)
    for at, x, y, z in canvas.pieces(-everywhere, everywhere, pad=0):
        up = np.maximum(z - np.float32(20), 0)
        xx = x * x
        behind = y + np.float32(8)
        skin = (np.sqrt(xx * np.float32(1 / 73**2) + behind * behind * np.float32(1 / 101**2)
                        + up * up * np.float32(1 / 112**2)) - 1) * np.float32(78)
        hu = canvas.hu[at]
        if (skin < 3).any():
            canvas.blend(at, canvas.cover(skin), 50.0)
            canvas.blend(at, canvas.cover(skin + 2) * canvas.cover(-2 - fat - skin), -90.0)
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
            canvas.blend(at, canvas.cover(cavity - thick), bone)
            canvas.blend(at, canvas.cover(cavity), 35.0)
        rest = np.abs(skin - np.float32(9)) - np.float32(2)
        share = canvas.cover(np.maximum(rest, np.float32(30) - y)) * np.float32(0.35)
        hu += share * (np.float32(0) - hu)


def _paint_face(canvas: Canvas, person: Person) -> None:
    """Eyes, sinuses, nose, jaw and spine: what a mirror or a bone mass would also see."""
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
