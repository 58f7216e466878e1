"""The midsagittal plane and the ears, on a drawn skull whose answer is known."""
import numpy as np
import pytest

from medical_fenlei.ears.localize import locate
from medical_fenlei.vocabulary import SIDES, Side


def skull(*, rotation_deg=0.0, centre=(0.0, 0.0), spacing=1.0, size=240, half_width=73.0, half_length=95.0):
    """A bone map (rows, columns), its affine, and the true ears (x, y): an outer table, two petrous pyramids, a face."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, :3] = [[0, 0, spacing], [0, spacing, 0], [1, 0, 0]]
    affine[:2, 3] = -spacing * (size - 1) / 2
    y, x = np.meshgrid(*[np.arange(size) * spacing + affine[0, 3]] * 2, indexing="ij")
    turn = np.deg2rad(rotation_deg)
    u = np.cos(turn) * (x - centre[0]) + np.sin(turn) * (y - centre[1])
    v = -np.sin(turn) * (x - centre[0]) + np.cos(turn) * (y - centre[1])
    radius = np.hypot(u / half_width, v / half_length)
    bone = ((radius < 1) & (radius > 0.93)).astype(float)
    bone[(abs(abs(u) - 0.55 * half_width) < 0.28 * half_width) & (abs(v - 5 + 0.4 * (abs(u) - 40)) < 11)] = 0.8
    bone[(abs(u) < 12) & (abs(v + 60) < 12)] = 0.5
    ears = {}
    for side in SIDES:
        a, b = side.sign * 42 / 73 * half_width, 5.0
        ears[side] = np.add(centre, [np.cos(turn) * a - np.sin(turn) * b, np.sin(turn) * a + np.cos(turn) * b])
    return bone, affine, ears


@pytest.mark.parametrize("rotation_deg", [-20, -7, 0, 12, 20])
@pytest.mark.parametrize("centre", [(0, 0), (14, -9)])
def test_plane_and_ears_are_found_however_the_head_is_turned_and_placed(rotation_deg, centre):
    bone, affine, ears = skull(rotation_deg=rotation_deg, centre=centre)
    found = locate(bone, affine)
    turn = np.deg2rad(rotation_deg)
    np.testing.assert_allclose(found.normal, [np.cos(turn), np.sin(turn), 0], atol=0.02)
    assert abs(found.lateral(np.array([*centre, found.point[2]]), Side.LEFT)) < 1.5
    for side in SIDES:
        assert np.linalg.norm(found.ears[side] - ears[side]) < 10
        assert found.lateral(np.array([*ears[side], found.point[2]]), side) > 30
    assert found.confidence > 0.8


def test_a_smaller_head_has_its_ears_nearer_to_the_middle():
    bone, affine, ears = skull(half_width=58, half_length=75)
    found = locate(bone, affine)
    for side in SIDES:
        assert np.linalg.norm(found.ears[side] - ears[side]) < 8


def test_a_lopsided_map_is_trusted_less():
    bone, affine, _ = skull()
    whole = locate(bone, affine).confidence
    bone[:, :120] *= 0.2
    assert locate(bone, affine).confidence < 0.6 * whole
