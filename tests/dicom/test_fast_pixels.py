"""The fast ways to stored values give what pydicom gives, bit for bit, or leave the file to it."""
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_volume
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from medical_fenlei.dicom import fast_pixels
from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.fast_pixels import decode_lossless_jpeg, read_stored
from medical_fenlei.dicom.header import read_header
from medical_fenlei.dicom.header_reader import HeaderReader
from medical_fenlei.dicom.pixels import decode_hu
from medical_fenlei.errors import Rejected

LOSSLESS = sorted((Path(__file__).with_name("jpeg_lossless")).glob("*_*"))
STORED = np.random.default_rng(0).integers(0, 4096, (1, 6, 8))


def written(folder):
    """The file of one image, 12 bits unsigned."""
    return write_volume(folder, STORED, axial(STORED.shape), SeriesFormat(bits=12))[0]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 13, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("overlay", [False, True])
def test_uncompressed_values_equal_those_of_pydicom_also_with_an_overlay_above_them(tmp_path, signed, bits, syntax, overlay):
    path = written(tmp_path)
    dataset = pydicom.dcmread(path)
    words = np.random.default_rng(1).integers(0, 1 << bits, (6, 8)).astype(np.uint16)
    if overlay and bits < 16:
        words |= np.uint16(1 << 15)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, bits, bits - 1, int(signed)
    dataset.PixelData = words.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True, enforce_file_format=True)
    expected = pixel_array(pydicom.dcmread(path), raw=True)
    for header in (read_header(path), *HeaderReader().read(path)):
        found = read_stored(header)
        assert found is not None and found.dtype == expected.dtype and np.array_equal(found, expected)


def test_what_is_compressed_truncated_or_of_upper_bits_is_left_to_pydicom(tmp_path):
    path = written(tmp_path / "a")
    header = read_header(path)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    assert read_stored(header) is None
    dataset = pydicom.dcmread(written(tmp_path / "b"))
    dataset.HighBit = 15
    dataset.BitsStored = 12
    dataset.save_as(tmp_path / "b" / "high", enforce_file_format=True)
    assert read_stored(read_header(tmp_path / "b" / "high")) is None
    dataset.BitsStored = 16
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "b" / "rle", enforce_file_format=True)
    assert read_stored(read_header(tmp_path / "b" / "rle")) is None


@pytest.mark.parametrize("read", [read_header, lambda path: HeaderReader().read(path)[0]])
def test_a_file_that_now_holds_another_image_is_refused(tmp_path, read):
    path = written(tmp_path)
    header = read(path)
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(Rejected, match="changed_file"):
        read_stored(header)


def test_a_header_is_parsed_again_only_where_its_bytes_have_changed(tmp_path, monkeypatch):
    path = written(tmp_path)
    header, = HeaderReader().read(path)
    monkeypatch.setattr(fast_pixels, "read_until_pixels", None)
    signed = read_stored(header)
    monkeypatch.undo()
    dataset = pydicom.dcmread(path)
    dataset.PatientComments, dataset.PixelRepresentation = "moved", 0
    dataset.save_as(path, enforce_file_format=True)
    found = read_stored(header)
    assert signed.dtype == np.int16 and found.dtype == np.uint16
    assert np.array_equal(found, pixel_array(dataset, raw=True)) and np.array_equal(found, signed & 0xFFF)


@pytest.mark.parametrize("path", LOSSLESS, ids=lambda path: path.name)
def test_lossless_jpeg_equals_gdcm_or_is_left_to_it(path):
    dataset = pydicom.dcmread(path)
    found = decode_lossless_jpeg(dataset, read_header(path))
    expected = pixel_array(dataset, raw=True, decoding_plugin="gdcm")
    assert found is None or (found.dtype == expected.dtype and np.array_equal(found, expected))
    assert found is not None or "12_signed" in path.name


@pytest.mark.parametrize("spoil", [lambda frame: frame[:-2], lambda frame: frame[:len(frame) // 2],
                                   lambda frame: frame[:-60] + bytes(60)])
@pytest.mark.parametrize("whole_file", [True, False])
def test_a_lossless_jpeg_stream_that_ends_within_its_image_is_refused(tmp_path, spoil, whole_file):
    """Decoders make up the rest. whole_file: whether the stream is cut within a complete file, or the file is cut."""
    path, values = written(tmp_path), np.random.default_rng(2).integers(0, 4096, (6, 8)).astype(np.uint16)
    frame = imagecodecs.jpeg_encode(values, lossless=True, bitspersample=16, predictor=1)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([frame if not whole_file else spoil(frame)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    if not whole_file:
        content = path.read_bytes()
        at = content.index(frame)
        path.write_bytes(content[:at] + spoil(frame))
    header = read_header(path)
    with pytest.raises(Rejected, match="ends within the image"):
        read_stored(header)
    if whole_file:
        with pytest.raises(Rejected, match="ends within the image"):
            decode_hu(read_dataset(path), header)


def test_zeros_behind_a_lossless_jpeg_stream_are_no_damage(tmp_path):
    path = write_volume(tmp_path, STORED, axial(STORED.shape), SeriesFormat(bits=12, signed=False))[0]
    values = np.random.default_rng(2).integers(0, 4096, (6, 8)).astype(np.uint16)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.PixelData = encapsulate([imagecodecs.jpeg_encode(values, lossless=True, bitspersample=16, predictor=1) + bytes(9)])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    assert np.array_equal(read_stored(read_header(path)), values)
