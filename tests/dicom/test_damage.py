"""Every file is read or refused with a reason, in time and within the memory, whatever it contains."""
import dataclasses
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_volume
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from medical_fenlei.dicom.dataset import MAX_INFLATED, read_dataset
from medical_fenlei.dicom.frame_size import jpeg_size
from medical_fenlei.dicom.header import read_header
from medical_fenlei.dicom.identity import read_identity
from medical_fenlei.dicom.pixels import decode_hu
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.errors import Rejected
from medical_fenlei.ingest.scan import scan_exam
from medical_fenlei.ingest.series_choice import choose_series
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.outcomes import DIED
from medical_fenlei.parallel import map_items

SHAPE = (4, 64, 72)
SHIPPED = sorted(path for path in Path(pydicom.data.__file__).parent.rglob("*") if path.is_file() and "__" not in path.name)
SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless)
MUTANTS, CUTS, SECONDS = 5000, 500, 5.0
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def read(path):
    """The header, or the reason why there is none; and how long that took."""
    began = time.perf_counter()
    try:
        read_identity(path)
        found = read_header(path)
    except Rejected as rejected:
        found = rejected.reason
    return found, time.perf_counter() - began


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1000, 3000, SHAPE)


def test_each_of_pydicoms_own_files_is_a_series_or_has_a_reason(tmp_path):
    """They hold what real archives hold: every syntax, other modalities, files without an end, without a beginning."""
    assert len(SHIPPED) > 150
    reasons = set()
    for number, path in enumerate(SHIPPED):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(path, folder / path.name)
        scan = scan_exam(tmp_path, str(number))
        choice = choose_series(scan.series, SeriesRules())
        assert choice.chosen is None                              # one file is no series
        assert scan.files == 1 == len(scan.problems) + sum(facts.files for facts in scan.series), path.name
        reasons |= {reason for _, reason, _ in (*choice.verdicts, *scan.problems)}
        found, seconds = read(path)
        assert seconds < SECONDS, path.name
        if not isinstance(found, str):
            try:
                assert decode_hu(read_dataset(path), found).shape == (found.rows, found.columns)
            except Rejected as rejected:
                assert rejected.reason == "bad_pixels", path.name
    assert {"not_ct", "not_dicom", "too_few_slices"} <= reasons


@pytest.mark.parametrize("syntax", SYNTAXES[:4])
def test_mutants_of_good_headers_are_read_or_refused_in_time(tmp_path, hu, syntax):
    more = {"SpecificCharacterSet": "ISO_IR 192", "Manufacturer": "东软", "ConvolutionKernel": ["U75u", "3"]}
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), SeriesFormat(syntax=syntax, padding=-2000, attributes=more))[0]
    whole, rng, found = np.frombuffer(path.read_bytes(), np.uint8), np.random.default_rng(1), set()
    for n in range(MUTANTS // 4):
        changed = whole.copy()
        if n % 3:
            places = rng.integers(128, 1400, rng.integers(1, 6))
            changed[places] = rng.integers(0, 256, len(places))
        else:                                                    # a piece of the header moved, repeated or taken out
            start, stop, to = (*np.sort(rng.integers(128, 1400, 2)).tolist(), int(rng.integers(128, 1400)))
            changed = np.concatenate([changed[:to], changed[start:stop], changed[to + (n % 2) * (stop - start):]])
        path.write_bytes(changed.tobytes())
        outcome, seconds = read(path)
        assert seconds < SECONDS
        found.add(outcome if isinstance(outcome, str) else "read")
    assert "read" in found and len(found) >= 3


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_cut_anywhere_is_refused_or_its_pixels_are(tmp_path, hu, syntax):
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), SeriesFormat(syntax=syntax))[0]
    whole = path.read_bytes()
    for end in np.random.default_rng(2).integers(0, len(whole) - 2, CUTS // 5).tolist():
        path.write_bytes(whole[:end])
        header, seconds = read(path)
        assert seconds < SECONDS
        if not isinstance(header, str):
            with pytest.raises(Rejected) as refused:
                decode_hu(read_dataset(path), header)
            assert refused.value.reason in ("bad_pixels", "damaged_header", "not_ct"), end


def test_a_ct_file_cut_within_its_header_is_damaged_and_not_of_another_class(tmp_path, hu):
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), SeriesFormat())[0]
    whole, reasons = path.read_bytes(), []
    for end in range(132, 1000, 4):
        path.write_bytes(whole[:end])
        with pytest.raises(Rejected) as refused:
            decode_hu(read_dataset(path), read_header(path))
        assert "CT Image Storage" not in refused.value.detail
        reasons.append(refused.value.reason)
    assert reasons.count("damaged_header") > 5


@pytest.mark.parametrize("meta", ["as usual", "long", "of another length than it says"])
def test_a_small_file_that_inflates_to_gigabytes_is_refused_before_it_does(tmp_path, hu, meta):
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), SeriesFormat(syntax=DeflatedExplicitVRLittleEndian))[0]
    whole = path.read_bytes()
    start = 144 + int.from_bytes(whole[140:144], "little")
    plain = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    zeros = [packer.compress(bytes(1 << 24)) for _ in range(3 * MAX_INFLATED >> 24)]
    head = whole[:start]
    if meta != "as usual":                                       # its version as five thousand bytes in place of two
        version = b"\2\0\1\0OB\0\0\2\0\0\0\0\1"
        assert version in head
        head = head.replace(version, version[:8] + (5000).to_bytes(4, "little") + bytes(5000))
    if meta == "long":
        head = head[:140] + (len(head) - 144).to_bytes(4, "little") + head[144:]
    path.write_bytes(head + b"".join([packer.compress(plain), *zeros, packer.flush()]))
    assert path.stat().st_size < MAX_INFLATED // 200
    began = time.perf_counter()
    for work in (read_header, read_dataset, read_identity):
        with pytest.raises(Rejected) as refused:
            work(path)
        assert refused.value.reason == "too_large"
    assert time.perf_counter() - began < 3 * SECONDS


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless])
def test_an_image_larger_than_its_header_says_is_not_decoded(tmp_path, hu, syntax, monkeypatch):
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), SeriesFormat(syntax=syntax))[0]
    dataset = pydicom.dcmread(path)
    stream = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    assert jpeg_size(bytes(stream)) == SHAPE[1:]
    at = stream.find(SHAPE[1].to_bytes(2, "big") + SHAPE[2].to_bytes(2, "big"))
    if syntax == JPEGLSLossless:
        stream[at:at + 4] = b"\xff\xff\xff\xff"
    else:
        stream[8:16] = (60000).to_bytes(4, "big") * 2
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset.save_as(path)
    monkeypatch.setattr("medical_fenlei.dicom.pixels.pixel_array", lambda *a, **k: pytest.fail("was decoded"))
    with pytest.raises(Rejected, match="got an image of"):
        decode_hu(read_dataset(path), read_header(path))


def test_the_size_that_a_jpeg_declares_is_that_of_its_header_for_every_shipped_file():
    compared = 0
    for path in SHIPPED:
        try:
            dataset = pydicom.dcmread(path)
            encapsulated = dataset.file_meta.TransferSyntaxUID.is_encapsulated
            frame = get_frame(dataset.PixelData, 0, number_of_frames=int(dataset.get("NumberOfFrames", 1) or 1))
        except Exception:  # not what this is about
            continue
        if path.name == "JPEG2000-embedded-sequence-delimiter.dcm":      # broken by design: no decoder reads it
            continue
        if encapsulated and (size := jpeg_size(frame)) is not None:
            assert size == (dataset.Rows, dataset.Columns), path.name
            compared += 1
    assert compared >= 10


def decoded(path):
    return decode_hu(read_dataset(path), read_header(path)).shape


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_damaged_pixels_cost_only_their_file_even_if_a_decoder_ends_its_process(tmp_path, hu, syntax):
    path = write_volume(tmp_path / "s", hu[:1], axial(SHAPE), SeriesFormat(syntax=syntax))[0]
    whole, rng = np.frombuffer(path.read_bytes(), np.uint8), np.random.default_rng(3)
    pixels = bytes(whole).find(b"\xe0\x7f\x10\x00")
    paths = []
    for n in range(60):
        changed = whole.copy()
        places = rng.integers(pixels + 20, len(whole), rng.integers(1, 40))
        changed[places] = rng.integers(0, 256, len(places))
        paths.append(tmp_path / f"{n}.dcm")
        paths[-1].write_bytes(changed.tobytes())
    outcomes = list(map_items(decoded, [*paths, path], workers=2, label="files", item_seconds=20))
    assert len(outcomes) == 61 and outcomes[-1].value == SHAPE[1:]                # the last is whole
    assert {outcome.reason for outcome in outcomes} <= {"", "bad_pixels", "damaged_header", "not_ct", DIED}


def test_a_panic_in_a_decoder_costs_only_the_file(tmp_path, hu, monkeypatch):
    class PanicException(BaseException):
        """Stands for a panic of a decoder written in Rust."""

    def panic(*words, **more):
        raise PanicException("index out of bounds")

    write_volume(tmp_path / "s", hu, axial(SHAPE), SeriesFormat(syntax=RLELossless))
    series = open_series(tmp_path / "s")
    monkeypatch.setattr("medical_fenlei.dicom.pixels.pixel_array", panic)
    with pytest.raises(Rejected, match="PanicException"):
        series.slice(0)
    monkeypatch.setattr("medical_fenlei.dicom.pixels.pixel_array", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        series.slice(0)


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda ds: setattr(ds, "PixelData", ds.PixelData[:100]), "got 100 bytes of pixels, expected 9216"),
    (lambda ds: delattr(ds, "PixelData"), "the file holds no pixels"),
    (lambda ds: setattr(ds, "PixelData", encapsulate([b"\xff\xd8" + bytes(40)])), "got compressed pixels"),
    (lambda ds: setattr(ds.file_meta, "TransferSyntaxUID", pydicom.uid.UID("1.2.840.113619.5.2")),
     "got transfer syntax 1.2.840.113619.5.2, expected a known one"),
])
def test_an_obvious_fault_of_pixel_data_is_the_reason_given(tmp_path, hu, spoil, says):
    path = write_volume(tmp_path, hu, axial(SHAPE))[0]
    header, dataset = read_header(path), pydicom.dcmread(path)
    spoil(dataset)
    header = dataclasses.replace(header, transfer_syntax=str(dataset.file_meta.TransferSyntaxUID))
    with pytest.raises(Rejected) as refused:
        decode_hu(dataset, header)
    assert refused.value.reason == "bad_pixels" and says in refused.value.detail
