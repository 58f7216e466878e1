"""Irregular, mixed and multi-frame series are resampled, separated or refused by stated rules; HU and positions stay true."""
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from helpers.dicom_files import SeriesFormat, axial, write_enhanced, write_volume
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid

from medical_fenlei.dicom.stacks import read_stacks
from medical_fenlei.dicom.volume import PART, open_series, read_headers
from medical_fenlei.errors import Rejected

SHAPE = (24, 16, 20)
STEP = 0.6


@pytest.fixture
def affine():
    return axial(SHAPE, (STEP, 0.5, 0.5))


@pytest.fixture
def ramp(affine):
    """HU that grow along z, by 100 a mm from the lowest slice: what lies between two slices is known."""
    z = np.arange(SHAPE[0]) * STEP
    return np.rint(100 * z[:, None, None] + np.arange(SHAPE[2])).astype(int) + np.zeros(SHAPE, int)


def along_the_ramp(series, affine):
    """Largest difference from the ramp, HU."""
    z = series.affine.matrix[2, 3] + series.affine.matrix[2, 0] * np.arange(series.shape[0]) - affine[2, 3]
    assert series.affine.matrix[:2, 3] == pytest.approx(affine[:2, 3])
    return max(np.abs(series.slice(k) - np.rint(100 * z[k] + np.arange(SHAPE[2]))).max() for k in range(series.shape[0]))


@pytest.mark.parametrize("missing", [(5,), (3, 9), (5, 6), (1, 11, 12, 22)])
def test_a_gap_of_up_to_two_mm_is_interpolated_between_its_neighbors(tmp_path, affine, ramp, missing):
    files = write_volume(tmp_path / "s", ramp, affine)
    for k in missing:
        files[k].unlink()
    series = open_series(tmp_path / "s")
    assert series.shape == SHAPE and "resampled" in series.geometry.notes[0]
    np.testing.assert_allclose(series.affine.matrix, affine, atol=1e-4)
    assert along_the_ramp(series, affine) <= 1
    assert series.headers[missing[0]].path in files               # the nearest that is there


def test_at_a_larger_gap_the_scan_is_cut_and_its_upper_part_is_used_unchanged(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    for k in range(6, 10):
        files[k].unlink()
    series = open_series(tmp_path / "s")
    assert series.shape[0] == 14 and series.geometry.between is None and "cut_at_hole: 3.00 mm" in series.geometry.notes[0]
    assert series.headers[0].path == files[10] and along_the_ramp(series, affine) == 0


def test_slices_of_varying_spacing_are_resampled_to_the_usual_spacing(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    for k in range(13, 24, 2):
        files[k].unlink()                                        # 0.6 mm below, 1.2 mm above
    series = open_series(tmp_path / "s")
    assert series.shape == (23, *SHAPE[1:]) and series.geometry.slice_spacing == pytest.approx(STEP)
    assert along_the_ramp(series, affine) <= 1


def test_slices_whose_positions_are_only_rounded_are_not_resampled(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    for k, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[2] = round(float(dataset.ImagePositionPatient[2]) + 0.02 * (-1) ** k, 3)
        dataset.save_as(path)
    series = open_series(tmp_path / "s")
    assert series.geometry.between is None and not series.geometry.notes


def test_slices_displaced_sideways_are_refused(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    dataset = pydicom.dcmread(files[7])
    dataset.ImagePositionPatient[1] += 3
    dataset.save_as(files[7])
    with pytest.raises(Rejected) as refused:
        open_series(tmp_path / "s")
    assert refused.value.reason == "displaced_slices" and "3.0" in refused.value.detail


def test_the_tilt_of_the_gantry_is_measured_from_positions(tmp_path, affine, ramp):
    affine[1, 0] = STEP * np.tan(np.radians(12))
    annotated = SeriesFormat(attributes={"GantryDetectorTilt": -3.0})                     # and wrongly
    write_volume(tmp_path / "s", ramp, affine, annotated)
    series = open_series(tmp_path / "s")
    assert series.geometry.tilt_deg == pytest.approx(12, abs=0.01) and series.geometry.notes == ("gantry_tilt: 12.0 degrees",)
    assert series.geometry.slice_spacing == pytest.approx(STEP)


def test_the_same_image_twice_counts_once_and_another_at_its_place_is_refused(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    shutil.copy(files[4], tmp_path / "s" / "copy")
    dataset = pydicom.dcmread(files[9])
    dataset.SOPInstanceUID = generate_uid()                      # exported twice: other name, same pixels
    dataset.save_as(tmp_path / "s" / "again")
    stacks, _ = read_stacks(tmp_path / "s")
    assert {path.name for path in stacks[0].copies} == {"copy", "again"}
    assert open_series(tmp_path / "s").shape == SHAPE
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(tmp_path / "s" / "again")
    with pytest.raises(Rejected) as refused:
        open_series(tmp_path / "s")
    assert refused.value.reason == "duplicate_positions"


def put(into, files, word):
    into.mkdir(exist_ok=True)
    for n, path in enumerate(files):
        path.rename(into / f"{n:03d}_{word}")                    # one of each in turn by name


def test_a_folder_of_several_series_is_taken_apart(tmp_path, affine, ramp):
    coronal = affine[[0, 2, 1, 3]]
    soft = SeriesFormat(attributes={"ConvolutionKernel": "H30s"})
    sources = {"bone": (ramp, affine, SeriesFormat()), "soft": (-ramp, affine, soft),
               "coronal": (ramp[:9], coronal, SeriesFormat()), "scout": (ramp[:1], coronal, SeriesFormat())}
    for word, source in sources.items():
        put(tmp_path / "mixed", write_volume(tmp_path / word, *source), word)
    stacks, rejects = read_stacks(tmp_path / "mixed")
    assert not rejects and sorted(len(found.headers) for found in stacks) == [1, 9, 24, 24]
    with pytest.raises(Rejected, match="4 series"):
        open_series(tmp_path / "mixed")
    for found in stacks:
        words = {header.path.name[4:] for header in found.headers}
        assert len(words) == 1
        if words == {"bone"}:
            series = open_series(tmp_path / f"mixed{PART}{found.name}")
            assert series.shape == SHAPE and along_the_ramp(series, affine) == 0
            name = found.name
    for path in (tmp_path / "mixed").glob("*_coronal"):
        path.unlink()                                            # the name of a series does not depend on its neighbors
    assert open_series(tmp_path / f"mixed{PART}{name}").shape == SHAPE
    with pytest.raises(Rejected, match="build the index again"):
        open_series(tmp_path / f"mixed{PART}00000000")


def test_two_scans_of_the_same_place_in_one_series_are_told_apart_by_their_acquisition(tmp_path, affine, ramp):
    uid = generate_uid()
    for number, hu in ((1, ramp), (2, -ramp)):
        form = SeriesFormat(attributes={"SeriesInstanceUID": uid, "AcquisitionNumber": number})
        put(tmp_path / "both", write_volume(tmp_path / str(number), hu, affine, form), str(number))
    stacks, _ = read_stacks(tmp_path / "both")
    assert [{header.acquisition for header in found.headers} for found in stacks] == [{"1"}, {"2"}]
    for path in (tmp_path / "both").glob("*_2"):
        path.unlink()
    assert open_series(tmp_path / "both").shape == SHAPE


def test_a_series_whose_acquisition_changes_from_slice_to_slice_stays_whole(tmp_path, affine, ramp):
    for k, path in enumerate(write_volume(tmp_path / "s", ramp, affine)):
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionNumber = k // 4                       # step and shoot
        dataset.save_as(path)
    assert open_series(tmp_path / "s").shape == SHAPE


@pytest.mark.parametrize("syntax", [None, JPEGLSLossless, RLELossless])
def test_an_enhanced_file_is_read_frame_by_frame_with_its_own_geometry(tmp_path, affine, syntax):
    hu = np.random.default_rng(0).integers(-1000, 3000, SHAPE)
    order = np.random.default_rng(1).permutation(SHAPE[0]).tolist()
    write_enhanced(tmp_path / "s" / "all.dcm", hu + 1024, affine, order=order, **({"syntax": syntax} if syntax else {}))
    series = open_series(tmp_path / "s")
    np.testing.assert_allclose(series.affine.matrix, affine, atol=1e-5)
    assert [header.frame for header in series.headers] == np.argsort(order).tolist()
    for k in (0, 7, 23):
        np.testing.assert_array_equal(series.slice(k), hu[k])
    assert series.headers[0].kernel == "U75u"
    if syntax is None:
        by_simpleitk = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "s" / "all.dcm")))
        np.testing.assert_array_equal(series.slice(3), by_simpleitk[order.index(3)])


def test_an_enhanced_file_of_two_stacks_is_two_series(tmp_path, affine):
    hu = np.random.default_rng(0).integers(-1000, 3000, SHAPE)
    path = tmp_path / "s" / "all.dcm"
    write_enhanced(path, hu + 1024, affine)
    dataset = pydicom.dcmread(path)
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        content = pydicom.Dataset()
        content.StackID, content.InStackPositionNumber = str(k % 2), k // 2 + 1
        frame.FrameContentSequence = [content]
        frame.PlanePositionSequence[0].ImagePositionPatient[2] = float(k // 2)
    dataset.save_as(path)
    stacks, _ = read_stacks(tmp_path / "s")
    assert [len(found.headers) for found in stacks] == [12, 12] and stacks[0].name != stacks[1].name
    series = open_series(tmp_path / f"s{PART}{stacks[1].name}")
    np.testing.assert_array_equal(series.slice(2), hu[5])


def test_frames_without_a_position_are_refused(tmp_path, affine):
    hu = np.zeros(SHAPE, int)
    path = tmp_path / "s" / "all.dcm"
    for spoil in ("PerFrameFunctionalGroupsSequence", "PlanePositionSequence", "NumberOfFrames"):
        write_enhanced(path, hu + 1024, affine)
        dataset = pydicom.dcmread(path)
        if spoil == "NumberOfFrames":
            dataset.NumberOfFrames = 25
        elif spoil == "PlanePositionSequence":
            del dataset.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
        else:
            del dataset.PerFrameFunctionalGroupsSequence
        dataset.save_as(path)
        headers, rejects = read_headers(tmp_path / "s")
        assert not headers and rejects[0][1].reason in ("bad_size", "missing_attribute")


def test_two_scans_whose_images_all_have_one_uid_are_not_copies(tmp_path, affine, ramp):
    uid, series = generate_uid(), generate_uid()
    for number, hu in ((1, ramp), (2, -ramp)):
        form = SeriesFormat(attributes={"SOPInstanceUID": uid, "SeriesInstanceUID": series, "AcquisitionNumber": number})
        put(tmp_path / "both", write_volume(tmp_path / str(number), hu, affine, form), str(number))
    stacks, _ = read_stacks(tmp_path / "both")
    each = [(len(found.headers), {header.acquisition for header in found.headers}) for found in stacks]
    assert each == [(24, {"1"}), (24, {"2"})]
    assert stacks[0].name != stacks[1].name
    signs = {int(np.sign(open_series(tmp_path / f"both{PART}{found.name}").slice(20)[0, 0])) for found in stacks}
    assert signs == {1, -1}


def test_a_copy_of_one_image_under_another_acquisition_does_not_cut_the_scan(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    for k, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionNumber = k // 5                       # step and shoot
        dataset.save_as(path)
    dataset = pydicom.dcmread(files[5])
    dataset.SOPInstanceUID, dataset.AcquisitionNumber = generate_uid(), 0
    dataset.save_as(tmp_path / "s" / "again")
    assert open_series(tmp_path / "s").shape == SHAPE


def test_series_with_the_same_image_uids_have_different_names(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = "1.2.3"                      # sent again, its images called as before
        dataset.save_as(path.with_name(f"again_{path.name}"))
    stacks, _ = read_stacks(tmp_path / "s")
    assert len({found.name for found in stacks}) == len(stacks) == 2


def test_a_series_that_drifts_is_refused_and_not_cut_into_interleaved_parts(tmp_path, affine, ramp):
    for k, path in enumerate(write_volume(tmp_path / "s", ramp, affine)):
        dataset = pydicom.dcmread(path)
        angle = 0.0006 * (-1) ** (k // 2)
        dataset.ImageOrientationPatient = [np.cos(angle), 0, np.sin(angle), 0, 1, 0]
        dataset.save_as(path)
    with pytest.raises(Rejected) as refused:
        open_series(tmp_path / "s")
    assert refused.value.reason == "mixed_orientation"


@pytest.mark.parametrize(("thick", "step"), [(20, 2.5), (45, 2.5), (31, 5.0)])
def test_thin_slices_are_not_lost_among_thick_ones(tmp_path, affine, ramp, thick, step):
    z = np.concatenate([np.arange(SHAPE[0]) * STEP, SHAPE[0] * STEP + step * (1 + np.arange(thick))])
    for k, path in enumerate(write_volume(tmp_path / "s", np.resize(ramp, (len(z), *SHAPE[1:])), affine)):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[2] = round(float(z[k]), 4)
        dataset.save_as(path)
    series = open_series(tmp_path / "s")
    assert series.geometry.slice_spacing == pytest.approx(STEP) and series.shape[0] == SHAPE[0]


def test_interpolated_slices_do_not_mix_padding_with_tissue(tmp_path, affine, ramp):
    ramp[:5, :3], ramp[6:, 3:5] = -2000, -2000
    files = write_volume(tmp_path / "s", ramp, affine, SeriesFormat(padding=-2000))
    files[5].unlink()
    between = open_series(tmp_path / "s").slice(5)
    assert set(np.unique(between[:5])) <= {-1000, *np.unique(open_series(tmp_path / "s").slice(6)),
                                            *np.unique(open_series(tmp_path / "s").slice(4))}


def test_rescale_slope_and_intercept_are_required(tmp_path, affine, ramp):
    files = write_volume(tmp_path / "s", ramp, affine)
    for name, path in zip(("RescaleIntercept", "RescaleSlope"), files, strict=False):
        dataset = pydicom.dcmread(path)
        delattr(dataset, name)
        dataset.save_as(path)
    _, rejects = read_headers(tmp_path / "s")
    assert [rejected.reason for _, rejected in rejects] == ["missing_attribute"] * 2
