"""Where the anatomy network finds an ear: in patient coordinates, whatever the voxels; a doubt where the localizer differs."""
import numpy as np
import pytest
import torch

from medical_fenlei.anatomy.drawn_ears import SHAPE, SPACING, draw_ear
from medical_fenlei.anatomy.second_opinion import APART_MM, AnatomyCheck, SecondOpinion
from medical_fenlei.models.anatomy_net import AnatomyNet, AnatomyOutput
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import EarPoint, Structure


class Brightest(AnatomyNet):
    """Says that every landmark is at the brightest voxel, and that all voxels above 1000 HU are cavity."""

    def forward(self, hu):
        at = torch.tensor(np.unravel_index(int(hu[0].argmax()), hu.shape[1:]), dtype=torch.float32)
        logits = torch.zeros(1, len(Structure), *hu.shape[1:])
        logits[0, Structure.CAVITY] = torch.where(hu[0] > 1000, 20.0, -20.0)
        return AnatomyOutput(logits, at.expand(1, len(EarPoint), 3))


def volume_with_ball(affine, shape, point, radius=4.0):
    """HU of a volume with one smooth bright ball about a point, LPS mm."""
    places = affine.apply(np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3)).reshape(*shape, 3)
    away = np.linalg.norm(places - point, axis=-1)
    return 2500 * np.exp(-(away / radius) ** 2)


@pytest.fixture
def check():
    return AnatomyCheck(Brightest())


@pytest.mark.parametrize(("voxel_mm", "shape"), [((1.0, 0.7, 0.7), (40, 80, 80)), ((2.0, 0.4, 0.4), (20, 200, 200)),
                                                 ((0.6, 0.9, 0.9), (90, 70, 70))])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_point_is_found_in_patient_coordinates_whatever_the_voxels_and_the_side(check, voxel_mm, shape, sign):
    z, y, x = voxel_mm
    centre = np.array([-30.0, 12.0, 100.0])
    affine = Affine.centred([[0, 0, z], [0, y, 0], [-sign * x, 0, 0]], shape, centre)
    point = centre + np.array([6.0 * sign, -4.0, 3.0])
    found = check.look(volume_with_ball(affine, shape, point), affine, centre)
    assert np.linalg.norm(found.tympanum_lps - point) < 1.2          # a voxel of the grid
    assert found.apart_mm == pytest.approx(np.linalg.norm(found.tympanum_lps - centre))


def test_the_volume_of_the_cavity_does_not_depend_on_the_voxels(check):
    sizes = []
    for voxel_mm, shape in (((1.0, 0.7, 0.7), (40, 80, 80)), ((0.5, 0.35, 0.35), (80, 160, 160))):
        affine = Affine.centred([[0, 0, voxel_mm[0]], [0, voxel_mm[1], 0], [-voxel_mm[2], 0, 0]], shape, np.zeros(3))
        sizes.append(check.look(volume_with_ball(affine, shape, np.zeros(3), radius=8.0), affine, np.zeros(3)).cavity_mm3)
    radius = 8.0 * np.sqrt(np.log(2.5))                          # where the ball is at 1000 HU
    assert sizes == pytest.approx([4 / 3 * np.pi * radius**3] * 2, rel=0.03)


def test_an_ear_far_from_the_middle_of_its_volume_is_looked_at_where_it_was_found(check):
    affine = Affine.centred([[0, 0, 1.0], [0, 0.7, 0], [-0.7, 0, 0]], (40, 200, 200), np.zeros(3))
    centre = np.array([45.0, -30.0, 5.0])
    found = check.look(volume_with_ball(affine, (40, 200, 200), centre), affine, centre)
    assert found.apart_mm < 1.2


@pytest.mark.parametrize(("apart", "cavity", "said"), [(APART_MM - 0.1, 500, ""), (APART_MM + 1, 500, "9 mm away"),
                                                       (1.0, 20, "no middle ear")])
def test_a_doubt_is_said_where_the_two_are_apart_or_there_is_no_middle_ear(apart, cavity, said):
    doubt = SecondOpinion(np.zeros(3), apart, cavity).doubt
    assert said in doubt and bool(doubt) == bool(said)


def test_the_weights_of_the_package_find_drawn_ears_and_doubt_a_volume_without_one():
    check, off = AnatomyCheck(), []
    affine = Affine.from_steps([[0, 0, SPACING[0]], [0, SPACING[1], 0], [-SPACING[2], 0, 0]], np.zeros(3))
    middle = affine.apply((np.array(SHAPE) - 1) / 2)
    for number in range(6):
        ear = draw_ear(1 << 33, number)
        found = check.look(ear.hu, affine, middle)
        off.append(np.linalg.norm(found.tympanum_lps - affine.apply(ear.landmarks[EarPoint.TYMPANUM])))
    assert np.median(off) < 2.0
    noise = np.random.default_rng(0).normal(50, 40, SHAPE)
    assert check.look(noise, affine, middle).doubt
