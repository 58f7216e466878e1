"""A reader of many files gives the header that each file has on its own, and parses few of them."""
import os

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_volume
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid

from medical_fenlei.dicom import header_reader
from medical_fenlei.dicom.header import read_headers_of
from medical_fenlei.dicom.header_reader import HeaderReader
from medical_fenlei.errors import Rejected

SLICES = 24
SHAPE = (SLICES, 4, 5)
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
ATTRIBUTES = {"SliceLocation": 1.5, "ContentTime": "101112.13", "AcquisitionDate": "20240105", "AcquisitionTime": "101112",
              "PatientComments": "none", "SpecificCharacterSet": "ISO_IR 100", "AcquisitionNumber": 1, "KVP": 120}


def written(folder, syntax=ExplicitVRLittleEndian):
    """The files of a series with the attributes that scanners write."""
    return write_volume(folder, np.zeros(SHAPE, int), axial(SHAPE), SeriesFormat(syntax=syntax, attributes=ATTRIBUTES))


def outcome(read, path):
    """What reading a file gives, or why it is refused."""
    try:
        return read(path)
    except Rejected as rejected:
        return rejected.reason, rejected.detail


def rewritten(path, number, change):
    """Write a file again with what a scanner changes from image to image, and with this change."""
    ds = pydicom.dcmread(path)
    ds.SliceLocation, ds.ContentTime = number / 3, f"1011{number % 60:02d}.{'1' * (1 + number % 5)}"
    ds.AcquisitionTime = f"10111{number % 7}"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    change(ds)
    ds.save_as(path, enforce_file_format=True)


def sequence(ds, items, *, undefined):
    """Add a sequence of this many items, of a defined length or not."""
    ds.ReferencedImageSequence = [Dataset() for _ in range(items)]
    for item in ds.ReferencedImageSequence:
        item.ReferencedSOPInstanceUID = generate_uid()
    ds["ReferencedImageSequence"].is_undefined_length = undefined


CHANGES = {
    "another kernel": lambda ds: setattr(ds, "ConvolutionKernel", "B30f"),
    "another size": lambda ds: setattr(ds, "Rows", 5),
    "another intercept": lambda ds: setattr(ds, "RescaleIntercept", -1000),
    "another character set": lambda ds: setattr(ds, "SpecificCharacterSet", "GB18030"),
    "another study": lambda ds: setattr(ds, "StudyInstanceUID", generate_uid()),
    "a further element": lambda ds: setattr(ds, "RescaleType", "HU"),
    "an element less": lambda ds: delattr(ds, "AcquisitionTime"),
    "no position": lambda ds: setattr(ds, "ImagePositionPatient", None),
    "a position too far away": lambda ds: setattr(ds, "ImagePositionPatient", [1e7, 0, 0]),
    "a position of two numbers": lambda ds: setattr(ds, "ImagePositionPatient", [1, 0]),
    "a position that is none": lambda ds: ds.add_new("ImagePositionPatient", "LO", ["a", "b", "c"]),
    "no number": lambda ds: setattr(ds, "InstanceNumber", None),
    "a number that is none": lambda ds: ds.add_new("InstanceNumber", "LO", "7a"),
    "an acquisition of its own": lambda ds: setattr(ds, "AcquisitionNumber", 3),
    "a sequence": lambda ds: sequence(ds, 2, undefined=False),
    "an open sequence": lambda ds: sequence(ds, 2, undefined=True),
    "an MR image": lambda ds: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("change", CHANGES)
def test_each_file_has_the_header_that_it_has_on_its_own(tmp_path, syntax, change):
    files = written(tmp_path, syntax)
    for number, path in enumerate(files):
        rewritten(path, number, CHANGES[change] if number in (9, 10, 17) else lambda ds: None)
    reader = HeaderReader()
    assert [outcome(reader.read, path) for path in files] == [outcome(read_headers_of, path) for path in files]


def test_each_file_of_a_folder_of_many_kinds_has_the_header_that_it_has_on_its_own(tmp_path):
    rng = np.random.default_rng(0)
    files = [path for n, syntax in enumerate(SYNTAXES * 2) for path in written(tmp_path / str(n), syntax)]
    changes = [lambda ds: sequence(ds, int(rng.integers(1, 4)), undefined=bool(rng.integers(2))), lambda ds: None,
               *CHANGES.values()]
    for number, path in enumerate(files):
        rewritten(path, number, changes[int(rng.integers(len(changes)))])
    (tmp_path / "note").write_text("no image")
    (tmp_path / "short").write_bytes(files[0].read_bytes()[:700])
    files = [*files, *files[:3], tmp_path / "note", *files[4:8], tmp_path / "short", tmp_path / "absent", *files[3:9]]
    for _ in range(20):
        order = rng.permutation(len(files))
        reader = HeaderReader()
        assert [outcome(reader.read, files[n]) for n in order] == [outcome(read_headers_of, files[n]) for n in order]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_of_a_series_only_the_first_files_are_parsed(tmp_path, syntax, monkeypatch):
    files = written(tmp_path, syntax)
    for number, path in enumerate(files):
        rewritten(path, number, lambda ds: sequence(ds, 1 + number % 3, undefined=bool(number % 2)))  # noqa: B023
    parsed = []
    monkeypatch.setattr(header_reader, "read_headers_of", lambda path: [parsed.append(path), read_headers_of(path)][1])
    reader = HeaderReader()
    for path in files:
        reader.read(path)
    assert parsed == files[:len(parsed)] and len(parsed) <= 4


def test_where_no_file_repeats_another_the_reader_stops_to_expect_it(tmp_path, monkeypatch):
    files = written(tmp_path)
    for number, path in enumerate(files):
        rewritten(path, number, lambda ds: setattr(ds, "ConvolutionKernel", "BU"[number % 2]))  # noqa: B023
    learned, learn = [], header_reader._learn
    monkeypatch.setattr(header_reader, "_learn", lambda *words: [learned.append(words), learn(*words)][1])
    reader = HeaderReader()
    assert [header.kernel for path in files for header in reader.read(path)] == ["B", "U"] * (SLICES // 2)
    assert len(learned) == header_reader._MAX_MISSES


@pytest.mark.parametrize("syntax", [*SYNTAXES, RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("missing", [9, 40, 200])
@pytest.mark.parametrize("place", [0, 9])
def test_a_file_that_ends_within_its_pixels_is_refused_with_the_bytes_it_should_have(tmp_path, syntax, missing, place):
    values = np.random.default_rng(0).integers(0, 4096, (12, 32, 40))
    files = write_volume(tmp_path, values, axial(values.shape), SeriesFormat(syntax=syntax))
    whole = [outcome(HeaderReader().read, path) for path in files]
    size = files[place].stat().st_size
    os.truncate(files[place], size - missing)
    reader = HeaderReader()
    found = [outcome(reader.read, path) for path in files]
    reason, detail = found.pop(place)
    assert reason == "bad_pixels" and f"ends within its pixels: got {size - missing} bytes, expected at least" in detail
    whole.pop(place)
    assert found == whole


def test_a_file_whose_closing_delimiter_alone_is_cut_holds_its_image(tmp_path):
    path = write_volume(tmp_path, np.zeros((1, 32, 40), int), axial((1, 32, 40)), SeriesFormat(syntax=RLELossless))[0]
    header = read_headers_of(path)
    os.truncate(path, path.stat().st_size - 2)
    assert HeaderReader().read(path) == header
