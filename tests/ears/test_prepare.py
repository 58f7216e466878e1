"""A prepared ear: which side, which voxels, and where they are in the patient."""
import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dicom_files import axial, write_volume

from medical_fenlei import settings
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.errors import Rejected
from medical_fenlei.vocabulary import SIDES, Side

SHAPE, SPACING = (10, 200, 190), (1.5, 1.0, 1.0)
MARK = {Side.LEFT: np.array([44.0, 6.0]), Side.RIGHT: np.array([-47.0, 3.0])}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A drawn skull with a bright rod along z in each ear, twice as bright on the left; rows and columns run backwards."""
    affine = axial(SHAPE, SPACING)
    _, r, c = np.indices(SHAPE)
    x, y = c * SPACING[2] + affine[0, 3], r * SPACING[1] + affine[1, 3]
    radius = np.hypot(x / 73, y / 92)
    hu = np.where(radius < 1, 40, -1000) + np.random.default_rng(0).integers(-20, 20, SHAPE)
    hu[(radius < 1) & (radius > 0.93)] = 1200
    hu[(abs(abs(x) - 42) < 20) & (abs(y - 5) < 12)] = 900
    for side, (mx, my) in MARK.items():
        hu[np.hypot(x - mx, y - my) < 3] = 3000 if side is Side.LEFT else 1500
    flipped = affine.copy()
    for axis in (1, 2):
        flipped[:3, 3] += flipped[:3, axis] * (SHAPE[axis] - 1)
        flipped[:3, axis] *= -1
    folder = tmp_path_factory.mktemp("scan")
    write_volume(folder, hu[:, ::-1, ::-1], flipped)
    return folder, hu, affine


def rod(ear, side):
    """Centre (k, row, column) of the rod in a cut volume."""
    return np.argwhere(ear.volume > 0.9 * (3000 if side is Side.LEFT else 1500)).mean(axis=0)


@pytest.mark.parametrize("spec", [
    EarSpec(num_slices=10, image_size=64, crop_size=64), EarSpec(num_slices=4, image_size=96, crop_mm=60.0),
    EarSpec(num_slices=16, image_size=40, crop_size=70),
    EarSpec(num_slices=4, image_size=64, crop_mm=66.6, sampling="air_block"),
    EarSpec(num_slices=12, image_size=64, crop_mm=66.6, sampling="roi", roi_mm=12.0, align=True),
    EarSpec(num_slices=12, image_size=80, target_spacing=0.8, sampling="roi", align=True),
], ids=lambda spec: spec.key)
def test_the_affine_takes_each_voxel_to_its_place_in_the_patient(scan, spec):
    for side, ear in prepare_ears(open_series(scan[0]), spec).items():
        affine = np.array(ear.facts["affine_lps"])
        np.testing.assert_allclose((affine @ [*rod(ear, side), 1])[:2], MARK[side], atol=0.5)
        assert ear.volume.shape == (spec.num_slices, spec.image_size, spec.image_size) and ear.volume.dtype == np.int16
        k = (np.linalg.inv(affine) @ [0, 0, (SHAPE[0] - 1) / 2 * SPACING[0], 1])[0]    # top of the scan
        if spec.sampling == "even":
            assert k == pytest.approx(spec.num_slices - 1, abs=0.5)


def test_each_side_holds_its_own_ear_and_column_0_is_lateral(scan):
    ears = prepare_ears(open_series(scan[0]), EarSpec(num_slices=4, image_size=64, crop_size=64))
    assert ears[Side.LEFT].volume.max() > 2900 > 1600 > ears[Side.RIGHT].volume.max()
    for side, ear in ears.items():
        affine = np.array(ear.facts["affine_lps"])
        assert np.sign(affine[0, 2]) == -side.sign               # columns run towards the middle
        assert affine[1, 1] > 0 and affine[2, 0] > 0             # rows to the back, slices upwards


def test_where_nothing_is_resampled_hu_equal_simpleitk_exactly(scan):
    folder, _, _ = scan
    for ear in prepare_ears(open_series(folder), EarSpec(num_slices=10, image_size=60, crop_size=60)).values():
        affine, images = np.array(ear.facts["affine_lps"]), {}
        for k, name in enumerate(ear.facts["slice_files"]):
            images[name] = sitk.ReadImage(str(folder / name), imageIO="GDCMImageIO")
            for row, column in np.random.default_rng(k).integers(0, 60, (40, 2)):
                index = images[name].TransformPhysicalPointToIndex((affine @ [k, row, column, 1])[:3].tolist())
                assert ear.volume[k, row, column] == images[name][index]


def test_no_voxel_comes_from_beyond_the_midsagittal_plane(scan):
    ears = prepare_ears(open_series(scan[0]), EarSpec(num_slices=2, image_size=96, crop_size=180))
    for side, ear in ears.items():
        affine = np.array(ear.facts["affine_lps"])
        grid = np.indices(ear.volume.shape).reshape(3, -1)
        x = (affine[:3, :3] @ grid + affine[:3, 3:])[0] * side.sign
        assert (ear.volume.ravel()[x < -1] == -1000).all() and ear.facts["padded_share"] > 0.1


@pytest.mark.parametrize("spec", [
    EarSpec(num_slices=10, image_size=32, crop_size=64), EarSpec(num_slices=10, image_size=32, extent="half", align=True),
    EarSpec(num_slices=8, image_size=32, crop_mm=64.0, sampling="roi", roi_mm=10.0),
    EarSpec(num_slices=8, image_size=32, target_spacing=1.5, sampling="roi", align=True)], ids=lambda spec: spec.key)
def test_every_slice_is_decoded_once_for_both_ears(scan, monkeypatch, spec):
    series, decoded = open_series(scan[0]), []
    read = series.slice
    monkeypatch.setattr(series, "slice", lambda k: decoded.append(k) or read(k))
    prepare_ears(series, spec)
    assert len(decoded) == len(set(decoded)) and set(decoded) <= set(range(10))
    if spec.sampling == "even":
        assert sorted(decoded) == list(range(10))


def test_changing_any_option_changes_the_key():
    changed = {"num_slices": 16, "image_size": 100, "crop_size": 100, "crop_mm": 60.0, "sampling": "air_block",
               "extent": "half", "roi_mm": 40.0, "target_spacing": 0.5, "align": True}
    assert set(changed) == {f.name for f in dataclasses.fields(EarSpec)}
    keys = {EarSpec(**{name: value}).key for name, value in changed.items()} | {EarSpec().key, EarSpec(sampling="roi").key}
    assert len(keys) == len(changed) + 2


def test_a_spec_comes_back_from_its_json():
    spec = EarSpec(sampling="roi", target_spacing=0.4, align=True, num_slices=64, extent="half")
    plain = {name: value for name, value in spec.spelt_out().items() if name != "preprocessing_version"}
    assert settings.from_json(EarSpec, plain, where="here") == spec


@pytest.mark.parametrize("options, words", [
    ({"crop_mm": 60.0, "target_spacing": 0.5}, ("crop-mm", "target-spacing", "112 mm")),     # 224 pixels of 0.5 mm
    ({"roi_mm": 0.0}, ("roi-mm", "0.0", "5 to 300 mm")), ({"roi_mm": 301.0}, ("roi-mm", "301.0")),
    ({"target_spacing": 0.0}, ("target-spacing", "0.0")), ({"target_spacing": 11.0}, ("target-spacing", "0.05 to 10 mm")),
    ({"crop_mm": float("nan")}, ("crop-mm", "nan")), ({"target_spacing": float("nan")}, ("target-spacing", "nan")),
    ({"num_slices": 0}, ("num-slices", "at least 1")), ({"crop_size": -1}, ("crop-size", "-1")),
], ids=str)
def test_invalid_options_are_refused_with_their_flags(options, words):
    with pytest.raises(ValueError) as refused:
        EarSpec(**options)
    assert all(word in str(refused.value) for word in words)


def test_the_order_of_sides_is_left_then_right():
    assert SIDES == (Side.LEFT, Side.RIGHT)


@pytest.mark.parametrize("sampling", ["even", "roi", "air_block"])
@pytest.mark.parametrize("slices, step", [(2, 1.0), (8, 0.3), (10, 0.3), (12, 0.1)])
def test_ears_of_a_scan_of_few_slices_are_cropped_with_little_confidence_and_a_reason(tmp_path, slices, step, sampling):
    """The ears are looked for in hardly anything."""
    hu = np.random.default_rng(0).normal(40, 20, (slices, 96, 96))
    hu[:, 8:88, 8:88] += 300
    hu[:, :4] = -1000
    write_volume(tmp_path, np.rint(hu), axial(hu.shape, (step, 2.2, 2.2)))
    for ear in prepare_ears(open_series(tmp_path), EarSpec(sampling=sampling, num_slices=4, image_size=16)).values():
        assert ear.volume.shape == (4, 16, 16) and np.isfinite(ear.facts["affine_lps"]).all()
        found = ear.facts["localization"]
        assert found["confidence"] <= 0.6 and any("z-coverage" in reason for reason in found["reasons"])


@pytest.mark.parametrize("change", [lambda hu: hu + 1024, lambda hu: hu + 20000, lambda hu: 0 * hu - 1000, lambda hu: hu // 10])
def test_values_that_are_not_hu_of_a_head_are_refused(tmp_path, scan, change):
    _, hu, affine = scan
    write_volume(tmp_path, change(hu), affine)
    with pytest.raises(Rejected) as refused:
        prepare_ears(open_series(tmp_path), EarSpec(num_slices=4, image_size=16))
    assert refused.value.reason == "implausible_hu" and "RescaleIntercept" in refused.value.detail


@pytest.mark.parametrize("rows", [slice(None), slice(90, 110)])
@pytest.mark.parametrize("value", [-1000, 0, -1024])
def test_a_slice_that_lost_rows_of_the_head_is_refused_with_its_file(tmp_path, scan, rows, value):
    _, hu, affine = scan
    spoilt = hu.copy()
    spoilt[6:8, rows] = value
    files = write_volume(tmp_path, spoilt, affine)
    with pytest.raises(Rejected, match=f"{files[6].name}: .* rows in the middle .* pixels were lost") as refused:
        prepare_ears(open_series(tmp_path), EarSpec(num_slices=10, image_size=16))
    assert refused.value.reason == "bad_pixels"


def test_air_of_one_value_above_a_head_and_around_it_is_no_loss(tmp_path, scan):
    _, hu, affine = scan
    spoilt = np.where(hu < -500, -1024, hu)
    spoilt[8:] = -1024
    spoilt[:, :70] = -1024                                       # the face of a head that reaches a little higher elsewhere
    spoilt[[2, 5], 60:70, 80:110] = 40
    write_volume(tmp_path, spoilt, affine)
    assert prepare_ears(open_series(tmp_path), EarSpec(num_slices=10, image_size=16))
