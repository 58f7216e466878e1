"""A collection of faulty exports, written as real files: the right series is chosen, every other has the expected reason."""
import json
import os
import shutil
import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, head, write_enhanced, write_volume
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    JPEGLSLossless,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
    generate_uid,
)

from medical_fenlei import tables
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.ingest import scan as scan_module
from medical_fenlei.ingest.index import build_index
from medical_fenlei.ingest.index_counts import FILES
from medical_fenlei.ingest.label_sheet import read_label_sheet
from medical_fenlei.ingest.manifest import build_manifest
from medical_fenlei.ingest.scan import scan_exams
from medical_fenlei.ingest.series_rules import SeriesRules, read_rules
from medical_fenlei.ingest.tree import find_exams
from medical_fenlei.reasons import HARMLESS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

SHAPE = (40, 32, 32)
HU = np.maximum(head(SHAPE), -1024)
WHOLE = axial(SHAPE, (1.0, 6.0, 6.0))                            # 192 mm wide


def series(folder, shape=SHAPE, spacing=(1.0, 6.0, 6.0), *, x=0.0, turn=(0, 1, 2, 3), **more):
    """A bone series of the whole head, unless said otherwise. turn: the axes, as rows of the affine."""
    affine = axial(shape, spacing)
    affine[0, 3] += x
    hu = np.resize(HU, shape)
    return write_volume(folder, hu, affine[list(turn)], SeriesFormat(attributes=more))


SOFT = {"ConvolutionKernel": "H30s"}
EAR = {"shape": (60, 32, 32), "spacing": (0.5, 3.0, 3.0)}        # 96 mm wide, and thinner
CORONAL, SAGITTAL = (0, 2, 1, 3), (2, 1, 0, 3)
SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


@dataclass
class Trap:
    """An exam that `make` writes: which of its series is right, and the expected reasons for the others."""

    make: object
    right: str | None = "bone"
    verdicts: dict[str, str] = field(default_factory=dict)
    """Reason code of a series by folder."""

    rejects: dict[str, int] = field(default_factory=dict)
    """Further reason codes, of files and folders, and how often."""

    right_ear: str = ""
    says: str = ""
    """Stands in the reason of the choice."""


TRAPS: dict[str, Trap] = {}


def trap(**expected):
    def enter(make):
        TRAPS[make.__name__] = Trap(make, **expected)
        return make

    return enter


@trap(verdicts={"scout": "localizer", "flagged": "localizer"})
def scouts(exam):
    series(exam / "bone")
    series(exam / "scout", (1, 32, 32), turn=CORONAL)            # nothing but its direction tells
    series(exam / "flagged", (40, 32, 32), (0.5, 6, 6), **SCOUT)


@trap(verdicts={"soft": "not_chosen"}, says="bone kernel U75u")
def a_softer_series_of_more_and_thinner_slices(exam):
    series(exam / "bone")
    series(exam / "soft", (80, 32, 32), (0.5, 6, 6), **SOFT)


@trap(verdicts={"thick": "too_large_spacing"})
def thick_slices(exam):
    series(exam / "bone")
    series(exam / "thick", (12, 32, 32), (3.0, 6, 6), SliceThickness="0.6")


@trap(verdicts={"coronal": "not_axial", "sagittal": "not_axial"})
def reformats_that_are_called_axial(exam):
    series(exam / "bone")
    for name, turn in (("coronal", CORONAL), ("sagittal", SAGITTAL)):
        series(exam / name, (80, 32, 32), (0.5, 6, 6), turn=turn, SeriesDescription="AXIAL bone 0.5")


@trap(verdicts={"reformat": "not_chosen"})
def a_reformat_back_to_axial(exam):
    series(exam / "bone")
    series(exam / "reformat", (80, 32, 32), (0.5, 6, 6), ImageType=["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MPR"])


@trap(verdicts={"left": "not_chosen", "right": "not_chosen"}, says="both ears")
def reconstructions_of_one_ear_beside_the_whole(exam):
    series(exam / "bone")
    series(exam / "left", **EAR, x=40)
    series(exam / "right", **EAR, x=-40)


@trap(right="b", right_ear="a", says="show an ear each", verdicts={"soft": "not_chosen"})
def reconstructions_of_one_ear_and_nothing_as_good(exam):
    series(exam / "a", **EAR, x=-35, SeriesDescription="LEFT EAR")         # a name proves nothing
    series(exam / "b", **EAR, x=50, SeriesDescription="RIGHT EAR")
    series(exam / "soft", **SOFT)


@trap(right=None, verdicts={"left": "single_ear", "again": "single_ear"})
def one_ear_without_the_other(exam):
    series(exam / "left", **EAR, x=40)
    series(exam / "again", **EAR, x=44)


@trap(right="folder", verdicts={})
def everything_in_one_folder(exam):
    for number, (more, files) in enumerate({
        "bone": ({}, {}), "soft": (SOFT, {}), "coronal": ({}, {"turn": CORONAL}), "scout": (SCOUT, {"shape": (1, 32, 32)}),
    }.values()):
        (exam / "folder").mkdir(parents=True, exist_ok=True)
        for n, path in enumerate(series(exam / f"from{number}", **files, **more)):
            path.rename(exam / "folder" / f"I{n:03d}{number}")
        shutil.rmtree(exam / f"from{number}")


@trap(rejects={"not_ct": 3})
def reports_and_captures(exam):
    files = series(exam / "bone")
    for number, kind in enumerate((SecondaryCaptureImageStorage, XRayRadiationDoseSRStorage, EncapsulatedPDFStorage)):
        dataset = pydicom.dcmread(files[0])
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = kind
        (exam / f"dose{number}").mkdir()
        dataset.save_as(exam / f"dose{number}" / "x.dcm")


@trap(rejects={"split_series": 1}, right="bone_2", verdicts={"bone": "not_chosen"})
def a_series_in_two_folders(exam):
    files = series(exam / "bone")
    (exam / "bone_2").mkdir()
    for path in files[20:]:
        path.rename(exam / "bone_2" / path.name)


@trap(right="bone again", verdicts={"bone": "not_chosen"})
def a_series_copied_beside_itself(exam):
    series(exam / "bone")
    shutil.copytree(exam / "bone", exam / "bone again")


@trap()
def one_uid_for_all_images(exam):
    series(exam / "bone", SOPInstanceUID="1.2.3")


@trap(right=None, verdicts={"bone": "bad_attribute"})
def a_field_of_view_of_two_metres(exam):
    series(exam / "bone", spacing=(1.0, 64.0, 64.0))


@trap(rejects={"hidden_folder": 1})
def a_hidden_series(exam):
    series(exam / "bone")
    series(exam / ".soft", **SOFT)


@trap(rejects={"not_dicom": 3})
def archives_and_an_empty_file(exam):
    folder = series(exam / "bone")[0].parent
    (folder / "more.zip").write_bytes(b"PK\3\4" + bytes(200))
    (folder / "IM0001.gz").write_bytes(b"\x1f\x8b" + bytes(200))
    (folder / "IM0100").write_bytes(b"")


@trap(rejects={"not_dicom": 5, "missing_attribute": 1, "damaged_header": 1, "too_large": 1, "bad_size": 2})
def junk_among_the_slices(exam):
    files = series(exam / "bone")
    folder = exam / "bone"
    (folder / "readme.txt").write_text("a text")
    (folder / "zeros.dcm").write_bytes(bytes(5000))
    (folder / "noise.dcm").write_bytes(np.random.default_rng(1).bytes(5000))
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (folder / ".DS_Store").write_bytes(bytes(10))                # hidden: not even counted
    whole = files[3].read_bytes()
    (folder / "cut.dcm").write_bytes(whole[:700])
    (folder / "tag.dcm").write_bytes(whole[:400] + b"\xff" * 300 + whole[700:])
    (folder / "bomb.dcm").write_bytes(bomb(exam))
    huge = pydicom.dcmread(files[0])
    huge.Rows = huge.Columns = 30000
    huge.save_as(folder / "huge.dcm")
    colour = pydicom.dcmread(files[0])
    colour.SamplesPerPixel = 3
    colour.save_as(folder / "colour.dcm")


def bomb(exam):
    path = write_volume(exam / "deflated", HU[:1], WHOLE, SeriesFormat(syntax=DeflatedExplicitVRLittleEndian))[0]
    whole = path.read_bytes()
    shutil.rmtree(exam / "deflated")
    start = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = [packer.compress(bytes(1 << 24)) for _ in range(19)]
    return whole[:start] + b"".join([*packed, packer.flush()])


@trap(rejects={"damaged_header": 1}, says="resampled")
def sequences_four_hundred_deep(exam):
    path = series(exam / "bone")[3]
    whole = path.read_bytes()
    name = whole.index(b"\x10\x00\x10\x00PN")
    down = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    up = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(whole[:name] + 400 * down + 400 * up + whole[name:])


@trap(rejects={"missing_attribute": 2, "bad_attribute": 4})
def attributes_that_are_missing_or_make_no_sense(exam):
    files = series(exam / "bone", (48, 32, 32))
    spoilt = [("ImagePositionPatient", None), ("ImageOrientationPatient", None), ("PixelSpacing", [0, 0]), ("RescaleSlope", 0),
              ("RescaleIntercept", float("nan")), ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0])]
    for (name, value), path in zip(spoilt, files[-6:], strict=True):
        dataset = pydicom.dcmread(path)
        delattr(dataset, name) if value is None else setattr(dataset, name, value)
        dataset.save_as(path)


@trap(says="resampled")
def a_missing_slice(exam):
    series(exam / "bone")[20].unlink()


@trap(right="soft", verdicts={"bone": "too_few_slices"})
def a_series_broken_into_bits(exam):
    for k, path in enumerate(series(exam / "bone")):
        if k % 10 > 6:
            path.unlink()
    series(exam / "soft", **SOFT)


@trap(says="cut_at_hole")
def a_hole(exam):
    for path in series(exam / "bone")[8:14]:
        path.unlink()


@trap(right="soft", verdicts={"bone": "displaced_slices"})
def a_slice_that_stands_aside(exam):
    path = series(exam / "bone")[20]
    dataset = pydicom.dcmread(path)
    dataset.ImagePositionPatient[0] += 5
    dataset.save_as(path)
    series(exam / "soft", **SOFT)


@trap(rejects={"copies": 1})
def copies(exam):
    for path in series(exam / "bone")[:5]:
        shutil.copy(path, path.with_name(f"copy of {path.name}"))


@trap(right="soft", verdicts={"bone": "duplicate_positions"})
def another_image_at_the_same_place(exam):
    path = series(exam / "bone")[20]
    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PixelData = bytes(len(dataset.PixelData))
    dataset.save_as(path.with_name("other"))
    series(exam / "soft", **SOFT)


@trap(right="a", verdicts={"b": "not_chosen"}, says="gantry_tilt: 15.0 degrees")
def a_tilted_gantry(exam):
    affine = WHOLE.copy()
    affine[1, 0] = np.tan(np.radians(15))
    write_volume(exam / "a", HU, affine, SeriesFormat(attributes={"GantryDetectorTilt": "0"}))
    series(exam / "b", **SOFT)


@trap(verdicts={"many": "not_chosen"})
def annotations_that_lie_about_the_spacing(exam):
    series(exam / "bone", SpacingBetweenSlices=-5.0, SliceThickness="10")
    series(exam / "many", (44, 32, 32), (1.5, 6, 6), SpacingBetweenSlices=0.3, SliceThickness="0.3")


@trap(right="bone")
def every_kernel_by_its_vendor(exam):
    series(exam / "bone", ConvolutionKernel=["Ur73u", "1"], Manufacturer="Siemens Healthineers")
    for n, (maker, kernel) in enumerate([("SIEMENS", "Br44s"), ("SIEMENS", "H31s"), ("GE MEDICAL SYSTEMS", "STANDARD"),
                                         ("UIH", "H_SOFT_B"), ("Philips", "B"), ("TOSHIBA", "FC12")]):
        series(exam / f"soft{n}", (80, 32, 32), (0.5, 6, 6), ConvolutionKernel=kernel, Manufacturer=maker)


@trap(verdicts={"soft": "not_chosen"})
def a_kernel_of_a_newer_family(exam):
    series(exam / "bone", ConvolutionKernel="J70h")
    series(exam / "soft", (60, 32, 32), (0.7, 6, 6), ConvolutionKernel="J30s")


@trap(right="a", right_ear="b", verdicts={"soft": "not_chosen"}, says="show an ear each")
def wide_reconstructions_of_one_ear(exam):
    for name, x in (("a", 44), ("b", -40)):
        series(exam / name, (60, 32, 32), (0.5, 4.1, 4.1), x=x)  # 131 mm wide
    series(exam / "soft", **SOFT)


@trap()
def rows_columns_and_slices_stored_the_other_way_round(exam):
    affine = WHOLE * [-1, -1, -1, 1]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    write_volume(exam / "bone", HU[::-1, ::-1, ::-1], affine, SeriesFormat(attributes={"PatientPosition": "FFP"}), reverse=True)


@trap(right="all")
def an_enhanced_file(exam):
    write_enhanced(exam / "all" / "one", HU + 1024, WHOLE, syntax=JPEGLSLossless)
    series(exam / "soft", **SOFT)


@trap(right="deep/er/bone")
def folders_in_folders(exam):
    series(exam / "deep" / "er" / "bone")


@trap(right=".")
def slices_in_the_exams_own_folder(exam):
    series(exam)


@trap(rejects={"bad_link": 3})
def links(exam):
    folder = exam / "bone"
    files = series(folder)
    files[0].rename(exam.parent.parent / "elsewhere")
    files[0].symlink_to(exam.parent.parent / "elsewhere")        # to a file: it is read
    (folder / "loop").symlink_to(exam)
    (exam / "other").symlink_to(folder)
    (exam / "nothing").symlink_to(exam / "gone")


@trap(right="=1+1 (#5), \"骨窗\"\t")
def names_that_mean_something_elsewhere(exam):
    for path in series(exam / "=1+1 (#5), \"骨窗\"\t")[:3]:
        path.rename(path.with_name(f"\n,;'{path.name}.DCM"))


@trap(right=None)
def nothing_at_all(exam):
    exam.mkdir(parents=True)


@trap(right=os.fsdecode("骨窗".encode("gbk")))
def a_folder_named_in_gbk(exam):
    series(exam / os.fsdecode("骨窗".encode("gbk")))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Every trap as an exam, and what ingestion makes of them all at once."""
    here = tmp_path_factory.mktemp("traps")
    base = here / "data"
    for name, made in TRAPS.items():
        made.make(base / "2024-02-01" / name)
    (base / "2024-02-01" / "stray.dcm").write_bytes(b"x")
    sheet = here / "labels.csv"
    pd.DataFrame([[name, "2024-02-01", "5", "1"] for name in TRAPS],
                 columns=["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练"]).to_csv(sheet, index=False)
    index = build_index(read_label_sheet(sheet), find_exams(base), base=base, scan_file=here / "scan.jsonl", workers=2,
                        rules=SeriesRules())
    return base, index, here / "scan.jsonl"


@pytest.mark.parametrize("name", TRAPS)
def test_the_right_series_is_chosen_and_every_other_has_a_reason(collection, name):
    base, index, _ = collection
    made, row = TRAPS[name], index.table.set_index("exam_id").loc[name]
    folder = f"2024-02-01/{name}"
    expected = "" if made.right is None else folder if made.right == "." else f"{folder}/{made.right}"
    got = row.series_relpath
    assert (got.rpartition("#")[0] if name == "everything_in_one_folder" else got) == expected
    assert row.right_series_relpath == (f"{folder}/{made.right_ear}" if made.right_ear else "")
    assert made.says in row.series_reason
    found = index.series[index.series.exam_id == name].set_index("series_relpath")
    assert (found.verdict == "chosen").sum() == (0 if made.right is None else 2 if made.right_ear else 1)
    for other, reason in made.verdicts.items():
        assert found.verdict[f"{folder}/{other}"] == reason
    of_series = {"chosen", *found.verdict}
    rejects = Counter(index.rejects.reason[index.rejects.exam_id == name])
    assert {reason: n for reason, n in rejects.items() if reason not in of_series} == {
        **made.rejects, **({"no_series": 1} if made.right is None else {})}
    if expected:
        opened = open_series(base / got)
        assert opened.shape[0] == found.slices[got] and opened.slice(3).dtype == np.int16


def test_a_file_that_is_not_dicom_is_reported_by_its_kind(collection):
    _, index, _ = collection
    said = index.rejects[index.rejects.exam_id == "archives_and_an_empty_file"].set_index("file").detail
    assert {file.rpartition("/")[2]: detail for file, detail in said.items()} == {
        "more.zip": "got a ZIP archive: unpack it", "IM0001.gz": "got a gzip archive: unpack it",
        "IM0100": "the file is empty: copy it again"}
    kinds = index.rejects.detail[(index.rejects.exam_id == "reports_and_captures") & (index.rejects.reason == "not_ct")]
    assert "got SOP class Secondary Capture Image Storage" in set(kinds)


def test_lines_of_a_stored_scan_that_are_not_scans_are_skipped(collection, tmp_path):
    base, index, kept = collection
    scan = tmp_path / "scan.jsonl"
    scan.write_bytes(b'[1]\n{"version": 2}\n{"version": 2, "exam": 3}\nrubbish\n' + kept.read_bytes())
    assert rebuilt(base, scan, tmp_path).counts == index.counts


def test_everything_found_is_used_or_accounted_for(collection):
    _, index, _ = collection
    found, *shares = (index.counts[f"files {what}"] for what in FILES)
    assert found == sum(shares) > 1000 and all(shares)
    assert "outside_exam" in set(index.rejects.reason)
    assert index.faults == (~index.rejects.reason.isin(HARMLESS)).sum() > 0


def test_the_manifest_has_for_each_ear_the_facts_of_its_own_series(collection):
    base, index, scan = collection
    built = build_manifest(index.table, base=base, scan_file=scan, key=bytes(32), workers=1)
    manifest, rejects = built.table, built.rejects
    assert set(rejects.reason) == {"no_series"}
    ears = manifest.set_index(["exam_id", "side"]).loc["reconstructions_of_one_ear_and_nothing_as_good"]
    assert [path.rpartition("/")[2] for path in ears.series_relpath] == ["b", "a"]
    assert ears.slice_increment_mm.tolist() == [0.5, 0.5] and ears.n_instances.tolist() == [60, 60]
    resampled = manifest.set_index("exam_id").loc["a_missing_slice"]
    assert resampled.slice_increment_mm.tolist() == [1, 1] and resampled.n_instances.tolist() == [39, 39]


def test_the_tables_can_be_written_and_read_whatever_the_names_of_folders(collection, tmp_path):
    _, index, _ = collection
    for table, frame in ((tables.INDEX, index.table), (tables.SERIES, index.series), (tables.REJECTS, index.rejects)):
        table.write(tmp_path / "t.csv", frame)
        again = table.read(tmp_path / "t.csv")
        for column in ("series_relpath", "file"):
            if column in frame:
                assert again[column].tolist() == frame[column].tolist()


def test_a_second_scan_reads_no_header_and_says_the_same(collection, tmp_path, monkeypatch):
    base, index, kept = collection
    again = tmp_path / "scan.jsonl"
    shutil.copy(kept, again)
    monkeypatch.setattr("medical_fenlei.ingest.scan.read_stacks", lambda folder: pytest.fail(f"{folder} was read again"))
    second = rebuilt(base, again, tmp_path)
    for name in ("table", "series", "rejects"):
        pd.testing.assert_frame_equal(getattr(second, name), getattr(index, name))
    assert second.counts == index.counts and again.read_bytes() == kept.read_bytes()


def rebuilt(base, scan, folder, **more):
    sheet = folder / "labels.csv"
    pd.DataFrame([[name, "2024-02-01", "5", "1"] for name in TRAPS],
                 columns=["检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练"]).to_csv(sheet, index=False)
    return build_index(read_label_sheet(sheet), find_exams(base), base=base, scan_file=scan, workers=1,
                       rules=more.pop("rules", SeriesRules()), **more)


def test_other_rules_choose_anew_without_reading_again(collection, tmp_path, monkeypatch):
    base, _, kept = collection
    monkeypatch.setattr("medical_fenlei.ingest.scan.read_stacks", lambda folder: pytest.fail("was read again"))
    file = tmp_path / "rules.toml"
    file.write_text('max_slice_spacing_mm = 0.7\nprefer = ["both_ears", "slice_spacing"]\n[refuse]\nkernel = "^H30"\n')
    table = rebuilt(base, kept, tmp_path, rules=read_rules(file)).table.set_index("exam_id")
    assert not table.series_relpath["a_missing_slice"]           # a slice spacing of 1 mm
    assert table.series_relpath["a_reformat_back_to_axial"].endswith("reformat")
    assert table.right_series_relpath["reconstructions_of_one_ear_beside_the_whole"].endswith("right")
    for text, says in (("max_spacing = 1", "max_spacing"), ('prefer = ["thick"]', "thick"), ('min_slices = "x"', "min_slices"),
                       ("max_step_mm = 1", "'max_step_mm' is now called 'max_slice_spacing_mm'"),
                       ('prefer = ["high"]', "'high' is now called 'z_coverage'"),
                       ("[bone_kernels]\nge = '('", "regular expression"),
                       ('bone_kernels = "x"', "rules.toml"), ("prefer = 3", "rules.toml"), ("nonsense", "TOML")):
        file.write_text(text)
        with pytest.raises(UserError, match=says):
            read_rules(file)
    with pytest.raises(UserError, match=r"rule\.toml: no such file; near names: .*rules\.toml"):
        read_rules(tmp_path / "rule.toml")


@pytest.mark.parametrize("spoil", ["touched", "added", "removed", "grown", "renamed"])
def test_an_exam_whose_files_changed_is_read_again_and_no_other(collection, tmp_path, monkeypatch, spoil):
    source, _, kept = collection
    base, scan = tmp_path / "data", tmp_path / "scan.jsonl"
    names = ("scouts", "thick_slices", "copies")
    for name in names:
        shutil.copytree(source / "2024-02-01" / name, base / "2024-02-01" / name)
    shutil.copy(kept, scan)                                      # copytree keeps the times
    path = base / "2024-02-01/thick_slices/bone/IM0007"
    if spoil == "touched":
        os.utime(path, ns=(1, 1))
    elif spoil == "added":
        path.with_name("note").write_text("x")
    elif spoil == "removed":
        path.unlink()
    elif spoil == "grown":
        times = path.stat()
        path.write_bytes(path.read_bytes() + b"\0\0")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        path.rename(path.with_name("renamed"))
    read, real = [], scan_module.scan_exam
    monkeypatch.setattr(scan_module, "scan_exam", lambda base, exam, **how: read.append(exam) or real(base, exam, **how))
    exams = [f"2024-02-01/{name}" for name in names]
    for _ in range(2):                                           # and once only
        found = [outcome.value for outcome, _ in scan_exams(base, exams, scan, workers=1)]
    assert read == ["2024-02-01/thick_slices"]
    assert found == [real(base, exam) for exam in exams]


def test_a_scan_that_was_cut_short_goes_on_and_torn_lines_are_read_again(collection, tmp_path, monkeypatch):
    base, _, kept = collection
    exams = [f"2024-02-01/{name}" for name in TRAPS]
    whole = [outcome.value for outcome, _ in scan_exams(base, exams, kept, workers=1)]
    scan = tmp_path / "scan.jsonl"
    lines = kept.read_bytes().splitlines(keepends=True)
    scan.write_bytes(b"".join(lines[:6]) + lines[6][:50])
    read, real = [], scan_module.scan_exam

    def until(base, exam, **how):
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(exam)
        return real(base, exam, **how)

    monkeypatch.setattr(scan_module, "scan_exam", until)
    with pytest.raises(KeyboardInterrupt):
        list(scan_exams(base, exams, scan, workers=1))
    monkeypatch.setattr(scan_module, "scan_exam", lambda base, exam, **how: read.append(exam) or real(base, exam, **how))
    assert [outcome.value for outcome, _ in scan_exams(base, exams, scan, workers=1)] == whole
    assert len(read) == len(set(read)) == len(TRAPS) - 5         # an empty line first: five of six were whole


def test_a_folder_that_cannot_be_listed_has_a_row(collection, tmp_path, monkeypatch):
    base = collection[0]
    scandir, opened = os.scandir, os.open

    def refusing(real):
        def look(path, *more):
            if str(path).endswith(("scouts/bone", "2024-02-02")):
                raise PermissionError(13, "Permission denied")
            return real(path, *more)

        return look

    (base / "2024-02-02").mkdir()
    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "open", refusing(opened))
    scan = tmp_path / "scan.jsonl"
    index = rebuilt(base, scan, tmp_path)
    (base / "2024-02-02").rmdir()
    rows = index.rejects[index.rejects.reason == "unreadable"]
    assert rows.file.tolist() == ["2024-02-02", "2024-02-01/scouts/bone"] and set(rows.detail) == {"Permission denied"}
    assert not index.table.set_index("exam_id").series_relpath["scouts"]


@pytest.mark.parametrize("outer", ["20240601", "2024.06.01", "2024-06-01"])
def test_a_wrapper_named_like_a_date_is_not_the_date_of_its_exams(tmp_path, outer):
    for below in ("hospital A/2024-02-01/E1", "2024-02-01/E2"):
        (tmp_path / outer / below / "s").mkdir(parents=True)
    assert [(exam.exam_id, exam.date) for exam in find_exams(tmp_path).exams] == [("E1", "2024-02-01"), ("E2", "2024-02-01")]


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    exam = tmp_path / "2024-02-01/e"
    series(exam / "bone")
    scan, real, refused = tmp_path / "scan.jsonl", scan_module.read_stacks, []

    def once(folder):
        if not refused:
            refused.append(folder)
            raise Rejected("unreadable", "Input/output error")
        return real(folder)

    monkeypatch.setattr(scan_module, "read_stacks", once)
    for series_found in (0, 1):
        (outcome, _), = scan_exams(tmp_path, ["2024-02-01/e"], scan, workers=1)
        assert len(outcome.value.series) == series_found


def test_lines_of_a_stored_scan_with_invalid_fields_are_skipped(tmp_path):
    series(tmp_path / "2024-02-01/e/bone")
    scan = tmp_path / "scan.jsonl"
    (first, listing), = scan_exams(tmp_path, ["2024-02-01/e"], scan, workers=1)
    line = {"version": scan_module.SCAN_VERSION, "exam": "2024-02-01/e", "stamp": listing.stamp}
    for wrong in ({}, {"files": 1, "problems": [], "series": [{"notes": [], "colour": 3}]}, {"files": 1, "series": 3}):
        scan.write_text(json.dumps({**line, **wrong}) + "\n")
        (again, _), = scan_exams(tmp_path, ["2024-02-01/e"], scan, workers=1)
        assert again.value == first.value
