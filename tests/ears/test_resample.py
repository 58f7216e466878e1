"""Cropping, padding, scaling and mirroring of a slice."""
import numpy as np
import pytest
import SimpleITK as sitk

from medical_fenlei.ears.resample import Axis, resample
from medical_fenlei.ears.sampling import block, even


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(-1000, 3000, (50, 60)).astype(np.int16)


def test_nothing_is_interpolated_where_nothing_is_resampled(image):
    cut = resample(image, Axis.over(7, 20, 20), Axis.over(11, 30, 30))
    np.testing.assert_array_equal(cut, image[7:27, 11:41])
    np.testing.assert_array_equal(resample(image, Axis.over(7, 20, 20), Axis.over(11, 30, 30, mirrored=True)), cut[:, ::-1])


def test_beyond_the_image_is_air(image):
    cut = resample(image, Axis.over(-5, 60, 60), Axis.over(-5, 70, 70))
    np.testing.assert_array_equal(cut[5:-5, 5:-5], image)
    cut[5:-5, 5:-5] = -1000
    assert (cut == -1000).all()
    assert (resample(image, Axis.over(200, 10, 10), Axis.over(0, 10, 10)) == -1000).all()


def test_enlarging_equals_linear_interpolation_of_simpleitk(image):
    rows, columns = Axis.over(5.3, 21.7, 40), Axis.over(8.1, 30.2, 50)
    picture = sitk.GetImageFromArray(image.astype(np.float32))
    expected = [[picture.EvaluateAtContinuousIndex((c, r)) for c in columns.centres()] for r in rows.centres()]
    np.testing.assert_allclose(resample(image, rows, columns), expected, atol=0.51)


def test_shrinking_keeps_the_mean_and_drops_what_it_cannot_show(image):
    stripes = np.zeros((64, 64), np.int16)
    stripes[:, ::2] = 1000
    small = resample(stripes, Axis.over(0, 64, 16), Axis.over(0, 64, 16))[2:-2, 2:-2]
    assert abs(small - 500).max() <= 1


def test_even_sampling_spans_the_series():
    assert even(467, 32)[[0, -1]].tolist() == [0, 466] and np.ptp(np.diff(even(467, 32))) < 1e-9
    assert even(10, 1).tolist() == [4.5]
    assert len(even(5, 32)) == 32


def test_the_block_is_where_the_score_is():
    score = np.zeros(100)
    score[40:60] = 1
    assert block(100, 10, score)[0] >= 40 and block(100, 10, score)[-1] < 60
    assert block(100, 20, score).tolist() == list(range(40, 60))
    assert block(100, 10, np.zeros(100))[0] == 45
