"""Copies of a scan under other ids are found in any encoding, and different scans are not taken for copies."""
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from helpers.commands import run
from helpers.dicom_files import SeriesFormat, axial, write_volume
from helpers.small_study import SPEC
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid

from medical_fenlei import tables
from medical_fenlei.ears.store import EarStore
from medical_fenlei.ingest.manifest import build_manifest
from medical_fenlei.leakage.same_pixels import cached_marks, decoded_marks
from medical_fenlei.leakage.shared import shared_exams, shared_marks, study_marks
from medical_fenlei.tables import Split
from medical_fenlei.vocabulary import Side

SHAPE = (10, 64, 64)
SPACING = (1.0, 2.5, 2.5)
WHO = {"000": "A", "001": "B", "002": "C", "003": "B", "004": "D", "005": "E", "006": "F"}
"""Exams and their patients: 002 is 000 sent again as somebody else, 003 is 001 sent again, 004 and 005 are air."""
COPIES = "000; 002"


def hu_of(number):
    return np.random.default_rng(number).integers(-1000, 2000, SHAPE)


def sent_again(folder, target, patient):
    """Copies of the files with other UIDs, another patient and another transfer syntax."""
    target.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.PatientName, ds.AccessionNumber = patient, f"{patient}^Other", "other"
        ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = (
            generate_uid(entropy_srcs=[str(target), word]) for word in (str(number), "series", "study"))
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(target / f"X{99 - number}.dcm", enforce_file_format=True)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    here = tmp_path_factory.mktemp("collection")
    base = here / "data/medical_data_2"
    for exam in ("000", "001", "006"):
        write_volume(base / exam, hu_of(int(exam)), axial(SHAPE, SPACING), SeriesFormat(attributes={"PatientID": WHO[exam]}))
    sent_again(base / "000", base / "002", WHO["002"])
    other = SeriesFormat(attributes={"PatientID": "B"}, signed=False, intercept=-1024, syntax=JPEGLSLossless)
    write_volume(base / "003", hu_of(1) + 1024, axial(SHAPE, SPACING), other, reverse=True)
    for exam in ("004", "005"):
        empty = SeriesFormat(attributes={"PatientID": WHO[exam]})
        write_volume(base / exam, np.full(SHAPE, -1000), axial(SHAPE, SPACING), empty)
    index = tables.INDEX.frame([
        {"exam_id": exam, "date": "2020-01-01", "label_date": "2020-01-01", "date_match": True, "ambiguous_match": False,
         "exam_relpath": exam, "series_relpath": exam, "n_instances": SHAPE[0], "left_code": 5, "right_code": 1,
         "series_reason": ""} for exam in WHO])
    tables.INDEX.write(here / "artifacts/dataset_index.csv", index)
    manifest = build_manifest(index, base=base, scan_file=base / "scan.jsonl", key=bytes(32), workers=1).table
    tables.MANIFEST.write(here / "artifacts/manifest_ears.csv", manifest)
    return here, index, manifest


@pytest.fixture
def here(collection, tmp_path, monkeypatch):
    """A working folder with the collection in it."""
    (tmp_path / "data").symlink_to(collection[0] / "data")
    tables.MANIFEST.write(tmp_path / "artifacts/manifest_ears.csv", collection[2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def split(here, collection):
    """Writes a split: of each set its exams; by patient, or by exam."""
    _, index, manifest = collection
    patient = manifest.drop_duplicates("exam_id").set_index("exam_id").patient_key

    def write(by_patient=True, **sets):
        for name, exams in sets.items():
            rows = index[index.exam_id.isin(exams)]
            rows = rows.assign(patient_key=rows.exam_id.map(patient) if by_patient else "")
            tables.SPLIT.write(here / "artifacts/splits_dual/100pct" / f"{name}.csv", rows)

    return write


APART = {"train": ["000", "001", "003", "004"], "val": ["002", "005", "006"]}
TOGETHER = {"train": ["000", "001", "002", "003", "004"], "val": ["005", "006"]}


def check(capsys, *words):
    capsys.readouterr()
    status = run("check_patient_leakage", "--num-workers", 1, *words)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_copy_under_other_ids_and_syntax_is_found_by_its_decoded_slices(split, capsys):
    split(**APART)
    assert check(capsys)[0] == 0                                 # by patient there is nothing to see
    status, out, err = check(capsys, "--pixels")
    assert status == 1 and "LEAKAGE: 1 groups of exams hold the same" in out
    row, = (line for line in out.splitlines() if COPIES in line)
    assert "middle slice" in row and "train; val" in row
    assert "1 groups of exams hold the same, within one patient or set" in err and "001; 003" in out
    assert not re.search(r"\b00[45]\b", out)                      # air is nobody's
    assert "decoded pixels checked: 5 of 7 exams" in out


def test_within_one_set_a_copy_under_another_patient_is_a_warning(split, capsys):
    split(**TOGETHER)
    status, out, err = check(capsys, "--pixels")
    assert status == 0 and "2 groups of exams hold the same" in err and COPIES in out and "LEAKAGE" not in out


def test_before_any_split_a_copy_under_another_patient_is_a_leak_and_under_the_same_is_not(here, capsys):
    status, out, err = check(capsys, "--pixels")
    assert status == 1 and out.count(COPIES) == 1 and "1 groups of exams hold the same, within" in err


def test_a_split_by_exam_fails_if_it_parts_a_patient_or_copies_under_different_patients(split, collection, capsys):
    split(by_patient=False, train=["000", "001"], val=["003", "006"])
    status, out, err = check(capsys, "--pixels")
    assert status == 1 and COPIES in out                         # in no set together: nothing keeps them so
    patient = collection[2].drop_duplicates("exam_id").set_index("exam_id").patient_key
    assert patient["001"] == patient["003"] != patient["000"]
    assert "LEAKAGE: 1 patients are in several sets" in out and patient["001"] in out
    split(by_patient=False, train=["000", "001", "002", "003"], val=["006"])
    status, out, err = check(capsys, "--pixels")
    assert status == 0 and "2 groups of exams" in err


def test_the_cache_suffices_to_find_copies_without_decoding(split, here, capsys):
    split(train=["000", "001", "003"], val=["002", "006"])
    flags = ("--num-slices", 4, "--image-size", 32, "--crop-mm", 40, "--num-workers", 1)
    assert run("build_cache_ears", "--splits-root", "artifacts/splits_dual", *flags) == 0
    (here / "data").unlink()                                     # no DICOM is read
    status, out, _ = check(capsys)
    assert status == 1 and "cached pixels checked: 5 of 7 exams" in out and "decoded pixels not checked" in out
    row, = (line for line in out.splitlines() if COPIES in line)
    assert "cached ear" in row
    assert check(capsys, "--cache-dir", "nowhere")[0] == 0
    assert "cached pixels not checked: no cache in nowhere" in check(capsys, "--cache-dir", "nowhere")[1]


def test_exams_of_one_study_are_found_without_pixels(split, here, collection, capsys):
    manifest = collection[2].copy()
    manifest.loc[manifest.exam_id == "006", "study_key"] = manifest.study_key[manifest.exam_id == "000"].iloc[0]
    tables.MANIFEST.write(here / "artifacts/manifest_ears.csv", manifest)
    split(**APART)
    status, out, _ = check(capsys)
    assert status == 1 and any("study" in line and "000; 006" in line for line in out.splitlines())
    tables.MANIFEST.write(here / "artifacts/manifest_ears.csv", manifest.drop(columns=list(tables.SUBGROUP_FACTS)))
    status, out, _ = check(capsys)
    assert status == 0 and "studies checked: 0 of 7 exams; a manifest of an earlier version" in out


def test_one_exam_in_two_sets_is_a_leak_of_any_split(split, capsys):
    split(by_patient=False, train=["000", "001"], val=["001", "006"])
    status, out, _ = check(capsys)
    assert status == 1 and "LEAKAGE: 1 exams are in several sets of one split" in out


def test_a_series_that_cannot_be_decoded_is_reported_and_the_others_are_checked(collection, here, capsys):
    (here / "data").unlink()
    base = here / "data/medical_data_2"
    for exam in ("000", "002", "006"):
        (base / exam).mkdir(parents=True)
        for path in (collection[0] / "data/medical_data_2" / exam).iterdir():
            content = path.read_bytes()
            (base / exam / path.name).write_bytes(content[:-200] if exam == "006" else content)
    status, out, _ = check(capsys, "--pixels")
    assert status == 1 and COPIES in out
    rejects = tables.REJECTS.read(here / "artifacts/leakage_pixels_rejects.csv").set_index("exam_id").reason
    assert rejects["006"] == "bad_pixels" and rejects["001"] == "missing_folder" and len(rejects) == 5
    assert check(capsys, "--pixels", "--dicom-base", "nowhere")[0] == 2


def test_a_run_is_checked_with_the_splits_that_it_used(split, here, capsys):
    from medical_fenlei import settings
    from medical_fenlei.config import EAR_ROUTE
    from medical_fenlei.files import sha256
    from medical_fenlei.runs import Run

    split(**APART)
    folder = here / "artifacts/splits_dual/100pct"
    plain = settings.to_json(EAR_ROUTE)
    plain["data"]["pct"] = 100
    files = {"manifest": here / "artifacts/manifest_ears.csv", "train": folder / "train.csv", "val": folder / "val.csv"}
    run_folder = Run.new(here / "outputs/a", "a")
    run_folder.write_config(plain, {"data": {name: sha256(path) for name, path in files.items()}})
    store = EarStore(here / "cache/ears_hu", EAR_ROUTE.ears)
    store.write_spec()
    rows = [{"exam_id": exam, "side": "left", "file": f"{exam}.npy", "sha256": "same" if exam in "000 002" else exam}
            for exam in WHO]
    tables.CACHE_INDEX.write(store.folder / "index.csv", tables.CACHE_INDEX.frame(rows))
    status, out, err = check(capsys, "--run", "outputs/a")
    assert status == 1 and COPIES in out and f"{store.folder.name}" in out and "has changed" not in err
    split(**TOGETHER)
    status, out, err = check(capsys, "--run", "outputs/a")
    assert status == 0 and "train.csv: has changed since the run read it" in err
    assert check(capsys, "--run", "outputs/none")[0] == 2


def store_of(folder, volumes):
    store = EarStore(folder, SPEC)
    store.write_spec()
    for (exam, side), volume in volumes.items():
        store.write(exam, side, volume.astype(np.int16), {})
    store.write_index()
    return cached_marks(store.folder)


def alike(marks):
    counts = marks.groupby("mark").exam_id.unique()
    return sorted(tuple(sorted(exams)) for exams in counts if len(exams) > 1)


def test_empty_ears_and_ears_with_a_frame_alone_are_not_the_same(tmp_path):
    rng = np.random.default_rng(0)
    air, framed = np.full(SPEC.shape, -1000), np.full(SPEC.shape, -1000)
    framed[:, :8] = -1024
    ear, other = rng.integers(-1000, 2000, (2, *SPEC.shape))
    almost = ear.copy()
    almost[3, 4, 5] += 1
    marks = store_of(tmp_path, {
        ("air1", Side.LEFT): air, ("air2", Side.LEFT): air, ("frame1", Side.LEFT): framed, ("frame2", Side.LEFT): framed,
        ("a", Side.LEFT): ear, ("b", Side.LEFT): ear, ("c", Side.LEFT): other, ("d", Side.LEFT): almost,
        ("m", Side.RIGHT): other, ("m", Side.LEFT): other})
    assert alike(marks) == [("a", "b"), ("c", "m")]              # also where it lies on the other side


def test_a_slice_more_at_one_end_does_not_hide_a_copy(tmp_path):
    hu = hu_of(5)
    write_volume(tmp_path / "a", hu, axial(SHAPE, SPACING))
    write_volume(tmp_path / "b", hu[2:], axial((SHAPE[0] - 2, *SHAPE[1:]), SPACING))
    write_volume(tmp_path / "c", hu[:, ::-1], axial(SHAPE, SPACING))
    exams = pd.DataFrame({"exam_id": list("abc"), "series_relpath": list("abc")})
    marks, rejects = decoded_marks(exams, dicom_base=tmp_path, workers=1)
    assert set(alike(marks)) == {("a", "b")} and rejects.empty and len(marks) == 9


def frame(**sets):
    return Split(folder=Path(), sets={name: pd.DataFrame({"exam_id": exams}) for name, exams in sets.items()}, by_patient=True)


def test_exams_missing_from_manifest_and_splits_do_not_count():
    marks = pd.DataFrame({"exam_id": ["1", "gone", "2", "unknown"], "evidence": "e", "mark": ["x", "x", "y", "y"]})
    manifest = pd.DataFrame({"exam_id": ["1", "2"], "patient_key": ["p", "q"]})
    assert shared_marks(marks, manifest, []).empty
    found = shared_marks(marks, manifest, [frame(train=["2"], val=["unknown"])])     # the split knows it: its own patient
    assert found.exam_ids.tolist() == ["2; unknown"] and found.leak.all() and found.patient_keys.tolist() == ["q; unknown"]


def test_without_copies_the_table_is_empty():
    manifest = pd.DataFrame({"exam_id": ["1", "2"], "patient_key": ["p", "q"], "study_key": ["s", "t"]})
    assert shared_marks(study_marks(manifest), manifest, []).empty and shared_exams([frame(train=["1"], val=["2"])]).empty


def test_ears_of_another_series_than_the_manifest_names_are_not_compared(tmp_path, caplog):
    """Neither are those that were cut anew since the index was written."""
    store = EarStore(tmp_path, SPEC)
    store.write_spec()
    ear, other = np.random.default_rng(0).integers(-1000, 2000, (2, *SPEC.shape)).astype(np.int16)
    for exam in ("a", "b", "c", "d"):
        store.write(exam, Side.LEFT, ear, {"series_relpath": f"{exam}/bone", "source": "1"})
    store.write_index()
    store.write("d", Side.LEFT, other, {"series_relpath": "d/bone", "source": "1"})
    wanted = (("a", "bone", "1"), ("b", "soft", "1"), ("c", "bone", "2"), ("d", "bone", "1"))
    manifest = pd.DataFrame([{"exam_id": exam, "side": "left", "series_relpath": f"{exam}/{series}", "series_digest": digest}
                             for exam, series, digest in wanted])
    assert alike(cached_marks(store.folder)) == [("a", "b", "c", "d")]
    caplog.set_level("WARNING", logger="medical_fenlei")
    assert cached_marks(store.folder, manifest).exam_id.tolist() == ["a"]
    assert "3 of 4 cached ears were not cut from" in caplog.text
