"""UIDs are evidence, not truth: slices under a UID each are joined, scans under one UID are taken apart, or both refused."""
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_enhanced, write_volume
from pydicom.uid import generate_uid

from medical_fenlei.dicom.stacks import read_stacks
from medical_fenlei.dicom.volume import PART, open_series
from medical_fenlei.errors import Rejected

SHAPE = (24, 16, 16)
AFFINE = axial(SHAPE, (0.6, 0.5, 0.5))
HU = np.arange(24)[:, None, None] * 10 + np.zeros(SHAPE, int)


def change(files, **of_image):
    """Set attributes of each image to what a function makes of its number."""
    for k, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        for name, value in of_image.items():
            setattr(dataset, name, value(k))
        dataset.save_as(path)


def scan(folder, name, hu=HU, affine=AFFINE, **more):
    """Further images in a folder, all under one SeriesInstanceUID."""
    own = folder.parent / name
    files = write_volume(own, hu, affine, SeriesFormat(attributes={"SeriesInstanceUID": "1.2.3", **more}))
    folder.mkdir(exist_ok=True)
    for path in files:
        path.rename(folder / f"{path.name}_{name}")
    return sorted(folder.glob(f"*_{name}"))


def opened(folder):
    """The scans of a folder as (files, value of a middle slice)."""
    stacks, rejects = read_stacks(folder)
    assert not rejects and len({found.name for found in stacks}) == len(stacks)
    series = [open_series(folder if len(stacks) == 1 else folder.with_name(f"{folder.name}{PART}{found.name}"))
              for found in stacks]
    return [({header.path.name.partition("_")[2] for header in one.headers}, int(one.slice(12)[0, 0])) for one in series]


@pytest.mark.parametrize(("uids", "notes"), [(24, 24), (6, 6), (2, 0)])
def test_slices_under_a_uid_each_or_a_few_are_one_series(tmp_path, uids, notes):
    """Two halves are left apart: these may be two scans."""
    files = write_volume(tmp_path / "s", HU, AFFINE)
    change(files, SeriesInstanceUID=lambda k: f"1.2.{k * uids // 24}")
    stacks, _ = read_stacks(tmp_path / "s")
    assert [len(found.headers) for found in stacks] == ([24] if notes else [12, 12])
    if notes:
        assert open_series(tmp_path / "s").shape == SHAPE
        assert stacks[0].notes[0].startswith(f"joined_fragments: 24 images under {uids} values of SeriesInstanceUID")


def test_fragments_of_two_kernels_and_two_frames_are_series_of_their_own(tmp_path):
    for name, more in {"bone": {}, "soft": {"ConvolutionKernel": "H30s"}, "moved": {"FrameOfReferenceUID": "1.9"}}.items():
        change(scan(tmp_path / "s", name, FrameOfReferenceUID=more.pop("FrameOfReferenceUID", "1.8"), **more),
               SeriesInstanceUID=lambda k: generate_uid())
    assert {frozenset(files) for files, _ in opened(tmp_path / "s")} == {frozenset({n}) for n in ("bone", "soft", "moved")}


def test_a_frame_of_reference_of_its_own_in_each_slice_is_refused_with_the_uid(tmp_path):
    change(write_volume(tmp_path / "s", HU, AFFINE), SeriesInstanceUID=lambda k: generate_uid(),
           FrameOfReferenceUID=lambda k: generate_uid())
    with pytest.raises(Rejected, match="24 values of SeriesInstanceUID and not one FrameOfReferenceUID") as refused:
        open_series(tmp_path / "s")
    assert refused.value.reason == "unjoined_fragments"


def test_two_scans_under_a_uid_each_slice_are_joined_and_taken_apart_by_time(tmp_path):
    for name, time in (("a", "093000"), ("b", "093412")):
        change(scan(tmp_path / "s", name, HU + (name == "b"), AcquisitionTime=time, FrameOfReferenceUID="1.8"),
               SeriesInstanceUID=lambda k: generate_uid())
    assert opened(tmp_path / "s") == [({"a"}, 120), ({"b"}, 121)]


@pytest.mark.parametrize("first_uid", ["", "1.2.9"])
@pytest.mark.parametrize("times", [("093000", "093412"), ("", "")])
def test_the_same_place_scanned_twice_under_one_uid_is_two_series(tmp_path, times, first_uid):
    """Told apart by time, or by numbers alone; one UID for all images hides nothing."""
    for name, time, offset in zip("ab", times, (0, 24), strict=True):
        uid = {"SOPInstanceUID": first_uid} if first_uid else {}
        change(scan(tmp_path / "s", name, HU + (name == "b"), AcquisitionTime=time, **uid),
               InstanceNumber=lambda k, offset=offset: k + 1 + offset)
    assert opened(tmp_path / "s") == [({"a"}, 120), ({"b"}, 121)]
    stacks, _ = read_stacks(tmp_path / "s")
    assert stacks[0].notes == ("taken_apart: 2 scans of the same place in one series, told apart by "
                               + ("acquisition time" if times[0] else "InstanceNumber"),)


def test_a_second_scan_half_a_slice_higher_is_not_interleaved_with_the_first(tmp_path):
    shifted = AFFINE.copy()
    shifted[2, 3] += 0.3
    scan(tmp_path / "s", "a", AcquisitionTime="093000")
    scan(tmp_path / "s", "b", HU + 1, shifted, AcquisitionTime="093412")
    assert opened(tmp_path / "s") == [({"a"}, 120), ({"b"}, 121)]


def test_a_scan_back_down_the_same_way_is_a_second_one(tmp_path):
    scan(tmp_path / "s", "a", AcquisitionTime="093000")
    change(scan(tmp_path / "s", "b", HU + 1, AcquisitionTime="093412"), InstanceNumber=lambda k: 24 - k)
    assert opened(tmp_path / "s") == [({"a"}, 120), ({"b"}, 121)]


@pytest.mark.parametrize("again", [False, True])
def test_two_ears_under_one_uid_are_taken_apart_by_field_of_view(tmp_path, again):
    for number, (name, x) in enumerate((("left", 40.0), ("right", -40.0))):
        affine = AFFINE.copy()
        affine[0, 3] += x
        scan(tmp_path / "s", name, HU + number, affine, AcquisitionTime="093000" if again else "")
        if again:                                                # and both scanned twice
            scan(tmp_path / "s", f"{name} again", HU + 2 + number, affine, AcquisitionTime="093412")
    found = {min(files): (len(files), value) for files, value in opened(tmp_path / "s")}
    assert found == {"left": (1, 120), "right": (1, 121),
                     **({"left again": (1, 122), "right again": (1, 123)} if again else {})}


def test_frames_of_two_scans_in_one_file_are_taken_apart_by_their_order(tmp_path):
    write_enhanced(tmp_path / "s/all", np.concatenate([HU, HU + 1]) + 1024, AFFINE)
    dataset = pydicom.dcmread(tmp_path / "s/all")
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0.6 * (k % 24)]
    dataset.save_as(tmp_path / "s/all")
    assert [value for _, value in opened(tmp_path / "s")] == [120, 121]


@pytest.mark.parametrize("odd", [
    {"AcquisitionTime": lambda k: f"0930{k:02d}"},               # slice by slice
    {"AcquisitionNumber": lambda k: k // 4, "AcquisitionTime": lambda k: f"0930{k // 4:02d}"},        # step and shoot
    {"AcquisitionTime": lambda k: f"09300{k // 12}", "InstanceNumber": lambda k: 12 * (k // 12) - k % 12},
    {"InstanceNumber": lambda k: (7 * k) % 24},                  # numbered in no order
])
def test_one_scan_stays_whole_whatever_its_times_and_numbers(tmp_path, odd):
    change(write_volume(tmp_path / "s", HU, AFFINE), **odd)
    assert opened(tmp_path / "s") == [({""}, 120)]


def test_images_at_one_place_that_nothing_tells_apart_are_refused(tmp_path):
    scan(tmp_path / "s", "a")
    scan(tmp_path / "s", "b", HU + 1)
    with pytest.raises(Rejected, match="one SeriesInstanceUID") as refused:
        open_series(tmp_path / "s")
    assert refused.value.reason == "duplicate_positions"
