"""The structures of a drawn ear lie where anatomy has them, whatever fills them, and change nothing of the picture."""
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from medical_fenlei.phantom.anatomy import Pose, landmarks, sample_person
from medical_fenlei.phantom.disease import EarChange, sample_change
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import SIDES, Side, Structure

MM, SHAPE = 0.5, (96, 110, 110)
STRUCTURES = [structure for structure in Structure if structure]


def person(seed=0, aeration=0.5):
    return sample_person(np.random.default_rng(seed), age_years=40, aeration=aeration)


def around(who, side=Side.LEFT, change=None, *, structures=True):
    """Draw one ear of a person on a grid of 0.5 mm, slices upwards, rows to the back, columns to the left."""
    steps = MM * np.eye(3)[::-1]
    grid = Affine.centred(steps, SHAPE, landmarks(who, Pose())[f"tympanum_{side}"])
    changes = dict.fromkeys(SIDES, EarChange()) | {side: change or EarChange()}
    return draw_head(who, changes, Pose(), grid, SHAPE, structures=structures)


@pytest.fixture(scope="module")
def healthy():
    return around(person())


def centre(drawn, structure):
    return np.argwhere(drawn.structures == structure).mean(axis=0) * MM


def test_noting_the_structures_changes_no_voxel(healthy):
    plain = around(person(), structures=False)
    assert plain.structures is None
    np.testing.assert_array_equal(plain.hu, healthy.hu)


@pytest.mark.parametrize(("structure", "ml"), [
    ("CAVITY", (0.7, 3.5)), ("CANAL", (0.5, 4.0)), ("CELLS", (2.0, 25.0)), ("OSSICLES", (0.03, 0.15)),
    ("OTIC_CAPSULE", (0.5, 2.0)), ("FACIAL_CANAL", (0.02, 0.2)), ("SINUS", (1.0, 6.0))])
def test_each_structure_has_a_plausible_volume(healthy, structure, ml):
    volume = (healthy.structures == Structure[structure]).sum() * MM**3 / 1000
    assert ml[0] < volume < ml[1]


def test_they_lie_to_one_another_as_in_a_left_ear(healthy):
    at = {structure: centre(healthy, structure) for structure in STRUCTURES}             # up, back, left
    cavity = at[Structure.CAVITY]
    assert at[Structure.OTIC_CAPSULE][2] < cavity[2] < at[Structure.CANAL][2]            # from medial to lateral
    assert at[Structure.CELLS][1] > cavity[1] + 5 < at[Structure.SINUS][1]               # behind it
    assert at[Structure.SINUS][0] < cavity[0]                                            # the bulb below
    assert np.linalg.norm(at[Structure.OSSICLES] - cavity) < 8


def test_the_ossicles_lie_inside_the_cavity_and_stay_bone(healthy):
    ossicles = healthy.structures == Structure.OSSICLES
    around_them = ndimage.binary_dilation(ossicles, iterations=2) & ~ossicles
    assert (healthy.structures[around_them] == Structure.CAVITY).mean() > 0.6
    assert np.median(healthy.hu[ossicles]) > 400


def test_the_right_ear_is_the_mirror_image():
    who = person()
    left = replace(who.ears[Side.LEFT], texture_turn=np.eye(3))
    who = replace(who, ears={Side.LEFT: left, Side.RIGHT: replace(left, side=Side.RIGHT)})
    right = around(who, Side.RIGHT).structures[..., ::-1]
    assert (right == around(who).structures).mean() > 0.995


@pytest.mark.parametrize("code", [1, 3])
def test_what_fills_a_space_does_not_change_what_it_is(healthy, code):
    change = replace(sample_change(code, np.random.default_rng(1)), rough_mm=0.0, sclerosis=0.0, cell_loss=0.0,
                     ossicles={})
    filled = around(person(), change=change)
    np.testing.assert_array_equal(filled.structures, healthy.structures)
    cavity = healthy.structures == Structure.CAVITY
    assert np.median(filled.hu[cavity]) > np.median(healthy.hu[cavity]) + 500


def test_a_sclerotic_mastoid_has_no_cells_and_eroded_ossicles_are_gone():
    who = person(aeration=0.0)
    drawn = around(who, change=EarChange(ossicles={"malleus": 0.0, "incus": 0.0, "stapes": 0.0}))
    assert not (drawn.structures == Structure.OSSICLES).any()
    assert (drawn.structures == Structure.CELLS).sum() * MM**3 < 100
