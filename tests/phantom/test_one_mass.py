"""Ears with one small mass each differ in nothing else, and the masses seldom overlap."""
import itertools

import numpy as np
import pytest

from medical_fenlei.phantom.anatomy import HEALTHY_AERATION, Pose, landmarks, sample_person
from medical_fenlei.phantom.disease import MASS_HU, MASS_RADIUS, sample_one_mass
from medical_fenlei.phantom.head import LESION_BIT, draw_head
from medical_fenlei.phantom.hospital import sample_acquisition
from medical_fenlei.phantom.population import sample_population
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import NORMAL, SIDES, Side

SPEC = HospitalSpec(num_exams=60, seed=4, disease="one_mass")
MM = 0.8


def around_left_ear(person, change):
    """HU (K, H, W) without noise on a grid of 0.8 mm, the lesion mask, and each voxel's position in patient mm."""
    shape, affine = (60, 70, 70), np.eye(4)
    affine[:3, :3] = MM * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    affine[:3, 3] = np.array(landmarks(person, Pose())["tympanum_left"]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    other = sample_one_mass(NORMAL, np.random.default_rng(9))
    drawn = draw_head(person, {Side.LEFT: change, Side.RIGHT: other}, Pose(), Affine(affine), shape)
    places = affine @ np.vstack([np.indices(shape).reshape(3, -1), np.ones(np.prod(shape))])
    return drawn.hu, drawn.lesion, places[:3].T.reshape(*shape, 3)


@pytest.mark.parametrize("seed", range(4))
def test_an_abnormal_ear_differs_from_the_healthy_one_only_by_a_small_ball(seed):
    person = sample_person(np.random.default_rng(seed), age_years=40)
    healthy, none, _ = around_left_ear(person, sample_one_mass(NORMAL, np.random.default_rng(seed)))
    ill, lesion, places = around_left_ear(person, sample_one_mass(6, np.random.default_rng(seed)))
    mine = lesion & LESION_BIT[Side.LEFT] > 0
    assert not none.any() and mine.any() and not (lesion & LESION_BIT[Side.RIGHT]).any()
    far = np.linalg.norm(places - places[mine].mean(0), axis=-1)
    reach = MASS_RADIUS[1] * 1.15 + 2 * MM
    assert far[mine].max() < reach and far[healthy != ill].max() < reach
    smallest, largest = (4 / 3 * np.pi * radius**3 for radius in MASS_RADIUS)
    assert 0.8 * smallest < mine.sum() * MM**3 < 1.2 * largest
    assert MASS_HU[0] - 50 < ill[far < 1.5].mean() < MASS_HU[1] + 50


@pytest.fixture(scope="module")
def exams():
    return sample_population(SPEC.num_exams, SPEC.seed, SPEC.disease)


def test_every_abnormal_ear_has_code_6_and_the_aeration_of_a_healthy_one(exams):
    assert {code for exam in exams for code in exam.codes.values()} == {NORMAL, 6}
    air = [(exam.codes[side], exam.person.ears[side].aeration) for exam in exams for side in SIDES if exam.person.age_years > 5]
    for code in (NORMAL, 6):
        assert np.mean([a for c, a in air if c == code]) == pytest.approx(HEALTHY_AERATION, abs=0.07)


def test_the_masses_of_different_patients_seldom_overlap(exams):
    masses = [mass for exam in exams for change in sample_acquisition(exam, SPEC)[0].changes.values() for mass in change.masses]
    assert len(masses) == sum(code != NORMAL for exam in exams for code in exam.codes.values()) > 50
    pairs = [(np.subtract(one.centre, other.centre), one.radii[0] + other.radii[0])
             for one, other in itertools.combinations(masses, 2)]
    assert np.mean([np.linalg.norm(apart) < together for apart, together in pairs]) < 0.25     # touch at all
    assert np.mean([abs(apart[2]) < together / 2 for apart, together in pairs]) < 0.4          # share half their slices
