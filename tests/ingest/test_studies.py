"""An exam is one study of one patient: priors, repeats, exchanged folders, constant UIDs."""
import json
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_volume

from medical_fenlei.dicom.study import StatedStudy, number_studies
from medical_fenlei.dicom.volume import open_series
from medical_fenlei.ingest.exams import find_loose_exams
from medical_fenlei.ingest.index import build_index
from medical_fenlei.ingest.label_sheet import LabelSheet
from medical_fenlei.ingest.manifest import build_manifest
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.ingest.tree import find_exams
from medical_fenlei.reasons import HARMLESS

SHAPE = (20, 16, 16)
DAY = "20240201"


def write(folder, uid="1.2.3", spacing=1.0, slices=20, **more):
    """A bone series of the study of 1 February 2024, unless said otherwise."""
    shape = (slices, *SHAPE[1:])
    hu = np.resize(np.random.default_rng(0).integers(-1000, 2000, SHAPE), shape)
    return write_volume(folder, hu, axial(shape, (spacing, 12.0, 12.0)), SeriesFormat(attributes={
        "StudyInstanceUID": uid, "StudyDate": DAY, "StudyTime": "093000", **more}))


def index_of(base, ids):
    labels = pd.DataFrame([(exam_id, "2024-02-01", 5, 1) for exam_id in ids],
                          columns=["exam_id", "label_date", "left_code", "right_code"])
    return build_index(LabelSheet(labels, len(labels), [], ""), find_exams(base), base=base, workers=1,
                       scan_file=base.parent / "scan.jsonl", rules=SeriesRules())


def faults(index):
    """By reason, without those of pixel values."""
    reasons = index.rejects.reason[~index.rejects.reason.isin({*HARMLESS, "doubtful_values"})]
    return reasons.value_counts().to_dict()


def verdicts(index, exam_id):
    """By the folder of the series."""
    own = index.series[index.series.exam_id == exam_id]
    return {relpath.rpartition("/")[2]: verdict for relpath, verdict in zip(own.series_relpath, own.verdict, strict=True)}


PRIOR = {"uid": "1.2.9", "spacing": 0.5, "slices": 40, "StudyDate": "20150301"}


@pytest.mark.parametrize(("own", "prior", "date"), [
    ({"AccessionNumber": "101"}, {"AccessionNumber": "A0001"}, "2024-02-01"),
    ({}, {}, "2024-02-01"),                                      # only the date of the folder tells
    ({"AccessionNumber": "0101"}, {"AccessionNumber": "A0001"}, "2024-06-01"),         # only the exam id: a date of export
    ({}, {}, "2024-06-01"),                                      # only the date of the sheet
    ({"AccessionNumber": "101"}, {"AccessionNumber": "A0001", "uid": "1.2.3"}, "2024-02-01"),       # one UID for both
])
def test_a_prior_in_the_folder_is_never_the_exam(tmp_path, own, prior, date):
    exam = tmp_path / "data" / date / "101"
    write(exam / "now", **own)
    write(exam / "prior", **{**PRIOR, **prior})
    index = index_of(tmp_path / "data", ["101"])
    assert verdicts(index, "101") == {"now": "chosen", "prior": "other_study"}
    lost, = index.rejects[index.rejects.reason == "other_study"].to_dict("records")
    assert "StudyDate 2015-03-01" in lost["detail"] and "A0001" not in lost["detail"]


def test_a_prior_is_not_used_either_where_the_exam_has_no_usable_series(tmp_path):
    exam = tmp_path / "data/2024-02-01/101"
    write(exam / "thick", spacing=5.0)
    write(exam / "prior", **PRIOR)
    index = index_of(tmp_path / "data", ["101"])
    assert verdicts(index, "101") == {"thick": "too_large_spacing", "prior": "other_study"}
    assert index.table.series_relpath.tolist() == [""] and "1 series other_study" in index.table.series_reason[0]


def test_a_prior_within_the_same_series_uid_is_taken_out(tmp_path):
    exam = tmp_path / "data/2024-02-01/101"
    for number, more in enumerate(({}, PRIOR)):
        for path in write(exam / str(number), **{**more, "SeriesInstanceUID": "1.2.4"}):
            path.rename(exam / f"{number}{path.name}")
        (exam / str(number)).rmdir()
    index = index_of(tmp_path / "data", ["101"])
    assert sorted(index.series.verdict) == ["chosen", "other_study"]
    assert index.series.slices[index.series.verdict == "chosen"].tolist() == [20]


def test_of_a_repeat_on_the_same_day_the_first_is_used_and_the_fault_said(tmp_path):
    exam = tmp_path / "data/2024-02-01/101"
    write(exam / "b", AccessionNumber="101")
    write(exam / "a", **{**PRIOR, "StudyDate": DAY, "StudyTime": "141500"}, AccessionNumber="101")
    index = index_of(tmp_path / "data", ["101"])
    assert verdicts(index, "101") == {"b": "chosen", "a": "several_studies"} and faults(index) == {"several_studies": 1}


def test_two_studies_that_both_do_not_fit_are_refused(tmp_path):
    exam = tmp_path / "data/2024-06-01/101"
    write(exam / "a", **PRIOR)
    write(exam / "b", uid="1.2.8", StudyDate="20160301")
    index = index_of(tmp_path / "data", ["101"])
    assert verdicts(index, "101") == {"a": "several_studies", "b": "several_studies"}
    assert faults(index) == {"several_studies": 2, "no_series": 1}
    assert "2015-03-01" in index.rejects.detail[0] and "2016-03-01" in index.rejects.detail[0]


@pytest.mark.parametrize(("exchanged", "ids"), [(("101", "102"), ["101", "102", "103"]), (("101", "102"), ["101", "103"])])
def test_folders_whose_images_name_another_exam_are_named_and_not_used(tmp_path, exchanged, ids):
    base = tmp_path / "data"
    for exam_id in ("101", "102", "103"):
        write(base / "2024-02-01" / exam_id / "s", uid=f"1.2.{exam_id}", AccessionNumber=exam_id)
    one, other = (base / "2024-02-01" / exam_id for exam_id in exchanged)
    one.rename(base / "spare")
    other.rename(one)
    (base / "spare").rename(other)
    index = index_of(base, ids)
    named = index.rejects[index.rejects.reason == "exchanged_folder"].set_index("exam_id").detail
    other_id = {"101": "102", "102": "101"}
    assert set(named.index) == {*exchanged} & {*ids}
    assert faults(index) == {"exchanged_folder": len(named), "no_series": len(named)}
    assert all(f"AccessionNumber of exam {other_id[exam_id]}:" in detail for exam_id, detail in named.items())
    assert index.table.set_index("exam_id").series_relpath.ne("").to_dict() == {i: i == "103" for i in ids}


def test_an_exam_misfiled_beside_the_own_one_is_named_and_not_mixed_in(tmp_path):
    base = tmp_path / "data"
    write(base / "2024-02-01/101/own", AccessionNumber="101")
    write(base / "2024-02-01/101/strange", uid="1.2.7", spacing=0.5, slices=40, AccessionNumber="102")
    write(base / "2024-02-01/102/s", uid="1.2.7", AccessionNumber="102")
    index = index_of(base, ["101", "102"])
    assert verdicts(index, "101") == {"own": "chosen", "strange": "other_study"} and verdicts(index, "102") == {"s": "chosen"}
    assert index.rejects.detail.str.contains("the AccessionNumber of exam 102").any()


def test_an_exam_of_another_day_than_its_folder_is_said_where_most_agree(tmp_path):
    base = tmp_path / "data"
    for number in range(101, 105):
        write(base / f"2024-02-01/{number}/s", uid=f"1.2.{number}", StudyDate="20150301" if number == 103 else DAY)
    index = index_of(base, [str(number) for number in range(101, 105)])
    assert index.rejects.exam_id[index.rejects.reason == "study_date_differs"].tolist() == ["103"]
    assert faults(index) == {"study_date_differs": 1}


@pytest.mark.parametrize(("more", "reason"), [
    ({"AccessionNumber": "101"}, "several_study_uids"), ({"FrameOfReferenceUID": "1.2.5"}, "several_study_uids"),
    ({"AccessionNumber": "ANONYMOUS"}, "unconfirmed_study"),
])
def test_series_with_study_uids_of_their_own_are_one_exam(tmp_path, more, reason):
    exam = tmp_path / "data/2024-02-01/101"
    write(exam / "bone", uid="1.2.3", **more)
    write(exam / "soft", uid="1.2.4", spacing=0.5, slices=40, ConvolutionKernel="H30s", **more)
    index = index_of(tmp_path / "data", ["101"])
    assert verdicts(index, "101") == {"bone": "chosen", "soft": "not_chosen"}
    assert reason in set(index.rejects.reason) and len(faults(index)) == (reason not in HARMLESS)


@pytest.mark.parametrize("shared", [False, True])
def test_undated_series_of_several_study_uids_are_said_in_one_line_and_faults_where_a_uid_groups_some(tmp_path, shared, caplog):
    exam = tmp_path / "data/2024-02-01/101"
    for n in range(3):
        write(exam / str(n), uid="1.2.3" if shared and n else f"1.2.4.{n}", StudyDate="")
    index = index_of(tmp_path / "data", ["101"])
    assert faults(index) == ({"unconfirmed_study": 1} if shared else {})
    assert ("confirms that these are one study (the first: 101)" in caplog.text) != shared


@pytest.mark.parametrize("more", [
    [{"AccessionNumber": str(exam)} for exam in range(101, 105)], [{"StudyDate": f"2024020{day}"} for day in range(1, 5)],
    [{"StudyDate": "", "FrameOfReferenceUID": f"1.2.{n}"} for n in range(1, 5)],
])
def test_one_study_uid_in_all_exams_merges_none(tmp_path, more, caplog):
    base = tmp_path / "data"
    anonymous = {"PatientID": "ANONYMOUS", "PatientName": "ANONYMOUS", "PatientBirthDate": ""}
    for exam, own in zip(range(101, 105), more, strict=True):
        write(base / f"2024-02-01/{exam}/s", uid="1.2.3.4.5", **anonymous, **own)
    index = index_of(base, ["101", "102", "103", "104"])
    assert (index.table.series_relpath != "").all() and "StudyInstanceUID" in caplog.text
    assert (index.rejects.reason == "shared_study_uid").sum() == 4
    manifest = build_manifest(index.table, base=base, scan_file=tmp_path / "scan.jsonl", key=bytes(32), workers=1).table
    assert manifest.study_key.nunique() == 4
    exams, _ = find_loose_exams(base, rules=SeriesRules(), workers=1)
    assert [exam.exam_id for exam in exams] == ["101", "102", "103", "104"]
    assert all([reason for _, reason, _ in exam.problems] == ["shared_study_uid"] for exam in exams)


def test_one_study_exported_under_two_ids_keeps_its_key(tmp_path):
    base = tmp_path / "data"
    write(base / "2024-02-01/101/s", FrameOfReferenceUID="1.2.5")
    shutil.copytree(base / "2024-02-01/101", base / "2024-02-01/102")
    index = index_of(base, ["101", "102"])
    manifest = build_manifest(index.table, base=base, scan_file=tmp_path / "scan.jsonl", key=bytes(32), workers=1).table
    assert not faults(index) and manifest.study_key.nunique() == 1 and "shared_study_uid" not in set(index.rejects.reason)


def test_new_exams_of_one_accession_number_are_one_whatever_the_uids(tmp_path):
    for n in range(2):
        write(tmp_path / f"2024-02-01/101/s{n}", uid=f"1.2.{n}", AccessionNumber="101")
        write(tmp_path / f"2024-02-01/102/s{n}", uid=f"1.2.1{n}", AccessionNumber="")
    exams, _ = find_loose_exams(tmp_path, rules=SeriesRules(), workers=1)
    series = {exam.exam_id: len(exam.choice.verdicts) for exam in exams}
    assert series.pop("101") == 2 and list(series.values()) == [1, 1]
    assert [reason for exam in exams for _, reason, _ in exam.problems] == ["several_study_uids"]


def test_the_kept_scan_names_no_study(tmp_path):
    write(tmp_path / "data/2024-02-01/101/s", uid="1.3.99.777", AccessionNumber="A77777", FrameOfReferenceUID="1.3.99.778")
    index_of(tmp_path / "data", ["101"])
    kept = (tmp_path / "scan.jsonl").read_text()
    fact, = json.loads(kept.splitlines()[-1])["series"]
    assert (fact["study_date"], fact["study_accession"]) == ("2024-02-01", "other")
    assert not any(word in kept for word in ("1.3.99", "77777", "093000"))


def test_studies_are_numbered_by_time_and_what_states_nothing_joins_its_uid():
    first, second = StatedStudy("1", "2020-01-01", "080000", "7"), StatedStudy("2", "2020-01-01", "120000", "")
    assert number_studies([second, first, StatedStudy("2"), StatedStudy("1"), StatedStudy()]) == [2, 1, 2, 1, 1]
    assert "7" not in repr(first)


def test_a_series_dealt_out_to_folders_in_turn_is_used_as_one(tmp_path):
    exam = tmp_path / "data/2024-02-01/101"
    for k, path in enumerate(write(exam / "all", AccessionNumber="101")):
        (exam / f"{k % 6}").mkdir(exist_ok=True)
        path.rename(exam / f"{k % 6}" / path.name)
    (exam / "all").rmdir()
    index = index_of(tmp_path / "data", ["101"])
    assert open_series(tmp_path / "data" / index.table.series_relpath[0]).shape == SHAPE
    assert "joined_fragments: 20 images in 6 folders" in index.table.series_reason[0]
    assert set(index.rejects.reason) <= {"doubtful_values"}


@pytest.mark.parametrize(("slices", "uids"), [(1, True), (1, False), (5, True), (5, False)])
def test_a_series_with_a_folder_for_each_slice_or_a_few_is_used_as_one(tmp_path, slices, uids):
    exam = tmp_path / "data/2024-02-01/101"
    for k, path in enumerate(write(exam / "all", AccessionNumber="101")):
        if uids:
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = f"1.2.9.{k // slices}"
            dataset.save_as(path)
        (exam / f"{k // slices:02d}").mkdir(exist_ok=True)
        path.rename(exam / f"{k // slices:02d}" / path.name)
    (exam / "all").rmdir()
    write(exam / "soft", ConvolutionKernel="H30s", AccessionNumber="101")
    index = index_of(tmp_path / "data", ["101"])
    chosen = index.table.series_relpath[0]
    assert chosen.startswith("2024-02-01/101#") and open_series(tmp_path / "data" / chosen).shape == SHAPE
    assert f"joined_fragments: 20 images in {20 // slices} folders" in index.table.series_reason[0]
    assert "split_series" not in set(index.rejects.reason)
    assert index.counts["files of chosen series"] == index.counts["files of other series"] == 20
    exams, _ = find_loose_exams(tmp_path / "data", rules=SeriesRules(), workers=1)
    assert [series.relpath for series in exams[0].choice.chosen.series] == [chosen] and len(exams) == 1
