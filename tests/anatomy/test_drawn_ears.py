"""Drawn ears differ in everything but their anatomy, and each is always the same."""
import numpy as np
import pytest

from medical_fenlei.anatomy import drawn_ears
from medical_fenlei.anatomy.drawn_ears import SHAPE, draw_ear
from medical_fenlei.vocabulary import AIR, Structure

NUMBERS = range(12)


def test_the_ear_of_a_number_is_always_the_same_and_that_of_another_is_not():
    one, same, other = draw_ear(0, 3), draw_ear(0, 3), draw_ear(0, 4)
    np.testing.assert_array_equal(one.hu, same.hu)
    np.testing.assert_array_equal(one.structures, same.structures)
    assert (one.structures != other.structures).any() and (draw_ear(1, 3).structures != one.structures).any()


def test_ears_have_the_form_that_the_network_takes():
    for ear in map(lambda number: draw_ear(0, number), NUMBERS):
        assert ear.hu.shape == ear.structures.shape == SHAPE
        assert ear.hu.dtype == np.int16 and ear.hu.min() >= -1024 and ear.hu.max() <= 3071
        assert set(np.unique(ear.structures)) <= {*map(int, Structure)}


def test_they_vary_in_density_noise_and_position():
    ears = [draw_ear(0, number) for number in NUMBERS]
    capsule = [np.median(ear.hu[ear.structures == Structure.OTIC_CAPSULE]) for ear in ears]
    cavity = [np.argwhere(ear.structures == Structure.CAVITY).mean(axis=0) for ear in ears]
    grain = [np.median(np.abs(np.diff(ear.hu.astype(float), axis=2))) for ear in ears]
    assert np.ptp(capsule) > 500 and max(grain) > 3 * min(grain) and (np.ptp(cavity, axis=0) > 4).all()


def test_in_most_ears_each_structure_is_there_and_beyond_the_scan_is_none():
    there = np.zeros(len(Structure))
    for number in range(30):
        ear = draw_ear(0, number)
        there += [(ear.structures == structure).any() for structure in Structure]
        empty = (ear.hu == AIR).all(axis=(1, 2))
        assert not ear.structures[empty].any()
    assert (there[1:] > 18).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_scan_shows_each_slice_where_its_structures_are(seed):
    """A density that rises by 1000 HU a thin slice tells the place of each slice, whatever thickness and noise are."""
    thin = np.arange((SHAPE[0] + 2 * drawn_ears.MARGIN) * drawn_ears.PER_SLICE)
    hu = np.broadcast_to(1000.0 * thin[:, None, None], (len(thin), *SHAPE[1:])).astype(np.float32)
    shown = drawn_ears._scan(hu, np.random.default_rng(seed)).mean(axis=(1, 2)) / 1000
    structures_at = (drawn_ears.MARGIN + np.arange(SHAPE[0])) * drawn_ears.PER_SLICE
    inside = slice(6, -6)                                        # thick slices at the ends hold copies of the last one
    np.testing.assert_allclose(shown[inside], structures_at[inside], atol=0.05)
