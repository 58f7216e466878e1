"""Perturbations of a scan do what their names say."""
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medical_fenlei.audits.robustness import AIR, perturbations


@pytest.fixture
def ears():
    return torch.from_numpy(np.random.default_rng(0).integers(-1000, 2000, (2, 6, 50, 40)).astype(np.int16))


def by_name(start):
    return next(change for name, change in perturbations().items() if name.startswith(start))


def test_every_perturbation_changes_the_ears_keeps_their_shape_and_leaves_its_input_unchanged(ears):
    before = ears.clone()
    for name, change in perturbations().items():
        after = change(ears)
        assert after.shape == ears.shape and after.dtype == torch.int16 and not after.equal(ears), name
        assert ears.equal(before), name


def test_a_higher_window_lowers_the_hu_and_contrast_scales_around_bone(ears):
    assert (by_name("window 100 HU higher")(ears) == ears - 100).all()
    assert by_name("contrast ×")(torch.full((1, 1, 2, 2), 400, dtype=torch.int16)).unique().tolist() == [400]
    wide, narrow = by_name("contrast ×")(ears), by_name("contrast /")(ears)
    assert wide.float().std() > ears.float().std() > narrow.float().std()


def test_blur_and_slice_thickness_equal_slow_implementations(ears):
    hu = ears.numpy().astype(float)
    blurred = gaussian_filter(hu, (0, 0, 1, 1), mode="nearest", truncate=3)
    np.testing.assert_allclose(by_name("blurred")(ears).numpy(), blurred, atol=0.51)
    thick = np.stack([hu[:, max(k - 1, 0):k + 2].mean(1) if 0 < k < 5 else
                      (2 * hu[:, k] + hu[:, abs(k - 1)]) / 3 for k in range(6)], 1)
    np.testing.assert_allclose(by_name("slices three")(ears).numpy(), thick, atol=0.51)


def test_noise_has_its_deviation_and_is_the_same_in_every_pass(ears):
    flat = torch.zeros((4, 8, 64, 64), dtype=torch.int16)
    first, again = by_name("noise")(flat), by_name("noise")(flat)
    assert first.float().std().item() == pytest.approx(80, rel=0.01) and first.equal(again)
    change = by_name("noise")
    assert not change(flat).equal(change(flat))                              # of its own for every batch


def test_a_shift_leaves_air_behind_and_does_not_wrap_around(ears):
    back, inwards, up = by_name("moved back")(ears), by_name("moved inwards")(ears), by_name("moved up")(ears)
    assert (back[:, :, 2:] == ears[:, :, :-2]).all() and (back[:, :, :2] == AIR).all()
    assert (inwards[..., 2:] == ears[..., :-2]).all() and (inwards[..., :2] == AIR).all()
    assert (up[:, 1:] == ears[:, :-1]).all() and (up[:, 0] == ears[:, 0]).all()
