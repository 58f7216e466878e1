"""The midsagittal plane is found on soft blobs scattered about a known plane."""
import itertools

import numpy as np
import pytest
from scipy import ndimage

from medical_fenlei.ears.symmetry import MidsagittalPlane, find_plane, head_mask, ramp
from medical_fenlei.spatial import Affine

UPRIGHT = ((30, 100, 90), (2.0, 2.0, 2.0), 0.0)
FLAT = ((24, 150, 100), (2.6, 1.2, 1.9), 0.0)
SHEARED = ((30, 100, 90), (2.0, 2.0, 2.0), 15.0)
"""Shape, spacing along (k, row, column), and by how many degrees the gantry leans."""


def grid(shape, spacing, gantry_deg):
    """The affine, centred near the origin: the slices lean back, the table moves along z."""
    lean, affine = np.deg2rad(gantry_deg), np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, np.cos(lean), 0], [1, np.sin(lean), 0]]) * spacing
    affine[:3, 3] = [4, -3, 7] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def normal_of(rotation_deg, tilt_deg):
    turn, tilt = np.deg2rad([rotation_deg, tilt_deg])
    return np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)])


def blobs(shape, spacing, gantry_deg, rotation_deg, tilt_deg, offset, *, seed=0, fade=1.0, count=45):
    """Shares of bone (K, rows, columns), 0 to 1, their affine, and the true normal: blobs on the left, mirrored to the right.

    offset: of the plane from the origin along its normal, mm; fade: of the blobs on the right.
    """
    affine, normal, rng = grid(shape, spacing, gantry_deg), normal_of(rotation_deg, tilt_deg), np.random.default_rng(seed)
    back = np.array([-normal[1], normal[0], 0]) / np.hypot(*normal[:2])
    axes = np.stack([normal, back, np.cross(normal, back)])
    places = rng.uniform([4, -75, -35], [70, 75, 45], (count, 3))
    radii = rng.uniform(3, 7, count)
    points = np.moveaxis(np.tensordot(affine[:3, :3], np.indices(shape), 1), 0, -1) + affine[:3, 3]
    bone = np.zeros(shape)
    for (u, v, w), radius in zip(places, radii, strict=True):
        for sign, share in ((1, 1.0), (-1, fade)):
            centre = np.array([sign * u, v, w]) @ axes + offset * normal
            bone = np.maximum(bone, share * np.clip(0.5 + (radius - np.linalg.norm(points - centre, axis=-1)) / 2, 0, 1))
    return bone, affine, normal


def degrees_between(a, b):
    return np.rad2deg(np.arccos(np.clip(a @ b, -1, 1)))


@pytest.mark.parametrize("scan", [UPRIGHT, FLAT, SHEARED], ids=["upright", "anisotropic", "gantry_tilt"])
@pytest.mark.parametrize("rotation, tilt, offset", [(0, 0, 0), (-23, 0, 8), (13, -7, -12), (-6, 10, 5), (24, 6, 3)])
def test_the_plane_is_the_one_about_which_the_blobs_mirror(scan, rotation, tilt, offset):
    bone, affine, normal = blobs(*scan, rotation, tilt, offset)
    plane = find_plane(bone, Affine(affine))
    assert degrees_between(plane.normal, normal) < 0.7
    middle = affine[:3] @ np.append((np.array(bone.shape) - 1) / 2, 1)
    inside = middle - plane.normal * (plane.normal @ (middle - plane.point))                 # of the plane, next to the middle
    assert abs(inside @ normal - offset) < 0.7
    assert plane.match > 0.9


def test_the_order_of_the_slices_changes_nothing():
    bone, affine, _ = blobs(*SHEARED, 11, -5, 6)
    turned = affine.copy()
    turned[:3, 3] += turned[:3, 0] * (len(bone) - 1)
    turned[:3, 0] *= -1
    one, other = find_plane(bone, Affine(affine)), find_plane(bone[::-1], Affine(turned))
    assert degrees_between(other.normal, one.normal) < 0.3 and abs((other.point - one.point) @ one.normal) < 0.3


def test_a_mirrored_map_has_the_mirrored_plane():
    bone, affine, _ = blobs(*UPRIGHT, 9, 4, 6)
    one, other = find_plane(bone, Affine(affine)), find_plane(bone[..., ::-1], Affine(affine))
    assert degrees_between(other.normal, one.normal * [1, -1, -1]) < 0.3
    x = (affine @ [0, 0, (bone.shape[2] - 1) / 2, 1])[0]
    assert abs((one.point * [-1, 1, 1] + [2 * x, 0, 0] - other.point) @ other.normal) < 0.3


def test_the_more_one_side_is_faded_the_less_the_bone_matches():
    faded = [blobs(*UPRIGHT, 6, 2, 4, fade=fade) for fade in (1.0, 0.5, 0.2)]
    match = [find_plane(bone, Affine(affine)).match for bone, affine, _ in faded]
    assert match[0] > 0.95 and match[0] > match[1] + 0.02 and match[1] > match[2] + 0.05


def test_blobs_that_mirror_nowhere_match_little():
    one, affine, _ = blobs(*UPRIGHT, 0, 0, 0, fade=0.0, seed=3)
    other, _, _ = blobs(*UPRIGHT, 0, 0, 0, fade=0.0, seed=4)
    assert find_plane(np.maximum(one, other[..., ::-1]), Affine(affine)).match < 0.8


def test_too_little_bone_gives_a_plane_and_no_match():
    bone = np.zeros((4, 60, 60))
    bone[1, 20:24, 30:34] = 1
    plane = find_plane(bone, Affine(grid(bone.shape, (2.0, 2.0, 2.0), 0.0)))
    assert plane.match == 0 and np.linalg.norm(plane.normal) == pytest.approx(1)


def test_no_plane_of_a_fine_grid_mirrors_the_bone_better():
    """Against slow search: each voxel of the map mirrored in each plane, correlated over what lies in the map."""
    shape, spacing = (12, 40, 36), (5.0, 4.5, 4.5)
    bone, affine, normal = blobs(shape, spacing, 10.0, 8.0, -4.0, 5.0, count=30)
    smooth = ndimage.gaussian_filter(bone, 3 / np.array(spacing), truncate=2.5)
    places = np.argwhere(bone > 0.3)
    points, here = places @ affine[:3, :3].T + affine[:3, 3], smooth[tuple(places.T)]
    inverse = np.linalg.inv(affine)

    def match(direction, offset):
        mirrored = points - 2 * ((points @ direction) - offset)[:, None] * direction
        index = (mirrored @ inverse[:3, :3].T + inverse[:3, 3]).T
        known = ((index >= 0) & (index <= np.array(shape)[:, None] - 1)).all(axis=0)
        if known.mean() < 0.7:
            return 0.0
        there = ndimage.map_coordinates(smooth, index[:, known], order=1)
        return here[known] @ there / np.sqrt((here[known] @ here[known]) * (there @ there))

    found = find_plane(bone, Affine(affine))
    tried = [(match(normal_of(a, b), c), a, b, c) for a, b, c in
             itertools.product(range(-24, 25, 2), range(-12, 13, 2), np.arange(-20, 21, 2.0))]
    best, a, b, c = max(tried)
    assert match(found.normal, found.point @ found.normal) > best - 0.01
    assert degrees_between(found.normal, normal_of(a, b)) < 2 and abs(found.point @ normal_of(a, b) - c) < 2.5
    assert degrees_between(found.normal, normal) < 1.5


def test_the_axes_of_the_head_are_a_right_handed_frame_to_the_left_back_and_up():
    for rotation, tilt in itertools.product((-20, 0, 15), (-9, 0, 9)):
        axes = MidsagittalPlane(np.zeros(3), normal_of(rotation, tilt), 1.0).axes
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(axes[0], normal_of(rotation, tilt), atol=1e-12)
        assert np.linalg.det(axes) == pytest.approx(1) and axes[1, 1] > 0.9 and axes[2, 2] > 0.9 and axes[1, 2] == 0


def test_a_ramp_is_0_below_1_above_and_straight_between():
    np.testing.assert_allclose(ramp(np.array([0, 200, 400, 1000, 3000]), 200, 1000), [0, 0, 0.25, 1, 1])


def test_the_head_is_its_largest_piece_without_a_rest_that_a_thin_bridge_holds():
    hu = np.full((3, 60, 60), -1000)
    r, c = np.indices(hu.shape[1:])
    head = np.hypot(r - 25, c - 30) < 20
    hu[:, head] = 40
    hu[:, np.hypot(r - 25, c - 30) < 8] = -900                   # air within
    hu[:, 52:56, 5:55] = 400
    hu[:, 45:52, 29:31] = 0                                      # two pixels wide
    mask = head_mask(hu)
    assert mask[:, head & (hu[0] > -300)].all()
    assert not mask[:, 52:].any()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (5, 31, 30)], ids=str)
def test_masks_and_planes_are_defined_for_volumes_of_any_shape(shape):
    for hu in (np.full(shape, -1000), np.full(shape, 1500)):
        assert head_mask(hu).shape == shape
    if min(shape) > 1:
        plane = find_plane(np.ones(shape), Affine(grid(shape, (2.0, 2.0, 2.0), 0.0)))
        assert np.linalg.norm(plane.normal) == pytest.approx(1) and np.isfinite(plane.point).all() and 0 <= plane.match <= 1
