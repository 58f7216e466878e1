"""Affine maps obey the laws of their algebra, and agree with SimpleITK and nibabel."""
import doctest
import itertools
import json
import pickle

import numpy as np
import pytest
import SimpleITK as sitk

from medical_fenlei import spatial
from medical_fenlei.spatial import Affine, corners, middle

SHAPE = (7, 11, 13)
TOLERANCE = {"rtol": 1e-12, "atol": 1e-9}


def drawn(seed, shear=0.3):
    """A map of anisotropic, rotated and sheared voxels, far from the origin."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    linear = rotation @ np.diag(rng.uniform(0.2, 3, 3)) @ (np.eye(3) + shear * np.triu(rng.standard_normal((3, 3)), 1))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, rng.uniform(-300, 300, 3)
    return Affine(matrix)


SEEDS = pytest.mark.parametrize("seed", range(8))


def some_points(seed, shape=(40, 3)):
    return np.random.default_rng(seed).uniform(-100, 100, shape)


def test_the_example_of_the_docstring_holds():
    found = doctest.testmod(spatial)
    assert found.attempted >= 4 and not found.failed


@SEEDS
def test_the_inverse_undoes_a_map_in_either_order(seed):
    affine, points = drawn(seed), some_points(seed)
    np.testing.assert_allclose(affine.inverse.apply(affine.apply(points)), points, **TOLERANCE)
    np.testing.assert_allclose(affine.apply(affine.inverse.apply(points)), points, **TOLERANCE)
    np.testing.assert_allclose((affine @ affine.inverse).matrix, np.eye(4), **TOLERANCE)
    np.testing.assert_allclose(affine.inverse.inverse.matrix, affine.matrix, **TOLERANCE)
    np.testing.assert_allclose(affine.linear_inverse, affine.inverse.linear, **TOLERANCE)


@SEEDS
def test_a_composition_applies_the_right_map_first(seed):
    first, then, points = drawn(seed), drawn(seed + 100), some_points(seed)
    np.testing.assert_allclose((then @ first).apply(points), then.apply(first.apply(points)), **TOLERANCE)
    np.testing.assert_allclose((then @ first).inverse.matrix, (first.inverse @ then.inverse).matrix, **TOLERANCE)
    third = drawn(seed + 200)
    np.testing.assert_allclose(((third @ then) @ first).matrix, (third @ (then @ first)).matrix, **TOLERANCE)


@SEEDS
def test_points_are_mapped_as_by_simpleitk(seed):
    """SimpleITK counts (column, row, k), and wants axes without shear."""
    affine = drawn(seed, shear=0)
    image = sitk.Image(SHAPE[::-1], sitk.sitkInt16)
    steps = affine.matrix[:3, [2, 1, 0]]
    spacing = np.sqrt((steps**2).sum(axis=0))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((steps / spacing).ravel().tolist())
    image.SetOrigin(affine.matrix[:3, 3].tolist())
    np.testing.assert_allclose(affine.spacing, image.GetSpacing()[::-1], **TOLERANCE)
    for index in itertools.product(*((0, n // 2, n - 1) for n in SHAPE)):
        point = image.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(affine.apply(index), point, **TOLERANCE)
        np.testing.assert_allclose(affine.inverse.apply(point), index, **TOLERANCE)
    between = (1.25, 3.5, 7.75)
    point = image.TransformContinuousIndexToPhysicalPoint(between[::-1])
    np.testing.assert_allclose(affine.apply(between), point, **TOLERANCE)
    index = image.TransformPhysicalPointToContinuousIndex(point)[::-1]
    np.testing.assert_allclose(affine.inverse.apply(point), index, **TOLERANCE)


@SEEDS
def test_points_and_spacing_are_those_of_nibabel(seed):
    affines = pytest.importorskip("nibabel.affines")
    affine = drawn(seed)
    for shape in ((3,), (5, 3), (2, 3, 4, 3)):
        points = some_points(seed, shape)
        np.testing.assert_allclose(affine.apply(points), affines.apply_affine(affine.matrix, points), **TOLERANCE)
    np.testing.assert_allclose(affine.spacing, affines.voxel_sizes(affine.matrix), **TOLERANCE)


@SEEDS
def test_vectors_are_differences_of_points(seed):
    affine, points, others = drawn(seed), some_points(seed), some_points(seed + 1)
    differences = affine.apply(points) - affine.apply(others)
    np.testing.assert_allclose(affine.apply_to_vectors(points - others), differences, **TOLERANCE)
    for axis, unit in enumerate(np.eye(3)):
        np.testing.assert_allclose(affine.step(axis), affine.apply(unit) - affine.apply(np.zeros(3)), **TOLERANCE)
        assert np.linalg.norm(affine.direction(axis)) == pytest.approx(1)
        np.testing.assert_allclose(affine.direction(axis) * affine.spacing[axis], affine.step(axis), **TOLERANCE)
    np.testing.assert_allclose(affine.apply([0, 0, 0]), affine.origin, **TOLERANCE)


@SEEDS
def test_one_point_and_many_are_mapped_alike(seed):
    affine, points = drawn(seed), some_points(seed, (4, 5, 3))
    mapped = affine.apply(points)
    assert mapped.shape == points.shape
    for index in np.ndindex(4, 5):
        np.testing.assert_allclose(affine.apply(points[index]), mapped[index], **TOLERANCE)
    assert affine.apply([1, 2, 3]).dtype == np.float64           # integers are points too


@SEEDS
def test_slices_of_a_sheared_stack_lie_apart_by_less_than_their_step(seed):
    affine = drawn(seed)
    normal = np.cross(affine.step(1), affine.step(2))
    expected = abs(normal @ affine.step(0)) / np.linalg.norm(normal)
    assert affine.slice_spacing == pytest.approx(expected)
    assert affine.slice_spacing < affine.spacing[0]
    upright = Affine.from_steps([[0, 0, 0.6], [0, 0.4, 0], [0.4, 0, 0]], [0, 0, 0])
    assert upright.slice_spacing == pytest.approx(0.6)


@SEEDS
@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1), (2, 4, 6)])
def test_the_middle_of_a_volume_is_the_mean_of_its_voxels(seed, shape):
    affine = drawn(seed)
    places = affine.apply(np.moveaxis(np.indices(shape), 0, -1))
    np.testing.assert_allclose(affine.centre(shape), places.mean((0, 1, 2)), **TOLERANCE)
    for k in range(shape[0]):
        np.testing.assert_allclose(affine.slice_centre(k, shape), places[k].mean((0, 1)), **TOLERANCE)
    np.testing.assert_array_equal(middle(shape), np.moveaxis(np.indices(shape), 0, -1).mean((0, 1, 2)))
    centred = Affine.centred(affine.linear.T, shape, [1.0, -2.0, 3.0])
    np.testing.assert_allclose(centred.centre(shape), [1, -2, 3], **TOLERANCE)
    np.testing.assert_array_equal(centred.linear, affine.linear)


@SEEDS
def test_a_crop_a_flip_and_a_permutation_move_no_voxel(seed):
    """Each map puts every voxel of the array that numpy makes at the place it had."""
    affine, indices = drawn(seed), np.moveaxis(np.indices(SHAPE), 0, -1)
    places = affine.apply(indices)

    def of(array, by):
        return by.apply(np.moveaxis(np.indices(array.shape[:3]), 0, -1))

    cropped = places[2:, 3:7, 1:]
    np.testing.assert_allclose(of(cropped, affine.cropped([2, 3, 1])), cropped, **TOLERANCE)
    for axis in range(3):
        flipped = np.flip(places, axis)
        np.testing.assert_allclose(of(flipped, affine.flipped(axis, SHAPE[axis])), flipped, **TOLERANCE)
    for axes in itertools.permutations(range(3)):
        permuted = places.transpose(*axes, 3)
        np.testing.assert_allclose(of(permuted, affine.permuted(axes)), permuted, **TOLERANCE)
    np.testing.assert_allclose(affine.translated([1, 2, 3]).apply(indices), np.add(places, [1, 2, 3]), **TOLERANCE)


@SEEDS
def test_the_distance_from_a_plane_is_linear_in_the_voxel_index(seed):
    affine, indices = drawn(seed), some_points(seed)
    point, normal = some_points(seed + 1, (3,)), some_points(seed + 2, (3,))
    normal /= np.linalg.norm(normal)
    line = affine.plane_distance(point, normal)
    np.testing.assert_allclose(indices @ line[:3] + line[3], (affine.apply(indices) - point) @ normal, **TOLERANCE)


def test_corners_are_every_combination_of_the_ends():
    found = corners((-0.5, 0, 1), (6.5, 2, 3))
    assert found.shape == (8, 3) and found.tolist()[0] == [-0.5, 0, 1] and found.tolist()[1] == [-0.5, 0, 3]
    assert {tuple(corner) for corner in found.tolist()} == {(k, r, c) for k in (-0.5, 6.5) for r in (0, 2) for c in (1, 3)}


@SEEDS
def test_a_map_comes_back_from_json_and_pickle_to_the_bit(seed):
    affine = drawn(seed)
    assert Affine.from_list(json.loads(json.dumps(affine.to_list()))) == affine
    assert pickle.loads(pickle.dumps(affine)) == affine
    assert affine != drawn(seed + 1) and affine != affine.matrix.tolist()


def test_a_map_cannot_be_changed():
    matrix = np.diag([1.0, 2.0, 3.0, 1.0])
    affine = Affine(matrix)
    matrix[0, 3] = 9                                             # the map has its own copy
    assert affine.origin.tolist() == [0, 0, 0]
    with pytest.raises(ValueError):
        affine.matrix[0, 3] = 9
    with pytest.raises(ValueError):
        affine.linear[0, 0] = 9
    with pytest.raises(AttributeError):
        affine.matrix = matrix


def changed(at, value):
    matrix = np.eye(4)
    matrix[at] = value
    return matrix


@pytest.mark.parametrize(("matrix", "words"), [
    (np.eye(3), ("(3, 3)", "(4, 4)")), (np.eye(4)[:3], ("(3, 4)", "(4, 4)")), (np.eye(4)[None], ("(1, 4, 4)", "(4, 4)")),
    (changed((0, 3), np.nan), ("nan", "finite")), (changed((1, 1), np.inf), ("inf", "finite")),
    (changed((3, 0), 0.5), ("[0.5, 0.0, 0.0, 1.0]", "[0, 0, 0, 1]")),
    (changed((3, 3), 2), ("[0.0, 0.0, 0.0, 2.0]", "[0, 0, 0, 1]")),
    (changed((0, 0), 0), ("[0.0, 0.0, 0.0]", "linearly independent")),
    (changed((slice(0, 3), 1), [1, 0, 0]), ("[1.0, 0.0, 0.0]", "linearly independent")),
], ids=str)
def test_an_invalid_affine_map_is_refused_with_what_was_got_and_expected(matrix, words):
    with pytest.raises(ValueError) as refused:
        Affine(matrix)
    assert all(word in str(refused.value) for word in words)


def test_tiny_voxels_are_not_taken_for_flat_ones():
    assert Affine(np.diag([1e-5, 1e-5, 1e-5, 1])).inverse.apply([1, 1, 1]) == pytest.approx([1e5] * 3)


def test_a_map_composes_with_nothing_but_a_map():
    for one, other in itertools.permutations((Affine(np.eye(4)), np.eye(4))):
        with pytest.raises(TypeError):
            one @ other
