"""The label sheet is matched with the folders on disk, and every row and folder without a match is accounted for."""
import re

import pandas as pd
import pytest
from helpers.dicom_files import SeriesFormat, axial, head, write_volume

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.index import build_index
from medical_fenlei.ingest.index_counts import FILES
from medical_fenlei.ingest.label_sheet import LabelSheet, read_label_sheet
from medical_fenlei.ingest.manifest import build_manifest
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.ingest.tree import find_exams


@pytest.mark.parametrize(("in_sheet", "lost"), [(["123", "0"], 1), (["00123", "123"], 0), (["124"], 0)])
def test_exams_that_only_leading_zeros_keep_apart_are_counted_and_not_matched(tmp_path, in_sheet, lost):
    (tmp_path / "2020-01-05" / "00123").mkdir(parents=True)
    labels = pd.DataFrame([(exam_id, "", 5, 5) for exam_id in in_sheet],
                          columns=["exam_id", "label_date", "left_code", "right_code"])
    date = {"exam_id": "123", "file": "labels.csv, row 2", "reason": "unparsable_date", "detail": ""}
    index = build_index(LabelSheet(labels, len(labels), [date], ""), find_exams(tmp_path), base=tmp_path, workers=1,
                        scan_file=tmp_path / "scan.jsonl", rules=SeriesRules())
    assert index.counts["of these, there but for leading zeros"] == lost
    assert set(index.table.exam_id) == {"00123"} & set(in_sheet)
    assert index.faults == len(index.table)                      # the empty folder; a date that is none is no fault


def test_a_folder_is_named_by_its_id_however_it_is_typed(tmp_path):
    for name in ("００１２３", " 00124 ", "A-7"):
        (tmp_path / "2020-01-05" / name).mkdir(parents=True)
    assert [exam.exam_id for exam in find_exams(tmp_path).exams] == ["00123", "00124", "A-7"]


def test_a_row_without_a_readable_id_counts_as_a_row_and_not_as_an_exam(tmp_path):
    bone(tmp_path / "data/2024-02-01/123/bone")
    sheet = tmp_path / "labels.csv"
    sheet.write_text("检查号,左侧诊断-训练,右侧诊断-训练\n123,5,1\n1.2E+07,5,1\n,5,\n", encoding="utf-8")
    index = build_index(read_label_sheet(sheet), find_exams(tmp_path / "data"), base=tmp_path / "data", workers=1,
                        scan_file=tmp_path / "scan.jsonl", rules=SeriesRules())
    assert index.counts["rows in the label sheet"] == 3 and index.counts["exams in the label sheet"] == 1
    assert index.counts["of these, without a readable exam id"] == 2
    assert index.rejects[index.rejects.reason == "unparsable_exam_id"].detail.str.contains("got '1.2E\\+07'").all()


def index_of(base, ids):
    """Return the index of a sheet with these exams, each labelled 5 and 1 on the first of February."""
    labels = pd.DataFrame([(exam_id, "2024-02-01", 5, 1) for exam_id in ids],
                          columns=["exam_id", "label_date", "left_code", "right_code"])
    return build_index(LabelSheet(labels, len(labels), [], ""), find_exams(base), base=base, workers=1,
                       scan_file=base.parent / "scan.jsonl", rules=SeriesRules())


def bone(folder, slices=40):
    hu = head((slices, 16, 16))
    return write_volume(folder, hu, axial(hu.shape, (1.0, 12.0, 12.0)))


@pytest.mark.parametrize(("name", "date"), [
    ("2024-02-01", "2024-02-01"), ("20240201", "2024-02-01"), ("2024.2.1", "2024-02-01"), ("2024_02_01", "2024-02-01"),
    ("2024年2月1日", "2024-02-01"), ("2024-13-45", "2024-13-45"), ("export/20240210/2024-02-01", "2024-02-01"),
    ("2024-02-01/2024-02-02", "2024-02-02"),
])
def test_a_date_folder_is_recognised_in_any_notation_and_the_innermost_counts(tmp_path, name, date):
    (tmp_path / name / "20200105").mkdir(parents=True)           # an id like a date
    exam, = find_exams(tmp_path).exams
    assert (exam.exam_id, exam.date, exam.relpath) == ("20200105", date, f"{name}/20200105")


@pytest.mark.parametrize("name", ["01.02.2024", "2024-02-01_a", "20241301", "18000101", "2024.2-1"])
def test_a_name_that_is_not_one_definite_date_is_not_a_date_folder(tmp_path, name):
    (tmp_path / name / "001").mkdir(parents=True)
    with pytest.raises(UserError, match=f"found there: {re.escape(name)}"):
        find_exams(tmp_path)


def test_a_base_that_is_a_date_folder_itself_is_reported(tmp_path):
    (tmp_path / "2024-02-01" / "001").mkdir(parents=True)
    with pytest.raises(UserError, match="is a date folder itself: name the folder above it"):
        find_exams(tmp_path / "2024-02-01")


def test_a_missing_exam_is_listed_with_the_places_that_have_a_similar_name(tmp_path):
    base = tmp_path / "data"
    places = {"00101_2": "2024-02-01/00101_2", "CT00102": "2024-02-01/CT00102", "103": "2024-02-01/103",
              "D77/00104": "2024-02-01/D77/00104", "here/00105": "2024-02-01/here/00105"}
    for below in places:
        bone(base / "2024-02-01" / below / "SE1")
    bone(base / "no date" / "00106" / "SE1")
    (base / "2024-02-01" / "00107.zip").write_bytes(b"PK")
    index = index_of(base, ["here", *(f"{n:05d}" for n in range(101, 109))])
    missing = index.rejects[index.rejects.reason == "missing_on_disk"].set_index("exam_id").detail
    assert list(missing.index) == [f"{n:05d}" for n in range(101, 109)]
    said = [*places.values(), "no date/00106", "2024-02-01/00107.zip"]
    for detail, place in zip(missing, said, strict=False):
        assert detail == f"no exam folder of this name; similar names: {place}"
    assert missing["00108"] == "no exam folder of this name"
    strangers = index.rejects[index.rejects.reason == "not_in_sheet"]
    assert sorted(strangers.file) == sorted(f"2024-02-01/{name}" for name in ("00101_2", "CT00102", "103", "D77"))
    assert {"not_unpacked", "outside_exam"} <= set(index.rejects.reason)
    assert index.counts["missing on disk"] == 8 and index.counts["of these, there but for leading zeros"] == 1
    assert index.counts["of these, elsewhere under a similar name"] == 6


def test_indented_counts_add_up_to_the_one_above(tmp_path):
    base = tmp_path / "data"
    for number, slices in enumerate((40, 40, 40, 20)):
        bone(base / "2024-02-01" / f"{number:03d}" / "SE1", slices)
    (base / "2024-02-01" / "000" / "SE1" / "IM0020").unlink()
    (base / "2024-02-01" / "004").mkdir()
    bone(base / "2024-02-03" / "001" / "SE1")
    index = index_of(base, ["000", "001", "003", "004", "005"])
    above, sums = [], []
    for line in index.lines():
        number, words = int(line[:7]), line[8:]
        if not words.lstrip().startswith("of these"):
            del above[(len(words) - len(words.lstrip())) // 2:]
            if above:
                above[-1]["parts"].append(number)
            above.append({"total": number, "parts": []})
            sums.append(above[-1])
    whole = [entry for entry in sums if entry["parts"]]
    assert len(whole) == 3 and all(entry["total"] == sum(entry["parts"]) > 0 for entry in whole)
    assert index.counts["of these, resampled (missing slices or uneven steps)"] == 1
    assert index.counts["of these, little z-coverage: a part may be missing"] == 1


def test_of_an_exam_in_two_folders_one_is_chosen_and_the_other_has_a_reason(tmp_path):
    base = tmp_path / "data"
    for date in ("2024-02-01", "2024-02-03"):
        bone(base / date / "001" / "SE1")
    index = index_of(base, ["001"])
    assert index.series.set_index("series_relpath").verdict.to_dict() == {
        "2024-02-01/001/SE1": "chosen", "2024-02-03/001/SE1": "not_chosen"}
    series, folder = index.rejects.to_dict("records")
    assert (series["file"], series["detail"]) == ("2024-02-03/001/SE1", "of the exam's folders 2024-02-01/001 is used")
    assert (folder["exam_id"], folder["file"], folder["reason"]) == ("001", "2024-02-03/001", "several_folders")
    assert folder["detail"] == "of the exam's folders 2024-02-01/001 is used: it has the date of the label sheet"
    assert index.faults == 0 and index.counts["files of chosen series"] == index.counts["files of other series"] == 40


def test_one_row_states_why_an_exam_has_no_series(tmp_path):
    base = tmp_path / "data"
    folder = base / "2024-02-01"
    bone(folder / "001" / "SE1", 5)
    for path in bone(folder / "001" / "SE2"):
        path.write_bytes(b"")
    (folder / "002").mkdir()
    (folder / "003" / ".SE1").mkdir(parents=True)
    index = index_of(base, ["001", "002", "003"])
    none = index.rejects[index.rejects.reason == "no_series"].set_index("exam_id").detail
    assert none["001"] == "no series can be used: 1 series too_few_slices, 40 files or folders not_dicom"
    assert none["002"] == "no series can be used: the folder holds no file"
    assert none["003"] == "no series can be used: 1 files or folders hidden_folder"
    assert list(none) == list(index.table.series_reason)
    assert set(index.rejects.detail[index.rejects.reason == "not_dicom"]) == {"the file is empty: copy it again"}


def test_an_unreadable_exam_does_not_count_as_missing(tmp_path, monkeypatch):
    base = tmp_path / "data"
    bone(base / "2024-02-01" / "001" / "SE1")
    monkeypatch.setattr("medical_fenlei.ingest.scan.read_stacks", lambda folder: 1 / 0)
    index = index_of(base, ["001"])
    assert index.counts["missing on disk"] == 0 and index.counts["labelled, without a usable series"] == 1
    assert set(index.rejects.reason) == {"unexpected_error", "no_series"}
    found, *shares = (index.counts[f"files {what}"] for what in FILES)
    assert found == sum(shares) == 40


@pytest.mark.parametrize("where", ["zhangsan_1", "SAN ZHANG/bone", "bone/Zhang_San2", "ct-张三"])
def test_a_series_named_like_its_patient_is_refused_and_its_name_is_told_nowhere(tmp_path, where):
    base = tmp_path / "data"
    person = SeriesFormat(attributes={"PatientName": "Zhang^San=张^三", "SpecificCharacterSet": "ISO_IR 192"})
    hu = head((40, 16, 16))
    write_volume(base / "2024-02-01/123" / where, hu, axial(hu.shape, (1.0, 12.0, 12.0)), person)
    (base / "2024-02-01/123" / where / "zhang_san.txt").write_text("x")
    index = index_of(base, ["123", "124"])
    assert index.series.verdict.tolist() == ["named_path"] and index.table.series_relpath.tolist() == [""]
    index.write(tmp_path / "index.csv")
    manifest = build_manifest(index.table, base=base, scan_file=tmp_path / "scan.jsonl", key=bytes(32), workers=1)
    told = index.rejects.to_csv() + manifest.rejects.to_csv() + "".join(
        path.read_text(encoding="utf-8") for path in tmp_path.iterdir() if path.is_file())
    assert "named_path" in told and not re.search("zhang|张", told, re.IGNORECASE)
    assert index_of(base, ["123"]).series.verdict.tolist() == ["named_path"]                # from the kept scan


@pytest.mark.parametrize("exam", ["ZHANGSAN_123456", "zhang san", "20240201-Zhang_San", "张三1", "San.Zhang"])
def test_an_exam_named_like_its_patient_is_refused_and_its_name_is_told_nowhere(tmp_path, exam):
    base = tmp_path / "data"
    person = SeriesFormat(attributes={"PatientName": "Zhang^San=张^三", "SpecificCharacterSet": "ISO_IR 192"})
    hu = head((40, 16, 16))
    write_volume(base / "2024-02-01" / exam / "bone", hu, axial(hu.shape, (1.0, 12.0, 12.0)), person)
    bone(base / "2024-02-01/124/bone")
    for _ in range(2):                                           # the second time, what was kept of the first scan is there
        index = index_of(base, [exam, "124", "125"])
        index.write(tmp_path / "index.csv")
        assert index.table.exam_id.tolist() == ["124"] and set(index.series.exam_id) == {"124"}
        row, = index.rejects[index.rejects.reason == "named_exam"].to_dict("records")
        assert row["file"] == "2024-02-01/#exam1" and not row["exam_id"] and index.faults >= 1
        told = index.rejects.to_csv() + "".join(
            path.read_text(encoding="utf-8") for path in tmp_path.iterdir() if path.is_file())
        assert exam not in told and not re.search("zhang|张", told, re.IGNORECASE)
        assert index.counts["exams in the label sheet"] == 3 == 1 + index.counts["missing on disk"] + (
            index.counts["matched to a folder"])
    with pytest.raises(UserError, match="would hold no exam"):
        index_of(base, [exam]).write(tmp_path / "index.csv")
    assert tables.INDEX.read(tmp_path / "index.csv").exam_id.tolist() == ["124"]


@pytest.mark.parametrize(("name", "exam"), [("Ma^Chao", "MA0001"), ("He^Xin", "HE-12"), ("Chen^Li", "LI_77"),
                                            ("ANONYMOUS", "anonymous1"), ("CT0001", "CT0001"), ("", "1")])
def test_an_exam_id_with_a_prefix_like_a_short_name_is_no_name(tmp_path, name, exam):
    hu = head((40, 16, 16))
    write_volume(tmp_path / "data/2024-02-01" / exam / "bone", hu, axial(hu.shape, (1.0, 12.0, 12.0)),
                 SeriesFormat(attributes={"PatientName": name}))
    assert index_of(tmp_path / "data", [exam]).table.exam_id.tolist() == [exam]


@pytest.mark.parametrize(("name", "where"), [
    ("Bo^Ne", "bones_1"), ("ANONYMOUS", "anonymous"), ("CT0001", "ct0001"), ("Li^Wu", "slices"), ("", "bone")])
def test_a_name_that_only_resembles_a_folder_refuses_nothing(tmp_path, name, where):
    hu = head((40, 16, 16))
    write_volume(tmp_path / "data/2024-02-01/123" / where, hu, axial(hu.shape, (1.0, 12.0, 12.0)),
                 SeriesFormat(attributes={"PatientName": name}))
    assert index_of(tmp_path / "data", ["123"]).series.verdict.tolist() == ["chosen"]


def test_another_series_of_an_exam_is_used_where_one_is_named_like_the_patient(tmp_path):
    bone(tmp_path / "data/2024-02-01/123/bone")
    bone(tmp_path / "data/2024-02-01/123/Nobody")
    index = index_of(tmp_path / "data", ["123"])
    assert index.table.series_relpath.tolist() == ["2024-02-01/123/bone"]
    assert build_manifest(index.table, base=tmp_path / "data", scan_file=tmp_path / "scan.jsonl", key=bytes(32),
                          workers=1).table.exam_id.tolist() == ["123", "123"]
