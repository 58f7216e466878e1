"""Nothing that identifies a person is written: exams full of canaries go in, and every byte that is written is searched."""
import base64
import hashlib
import io
import json
import re
import traceback
import urllib.parse
import zipfile

import numpy as np
import pandas as pd
import pydicom
import pytest
from helpers.commands import run
from helpers.dicom_files import SeriesFormat, axial, shorten_pixels, write_volume
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from medical_fenlei import tables
from medical_fenlei.dicom.header import read_header
from medical_fenlei.errors import Rejected
from medical_fenlei.training.step import Stepper

SHAPE, SPACING = (10, 64, 64), (1.0, 2.5, 2.5)
EXAMS = tuple(f"{n:06d}" for n in range(12))
SPLITS = "artifacts/splits_dual_patient"
CUT = ("--num-slices", 4, "--image-size", 32, "--crop-mm", 40)
FIT = ("--pct", 100, "--backbone", "test_resnet", "--epochs", 1, "--batch-size", 8, "--precision", "fp32", "--device", "cpu")

WORDS = ("canary", "金丝雀")
"""Stand in every text; no program has them by itself."""
PATIENT_ID, BORN, UID = "P7731-canary", ("1934", "02", "17"), "1.2.826.0.1.3680043.77.31934"
DATES = ["".join(BORN), *(mark.join(part) for mark in "-./" for part in (BORN, BORN[::-1])), "1934年02月17日"]
SECRETS = (*WORDS, *DATES, UID)

READ = {"Manufacturer", "ManufacturerModelName", "ConvolutionKernel"}
"""Texts that the manifest tells on purpose: of the scanner."""
TEXTS = sorted({keyword for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
                if vr in ("PN", "LO", "SH", "LT", "ST", "UT", "UC") and tag >> 16 > 2} - READ - {""})


def forms_of(secret):
    """The ways in which a text may stand in a file: encodings, escapes, encodings misread, taken for a list of letters."""
    forms = set()
    cases = secret, secret.upper(), secret.capitalize()
    for text in {between.join(case) for case in cases for between in ("", "\\", " ")}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "gb18030"):
            raw = text.encode(encoding)
            forms |= {raw, raw.decode("latin-1").encode("utf-8"), repr(raw)[2:-1].encode(), raw.hex().encode()}
        forms |= {json.dumps(text)[1:-1].encode(), urllib.parse.quote(text).encode(), ascii(text)[1:-1].encode()}
    return forms


def hashes_of(text):
    return {hashlib.new(name, text.encode()).hexdigest()[:16].encode() for name in ("md5", "sha1", "sha256")}


def any_of(words, depth=4):
    """A pattern for any of the words that asks for one byte after the other: fifty times as fast as asking for each word."""
    if depth == 0 or b"" in words:
        return b"(?:" + b"|".join(map(re.escape, sorted(words))) + b")"
    rests = {first: {word[1:] for word in words if word[:1] == first} for first in {word[:1] for word in words}}
    return b"(?:" + b"|".join(re.escape(first) + any_of(rest, depth - 1) for first, rest in sorted(rests.items())) + b")"


NEEDLES = re.compile(any_of(
    set().union(*map(forms_of, SECRETS), hashes_of(PATIENT_ID), hashes_of("".join(BORN)), hashes_of(UID))))


def found_in(content, where):
    """(place, bytes around) of whatever stands in it, looked for inside archives, pictures and pages too."""
    hits = [(where, content[max(0, hit.start() - 40):hit.end() + 20]) for hit in NEEDLES.finditer(content)]
    if zipfile.is_zipfile(io.BytesIO(content)):                  # NPZ, checkpoints, workbooks
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                hits += found_in(name.encode() + b"\n" + archive.read(name), f"{where}:{name}")
    if content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as picture:
            hits += found_in(repr(picture.info).encode(), f"{where}:info")
    for number, inner in enumerate(re.findall(rb"data:[a-z/]+;base64,([A-Za-z0-9+/=]+)", content)):
        hits += found_in(base64.b64decode(inner), f"{where}:{number}")
    return hits


def found_below(folder):
    hits = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith(("data/", "metadata/")):
            hits += found_in(name.encode(), name) + found_in(path.read_bytes(), name)
    return hits


def person(number):
    """Whom the headers of an exam name."""
    header = {
        "SpecificCharacterSet": "ISO_IR 192" if number % 3 == 1 else "GB18030",
        "PatientName": f"Canary^N{number}=金丝雀^{number}", "PatientID": f"{PATIENT_ID}{number // 2}",
        "PatientBirthDate": "".join(BORN), "PatientAge": "", "PatientSex": "F", "StudyDate": "20200102",
        "OtherPatientIDs": ["canary1", "canary2"], "PatientAddress": "金丝雀街 1", "AccessionNumber": "canary9",
        "ReferringPhysicianName": "Canary^Doctor", "StudyDescription": "CT of Canary 金丝雀",
        "StudyInstanceUID": f"{UID}.{number}", "SeriesInstanceUID": f"{UID}.{number}.1",
    }
    if number == 1:
        header["PatientID"] = ""                                 # told apart by name and birth date
    return header


def plant_everywhere(path, keywords):
    """A canary in each of these elements, in nested ones, in private ones, in the preamble."""
    ds = pydicom.dcmread(path)
    for keyword in keywords:
        if not ds.get(keyword):
            setattr(ds, keyword, f"canary{TEXTS.index(keyword)}金丝雀")
    inner = Dataset()
    inner.RequestedProcedureDescription, inner.ScheduledPerformingPhysicianName = "canary", "Canary^金丝雀"
    ds.RequestAttributesSequence = [inner]
    block = ds.private_block(0x0029, "CANARY MAKER", create=True)
    block.add_new(1, "LO", "canary 金丝雀")
    block.add_new(2, "UN", "金丝雀 canary".encode("gb18030"))
    ds.file_meta.SourceApplicationEntityTitle = "CANARYAE"
    ds.preamble = b"canary".ljust(128)
    ds.save_as(path, enforce_file_format=True)


def damage(folder):
    """Files whose error messages would quote what they hold."""
    files = sorted(folder.iterdir())
    for number, (name, value) in enumerate({"PixelSpacing": "canary\\0.5", "RescaleSlope": "canary", "Rows": "canary",
                                            "ImagePositionPatient": "金丝雀", "NumberOfFrames": "canary"}.items()):
        ds = pydicom.dcmread(files[number])
        ds.pop(name, None)
        ds.add_new(name, "LO", value)
        ds.save_as(folder / f"damaged{number}", enforce_file_format=True)
    content = files[0].read_bytes()
    (folder / "short").write_bytes(content[:content.index(b"Canary") + 6])
    (folder / "text.dcm").write_text("canary 金丝雀", encoding="gb18030")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    here = tmp_path_factory.mktemp("hospital")
    rng = np.random.default_rng(0)
    rows = []
    for number, exam in enumerate(EXAMS):
        folder = here / "data/medical_data_2" / f"2020-01-{number + 1:02d}" / exam / "bone"
        files = write_volume(folder, rng.integers(-1000, 2000, SHAPE), axial(SHAPE, SPACING),
                             SeriesFormat(attributes=person(number)))
        if number % 3 == 2:                                      # an export that does not say what its characters are
            for path in files:
                path.write_bytes(path.read_bytes().replace(b"GB18030 ", b" " * 8))
        if number == 0:
            for k, path in enumerate(files):                     # one header longer than what is read of a file at first
                plant_everywhere(path, TEXTS[k:: len(files)] if k else TEXTS)
        if number == 2:
            damage(folder)
        if number == 3:                                          # nothing of this exam can be used
            for path in files:
                path.write_bytes(path.read_bytes().replace(b"CTNO", b"").replace(b"2.5", b"abc"))
        if number == 4:
            shorten_pixels(files[5], 100)
        rows.append({"姓名": "金丝雀", "检查号": exam, "检查时间": "2020-01-01", "出生日期": DATES[1], "住院号": PATIENT_ID,
                     "左侧诊断-训练": "5：正常" if number % 2 else "1：", "右侧诊断-训练": "2：" if number % 3 else "9：",
                     "影像所见": "canary 金丝雀", "检查结论": f"金丝雀, {DATES[0]}"})
    (here / "metadata").mkdir()
    with pd.ExcelWriter(here / "metadata/labels.xlsx") as book:
        pd.DataFrame(rows).to_excel(book, sheet_name="影像学检查", index=False)
    return here


def said(capfd):
    """Hits in what was said since the last time."""
    out = capfd.readouterr()
    return found_in(out.out.encode(), "stdout") + found_in(out.err.encode(), "stderr")


@pytest.mark.end_to_end
def test_the_whole_route_lets_no_canary_out(here, capfd):
    assert run("build_index", "--num-workers", 1) == 3
    assert run("build_manifest_ears", "--num-workers", 2) == 3
    manifest = tables.MANIFEST.read(here / "artifacts/manifest_ears.csv")
    assert set(manifest.patient_key_source) == {"patient_id", "name_birth_date"} and (manifest.age_years == 85).all()
    assert run("make_splits_dual", "--out-dir", SPLITS, "--patient-split", "--val-ratio", 0.4, "--tune-ratio", 0.3) == 0
    assert run("build_cache_ears", "--splits-root", SPLITS, *CUT, "--num-workers", 1) == 0
    assert run("check_patient_leakage", "--pixels", "--num-workers", 1) == 3                           # a slice is cut short
    assert run("qa_manifest_ears") == 0 and run("qa_cache_ears", "--worst", 2, "--num-workers", 1) == 0
    assert run("train_ear2d", "--splits-root", SPLITS, *FIT, "--output-dir", "outputs/a") == 0
    checkpoint = ("--checkpoint", "outputs/a/checkpoints/best.pt")
    assert run("calibrate_ear2d", *checkpoint) in (0, 2)         # the tune set may hold one class
    assert run("eval_ear2d", "--pictures", 2, *checkpoint, "--resamples", 20) == 0
    assert run("audit_run", *checkpoint, "--resamples", 20) in (0, 1)
    assert run("retrieve_neighbors_ear2d", *checkpoint, "--split", "val") == 0
    assert run("extract_embeddings_ear2d", *checkpoint, "--split", "val", "--out-npz", "artifacts/emb.npz") == 0
    assert run("predict_ear2d", *checkpoint, "--dicom", "data/medical_data_2", "--out-dir", "answers", "--num-workers", 1) == 3
    assert said(capfd) == [] and found_below(here) == []
    written = {path.suffix for path in here.rglob("*") if path.is_file() and "data/" not in path.as_posix()}
    assert {".csv", ".json", ".jsonl", ".npy", ".npz", ".pt", ".png", ".html", ".log", ".key"} <= written
    told = (here / "outputs/a/reports/predictions_val.csv").read_text()
    assert all(exam in told for exam in tables.read_split(here / SPLITS, 100).sets["val"].exam_id)          # the exam id stays


def test_runs_that_fail_let_no_canary_out(here, capfd, monkeypatch):
    from medical_fenlei.ingest import manifest

    def fail(*words):
        raise ValueError(f"cannot be: {words!r} canary 金丝雀 {UID}")

    assert run("build_index", "--num-workers", 1) == 3
    with monkeypatch.context() as patch:                         # an error that quotes, in a map over exams
        patch.setattr(manifest, "patient_evidence", fail)
        assert run("build_manifest_ears", "--num-workers", 1) == 2           # no ear is left: no manifest is written
    assert run("build_manifest_ears", "--num-workers", 1) == 3
    assert run("make_splits_dual", "--out-dir", SPLITS, "--patient-split", "--val-ratio", 0.4, "--tune-ratio", 0.3) == 0
    assert run("build_cache_ears", "--splits-root", SPLITS, *CUT, "--num-workers", 1) == 0
    with monkeypatch.context() as patch:                         # a fault of the program, which keeps its traceback
        patch.setattr(Stepper, "__call__", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError) as error:
            run("train_ear2d", "--splits-root", SPLITS, *FIT, "--output-dir", "outputs/broken")
    frames = [frame for frame in traceback.extract_tb(error.tb) if frame.filename != __file__]
    shown = traceback.format_list(frames) + traceback.format_exception_only(error.value)
    assert len(frames) > 3 and found_in("".join(shown).encode(), "traceback") == []
    for path in (here / "cache").rglob("*.npy"):
        path.write_bytes(b"canary")
    for words in (("build_index", "--xlsx-path", "data"), ("build_manifest_ears", "--index-csv", "metadata/labels.xlsx"),
                  ("train_ear2d", "--splits-root", SPLITS, *FIT, "--output-dir", "outputs/b"),
                  ("build_index", "--dicom-base", "metadata")):
        assert run(*words) in (2, 3)
    for path in (here / "cache").rglob("*.npy"):
        path.unlink()
    assert said(capfd) == [] and found_below(here) == []


COLUMNS = ("检查号", "检查时间", "左侧诊断-训练", "右侧诊断-训练")


@pytest.mark.parametrize("write", [
    pytest.param(lambda: pd.DataFrame([["1", "2020-01-01", "5 金丝雀", "5"]], columns=COLUMNS).to_csv("sheet.csv", index=False),
                 id="a name in a label"),
    pytest.param(lambda: pd.DataFrame([["金丝雀", "1", "5", "5"]]).to_csv("sheet.csv", index=False, header=False),
                 id="no header"),
])
def test_a_sheet_that_cannot_be_read_is_not_quoted(here, capfd, write):
    write()
    run("build_index", "--xlsx-path", "sheet.csv", "--num-workers", 1)
    (here / "sheet.csv").unlink()
    assert said(capfd) == [] and found_below(here) == []


def test_a_damaged_sop_class_is_not_quoted(tmp_path):
    path, *_ = write_volume(tmp_path / "s", np.zeros(SHAPE, int), axial(SHAPE, SPACING))
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"canary".ljust(26)))
    with pytest.raises(Rejected) as error:
        read_header(path)
    assert error.value.reason == "not_ct" and found_in(str(error.value).encode(), "detail") == []


def test_a_table_of_another_kind_is_not_quoted(here, capfd):
    (here / "some.csv").write_text("金丝雀,1934-02-17\n1,2\n")
    assert run("build_manifest_ears", "--index-csv", "some.csv") == 2
    assert said(capfd) == []


def test_the_search_finds_what_it_looks_for(tmp_path):
    """A canary in each of the ways in which one could get out."""
    hidden = {
        "a.csv": "name,金丝雀\n".encode(), "b.log": "Canary^N1".encode("utf-16-le"), "c.txt": "金丝雀".encode("gb18030"),
        "d.json": json.dumps({"x": "金丝雀"}).encode(), "e.txt": repr("金丝雀".encode("gb18030")).encode(),
        "f.txt": "金丝雀".encode("gb18030").decode("latin-1").encode(), "g.txt": b"born 1934-02-17",
        "o.txt": b"C\\a\\n\\a\\r\\y",
        "h.txt": hashlib.sha256(PATIENT_ID.encode()).hexdigest().encode(), "i.txt": f"{UID}.3".encode(), "canary.txt": b"",
    }
    for name, content in hidden.items():
        (tmp_path / name).write_bytes(content)
    np.savez_compressed(tmp_path / "j.npz", name=np.array(["金丝雀"]))
    picture = io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "PNG", pnginfo=_note("canary"))
    (tmp_path / "k.png").write_bytes(picture.getvalue())
    (tmp_path / "l.html").write_bytes(b"<img src=data:image/png;base64," + base64.b64encode(picture.getvalue()) + b">")
    (tmp_path / "clean.txt").write_text("1934 cases, 金丝, can be")
    assert {where.split(":")[0] for where, _ in found_below(tmp_path)} == {*hidden, "j.npz", "k.png", "l.html"}


def _note(text):
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    note.add_text("Comment", text, zip=True)
    return note
