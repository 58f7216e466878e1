"""A series on disk has the HU and the geometry that SimpleITK reads; what is not a series has a reason."""
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from helpers.dicom_files import SeriesFormat, axial, shorten_pixels, write_volume
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medical_fenlei.dicom import dataset as dataset_module
from medical_fenlei.dicom import pixels
from medical_fenlei.dicom.dataset import read_dataset
from medical_fenlei.dicom.elements import value_of
from medical_fenlei.dicom.header import read_header
from medical_fenlei.dicom.identity import read_identity
from medical_fenlei.dicom.pixels import decode_hu, rescale_to_hu
from medical_fenlei.dicom.volume import open_series, read_headers
from medical_fenlei.errors import Rejected

SHAPE = (4, 64, 72)


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1000, 3000, SHAPE)


def by_simpleitk(files):
    """HU as SimpleITK reads each file, by file."""
    return {f.name: sitk.GetArrayFromImage(sitk.ReadImage(str(f), imageIO="GDCMImageIO"))[0] for f in files}


@pytest.mark.parametrize("form", [
    SeriesFormat(bits=12, signed=False, intercept=-1024), SeriesFormat(bits=16, signed=True),
    SeriesFormat(bits=16, signed=True, intercept=-1024),
    SeriesFormat(bits=16, signed=False, intercept=-8192), SeriesFormat(bits=16, signed=False, intercept=-1000, slope=0.5),
    SeriesFormat(bits=12, signed=False, intercept=-1024, syntax=ImplicitVRLittleEndian),
    SeriesFormat(bits=16, signed=True, syntax=DeflatedExplicitVRLittleEndian),
    SeriesFormat(bits=16, signed=True, syntax=RLELossless),
    SeriesFormat(bits=12, signed=False, intercept=-1024, syntax=JPEGLSLossless),
    SeriesFormat(bits=16, signed=True, syntax=JPEGLSLossless),
    SeriesFormat(bits=16, signed=True, syntax=JPEG2000Lossless),
    SeriesFormat(bits=16, signed=False, intercept=-8192, syntax=JPEGLSLossless),
], ids=str)
def test_hu_equals_simpleitk_for_every_stored_form(tmp_path, hu, form):
    stored = np.clip(np.rint((hu - form.intercept) / form.slope), 0 if not form.signed else -32768, 2**form.bits - 1)
    files = write_volume(tmp_path / "s", stored.astype(np.int64), axial(SHAPE), form)
    series = open_series(tmp_path / "s")
    expected = by_simpleitk(files)
    for k, header in enumerate(series.headers):
        got = series.slice(k)
        assert got.dtype == np.int16
        np.testing.assert_array_equal(got, np.rint(expected[header.path.name]))


def test_a_decoder_that_is_not_installed_is_replaced_by_another(tmp_path, hu, monkeypatch):
    write_volume(tmp_path / "s", hu, axial(SHAPE), SeriesFormat(syntax=JPEGLSLossless))
    monkeypatch.setitem(pixels._FASTEST, str(JPEGLSLossless), "no such plugin")
    np.testing.assert_array_equal(open_series(tmp_path / "s").slice(2), hu[2])


def test_monochrome1_concerns_the_display_and_changes_no_hu(tmp_path, hu):
    form = SeriesFormat(bits=12, signed=False, intercept=-1024, attributes={"PhotometricInterpretation": "MONOCHROME1"})
    write_volume(tmp_path / "s", hu + 1024, axial(SHAPE), form)
    np.testing.assert_array_equal(open_series(tmp_path / "s").slice(2), hu[2])


@pytest.mark.parametrize(("signed", "padding", "intercept"), [(True, -2000, 0), (False, 63536, -8192), (True, -2000, -1024)])
def test_padding_outside_the_circle_is_air_whatever_the_rescale(tmp_path, hu, signed, padding, intercept):
    stored = hu - intercept
    stored[:, :5] = padding
    write_volume(tmp_path / "s", stored, axial(SHAPE), SeriesFormat(signed=signed, intercept=intercept, padding=padding))
    image = open_series(tmp_path / "s").slice(0)
    assert (image[:5] == -1000).all()
    np.testing.assert_array_equal(image[5:], hu[0, 5:])


def test_values_beyond_int16_are_clipped_not_wrapped(tmp_path):
    stored = np.full(SHAPE, 65535)
    write_volume(tmp_path / "s", stored, axial(SHAPE), SeriesFormat(signed=False, intercept=0))
    assert (open_series(tmp_path / "s").slice(0) == 32767).all()


def orientations():
    """Every way to lay rows and columns along x and y, and either order of slices."""
    for transpose in (False, True):
        for row_sign in (1, -1):
            for column_sign in (1, -1):
                for k_sign in (1, -1):
                    yield transpose, row_sign, column_sign, k_sign


@pytest.mark.parametrize(("transpose", "row_sign", "column_sign", "k_sign"), list(orientations()))
@pytest.mark.parametrize("reverse", [False, True])
def test_every_orientation_gives_the_same_volume(tmp_path, hu, transpose, row_sign, column_sign, k_sign, reverse):
    upright = axial(SHAPE, (1.0, 0.5, 0.75))
    volume, affine = hu, upright.copy()
    for axis, sign in enumerate((k_sign, row_sign, column_sign)):
        if sign < 0:
            volume = np.flip(volume, axis)
            affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
            affine[:3, axis] *= -1
    if transpose:
        volume, affine = volume.swapaxes(1, 2), affine[:, [0, 2, 1, 3]]
    write_volume(tmp_path / "s", volume, affine, reverse=reverse)
    series = open_series(tmp_path / "s")
    np.testing.assert_allclose(series.affine.matrix, upright, atol=1e-5)
    for k in range(SHAPE[0]):
        np.testing.assert_array_equal(series.slice(k), hu[k])


def test_geometry_of_an_oblique_tilted_series_equals_simpleitk(tmp_path, hu):
    turn = np.deg2rad(12)
    affine = axial(SHAPE, (0.7, 0.4, 0.4))
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    pitch = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    affine[:3] = pitch @ rotation @ affine[:3]
    write_volume(tmp_path / "s", hu, affine)
    series = open_series(tmp_path / "s")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(h.path) for h in series.headers])
    image = reader.Execute()
    for index in ((0, 0, 0), (3, 5, 7), (1, 63, 71)):
        np.testing.assert_allclose(series.affine.matrix @ [*index, 1],
                                   [*image.TransformIndexToPhysicalPoint(index[::-1]), 1], atol=1e-4)


def test_a_tilted_gantry_is_a_shear_and_the_step_is_along_the_normal(tmp_path, hu):
    affine = axial(SHAPE)
    affine[1, 0] = 0.2                                           # each slice also moves 0.2 mm to the back
    write_volume(tmp_path / "s", hu, affine)
    series = open_series(tmp_path / "s")
    np.testing.assert_allclose(series.affine.matrix, affine, atol=1e-5)
    assert series.geometry.slice_spacing == pytest.approx(1.0)


def test_coronal_slices_and_single_images_are_refused(tmp_path, hu):
    coronal = axial(SHAPE)[[0, 2, 1, 3]]
    write_volume(tmp_path / "c", hu, coronal)
    write_volume(tmp_path / "one", hu[:1], axial(SHAPE))
    for folder, reason in (("c", "not_axial"), ("one", "empty_series")):
        with pytest.raises(Rejected) as error:
            open_series(tmp_path / folder)
        assert error.value.reason == reason


def test_junk_beside_the_slices_is_passed_over_with_a_reason(tmp_path, hu):
    files = write_volume(tmp_path / "s", hu, axial(SHAPE))
    folder = tmp_path / "s"
    (folder / "a.dcm").write_text("a text file named .dcm")
    (folder / "zeros.dcm").write_bytes(bytes(4096))
    (folder / "short.dcm").write_bytes(files[0].read_bytes()[:400])
    (folder / ".hidden").write_bytes(b"x")
    headers, bad = read_headers(folder)
    assert len(headers) == len(files)
    assert {path.name: rejected.reason for path, rejected in bad} == {
        "a.dcm": "not_dicom", "zeros.dcm": "not_dicom", "short.dcm": bad[1][1].reason}
    assert bad[1][1].reason in {"damaged_header", "missing_attribute", "not_ct", "bad_attribute"}


def test_a_file_that_ends_within_its_pixels_is_no_image_of_its_series(tmp_path, hu):
    files = write_volume(tmp_path / "s", hu, axial(SHAPE))
    files[1].write_bytes(files[1].read_bytes()[:-500])
    headers, bad = read_headers(tmp_path / "s")
    assert [header.path for header in headers] == [files[0], *files[2:]]
    assert [(path, rejected.reason) for path, rejected in bad] == [(files[1], "bad_pixels")]
    for path in (files[0], *files[2:]):
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(Rejected, match=f"bad_pixels: {files[0].name}: the file ends within its pixels"):
        open_series(tmp_path / "s")


def test_a_slice_with_too_few_pixels_is_refused_and_its_file_named(tmp_path, hu):
    files = write_volume(tmp_path / "s", hu, axial(SHAPE))
    shorten_pixels(files[1], 500)
    series = open_series(tmp_path / "s")
    with pytest.raises(Rejected, match=files[1].name) as error:
        series.slice(1)
    assert error.value.reason == "bad_pixels"


@pytest.mark.parametrize(("change", "reason"), [
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not_ct"), ({"RescaleSlope": 0}, "bad_attribute"),
    ({"PixelSpacing": [0, 0.5]}, "bad_attribute"), ({"Rows": 30000}, "bad_size"), ({"SamplesPerPixel": 3}, "bad_size"),
    ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "bad_attribute"), ({"ImagePositionPatient": None}, "missing_attribute"),
])
def test_an_unusable_header_is_refused_with_a_reason(tmp_path, hu, change, reason):
    files = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), SeriesFormat(attributes=change))
    with pytest.raises(Rejected) as error:
        read_header(files[0])
    assert error.value.reason == reason


def test_a_malformed_birth_date_is_not_quoted_in_a_warning(tmp_path, hu, recwarn, capfd):
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE))[0]
    path.write_bytes(path.read_bytes().replace(b"19700101", b"1970-1x1"))
    assert read_identity(path).birth_date == "1970-1x1"
    said = capfd.readouterr()
    assert "1970-1x1" not in said.out + said.err + "".join(str(w.message) for w in recwarn)


@pytest.mark.parametrize("name", ["Meier^Anna", "Wang^Xiaodong=王^小东"])
def test_a_patients_name_is_one_text_of_all_its_representations(tmp_path, hu, name):
    form = SeriesFormat(attributes={"SpecificCharacterSet": "ISO_IR 192", "PatientName": name})
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), form)[0]
    assert read_identity(path).name == name


def test_nothing_that_identifies_a_person_is_kept_in_a_header(tmp_path, hu):
    header = read_header(write_volume(tmp_path / "s", hu[:1], axial(SHAPE))[0])
    assert not {"PAT1", "Nobody", "19700101"} & set(str(header).replace("'", " ").split())


def outcome(read, path):
    """Return the header as text, or the type and the message of the error."""
    try:
        return repr(read(path))
    except Exception as error:
        return type(error).__name__, str(error)


def outcomes(path, monkeypatch):
    """Return the outcomes of reading a header from the first block, and by pydicom from the whole file."""
    quick = outcome(read_header, path)
    with monkeypatch.context() as patch:
        patch.setattr(dataset_module, "_BLOCK", 0)
        return quick, outcome(read_header, path)


@pytest.mark.parametrize("undefined_length", [False, True])
def test_a_header_longer_than_the_first_block_is_read_whole(tmp_path, hu, undefined_length):
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE))[0]
    short = read_header(path)
    ds = pydicom.dcmread(path)
    item = Dataset()
    item.add_new(0x00091001, "OB", bytes(200_000))
    ds.add_new(0x00090010, "LO", "ACME")
    ds.add_new(0x00091002, "SQ", [item])
    ds[0x00091002].is_undefined_length = undefined_length
    ds.save_as(path)
    assert path.read_bytes().find(b"\x28\x00\x10\x00") > dataset_module._BLOCK
    assert read_header(path) == short


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEGLSLossless])
def test_a_file_that_ends_anywhere_in_its_header_is_refused_as_pydicom_would(tmp_path, hu, syntax, monkeypatch):
    form = SeriesFormat(bits=16, padding=-2000, **({"syntax": syntax} if syntax else {}))
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), form)[0]
    whole = path.read_bytes()
    for end in (*range(100, 1400, 7), len(whole) - 1):
        path.write_bytes(whole[:end])
        quick, slow = outcomes(path, monkeypatch)
        assert quick == slow


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_damaged_and_odd_headers_are_read_or_refused_as_pydicom_would(tmp_path, hu, syntax, monkeypatch):
    more = {"SpecificCharacterSet": "ISO_IR 192", "Manufacturer": "东软", "ConvolutionKernel": ["U75u", "3"]}
    form = SeriesFormat(bits=16, padding=-2000, attributes=more, **({"syntax": syntax} if syntax else {}))
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), form)[0]
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = whole.copy()
        places = rng.integers(128, 1200, rng.integers(1, 4))
        changed[places] = rng.choice(np.frombuffer(b"\0 \\.-+eE19_nD\xb5", np.uint8), len(places))
        path.write_bytes(changed.tobytes())
        quick, slow = outcomes(path, monkeypatch)
        assert quick == slow


VALUES = (b"", b" ", b"1 ", b"+1.5e1", b"1\\0", b"1\\\\2", b"1\\2\\", b"nan ", b"1_0 ", b"abc ", b"\x10\0", b"\x10\0\x20\0",
          b"\xff\xff", b" A \\B\0", b"A\0\\B\0", b"\xe4b", b"1\n", b"1.2.840\0", b"1.2 ", b"1.2\\1.3")


@pytest.mark.parametrize("vr", ["DS", "IS", "US", "SS", "UI", "CS", "LO", "SH", "UN", "FD", None])
@pytest.mark.parametrize(("name", "kind"), [
    ("PixelSpacing", float), ("Rows", float), ("PixelPaddingValue", int), ("SOPInstanceUID", str), ("ImageType", str),
    ("Manufacturer", str),
])
def test_a_value_equals_that_of_pydicom(name, kind, vr):
    def seen(value):
        """Return the value without the padding of a text."""
        if isinstance(value, (list, MultiValue)):
            return [seen(v) for v in value]
        return value if value is None else kind(value) if kind is not str else str(value).rstrip()

    tag = pydicom.tag.Tag(name)
    for value in VALUES:
        for little in (True, False):
            ds, same = (Dataset({tag: RawDataElement(tag, vr, len(value), value, 0, vr is None, little)}) for _ in range(2))
            by_us, by_pydicom = outcome(lambda ds: seen(value_of(ds, name)), ds), outcome(lambda ds: seen(ds.get(name)), same)
            assert by_us == by_pydicom, value


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", "<u2", ">i2", ">u2", "i4", "u4"])
def test_hu_is_the_clipped_sum_whatever_the_word_and_the_intercept(tmp_path, hu, dtype):
    header = read_header(write_volume(tmp_path / "s", hu[:1], axial(SHAPE))[0])
    ends = np.iinfo(dtype)
    values = np.array([ends.min, ends.max, -32769, -32768, -2000, -1, 0, 1, 1024, 32767, 32768, 63536])
    values = values[(values >= ends.min) & (values <= ends.max)]
    for intercept in (0, 1, -1, -1024, -8192, 32767, -32768, 40000, -70000, 1e9, 0.5):
        for padding in (None, (-2000, -2000), (0, 1), (63536, 63536)):
            expected = np.clip(np.rint(values + intercept), -32768, 32767)
            if padding is not None:
                expected[(values >= padding[0]) & (values <= padding[1])] = -1000
            got = rescale_to_hu(values.astype(dtype), replace(header, intercept=float(intercept), padding=padding))
            assert got.dtype == np.int16
            np.testing.assert_array_equal(got, expected)


LOSSLESS = Path(__file__).resolve().parent / "jpeg_lossless"


@pytest.mark.parametrize("path", sorted(LOSSLESS.glob("*_[57]*")), ids=lambda path: path.name)
def test_jpeg_lossless_files_of_dcmtk_have_the_original_hu(path):
    row, column = np.mgrid[:48, :56]
    wave = 2000 * np.sin(row / 7) * np.cos(column / 9)
    hu = np.clip(np.rint(wave + np.random.default_rng(57).normal(0, 60, wave.shape)), -1000, 3000)
    header = read_header(path)
    assert header.transfer_syntax == f"1.2.840.10008.1.2.4.{path.name[-2:]}"
    got = decode_hu(read_dataset(path), header)
    np.testing.assert_array_equal(got, hu)
    np.testing.assert_array_equal(got, np.rint(by_simpleitk([path])[path.name]))
