"""The input of a network: windows and neighboring slices are channels, and an ear is seen in blocks of its slices."""
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medical_fenlei.config import WINDOWS, AugmentConfig
from medical_fenlei.data.augment import AugmentParams, augment, draw_params, window, windowed_blocks
from medical_fenlei.data.blocks import block_starts, mean_over_blocks, with_neighbors

K, ROWS, COLUMNS = 7, 24, 32
THREE = ("soft", "bone", "wide")


@pytest.fixture
def volume():
    """int16 HU (3, K, ROWS, COLUMNS), all that can be."""
    return torch.from_numpy(np.random.default_rng(0).integers(-1200, 3000, (3, K, ROWS, COLUMNS)).astype(np.int16))


def drawn_for(config, rows=(4, 5, 6), *, seed=0, epoch=1):
    first = np.zeros(len(rows), int)
    return draw_params(config, seed=seed, epoch=epoch, row=np.asarray(rows), ear=first, occurrence=first)


def part_of(drawn, n):
    """The draw of one ear."""
    return AugmentParams(**{f.name: getattr(drawn, f.name)[n:n + 1] for f in dataclasses.fields(drawn)})


def windowed(hu, level, width):
    return np.clip((np.asarray(hu, np.float64) - level) / (width / 2), -1, 1)


def plain_window(volume, config):
    """Return the windowed volume by the formula for one window, without neighbors and blocks."""
    image = volume.float().sub(config.wl).mul_(2 / config.ww)
    return image.clamp_(-1, 1).unsqueeze(2)


def plain_augment(volume, drawn):
    """Return the augmented volume by the formula for one window, without neighbors and blocks."""
    def each(value):
        return value[:, None, None, None]

    image = volume.float().sub(each(drawn.level - drawn.width / 2)).mul_(each(2 / drawn.width))
    aspect = volume.shape[-1] / volume.shape[-2]
    cos, sin = torch.cos(drawn.angle) / drawn.scale, torch.sin(drawn.angle) / drawn.scale
    turn = torch.stack([cos, sin / aspect, -sin * aspect, cos], -1).reshape(-1, 2, 2)
    theta = torch.cat([turn, -(turn @ (2 * torch.stack([drawn.shift_columns, drawn.shift_rows], -1))[..., None])], -1)
    image = F.grid_sample(image, F.affine_grid(theta, list(image.shape), align_corners=False), align_corners=False)
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 2, stride=1), 2, stride=1)
    image.lerp_(blurred, each(drawn.blur))
    for ear, deviation, seed in zip(image, drawn.noise, drawn.noise_seed, strict=True):
        ear.add_(torch.randn(ear.shape, generator=torch.Generator().manual_seed(seed)).mul_(deviation))
    return image.sub_(1).clamp_(-1, 1).unsqueeze(2)


@pytest.mark.parametrize("options", [{}, {"wl": 433.3, "ww": 2711.7}, {"model_slices": K}], ids=str)
def test_one_window_without_neighbors_over_all_slices_equals_the_plain_formula(volume, options):
    config = AugmentConfig(**options)
    drawn = drawn_for(config)
    assert torch.equal(window(volume, config), plain_window(volume, config))
    torch.testing.assert_close(augment(volume, drawn, config), plain_augment(volume, drawn), rtol=0, atol=2e-6)


def test_draws_are_the_recorded_ones():
    config = AugmentConfig()
    rng = np.random.default_rng([3, 8, 11, 1, 2])                # seed, epoch, row, ear, turn
    numbers, noise_seed, place = rng.uniform(-1, 1, 8).astype(np.float32), int(rng.integers(2**63)), rng.random()
    found = draw_params(config, seed=3, epoch=8, row=np.array([11]), ear=np.array([1]), occurrence=np.array([2]))
    assert found.noise_seed == (noise_seed,) == (1498043018995798622,)
    assert float(found.level) == np.float32(500) + np.float32(200) * numbers[0] == pytest.approx(457.06245, abs=1e-4)
    assert float(found.noise) == pytest.approx(0.03 * (numbers[7] + 1) / 2)
    assert float(found.block_position) == pytest.approx(place)


def test_each_window_is_a_channel_in_the_order_of_the_settings(volume):
    config = AugmentConfig(wl=700, ww=3500, windows=THREE)
    found = window(volume, config)
    assert found.shape == (3, K, 3, ROWS, COLUMNS) and config.channels == 3
    for channel, (level, width) in enumerate([WINDOWS["soft"], (700, 3500), WINDOWS["wide"]]):
        np.testing.assert_allclose(found[:, :, channel], windowed(volume, level, width), atol=2e-6)


def test_another_window_moves_and_widens_by_the_same_shares_as_the_bone_window(volume):
    config = AugmentConfig(windows=THREE, rotate_deg=0, shift=0, scale=0, noise=0, blur=0)
    drawn = drawn_for(config)
    found = augment(volume, drawn, config)
    for n, (level, width) in enumerate(zip(drawn.level.tolist(), drawn.width.tolist(), strict=True)):
        assert abs(level - 500) > 5 and abs(width / 3000 - 1) > 0.005
        for channel, name in enumerate(THREE):
            wl, ww = WINDOWS.get(name, (500, 3000))
            expected = windowed(volume[n], wl + (level - 500) / 3000 * ww, width / 3000 * ww)
            np.testing.assert_allclose(found[n, :, channel], expected, atol=1e-3)


def test_all_windows_see_the_same_voxels_turned_blurred_and_noisy(volume):
    config = AugmentConfig(windows=("bone", "soft"), jitter_level=0, jitter_width=0)
    bone, soft = augment(volume, drawn_for(config), config).unbind(2)
    hu, shown = bone.double() * 1500 + 500, bone.abs() < 1
    np.testing.assert_allclose(soft[shown], windowed(hu[shown], *WINDOWS["soft"]), atol=2e-3)
    assert (soft[bone == -1] == -1).all() and (soft[bone == 1] == 1).all()


def test_air_from_outside_is_dark_in_every_window(volume):
    config = AugmentConfig(wl=900, ww=600, windows=THREE)              # a bone window that begins above the soft one's end
    still = {name: torch.zeros(3) for name in ("angle", "blur", "noise", "shift_columns")}
    drawn = dataclasses.replace(drawn_for(config), **still, scale=torch.ones(3), shift_rows=torch.full((3,), 4 / ROWS))
    found = augment(volume, drawn, config)
    np.testing.assert_allclose(found[..., :4, :], -1, atol=1e-5)
    assert (found[..., 5:, :].amax((0, 1, 3, 4)) > 0.99).all()


def test_the_order_of_windows_changes_the_order_of_channels_and_nothing_else(volume):
    one, other = (AugmentConfig(windows=windows) for windows in (("bone", "soft"), ("soft", "bone")))
    drawn = drawn_for(one)
    assert torch.equal(augment(volume, drawn, one), augment(volume, drawn, other).flip(2))
    assert torch.equal(window(volume, one), window(volume, other).flip(2))


@pytest.mark.parametrize("context", [0, 1, 2, 9])
@pytest.mark.parametrize("windows", [("bone",), ("bone", "soft")])
def test_a_slice_is_seen_between_its_neighbors_from_the_lowest_up_and_the_ends_repeat(volume, windows, context):
    config = AugmentConfig(windows=windows, slice_context=context)
    drawn, alone = drawn_for(config), AugmentConfig(windows=windows)
    for found, plain in ((window(volume, config), window(volume, alone)),
                         (augment(volume, drawn, config), augment(volume, drawn, alone))):
        assert found.shape == (3, K, config.channels, ROWS, COLUMNS) and config.channels == len(windows) * (2 * context + 1)
        for k in range(K):
            for step in range(-context, context + 1):
                for w in range(len(windows)):
                    seen = found[:, k, (step + context) * len(windows) + w]
                    assert torch.equal(seen, plain[:, min(max(k + step, 0), K - 1), w])


def test_without_context_nothing_is_copied():
    image = torch.zeros(2, K, 1, 4, 4)
    assert with_neighbors(image, 0) is image


def test_in_training_a_block_is_augmented_as_if_the_ear_had_no_other_slices(volume):
    config = AugmentConfig(windows=("bone", "soft"), slice_context=1, model_slices=3)
    drawn, whole = drawn_for(config), dataclasses.replace(config, model_slices=None)
    found = augment(volume, drawn, config)
    assert found.shape == (3, 3, 6, ROWS, COLUMNS)
    for n in range(3):
        first = int(float(drawn.block_position[n]) * (K - 3 + 1))
        expected = augment(volume[n:n + 1, first:first + 3], part_of(drawn, n), whole)
        torch.testing.assert_close(found[n:n + 1], expected, rtol=0, atol=1e-5)


def test_every_block_is_drawn_about_equally_often():
    config = AugmentConfig(model_slices=3, rotate_deg=0, shift=0, scale=0, noise=0, blur=0, jitter_level=0, jitter_width=0)
    slices = torch.arange(K, dtype=torch.int16)[:, None, None].expand(2000, K, 2, 2) * 100
    found = (augment(slices, drawn_for(config, range(2000)), config)[:, :, 0, 0, 0] * 15 + 5).round().int()
    assert torch.equal(found, found[:, :1] + torch.arange(3))
    assert np.abs(np.bincount(found[:, 0], minlength=K) / 2000 - np.r_[[1 / 5] * 5, 0, 0]).max() < 0.035


def test_the_last_block_stays_within_the_ear(volume):
    config = AugmentConfig(model_slices=3)
    drawn = dataclasses.replace(drawn_for(config), block_position=torch.ones(3))          # to which float32 may round
    found = augment(volume, drawn, config)
    torch.testing.assert_close(found, augment(volume[:, -3:], drawn, AugmentConfig()), rtol=0, atol=1e-5)


def test_blocks_are_as_few_as_possible_cover_every_slice_and_are_evenly_spaced():
    for slices in range(1, 41):
        assert block_starts(slices, None) == [0]
        for seen in range(1, slices + 1):
            starts = block_starts(slices, seen)
            assert len(starts) == -(-slices // seen) and starts[0] == 0 and starts[-1] == slices - seen
            assert {k for start in starts for k in range(start, start + seen)} == set(range(slices))
            steps = np.diff(starts)
            assert not len(steps) or (steps.max() - steps.min() <= 1 and steps.max() <= seen)


def test_in_prediction_each_block_is_windowed_by_itself(volume):
    config = AugmentConfig(windows=("soft", "bone"), slice_context=1, model_slices=3)
    whole = dataclasses.replace(config, model_slices=None)
    found = list(windowed_blocks(volume, config))
    assert len(found) == 3
    for start, block in zip((0, 2, 4), found, strict=True):
        assert torch.equal(block, window(volume[:, start:start + 3], whole))
    assert torch.equal(*windowed_blocks(volume, whole), window(volume, whole))


def test_a_slice_in_several_blocks_has_the_mean_of_their_values():
    starts, values = block_starts(K, 3), torch.randn(3, 3, 2)
    found = mean_over_blocks(values, starts, K)
    for k in range(K):
        said = [values[b, k - start] for b, start in enumerate(starts) if start <= k < start + 3]
        torch.testing.assert_close(found[k], sum(said) / len(said))
