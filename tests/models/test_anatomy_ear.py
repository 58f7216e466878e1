"""The network that looks structure by structure: its grid, its measures, and which caches it takes."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from medical_fenlei.config import EAR_ROUTE, AugmentConfig, EarSpec, ModelConfig, PhysicalScale
from medical_fenlei.models.anatomy_ear import (
    GRID_MM,
    GRID_STEP,
    MEASURES,
    QUARTERS,
    REGIONS,
    TISSUE_HU,
    AnatomyEar,
    measures,
    regions,
    resampling_matrix,
    tissues,
)
from medical_fenlei.vocabulary import Structure

ROI = EarSpec(sampling="roi", crop_mm=64, num_slices=16, image_size=96)


def network(shape=(16, 24, 24), voxel_mm=GRID_MM, outputs=2):
    torch.manual_seed(0)
    return AnatomyEar(shape, PhysicalScale(voxel_mm, 500.0, 3000.0, channel=0), dropout=0.0, outputs=outputs).eval()


@pytest.mark.parametrize(("length", "own", "grid"), [(16, 1.0, 1.0), (40, 0.5, 1.0), (16, 2.0, 1.0), (96, 64 / 96, 0.7)])
def test_resampling_keeps_what_is_constant_and_the_places_of_what_rises(length, own, grid):
    matrix = resampling_matrix(length, own, grid)
    assert len(matrix) % GRID_STEP == 0 and len(matrix) * grid >= length * own - 1e-6
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))
    at = (torch.arange(length) - (length - 1) / 2) * own         # mm from the middle
    expected = (torch.arange(len(matrix)) - (len(matrix) - 1) / 2) * grid
    inside = expected.abs() <= at.max() - max(own, grid)
    torch.testing.assert_close((matrix @ at)[inside], expected[inside], atol=0.05 * grid, rtol=0)


def test_an_axis_on_the_grid_already_stays_as_it_is():
    torch.testing.assert_close(resampling_matrix(24, 0.7, 0.7), torch.eye(24))


def test_coarser_than_the_axis_it_is_the_antialiased_filter_of_pillow():
    signal = np.random.default_rng(0).normal(size=64).astype(np.float32)
    expected = np.array(Image.fromarray(signal[None]).resize((32, 1), Image.Resampling.BILINEAR))[0]
    np.testing.assert_allclose((resampling_matrix(64, 0.5, 1.0) @ torch.from_numpy(signal))[2:-2], expected[2:-2], atol=1e-5)


def test_the_shares_of_the_tissues_are_linear_between_their_densities_and_sum_to_one():
    hu = torch.linspace(-1100, 2500, 400).view(1, 4, 10, 10)
    shares = tissues(hu)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(hu))
    for number in range(len(TISSUE_HU)):
        expected = np.interp(hu.flatten(), TISSUE_HU, np.eye(len(TISSUE_HU))[number])
        np.testing.assert_allclose(shares[0, number].flatten(), expected, atol=1e-5)


def test_measures_are_means_over_each_region_and_the_logarithm_of_its_volume():
    rng = torch.Generator().manual_seed(0)
    hu, of = torch.randn(2, 4, 5, 6, generator=rng) * 500, torch.randint(0, REGIONS, (2, 4, 5, 6), generator=rng)
    region = torch.stack([of == number for number in range(REGIONS)], 1).float()
    contents = (region[:, :, None] * tissues(hu)[:, None]).flatten(1, 2)
    found = measures(contents, region).unflatten(1, (REGIONS, -1))
    for ear in range(2):
        for number in range(REGIONS):
            inside, own = of[ear] == number, found[ear, number]
            size = inside.sum()
            torch.testing.assert_close(own[:-1], tissues(hu[ear:ear + 1])[0][:, inside].sum(1) / (size + 1))
            assert own[-1].item() == pytest.approx(np.log(size.item() + 1))


def of_structure(structure, box, shape=(16, 24, 24)):
    """Probabilities of a volume that is this structure within a box, and OTHER around it."""
    probability = torch.zeros(1, len(Structure), *shape)
    probability[(0, structure, *box)] = 1
    probability[0, Structure.OTHER] = 1 - probability[0, 1:].sum(0)
    return probability


def test_the_quarters_of_the_cavity_share_it_out_about_its_middle():
    box = (slice(4, 12), slice(6, 18), slice(8, 16))
    found = regions(of_structure(Structure.CAVITY, box))[0]
    quarters = found[:QUARTERS]
    torch.testing.assert_close(quarters.sum(0), found[QUARTERS + Structure.CAVITY - 1])
    places = np.indices(quarters.shape[1:]).reshape(3, -1)
    centres = [np.average(places, axis=1, weights=quarter.flatten()) for quarter in quarters]
    upper, back = np.array(centres)[:, 0] > 7.5, np.array(centres)[:, 1] > 11.5
    assert upper.tolist() == [True, True, False, False] and back.tolist() == [False, True, False, True]
    torch.testing.assert_close(quarters.sum((1, 2, 3)), torch.full((4,), 8 * 12 * 8 / 4), rtol=1e-3, atol=0)


def test_the_wall_is_what_surrounds_the_cavity_but_neither_canal_nor_cells():
    probability = of_structure(Structure.CAVITY, (slice(4, 12), slice(6, 18), slice(8, 16)))
    probability[0, :, 4:12, 6:18, 6:8] = 0
    probability[0, Structure.CANAL, 4:12, 6:18, 6:8] = 1         # lateral of the cavity
    wall = regions(probability)[0, -1]
    expected = np.zeros((16, 24, 24))
    expected[3:13, 4:20, 6:18] = 1                               # a voxel above and below, two around
    expected[4:12, 6:18, 6:16] = 0
    np.testing.assert_array_equal(wall, expected)


def test_it_takes_any_voxels_and_gives_logits_and_measures():
    output = network((6, 40, 40), voxel_mm=(3.0, 0.5, 0.5))(torch.zeros(3, 6, 1, 40, 40))
    assert output.logits.shape == (3, 2) and output.embedding.shape == (3, MEASURES) and output.attention is None


@torch.no_grad()
def test_an_ear_of_a_few_millimetres_has_an_answer():
    output = network((4, 8, 8), voxel_mm=(1.25, 0.6, 0.6))(torch.zeros(1, 4, 1, 8, 8))
    assert output.logits.isfinite().all()


def waves(shape, voxel_mm, wave_mm):
    """The same smooth volume in any voxels, (1, K, 1, H, W)."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, voxel_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    value = np.sin(2 * np.pi * z / wave_mm) * np.cos(2 * np.pi * (x + y / 2) / wave_mm)
    return torch.from_numpy(value.astype(np.float32))[None, :, None]


@torch.no_grad()
def test_an_ear_in_finer_voxels_has_the_same_measures():
    fine_mm = tuple(mm / 2 for mm in GRID_MM)
    ear = waves((16, 24, 24), GRID_MM, 16.0)
    coarse, fainter = (network()(volume).embedding for volume in (ear, 0.7 * ear))
    fine = network((32, 48, 48), voxel_mm=fine_mm)(waves((32, 48, 48), fine_mm, 16.0)).embedding
    assert (coarse - fine).norm() < 0.1 * (coarse - fainter).norm()


def test_gradients_reach_the_input():
    volume = torch.zeros(1, 16, 1, 24, 24).normal_(0, 0.3).requires_grad_()
    model = network()
    torch.nn.init.normal_(model.head.weight)
    model(volume).logits.sum().backward()
    assert volume.grad.abs().sum() > 0


@pytest.mark.parametrize(("ears", "augment", "match"), [
    (EarSpec(), AugmentConfig(), "one size in mm"), (replace(ROI, crop_mm=None), AugmentConfig(), "one size in mm"),
    (replace(ROI, sampling="even"), AugmentConfig(), "one size in mm"), (ROI, AugmentConfig(windows=("soft",)), "bone"),
    (ROI, AugmentConfig(slice_context=1), "slice-context"), (ROI, AugmentConfig(model_slices=8), "model-slices")])
def test_a_cache_or_a_view_that_it_cannot_read_is_refused(ears, augment, match):
    with pytest.raises(ValueError, match=match):
        replace(EAR_ROUTE, ears=ears, augment=augment, model=ModelConfig(backbone="anatomy")).require_fitting_cache()


def test_a_cache_in_mm_tells_the_network_the_size_of_its_voxels():
    config = replace(EAR_ROUTE, ears=ROI, augment=AugmentConfig(windows=("soft", "bone")))
    assert config.physical_scale == PhysicalScale((2.0, 64 / 96, 64 / 96), 500.0, 3000.0, channel=1)
    assert EarSpec(sampling="roi", target_spacing=0.5).voxel_mm == (0.5, 0.5, 0.5)
    assert EarSpec(target_spacing=0.5).voxel_mm is None          # --sampling even spreads slices over the series
