"""The midsagittal plane and the middle ears are found on simulated heads whose answer is known, and doubt is reported."""
import functools

import numpy as np
import pytest
from scipy import ndimage

from medical_fenlei.config import EarSpec
from medical_fenlei.ears.localize import locate
from medical_fenlei.ears.prepare import localize_ears, prepare_ears
from medical_fenlei.phantom.anatomy import Pose, landmarks, sample_person
from medical_fenlei.phantom.challenges import KINDS, sample_challenge
from medical_fenlei.phantom.disease import EarChange
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, Side

SEED, NUMBERS = 3, (0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15)
ONE_EAR = (15, 18, 31)
SPACING = (2.5, 2.0, 2.0)


@functools.cache
def challenge(number):
    drawn = sample_challenge(number, SEED)
    return drawn, localize_ears(drawn.series)


def misses(number):
    """Side → mm from the place that was found to the true one."""
    drawn, found = challenge(number)
    return {side: float(np.linalg.norm(found.ears[side].centre - drawn.landmarks_lps[f"tympanum_{side}"]))
            for side in drawn.sides}


def affine_of(shape, centre=(0.0, -8.0, 0.0)):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(SPACING)[::-1]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


@functools.cache
def head(yaw=0.0, pitch=0.0, roll=0.0, *, shape=(26, 116, 112), centre=(0.0, -8.0, 0.0), seed=1, aeration=0.4, age=40):
    """HU of a coarse scan with a little noise, its affine, and where everything is."""
    person = sample_person(np.random.default_rng(seed), age_years=age, aeration=aeration)
    pose = Pose(yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll, offset_mm=(3.0, -2.0, 0.0))
    affine = affine_of(shape, centre)
    hu = draw_head(person, dict.fromkeys(SIDES, EarChange()), pose, Affine(affine), shape).hu
    hu += np.random.default_rng(0).normal(0, 20, shape)
    return hu.astype(np.int16), affine, {name: np.array(value) for name, value in landmarks(person, pose).items()}


def xyz(affine, shape):
    """(3, K, rows, columns): LPS of each voxel."""
    return np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]


def degrees_between(a, b):
    return np.rad2deg(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def test_the_chosen_scans_are_of_every_kind():
    assert set().union(*(sample_challenge(number, SEED).kinds for number in NUMBERS)) == set(KINDS)
    assert {sample_challenge(number, SEED).sides for number in ONE_EAR} == {(side,) for side in SIDES}


@pytest.mark.parametrize("number", NUMBERS)
def test_every_ear_of_a_scan_is_found_on_its_own_side(number):
    drawn, found = challenge(number)
    point, normal = (np.array(drawn.landmarks_lps[f"midsagittal_{name}"]) for name in ("point", "normal"))
    for side, mm in misses(number).items():
        assert mm < 12, (side, drawn.kinds)
        assert (found.ears[side].centre - point) @ normal * side.sign > 20
        assert found.lateral(found.ears[side].centre, side) > 20
    if "one_ear" not in drawn.kinds:
        assert degrees_between(found.plane.normal, normal) < 3
        assert abs(found.lateral(point, Side.LEFT)) < 3


def test_most_ears_are_found_within_6_mm_and_correct_ones_are_confident():
    ears = [(mm, challenge(number)[1].ears[side].confidence) for number in NUMBERS for side, mm in misses(number).items()]
    assert np.mean([mm < 6 for mm, _ in ears]) > 0.9
    assert np.median([confidence for mm, confidence in ears if mm < 6]) > 0.5


@pytest.mark.parametrize("number", ONE_EAR)
def test_a_scan_of_one_ear_holds_that_ear_and_not_the_other(number):
    drawn, found = challenge(number)
    (side,) = drawn.sides
    assert set(found.ears) == {side} and misses(number)[side] < 12
    assert 0 < found.ears[side].confidence < 1 and any("one ear" in reason for reason in found.ears[side].reasons)
    assert set(prepare_ears(drawn.series, EarSpec(num_slices=4, image_size=16))) == {side}


@pytest.mark.parametrize("yaw, roll", [(0, 0), (-14, 5), (9, -8)])
def test_a_mirrored_scan_has_mirrored_ears_with_their_sides_exchanged(yaw, roll):
    hu, affine, _ = head(yaw, 5.0, roll)
    one, other = locate(hu, Affine(affine)), locate(hu[..., ::-1], Affine(affine))
    middle = (affine @ [0, 0, (hu.shape[2] - 1) / 2, 1])[0]
    for side in SIDES:
        mirrored = one.ears[side].centre * [-1, 1, 1] + [2 * middle, 0, 0]
        np.testing.assert_allclose(other.ears[side.other].centre, mirrored, atol=1.5)
        assert other.ears[side.other].confidence == pytest.approx(one.ears[side].confidence, abs=0.15)
    assert degrees_between(other.plane.normal, one.plane.normal * [1, -1, -1]) < 1


def test_a_mirrored_scan_of_one_ear_holds_the_other_ear():
    hu, affine, marks = head(shape=(20, 48, 48), centre=(44.0, 4.0, 0.0))
    one, other = locate(hu, Affine(affine)), locate(hu[..., ::-1], Affine(affine))
    assert set(one.ears) == {Side.LEFT} and set(other.ears) == {Side.RIGHT}
    assert np.linalg.norm(one.ears[Side.LEFT].centre - marks["tympanum_left"]) < 12
    mirrored = one.ears[Side.LEFT].centre * [-1, 1, 1] + [88.0, 0, 0]
    np.testing.assert_allclose(other.ears[Side.RIGHT].centre, mirrored, atol=1.5)


@pytest.mark.parametrize("age, fov_mm", [(3, 116), (9, 124), (40, 128), (40, 134)])
def test_a_narrow_scan_that_holds_both_ears_gives_both(age, fov_mm):
    hu, affine, marks = head(5.0, 2.0, 1.0, shape=(26, fov_mm // 2, fov_mm // 2), centre=(1.0, 0.0, 0.0), age=age)
    found = locate(hu, Affine(affine))
    assert set(found.ears) == set(SIDES)
    for side in SIDES:
        assert np.linalg.norm(found.ears[side].centre - marks[f"tympanum_{side}"]) < 12


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("fov_mm, middle", [(110, 42), (126, 50), (134, 45), (140, 50), (140, 55), (150, 60)])
def test_a_scan_of_one_side_gives_no_position_for_the_ear_outside_it(fov_mm, middle, side):
    """Its other edge lies near the midline, or some 30 mm beyond: the other ear is absent, or far outside, or not trusted."""
    shape = (26, fov_mm // 2, fov_mm // 2)
    hu, affine, marks = head(6.0, 3.0, 2.0, shape=shape, centre=(side.sign * middle, 4.0, 0.0))
    found = locate(hu, Affine(affine))
    assert np.linalg.norm(found.ears[side].centre - marks[f"tympanum_{side}"]) < 12
    if side.other in found.ears:
        other = found.ears[side.other]
        column = (np.linalg.inv(affine) @ [*other.centre, 1])[2] * side.sign
        beyond = -0.5 - column if side is Side.LEFT else -column - (shape[2] - 0.5)
        assert beyond * SPACING[2] > 12 or other.confidence < 0.05


@pytest.mark.parametrize("yaw, roll", [(-22, 0), (15, 0), (0, -9), (0, 6), (-12, 7), (18, -6)])
def test_turning_and_tilting_the_head_moves_the_plane_by_as_much(yaw, roll):
    hu, affine, marks = head(yaw, 4.0, roll)
    found, straight = locate(hu, Affine(affine)), locate(head(0, 4.0, 0)[0], Affine(affine))
    turn, tilt = np.deg2rad([yaw, roll])
    about_y = np.array([[np.cos(tilt), 0, np.sin(tilt)], [0, 1, 0], [-np.sin(tilt), 0, np.cos(tilt)]])
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    assert degrees_between(found.plane.normal, about_z @ about_y @ straight.plane.normal) < 1.5
    assert degrees_between(found.plane.normal, marks["midsagittal_normal"]) < 1.5
    assert abs(found.lateral(marks["midsagittal_point"], Side.LEFT)) < 2
    for side in SIDES:
        assert np.linalg.norm(found.ears[side].centre - marks[f"tympanum_{side}"]) < 6


@pytest.mark.parametrize("gap_mm, around", [(4, 0.0), (4, 0.7), (9, -0.7), (18, 0.5)])
def test_a_head_rest_changes_nothing(gap_mm, around):
    """A shell of 300 to 800 HU behind the head, separated by air, off the middle."""
    shape = (64, 128, 128)
    bare, affine, _ = head(7.0, 3.0, 2.0, shape=shape, centre=(0.0, 0.0, 25.0))
    x, y, _ = xyz(affine, shape)
    solid = np.stack([ndimage.binary_fill_holes(plane > -500) for plane in bare])
    away = ndimage.distance_transform_edt(~solid, sampling=SPACING)
    rest = (abs(np.arctan2(x - 12, y + 8) - around) < 0.6) & (away > gap_mm) & (away < gap_mm + 10)
    assert rest.sum() > 5000 and (bare[rest] < -500).all()                                   # it lies in air, or in foam
    beside = bare.copy()
    beside[rest] = np.random.default_rng(1).integers(300, 800, int(rest.sum()))
    without, along = locate(bare, Affine(affine)), locate(beside, Affine(affine))
    for side in SIDES:
        assert np.linalg.norm(along.ears[side].centre - without.ears[side].centre) < 2
    assert degrees_between(along.plane.normal, without.plane.normal) < 0.5


@pytest.mark.parametrize("shape", [(26, 116, 112), (20, 48, 48), (2, 116, 112), (1, 116, 112), (1, 40, 40), (3, 8, 8)], ids=str)
@pytest.mark.parametrize("kind", ["noise", "air", "water", "bone"])
def test_without_a_head_nothing_is_confident_and_nothing_fails(shape, kind):
    rng = np.random.default_rng(0)
    hu = {"noise": rng.normal(0, 600, shape), "air": np.full(shape, -1000.0), "water": np.full(shape, 0.0),
          "bone": np.full(shape, 1500.0)}[kind].astype(np.int16)
    found = locate(hu, Affine(affine_of(shape)))
    assert found.ears and np.linalg.norm(found.plane.normal) == pytest.approx(1)
    for ear in found.ears.values():
        assert np.isfinite(ear.centre).all() and ear.reasons
        assert ear.confidence == 0 if kind == "air" else ear.confidence < 0.1


@pytest.mark.parametrize("side", SIDES)
def test_a_destroyed_ear_is_less_confident_and_does_not_move_the_other(side):
    hu, affine, marks = head(5.0, 3.0, 2.0)
    whole = locate(hu, Affine(affine))
    spoiled = hu.copy()
    reach = abs(xyz(affine, hu.shape) - marks[f"tympanum_{side}"][:, None, None, None]).max(axis=0)
    spoiled[reach < 32] = 40
    found = locate(spoiled, Affine(affine))
    assert np.linalg.norm(found.ears[side.other].centre - whole.ears[side.other].centre) < 3
    assert found.ears[side].confidence < min(0.5, whole.ears[side].confidence)
    assert found.ears[side].confidence < found.ears[side.other].confidence
    assert found.ears[side].method in ("mirrored", "geometric") and found.ears[side].reasons
    assert np.linalg.norm(found.ears[side].centre - marks[f"tympanum_{side}"]) < 12                  # as on the other side


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sinuses_full_of_air_do_not_attract_where_the_mastoids_hold_none(seed):
    hu, affine, marks = head(4.0, -6.0, 2.0, shape=(64, 124, 112), centre=(0.0, -4.0, 20.0), seed=seed, aeration=0.0)
    found = locate(hu, Affine(affine))
    for side in SIDES:
        assert np.linalg.norm(found.ears[side].centre - marks[f"tympanum_{side}"]) < 6
