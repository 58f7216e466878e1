"""Values that do not lie in the lowest bits of their word are decoded right, or refused."""
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, head, write_volume
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medical_fenlei.dicom.volume import open_series, read_headers
from medical_fenlei.errors import Rejected

SHAPE = (4, 64, 72)
HU = head(SHAPE)


def upper(folder, high, *, signed=False, bits=12, **form):
    """A series whose values of 12 bits end at bit `high` of their word."""
    stored = HU.clip(-1024, 3071) if not signed else HU.clip(-2048, 2047)
    values = (stored if signed else stored + 1024) << (high - bits + 1)
    words = values & 0xFFFF if not signed else (values & ((1 << (high + 1)) - 1)).astype("<u2").view("<i2").astype(int)
    files = write_volume(folder, words, axial(SHAPE), SeriesFormat(
        bits=bits, signed=signed, intercept=0 if signed else -1024, attributes={"HighBit": high}, **form))
    return files, stored


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [12, 13, 15])
def test_values_in_the_upper_bits_have_their_hu(tmp_path, high, signed, syntax):
    _, stored = upper(tmp_path, high, signed=signed, **({"syntax": syntax} if syntax else {}))
    series = open_series(tmp_path)
    for k in range(SHAPE[0]):
        np.testing.assert_array_equal(series.slice(k), stored[k])


def test_a_high_bit_that_the_values_contradict_is_refused(tmp_path):
    write_volume(tmp_path, HU + 1024, axial(SHAPE),
                 SeriesFormat(bits=12, signed=False, intercept=-1024, attributes={"HighBit": 15}))
    with pytest.raises(Rejected, match="HighBit: got 15 with BitsStored 12") as refused:
        open_series(tmp_path).slice(0)
    assert refused.value.reason == "bad_pixels"


@pytest.mark.parametrize("high", [3, 16, 200])
def test_a_high_bit_outside_of_the_word_is_refused(tmp_path, high):
    write_volume(tmp_path, HU + 1024, axial(SHAPE),
                 SeriesFormat(bits=12, signed=False, intercept=-1024, attributes={"HighBit": high}))
    headers, rejects = read_headers(tmp_path)
    assert not headers and {rejected.reason for _, rejected in rejects} == {"bad_attribute"}
    assert "expected 11 to 15" in rejects[0][1].detail


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_a_high_bit_of_compressed_pixels_is_refused_with_its_remedy(tmp_path, syntax):
    form = SeriesFormat(bits=12, signed=False, intercept=-1024, syntax=syntax)
    for path in write_volume(tmp_path, HU + 1024, axial(SHAPE), form):
        dataset = pydicom.dcmread(path)
        dataset.HighBit = 15
        dataset.save_as(path)
    headers, rejects = read_headers(tmp_path)
    assert not headers and "export the file uncompressed" in rejects[0][1].detail


def test_a_file_without_high_bit_is_read_as_it_always_was(tmp_path):
    for path in write_volume(tmp_path, HU + 1024, axial(SHAPE), SeriesFormat(bits=12, signed=False, intercept=-1024)):
        dataset = pydicom.dcmread(path)
        del dataset.HighBit
        dataset.save_as(path)
    assert len(read_headers(tmp_path)[0]) == SHAPE[0]
