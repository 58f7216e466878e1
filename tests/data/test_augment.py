"""Windowing and augmentation equal scipy and formulas by hand; draws follow from seed, epoch and ear alone."""
import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from medical_fenlei.config import AugmentConfig
from medical_fenlei.data.augment import AugmentParams, augment, draw_params, window

CONFIG = AugmentConfig()
STILL = {"jitter_level": 0, "jitter_width": 0, "rotate_deg": 0, "shift": 0, "scale": 0, "noise": 0, "blur": 0}
DRAWN = ("level", "width", "angle", "scale", "shift_rows", "shift_columns", "blur", "noise", "block_position")
SHAPE = (40, 56)
"""Rows and columns; not a square, so that their exchange shows."""


@pytest.fixture
def volume():
    """int16 HU (2, 3, *SHAPE), smooth, within the window and beyond."""
    noise = np.random.default_rng(0).normal(size=(2, 3, *SHAPE))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2, 2))
    return torch.from_numpy((500 + smooth / smooth.std() * 1200).astype(np.int16))


def drawn(n=2, **given):
    """A draw that changes nothing but what is given."""
    still = {"level": 500.0, "width": 3000.0, "scale": 1.0}
    values = {name: torch.full((n,), float(given.get(name, still.get(name, 0.0)))) for name in DRAWN}
    return AugmentParams(**values, noise_seed=tuple(range(n)))


def drawn_for(config, rows, *, ears=None, turns=None, seed=0, epoch=1):
    rows = np.asarray(rows)
    nothing = np.zeros_like(rows)
    return draw_params(config, seed=seed, epoch=epoch, row=rows, ear=nothing if ears is None else np.asarray(ears),
                       occurrence=nothing if turns is None else np.asarray(turns))


def windowed(hu, level=500.0, width=3000.0):
    return np.clip((np.asarray(hu, np.float64) - level) / (width / 2), -1, 1)


def test_the_window_maps_hu_linearly_to_minus_one_to_one_and_clamps():
    hu = torch.arange(-2000, 4000, dtype=torch.int16).reshape(1, 1, 60, 100)
    config = AugmentConfig(wl=400, ww=2000)
    found = window(hu, config)
    assert found.shape == (1, 1, 1, 60, 100) and found.dtype == torch.float32
    np.testing.assert_allclose(found.ravel(), np.interp(hu.ravel(), [-600, 1400], [-1, 1]), atol=1e-6)


def test_a_draw_depends_on_seed_epoch_and_ear_and_not_on_the_batch():
    config, rows, ears = AugmentConfig(), np.arange(30) * 7, np.arange(30) % 2
    whole = drawn_for(config, rows, ears=ears)
    part = drawn_for(config, rows[[17, 4, 9]], ears=ears[[17, 4, 9]])
    for name in DRAWN:
        assert torch.equal(getattr(whole, name)[[17, 4, 9]], getattr(part, name)), name
        assert len(set(getattr(whole, name).tolist())) == 30, name
    assert part.noise_seed == tuple(whole.noise_seed[n] for n in (17, 4, 9)) and len(set(whole.noise_seed)) == 30


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 2}, {"rows": [6]}, {"ears": [1]}, {"turns": [1]}], ids=str)
def test_another_seed_epoch_row_ear_or_occurrence_gives_another_draw(other):
    one = drawn_for(AugmentConfig(), [5])
    another = drawn_for(AugmentConfig(), other.pop("rows", [5]), **other)
    assert all(getattr(one, name) != getattr(another, name) for name in (*DRAWN, "noise_seed"))


def test_draws_fill_the_range_of_the_settings():
    config = AugmentConfig(wl=400, ww=2000, jitter_level=100, jitter_width=0.3, rotate_deg=20, shift=0.1, scale=0.2, noise=0.05)
    found = drawn_for(config, range(2000))
    ranges = {"level": (300, 500), "width": (1400, 2600), "angle": (-np.pi / 9, np.pi / 9), "scale": (0.8, 1.2),
              "shift_rows": (-0.1, 0.1), "shift_columns": (-0.1, 0.1), "blur": (0, 0.5), "noise": (0, 0.05),
              "block_position": (0, 1)}
    assert set(ranges) == set(DRAWN)
    for name, (low, high) in ranges.items():
        share = (getattr(found, name).double().numpy() - low) / (high - low)
        assert -1e-5 <= share.min() < 0.01 and 0.99 < share.max() <= 1 + 1e-5, name
        assert abs(share.mean() - 0.5) < 0.03 and abs(share.std() - 12**-0.5) < 0.02, name
    numbers = np.stack([getattr(found, name).numpy() for name in DRAWN])
    assert np.abs(np.corrcoef(numbers) - np.eye(len(DRAWN))).max() < 0.1                # each is drawn for itself


def test_with_all_strengths_at_zero_augmentation_only_windows(volume):
    config = AugmentConfig(wl=300, ww=2500, **STILL)
    found = augment(volume, drawn_for(config, [3, 8]), config)
    assert found.shape == (2, 3, 1, *SHAPE) and found.dtype == torch.float32
    torch.testing.assert_close(found, window(volume, config), rtol=0, atol=1e-4)


def test_the_window_of_each_ear_is_its_own(volume):
    level, width = torch.tensor([500.0, 200.0]), torch.tensor([3000.0, 1500.0])
    found = augment(volume, dataclasses.replace(drawn(), level=level, width=width), CONFIG)
    np.testing.assert_allclose(found[0, :, 0], windowed(volume[0]), atol=1e-4)
    np.testing.assert_allclose(found[1, :, 0], windowed(volume[1], 200, 1500), atol=2e-4)


@pytest.mark.parametrize("given", [
    {"shift_rows": 0.11}, {"shift_columns": -0.07}, {"angle": 0.3}, {"scale": 1.2}, {"scale": 0.9},
    {"shift_rows": -0.05, "shift_columns": 0.08, "angle": -0.2, "scale": 1.1},
], ids=str)
def test_rotating_scaling_and_shifting_equal_scipy_in_the_interior(volume, given):
    found = augment(volume, drawn(**given), CONFIG)[:, :, 0].numpy()
    angle, scale = given.get("angle", 0), given.get("scale", 1)
    inverse = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    centre = (np.array(SHAPE) - 1) / 2
    moved = centre + np.array([given.get("shift_rows", 0), given.get("shift_columns", 0)]) * SHAPE
    offset = centre - inverse @ moved
    for ear in range(2):
        for k in range(3):
            hu = volume[ear, k].double().numpy()
            expected = ndimage.affine_transform(hu, inverse, offset, order=1, mode="constant", cval=np.nan)
            inside = np.isfinite(expected)
            assert inside.mean() > 0.5
            np.testing.assert_allclose(found[ear, k][inside], windowed(expected[inside]), atol=2e-3)


def test_shifting_by_whole_pixels_moves_the_content_and_brings_in_air(volume):
    plain = windowed(volume)
    down = augment(volume, drawn(shift_rows=4 / SHAPE[0]), CONFIG)[:, :, 0].numpy()
    np.testing.assert_allclose(down[:, :, 4:], plain[:, :, :-4], atol=1e-3)
    np.testing.assert_allclose(down[:, :, :4], -1, atol=1e-3)
    left = augment(volume, drawn(shift_columns=-5 / SHAPE[1]), CONFIG)[:, :, 0].numpy()
    np.testing.assert_allclose(left[..., :-5], plain[..., 5:], atol=1e-3)
    np.testing.assert_allclose(left[..., -5:], -1, atol=1e-3)


def test_a_larger_scale_magnifies():
    hu = torch.full((1, 1, 64, 64), -1000, dtype=torch.int16)
    hu[..., 24:40, 24:40] = 2000
    bright = {scale: int((augment(hu, drawn(1, scale=scale), CONFIG) > 0).sum()) for scale in (0.75, 1.0, 1.5)}
    assert bright == {0.75: 12**2, 1.0: 16**2, 1.5: 24**2}


def test_a_quarter_turn_equals_that_of_numpy():
    hu = torch.from_numpy(np.random.default_rng(0).integers(-900, 1900, (1, 2, 32, 32)).astype(np.int16))
    found = augment(hu, drawn(1, angle=np.pi / 2), CONFIG)[0, :, 0].numpy()
    np.testing.assert_allclose(found, windowed(np.rot90(hu[0].numpy(), -1, axes=(1, 2))), atol=1e-3)


def test_the_blur_equals_a_binomial_kernel_of_scipy(volume):
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    for share in (0.4, 1.0):
        found = augment(volume, drawn(blur=share), CONFIG)[:, :, 0]
        for ear in range(2):
            for k in range(3):
                hu = volume[ear, k].double().numpy()
                mixed = (1 - share) * hu + share * ndimage.convolve(hu, kernel, mode="nearest")
                np.testing.assert_allclose(found[ear, k], windowed(mixed), atol=1e-3)


def test_all_slices_of_an_ear_share_one_geometry_window_and_blur(volume):
    same = volume[:1, :1].expand(6, 5, -1, -1)
    found = augment(same, drawn_for(AugmentConfig(noise=0), range(6)), CONFIG)
    for k in range(1, 5):
        torch.testing.assert_close(found[:, k], found[:, 0], rtol=0, atol=1e-5)
    assert all((found[n] - found[0]).abs().mean() > 0.02 for n in range(1, 6))


def test_noise_has_the_deviation_drawn_and_differs_between_samples_and_slices():
    flat = torch.full((3, 4, 64, 64), 500, dtype=torch.int16)
    found = augment(flat, drawn(3, noise=0.1), CONFIG)[:, :, 0]
    assert found.std(dim=(2, 3)).numpy() == pytest.approx(np.full((3, 4), 0.1), rel=0.06)
    assert np.abs(np.corrcoef(found.reshape(12, -1)) - np.eye(12)).max() < 0.08
    alone = augment(flat[[1]], dataclasses.replace(drawn(1, noise=0.1), noise_seed=(1,)), CONFIG)
    assert torch.equal(alone[0, :, 0], found[1])


@pytest.mark.parametrize("options", [{}, {"windows": ("bone", "soft"), "slice_context": 1, "model_slices": 2}], ids=str)
def test_an_augmented_ear_does_not_depend_on_its_batch(volume, options):
    config, ears = AugmentConfig(**options), volume[[0, 1, 0]]
    together = augment(ears, drawn_for(config, [4, 5, 6]), config)
    for n in range(3):
        torch.testing.assert_close(augment(ears[[n]], drawn_for(config, [4 + n]), config), together[[n]], rtol=0, atol=1e-5)


def test_the_ear_is_never_mirrored():
    rows, columns = np.indices((48, 48))
    hu = np.where(np.hypot(rows - 13, columns - 12) < 7, 1500, -300) + 1000 * (np.hypot(rows - 35, columns - 17) < 5)
    plain = windowed(hu)
    found = augment(torch.from_numpy(hu.astype(np.int16)).expand(60, 1, 48, 48), drawn_for(CONFIG, range(60)), CONFIG)[:, 0, 0]
    for image in found.numpy():
        like = np.corrcoef([image.ravel(), plain.ravel(), plain[:, ::-1].ravel(), plain[::-1].ravel()])[0, 1:]
        assert like[0] > max(like[1:]) + 0.1


def test_augmentation_leaves_the_batch_unchanged(volume):
    before = volume.clone()
    augment(volume, drawn_for(CONFIG, [0, 1]), CONFIG)
    window(volume, AugmentConfig())
    assert torch.equal(volume, before)
