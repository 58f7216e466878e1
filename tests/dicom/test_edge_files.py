"""Files at the edge of the standard: without a preamble, with decimal commas, or in transfer syntaxes newer than pydicom."""
import zlib

import imagecodecs
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, head, write_volume
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.frame_size import jpeg_xl_size
from medical_fenlei.dicom.header import read_header
from medical_fenlei.dicom.identity import read_identity
from medical_fenlei.dicom.pixels import decode_hu
from medical_fenlei.dicom.syntaxes import DEFLATED_FRAMES, JPEG_XL
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.errors import Rejected

SHAPE = (6, 32, 40)
HU = np.maximum(head(SHAPE), -1024)


def volume(folder):
    """The HU (K, rows, columns) and the affine of a series."""
    series = open_series(folder)
    return np.stack([series.slice(k) for k in range(series.shape[0])]), series.affine.matrix


def written(folder, **form):
    """The files of a series of HU + 1024."""
    return write_volume(folder, HU + 1024, axial(SHAPE), SeriesFormat(intercept=-1024, **form))


def check_same(folder, other):
    """Check that both series have the same HU in the same places, and each file the same person."""
    for found, expected in zip(volume(folder), volume(other), strict=True):
        assert np.array_equal(found, expected)
    for one, two in zip(sorted(folder.iterdir()), sorted(other.iterdir()), strict=True):
        assert read_identity(one) == read_identity(two)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("kept", ["file meta information", "dataset"])
def test_a_file_without_a_preamble_holds_the_same_image(tmp_path, syntax, kept):
    for folder in ("whole", "bare"):
        for path in written(tmp_path / folder, syntax=syntax):
            ds = pydicom.dcmread(path)
            for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
                ds[name].value = f"1.2.3.{ds.InstanceNumber if name[0:3] == 'SOP' else 9}"
            ds.save_as(path)
            if folder == "bare":
                content, meta = path.read_bytes(), ds.file_meta.FileMetaInformationGroupLength
                path.write_bytes(content[132:] if kept != "dataset" else content[132 + 12 + meta:])
    check_same(tmp_path / "bare", tmp_path / "whole")


@pytest.mark.parametrize("content", [b"", b"a text", b"\x08\x00", bytes(4000), b"II*\x00" + bytes(500),
                                     b"\x89PNG\r\n\x1a\n" * 9, b"\x08\x00\x05\x00CS\xff\xff" + bytes(900)])
def test_what_does_not_begin_like_dicom_is_none(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(Rejected) as refused:
        read_header(tmp_path / "file")
    assert refused.value.reason == "not_dicom"


def test_a_deflated_file_without_a_preamble_is_refused_before_it_is_inflated(tmp_path):
    path = written(tmp_path, syntax=DeflatedExplicitVRLittleEndian)[0]
    path.write_bytes(path.read_bytes()[132:])
    for tags in (None, ["Rows"]):
        with pytest.raises(Rejected, match="deflated"):
            read_dataset(path, tags)


def test_decimal_commas_are_read_as_points(tmp_path):
    for folder in ("points", "commas"):
        for path in written(tmp_path / folder, slope=1.0):
            ds = pydicom.dcmread(path)
            ds.SeriesInstanceUID = ds.StudyInstanceUID = ds.FrameOfReferenceUID = "1.2.3.4"
            ds.SOPInstanceUID, ds.SliceThickness = f"1.2.3.{ds.InstanceNumber}", "0.625"
            ds.save_as(path)
            content = path.read_bytes()
            for name in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "SliceThickness"):
                raw = pydicom.dcmread(path).get_item(name).value
                assert b"." in raw
                content = content.replace(raw, raw.replace(b".", b","))
            if folder == "commas":
                path.write_bytes(content)
    check_same(tmp_path / "commas", tmp_path / "points")
    assert read_header(next((tmp_path / "commas").iterdir())).slice_thickness == 0.625


def compressed(path, syntax, encode):
    """Write the image of an uncompressed file again, its values compressed by `encode`."""
    ds = pydicom.dcmread(path)
    ds.PixelData = encapsulate([encode(ds.pixel_array)])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = RLELossless                 # pydicom does not write syntaxes that it does not know
    ds.save_as(path, enforce_file_format=True)
    content, value = path.read_bytes(), syntax.encode() + b"\0" * (len(syntax) % 2)
    at = content.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(content[at + 6:at + 8], "little")
    group = int.from_bytes(content[140:144], "little") + len(value) - length
    path.write_bytes(content[:140] + group.to_bytes(4, "little") + content[144:at + 6] + len(value).to_bytes(2, "little")
                     + value + content[at + 8 + length:])


def deflate(values, size=None):
    """Native pixels, raw deflate."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    content = values.tobytes() if size is None else bytes(size)
    return packer.compress(content) + packer.flush()


def jpeg_xl(values):
    """A lossless JPEG XL stream."""
    return imagecodecs.jpegxl_encode(values, lossless=True)


ENCODERS = {**dict.fromkeys(JPEG_XL, jpeg_xl), DEFLATED_FRAMES: deflate}


@pytest.mark.parametrize("syntax", ENCODERS)
@pytest.mark.parametrize("bits", [12, 16])
def test_recent_transfer_syntaxes_hold_the_values_that_were_compressed(tmp_path, syntax, bits):
    for path in written(tmp_path, bits=bits, signed=False):
        compressed(path, syntax, ENCODERS[syntax])
    assert np.array_equal(volume(tmp_path)[0], HU)


@pytest.mark.parametrize("bits", [12, 16])
def test_deflated_frames_of_signed_values_keep_their_sign(tmp_path, bits):
    for path in write_volume(tmp_path, HU, axial(SHAPE), SeriesFormat(bits=bits, signed=True)):
        compressed(path, DEFLATED_FRAMES, deflate)
    assert np.array_equal(volume(tmp_path)[0], HU)


@pytest.mark.parametrize(("syntax", "signed", "encode", "why"), [
    (JPEG_XL[0], True, lambda values: jpeg_xl(values.view(np.uint16)), "holds none: export the file uncompressed"),
    (JPEG_XL[0], False, lambda values: jpeg_xl(values[1:]), "got an image of 31 × 40, expected 32 × 40"),
    (JPEG_XL[2], False, lambda values: jpeg_xl(values)[:60], "cannot be decoded"),
    (JPEG_XL[2], False, lambda values: jpeg_xl((values >> 4).astype(np.uint8)), "got 8 bits per value, expected 16"),
    (DEFLATED_FRAMES, False, lambda values: deflate(values[1:]), "got 2480 bytes of pixels in a deflated frame, expected 2560"),
    (DEFLATED_FRAMES, False, lambda values: deflate(values, 1 << 24), "bytes of pixels in a deflated frame, expected 2560"),
    (DEFLATED_FRAMES, False, lambda values: values.tobytes(), "cannot be decoded"),
    ("1.2.840.10008.1.2.4.999", False, lambda values: bytes(80), "expected a known one: convert the file"),
])
def test_frames_that_do_not_hold_the_image_are_refused_with_what_is_wrong(tmp_path, syntax, signed, encode, why):
    path = written(tmp_path, signed=signed)[0]
    compressed(path, syntax, encode)
    with pytest.raises(Rejected, match=why) as refused:
        decode_hu(read_dataset(path), read_header(path))
    assert refused.value.reason == "bad_pixels"


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("shape", [(8, 8), (8, 16), (9, 9), (64, 72), (30, 40), (512, 512), (600, 333), (9000, 3), (3, 9000)])
def test_the_size_that_a_jpeg_xl_stream_declares_is_that_of_the_image(shape, bits):
    stream = imagecodecs.jpegxl_encode(np.ones(shape, np.uint16), lossless=True, bitspersample=bits)
    assert stream.startswith(b"\xff\x0a") == (bits == 12)        # bare, or in a container
    assert jpeg_xl_size(stream) == shape
    assert jpeg_xl_size(stream[:1]) is None and jpeg_xl_size(b"\xff\xd8\xff\xe0") is None
