"""Half of a head as a volume: complete, nothing of the other half, column 0 lateral, each voxel where its affine says."""
import functools

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dicom_files import axial, write_volume

from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.vocabulary import SIDES, Side

SHAPE, SPACING = (6, 100, 96), (1.5, 2.0, 2.0)
TURNS = (-12.0, 0.0, 12.0)
CENTRE = (5.0, -4.0)
"""Centre of the head in mm, off the middle of the image."""
ROD_MM = 5.0
RODS = {"middle": (42.0, 6.0), "near_the_plane": (10.0, -30.0), "front": (30.0, -70.0), "back": (25.0, 75.0),
        "auricle": (81.0, 8.0)}
"""(towards the side, to the back) in the head's own frame, mm."""
BRIGHT = {Side.LEFT: 3000, Side.RIGHT: 2000}
FINE = EarSpec(extent="half", num_slices=6, image_size=128)


@functools.cache
def head(turn_deg):
    """HU (K, rows, columns) of an upright scan, its affine, and for each pixel the distance to the left of the plane, mm."""
    affine = axial(SHAPE, SPACING)
    _, r, c = np.indices(SHAPE)
    x, y = c * SPACING[2] + affine[0, 3] - CENTRE[0], r * SPACING[1] + affine[1, 3] - CENTRE[1]
    turn = np.deg2rad(turn_deg)
    u, v = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
    radius = np.hypot(u / 73, v / 90)
    hu = np.where(radius < 1, 40, -1000) + np.random.default_rng(0).integers(-20, 20, SHAPE)
    hu[(radius < 1) & (radius > 0.92)] = 1000
    hu[(abs(abs(u) - 42) < 20) & (abs(v - 5) < 12)] = 900
    for side in SIDES:
        for a, b in RODS.values():
            hu[np.hypot(u - side.sign * a, v - b) < ROD_MM] = BRIGHT[side]
    return hu.astype(np.int16), affine, u


def rod_xy(side, name, turn_deg):
    a, b = RODS[name]
    turn = np.deg2rad(turn_deg)
    return CENTRE + np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [side.sign * a, b]


def written(folder, hu, affine, axes=()):
    """The series with these axes stored backwards."""
    affine = affine.copy()
    for axis in axes:
        affine[:3, 3] += affine[:3, axis] * (hu.shape[axis] - 1)
        affine[:3, axis] *= -1
    write_volume(folder, np.flip(hu, axes), affine)
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The halves of the head turned by so many degrees."""
    folder = tmp_path_factory.mktemp("head")

    @functools.cache
    def of(turn_deg, spec=FINE, axes=()):
        where = folder / f"{turn_deg}_{axes}"
        if not where.exists():
            hu, affine, _ = head(turn_deg)
            written(where, hu, affine, axes)
        return where, prepare_ears(open_series(where), spec)

    return of


def places(ear):
    """LPS (..., 3) of each voxel's centre."""
    affine = np.array(ear.facts["affine_lps"])
    return np.moveaxis(np.indices(ear.volume.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def lateral(points, ear, side):
    """Distance of points (..., 3) from the plane that was found, towards the side."""
    found = ear.facts["localization"]
    return (points - found["midsagittal_point"]) @ found["midsagittal_normal"] * side.sign


def index_of(points, ear):
    affine = np.linalg.inv(ear.facts["affine_lps"])
    return points @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("spec", [FINE, EarSpec(extent="half", num_slices=3, image_size=64)], ids=lambda spec: spec.key)
@pytest.mark.parametrize("axes", [(), (2,), (1, 2)], ids=["upright", "columns_right_to_left", "upside_down"])
@pytest.mark.parametrize("turn_deg", TURNS)
def test_every_rod_of_a_half_is_where_the_affine_says_and_no_rod_of_the_other(halves, turn_deg, axes, spec):
    _, ears = halves(turn_deg, spec, axes)
    for side, ear in ears.items():
        assert ear.volume.shape == spec.shape and ear.volume.dtype == np.int16
        xy = places(ear)[..., :2]
        for name in RODS:
            here, there = (np.linalg.norm(xy - rod_xy(s, name, turn_deg), axis=-1) for s in (side, side.other))
            bright = ear.volume > 1100
            own = bright & (here < 2.5 * ROD_MM)
            assert own.any(axis=(1, 2)).all(), name                                              # in every slice
            weight = ear.volume[own] - 1100.0
            centroid = (xy[own] * weight[:, None]).sum(0) / weight.sum()
            np.testing.assert_allclose(centroid, rod_xy(side, name, turn_deg), atol=1.0, err_msg=name)
            assert not (bright & (there < 2.5 * ROD_MM)).any(), name
        assert (ear.volume.max() > 2300) == (side is Side.LEFT)


@pytest.mark.parametrize("turn_deg", TURNS)
def test_column_0_is_lateral_and_rows_run_to_the_back_and_slices_up_on_both_sides(halves, turn_deg):
    for side, ear in halves(turn_deg)[1].items():
        steps = np.array(ear.facts["affine_lps"])[:3, :3]
        assert steps[2, 0] > 0 and steps[1, 1] > 0 and np.sign(steps[0, 2]) == -side.sign
        distance = lateral(places(ear), ear, side)
        assert (np.diff(distance, axis=2) < 0).all() and distance[..., 0].min() > 60


@pytest.mark.parametrize("turn_deg", TURNS)
def test_the_detected_plane_is_that_of_the_phantom(halves, turn_deg):
    _, affine, u = head(turn_deg)
    grid = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    inside = abs(grid[..., 1]) < 80
    for side, ear in halves(turn_deg)[1].items():
        assert abs(lateral(grid, ear, side) - u * side.sign)[inside].max() < 2.5


@pytest.mark.parametrize("turn_deg", TURNS)
def test_the_grid_covers_every_pixel_of_the_half(halves, turn_deg):
    _, affine, _ = head(turn_deg)
    corners = np.moveaxis(np.indices(SHAPE), 0, -1)[..., None, :] + [[0, a, b] for a in (-0.5, 0.5) for b in (-0.5, 0.5)]
    points = corners @ affine[:3, :3].T + affine[:3, 3]
    for side, ear in halves(turn_deg)[1].items():
        index = index_of(points[lateral(points, ear, side) > 0.05], ear)                          # the facts are rounded
        assert (index > -0.55).all() and (index < np.array(ear.volume.shape) - 0.45).all()


@pytest.mark.parametrize("turn_deg", TURNS)
def test_what_lies_beyond_the_plane_is_air_and_what_lies_before_it_equals_linear_interpolation_of_simpleitk(halves, turn_deg):
    folder, ears = halves(turn_deg)
    for side, ear in ears.items():
        points = places(ear)
        distance = lateral(points, ear, side)
        assert (ear.volume[distance < -0.05] == -1000).all()
        for k, name in enumerate(ear.facts["slice_files"]):
            image = sitk.Cast(sitk.ReadImage(str(folder / name), imageIO="GDCMImageIO"), sitk.sitkFloat32)
            before = np.argwhere(distance[k] > 0.05)
            for row, column in np.random.default_rng(k).choice(before, 200, replace=False):
                index = np.array(image.TransformPhysicalPointToContinuousIndex(points[k, row, column].tolist()))[:2]
                if (index >= 0).all() and (index <= np.array(SHAPE[:0:-1]) - 1).all():            # not in a border pixel's rim
                    expected = image.EvaluateAtContinuousIndex([*index, 0.0])
                    assert ear.volume[k, row, column] == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("size", [24, 48, 128])
@pytest.mark.parametrize("turn_deg", TURNS)
def test_nothing_of_a_half_is_lost_at_any_size(halves, turn_deg, size):
    hu, affine, _ = head(turn_deg)
    grid = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    _, ears = halves(turn_deg, EarSpec(extent="half", num_slices=6, image_size=size))
    for side, ear in ears.items():
        steps = np.array(ear.facts["affine_lps"])[:3, 1:3]
        found = (ear.volume + 1000.0).sum() * np.linalg.norm(steps, axis=0).prod()
        share = np.clip(lateral(grid, ear, side) / SPACING[2] + 0.5, 0, 1)                        # of each pixel on this side
        expected = ((hu + 1000.0) * share).sum() * SPACING[1] * SPACING[2]
        assert found == pytest.approx(expected, rel=0.25 / size)                                  # whole voxels at the plane


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)], ids=["feet_first", "upside_down", "mirrored", "all"])
def test_the_order_in_which_a_scan_is_stored_changes_no_voxel(halves, axes):
    _, plain = halves(12.0)
    _, stored = halves(12.0, FINE, axes)
    for side in SIDES:
        np.testing.assert_array_equal(stored[side].volume, plain[side].volume)
        np.testing.assert_allclose(stored[side].facts["affine_lps"], plain[side].facts["affine_lps"], atol=1e-4)


def test_a_mirrored_head_gives_the_same_two_volumes_with_their_sides_exchanged(tmp_path):
    hu, affine, _ = head(12.0)
    one = prepare_ears(open_series(written(tmp_path / "one", hu, affine)), FINE)
    other = prepare_ears(open_series(written(tmp_path / "other", hu[..., ::-1], affine)), FINE)
    for side in SIDES:
        difference = abs(one[side].volume.astype(int) - other[side.other].volume)
        assert np.mean(difference > 30) < 0.03 and difference.mean() < 4                         # edges, by a tenth of a pixel


@pytest.mark.parametrize("turn", [12, 20])
def test_the_plane_of_a_turned_head_in_a_tilted_gantry_stands_upright(tmp_path, turn):
    """The slices lean back by 20°, the table moves along z: the head's plane holds z, not the normal of the slices."""
    shape, tilt, turn = (30, 128, 128), np.deg2rad(20), np.deg2rad(turn)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, :3] = 2 * np.array([[0, 0, 1], [0, np.cos(tilt), 0], [1, np.sin(tilt), 0]])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    x, y, z = affine[:3, :3] @ np.indices(shape).reshape(3, -1) + affine[:3, 3:]
    across, along = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    radius = np.hypot(across / 73, along / 90)
    hu = np.where(radius < 1, 40, -1000)
    hu[(radius < 1) & (radius > 0.92)] = 1000
    hu[(abs(abs(across) - 42) < 20) & (abs(along - 5) < 12)] = 900
    write_volume(tmp_path, hu.reshape(shape).astype(np.int16), affine)
    ear = prepare_ears(open_series(tmp_path), EarSpec(extent="half", num_slices=8, image_size=32))[Side.LEFT]
    found = ear.facts["localization"]
    normal = np.array(found["midsagittal_normal"])
    error = (np.stack([x, y, z], 1) - found["midsagittal_point"]) @ normal - across
    assert abs(error[abs(along) < 85]).max() < 1 and abs(normal[2]) < 0.01
