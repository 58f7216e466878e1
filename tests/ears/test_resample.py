"""Cropping, padding, scaling and mirroring of a slice equal SimpleITK, and change no HU where nothing is resampled."""
import numpy as np
import pytest
import SimpleITK as sitk

from medical_fenlei.ears.resample import Axis, resample, resample_rotated, round_to_hu
from medical_fenlei.ears.sampling import block, centred, even
from medical_fenlei.spatial import Affine


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(-1000, 3000, (50, 60)).astype(np.int16)


def test_nothing_is_interpolated_where_nothing_is_resampled(image):
    cut = resample(image, Axis.over(7, 20, 20), Axis.over(11, 30, 30))
    np.testing.assert_array_equal(cut, image[7:27, 11:41])
    np.testing.assert_array_equal(resample(image, Axis.over(7, 20, 20), Axis.over(11, 30, 30, mirrored=True)), cut[:, ::-1])


def test_outside_the_image_is_air(image):
    cut = resample(image, Axis.over(-5, 60, 60), Axis.over(-5, 70, 70))
    np.testing.assert_array_equal(cut[5:-5, 5:-5], image)
    cut[5:-5, 5:-5] = -1000
    assert (cut == -1000).all()
    assert (resample(image, Axis.over(200, 10, 10), Axis.over(0, 10, 10)) == -1000).all()


def test_upsampling_equals_linear_interpolation_of_simpleitk(image):
    rows, columns = Axis.over(5.3, 21.7, 40), Axis.over(8.1, 30.2, 50)
    picture = sitk.GetImageFromArray(image.astype(np.float32))
    expected = [[picture.EvaluateAtContinuousIndex((c, r)) for c in columns.centres()] for r in rows.centres()]
    np.testing.assert_allclose(resample(image, rows, columns), expected, atol=0.51)


def test_downsampling_keeps_the_mean_and_removes_detail_that_it_cannot_show(image):
    stripes = np.zeros((64, 64), np.int16)
    stripes[:, ::2] = 1000
    small = resample(stripes, Axis.over(0, 64, 16), Axis.over(0, 64, 16))[2:-2, 2:-2]
    assert abs(small - 500).max() <= 1


def test_averaging_weights_are_a_triangle_that_sums_to_one_inside_and_to_less_at_the_edge(image):
    """Against the formula written out pixel by pixel."""
    for axis in (Axis.over(3, 20, 7), Axis.over(-4, 70, 9, mirrored=True), Axis(2.3, 0.4, 30), Axis(5.0, 2.0, 9, reach=4.5)):
        reach, pixels = axis.reach or max(1.0, abs(axis.step)), np.arange(-40, 100)
        expected = np.maximum(0, 1 - abs(pixels - axis.centres()[:, None]) / reach)
        expected = (expected / expected.sum(axis=1, keepdims=True))[:, (pixels >= 0) & (pixels < 50)]
        np.testing.assert_allclose(resample(np.eye(50, dtype=np.int16) * 30000 - 1000, axis, Axis(0.0, 1.0, 50)),
                                   expected * 30000 - 1000, atol=0.6)


def test_an_axis_covers_its_edge_evenly_and_mirrored_it_runs_back():
    assert Axis.over(10, 6, 3).centres().tolist() == [10.5, 12.5, 14.5]
    assert Axis.over(10, 6, 3, mirrored=True).centres().tolist() == [14.5, 12.5, 10.5]
    assert Axis.over(-2, 4, 4).inside(1).tolist() == [False, False, True, False]


def test_rotated_sampling_without_a_rotation_equals_plain_sampling(image):
    block = np.stack([image, image[::-1], image // 2])
    rows, columns = Axis(4.25, 0.8, 40), Axis(50.5, -0.9, 45)
    to_block = np.array([[1, 0, 0, 0], [0, rows.step, 0, rows.first], [0, 0, columns.step, columns.first], [0, 0, 0, 1]])
    turned = round_to_hu(resample_rotated(block, Affine(to_block), (3, 40, 45), np.ones(3)))
    for plane, picture in zip(turned, block, strict=True):
        np.testing.assert_allclose(plane, resample(picture, rows, columns), atol=1)


@pytest.mark.parametrize("width", [1.0, 1.3, 2.0, 3.7, 6.0])
def test_rotated_sampling_smooths_by_a_variance_of_the_width(width):
    """A triangle over `width` voxels on either side has the variance width² / 6, of which linear interpolation gives a part."""
    line = np.full((1, 1, 81), -1000, np.int16)
    line[0, 0, 40] = 20000
    shifts = np.arange(0, 1, 0.125)                              # interpolation's own share depends on where the places fall
    spread = []
    for shift in shifts:
        to_block = Affine.from_steps(np.eye(3), [0, 0, shift])
        light = resample_rotated(line, to_block, (1, 1, 80), np.array([1, 1, width]))[0, 0]
        places = np.arange(80) + shift
        assert (light @ places) / light.sum() == pytest.approx(40, abs=0.01)
        spread.append((light @ (places - 40) ** 2) / light.sum())
    assert np.mean(spread) == pytest.approx(width**2 / 6, abs=0.12)


def test_even_sampling_spans_the_series():
    places = even(467, 32).centres()
    assert places[[0, -1]].tolist() == [0, 466] and np.ptp(np.diff(places)) < 1e-9
    assert even(10, 1).centres().tolist() == [4.5]
    assert even(5, 32).count == 32 and even(5, 32).centres()[-1] == pytest.approx(4)
    assert even(1, 3).centres().tolist() == [0, 0, 0]


def test_centred_sampling_lies_evenly_around_its_middle():
    assert centred(7.5, 2.0, 4).centres().tolist() == [4.5, 6.5, 8.5, 10.5]
    assert centred(-3.0, 0.5, 3).centres().tolist() == [-3.5, -3.0, -2.5]


def test_the_block_is_where_the_score_is():
    score = np.zeros(100)
    score[40:60] = 1
    places = block(score, 10).centres()
    assert places[0] >= 40 and places[-1] < 60
    assert block(score, 20).centres().tolist() == list(range(40, 60))
    assert block(np.zeros(100), 10).centres()[0] == 45


@pytest.mark.parametrize("wanted, step", [(200, 1.0), (60, 2.0), (10, 10.0)])
def test_a_block_longer_than_the_series_lies_around_its_middle(wanted, step):
    found = block(np.zeros(100), wanted, step)
    assert found.step == step and found.centres().mean() == pytest.approx(49.5) and found.count == wanted


@pytest.mark.parametrize("place", [0, 17, 50, 99])
def test_a_block_contains_the_required_position_wherever_the_score_is(place):
    score = np.zeros(100)
    score[70:90] = 1
    places = block(score, 12, holding=place).centres()
    assert places[0] <= place <= places[-1] and places[0] >= 0 and places[-1] <= 99
    assert score[places.astype(int)].sum() == max(0, min(12, place + 11 - 69) if place < 80 else 90 - max(88, place - 11))


@pytest.mark.parametrize("wanted, step", [
    (10, 0.5), (10, 2.0), (40, 0.4), (7, 1.7), (1, 0.3), (8, 0.02), (30, 3.0)])
@pytest.mark.parametrize("at", [0, 30, 95])
def test_a_block_of_any_spacing_lies_inside_the_series_and_around_the_score(wanted, step, at):
    score = np.zeros(100)
    score[at:at + 5] = 1
    found = block(score, wanted, step)
    assert found.count == wanted and found.inside(100).all()
    if wanted * step < 99:
        assert found.step == step or wanted == 1
        assert abs(found.centres() - (at + 2)).min() <= max(2.6, step)
        places = found.centres()
        assert min(places[-1], at + 4.5) >= max(places[0], at - 0.5)                         # they meet
