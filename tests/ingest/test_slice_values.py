"""Values are what they claim to be: maps, values rescaled wrong, noise and lost pixels are refused or pointed at."""
import numpy as np
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, head, shorten_pixels, write_enhanced, write_volume
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from medical_fenlei.ingest.scan import scan_exam
from medical_fenlei.ingest.series_choice import choose_series
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.ingest.slice_values import DOUBTFUL

SHAPE = (40, 64, 64)
AFFINE = axial(SHAPE, (1.0, 3.0, 3.0))
HU = head(SHAPE)


def scanned(folder):
    facts, = scan_exam(folder, ".").series
    return facts


def write(folder, stored=HU, **form):
    more = form.pop("more", {})
    return write_volume(folder, np.clip(stored, -32768, 65535 if form.get("signed") is False else 32767), AFFINE,
                        SeriesFormat(**form, attributes=more))


def test_values_of_a_head_are_neither_refused_nor_doubted(tmp_path):
    for n, form in enumerate((SeriesFormat(), SeriesFormat(signed=False, intercept=-1024),
                              SeriesFormat(signed=False, intercept=-8192), SeriesFormat(padding=-2000),
                              SeriesFormat(signed=False, intercept=-1024, slope=0.5))):
        stored = np.rint((HU - form.intercept) / form.slope).astype(int).clip(0 if not form.signed else -32768)
        if form.padding is not None:
            stored[:, :, :5] = form.padding
        write_volume(tmp_path / str(n), stored, AFFINE, form)
        facts = scanned(tmp_path / str(n))
        assert not facts.refused and not facts.notes, facts


def test_padding_that_is_not_declared_is_no_wrong_value(tmp_path):
    stored = HU.copy()
    row, column = np.mgrid[-31.5:32, -31.5:32]
    stored[:, np.hypot(row, column) > 31] = -3024
    write(tmp_path, stored)
    assert not scanned(tmp_path).refused


@pytest.mark.parametrize("kind", ["MGML", "Z_EFF", "ED", "PCT", "HU_MOD", "mg/ml"])
@pytest.mark.parametrize("enhanced", [False, True])
def test_a_map_is_never_chosen(tmp_path, kind, enhanced):
    if enhanced:
        write_enhanced(tmp_path / "map" / "all.dcm", HU + 1024, AFFINE)
        dataset = pydicom.dcmread(tmp_path / "map" / "all.dcm")
        dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = kind
        dataset.save_as(tmp_path / "map" / "all.dcm")
    else:
        write(tmp_path / "map", more={"RescaleType": kind})
    facts = scanned(tmp_path / "map")
    assert facts.refused == "not_hu" and kind in facts.detail
    assert choose_series([facts], SeriesRules()).verdicts[0][1] == "not_hu"


@pytest.mark.parametrize("kind", ["HU", "hu", "", "US", "Hounsfield"])
def test_hounsfield_units_are_recognised_however_they_are_written(tmp_path, kind):
    write(tmp_path, more={"RescaleType": kind})
    assert not scanned(tmp_path).refused


WRONG = {
    "rescaled twice": HU - 1024, "not rescaled": HU + 1024, "constant": 0 * HU, "scaled down": HU // 10, "scaled up": HU * 16,
    "shifted up": HU + 500, "shifted down": HU - 450, "bytes swapped": HU.astype("<i2").byteswap().astype(int),
}


@pytest.mark.parametrize("kind", WRONG)
def test_values_that_are_not_where_hu_are_lose_their_series_to_another(tmp_path, kind):
    write(tmp_path / "a", WRONG[kind])
    write(tmp_path / "z", HU, more={"ConvolutionKernel": "H31s"})
    scan = scan_exam(tmp_path, ".")
    choice = choose_series(scan.series, SeriesRules())
    verdicts = {facts.relpath.rpartition("/")[2]: (reason, detail) for facts, reason, detail in choice.verdicts}
    assert verdicts["a"][0] == "implausible_hu" and "RescaleIntercept" in verdicts["a"][1] and "IM0021" in verdicts["a"][1]
    assert verdicts["z"][0] == "chosen"


def doubt(folder):
    facts = scanned(folder)
    assert not facts.refused
    return " ".join(note for note in facts.notes if note.startswith(DOUBTFUL))


def test_noise_is_doubted(tmp_path):
    write(tmp_path, np.random.default_rng(0).integers(-1000, 2000, SHAPE))
    assert "noise" in doubt(tmp_path)


def test_a_slice_that_is_empty_among_others_is_doubted(tmp_path):
    stored = HU.copy()
    stored[18:24] = 0
    write(tmp_path, stored)
    assert "IM0021: all pixels are 0 HU" in doubt(tmp_path)


def test_a_block_of_rows_that_was_lost_is_doubted(tmp_path):
    stored = HU.copy()
    stored[:, 20:30] = -1024
    write(tmp_path, stored)
    assert "10 rows in the middle" in doubt(tmp_path)


def test_a_slice_that_cannot_be_decoded_is_doubted_and_a_series_of_them_refused(tmp_path):
    files = write(tmp_path)
    shorten_pixels(files[20], 500)
    assert "IM0021" in doubt(tmp_path)
    for path in (files[10], files[30]):
        shorten_pixels(path, 500)
    facts = scanned(tmp_path)
    assert facts.refused == "bad_pixels" and "IM0021" in facts.detail


@pytest.mark.parametrize(("signed", "intercept", "padding"), [(True, 0, 40), (False, -1024, 1064), (True, 0, 1200)])
def test_padding_that_lies_among_the_values_of_the_head_is_doubted(tmp_path, signed, intercept, padding):
    stored = HU - intercept
    stored[:, 20:40, 20:40:5] = padding
    write(tmp_path, stored, signed=signed, intercept=intercept, padding=padding)
    assert "PixelPaddingValue" in doubt(tmp_path)


@pytest.mark.parametrize(("signed", "intercept", "padding"), [(True, 0, -2000), (False, -1024, 0), (False, -8192, 4192)])
def test_padding_below_air_is_not_doubted(tmp_path, signed, intercept, padding):
    stored = HU - intercept
    stored[:, :, :4] = padding
    write(tmp_path, stored.clip(0 if not signed else None), signed=signed, intercept=intercept, padding=padding)
    assert not doubt(tmp_path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless])
def test_slices_that_repeat_their_neighbors_are_doubtful(tmp_path, syntax):
    write(tmp_path / "each", HU + 1024, syntax=syntax, signed=False, intercept=-1024)
    write(tmp_path / "twice", np.repeat(HU[::2] + 1024, 2, axis=0), syntax=syntax, signed=False, intercept=-1024)
    assert not scanned(tmp_path / "each").notes
    note, = scanned(tmp_path / "twice").notes
    assert note.startswith(DOUBTFUL) and "repeats the pixels of" in note


def test_a_header_that_is_longer_than_the_pixels_repeats_nothing(tmp_path):
    write(tmp_path, more={"PatientComments": "".join(map(chr, np.random.default_rng(0).integers(48, 90, 30_000)))})
    assert not scanned(tmp_path).notes


def test_a_blank_slice_beside_the_middle_is_doubtful(tmp_path):
    stored = HU.copy()
    stored[SHAPE[0] // 2 - 1] = -1000
    write(tmp_path, stored)
    note, = scanned(tmp_path).notes
    assert note.startswith(DOUBTFUL) and "is blank, in the middle of the scan" in note


def test_air_above_a_head_repeats_nothing(tmp_path):
    stored = HU.copy()
    stored[:, 20:44] = -1000
    write(tmp_path, stored)
    assert not any("repeats" in note for note in scanned(tmp_path).notes)
