"""Facts of an exam in the manifest: patient, study, subgroups and scanner."""
import numpy as np
import pandas as pd
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_volume

from medical_fenlei import tables
from medical_fenlei.ingest.manifest import MANY_EXAMS, build_manifest, doubtful_patients
from medical_fenlei.vocabulary import vendor

SHAPE = (4, 16, 16)


def manifest_of(base, headers):
    """Return the manifest of one exam per header."""
    rows = []
    for number, header in enumerate(headers):
        exam = f"{number:04d}"
        hu = np.random.default_rng(number).integers(-1000, 2000, SHAPE)
        write_volume(base / exam, hu, axial(SHAPE), SeriesFormat(attributes=header))
        rows.append({"exam_id": exam, "date": "2020-01-01", "label_date": "2020-01-01", "date_match": True,
                     "ambiguous_match": False, "exam_relpath": exam, "series_relpath": exam, "n_instances": 4,
                     "left_code": 5, "right_code": 1, "series_reason": ""})
    built = build_manifest(tables.INDEX.frame(rows), base=base, scan_file=base / "scan.jsonl", key=bytes(32), workers=1)
    assert built.rejects.empty
    return built.table[built.table.side == "left"].set_index("exam_id")


def test_age_sex_and_voltage_come_with_the_exam_and_survive_the_csv(tmp_path):
    known = {"PatientAge": "091Y", "PatientSex": "F", "KVP": "140"}
    manifest = manifest_of(tmp_path, [known, {"PatientBirthDate": ""}])
    tables.MANIFEST.write(tmp_path / "m.csv", manifest.reset_index())
    read = tables.MANIFEST.read(tmp_path / "m.csv").set_index("exam_id")
    assert (read.age_years["0000"], read.sex["0000"], read.kvp["0000"]) == (90, "F", 140)
    assert read.age_years.isna()["0001"] and read.sex["0001"] == "" and np.isnan(read.kvp["0001"])


def test_a_manifest_of_an_earlier_version_is_read_without_the_subgroups(tmp_path):
    manifest = manifest_of(tmp_path, [{}]).reset_index().drop(
        columns=[*tables.SUBGROUP_FACTS, *tables.PERSON_FACTS, "series_digest"])
    tables.MANIFEST.write(tmp_path / "m.csv", manifest)
    assert list(tables.MANIFEST.read(tmp_path / "m.csv").columns) == list(tables.MANIFEST.columns)


def test_a_kernel_of_several_values_is_one_readable_word(tmp_path):
    kernels = manifest_of(tmp_path, [{"ConvolutionKernel": k} for k in (["Ur73u", "1"], ["Ur73u", ""], "BONEPLUS2")]).kernel
    assert list(kernels) == ["Ur73u/1", "Ur73u", "BONEPLUS2"]


def test_exams_of_one_study_share_its_key_and_those_without_one_share_none(tmp_path):
    uid = {"StudyInstanceUID": "1.2.3.4"}
    keys = manifest_of(tmp_path, [uid, uid, {"StudyInstanceUID": ""}, {"StudyInstanceUID": ""}]).study_key
    assert keys["0000"] == keys["0001"] and keys.nunique() == 3 and not keys.str.contains("1.2.3.4", regex=False).any()


def test_name_with_birth_date_has_one_key_however_it_is_written_and_none_where_one_of_them_is_unknown(tmp_path):
    whole = {"PatientName": "Zhang^San", "PatientBirthDate": "19800102", "PatientID": "1"}
    headers = [{**whole, "PatientID": str(n), **other} for n, other in enumerate((
        {}, {"PatientName": "ZHANG San"}, {"PatientBirthDate": ""}, {"PatientName": "Anonymous"},
        {"PatientBirthDate": "19800103"}))]
    manifest = manifest_of(tmp_path, headers)
    keys = [set(text.split(";")) - {""} for text in manifest.person_keys]
    assert keys[0] & keys[1] and not keys[2] and not keys[3] and keys[4] and not keys[4] & keys[0]
    assert manifest.hashed_with.nunique() == 1 and not manifest.person_keys.str.contains("ZHANG|1980", case=False).any()


def test_a_manifest_says_what_the_key_of_a_study_was_computed_from(tmp_path):
    headers = [{"StudyInstanceUID": "1.2.3.4"}, {"StudyInstanceUID": ""}]
    assert manifest_of(tmp_path, headers).study_key_source.tolist() == ["study_uid", "exam_id"]


def exam_of(base, series):
    """Manifest and rejects of one exam whose series, by folder, have such headers: of a list its parts, lowest first."""
    for folder, header in series.items():
        whole = np.random.default_rng(0).integers(-1000, 2000, SHAPE)
        of_all = SeriesFormat(attributes=header if isinstance(header, dict) else {})
        files = write_volume(base / "1" / folder, whole, axial(SHAPE), of_all)
        for number, more in enumerate(header if isinstance(header, list) else []):
            part = len(files) // len(header)
            for path in files[part * number:part * (number + 1)]:
                dataset = pydicom.dcmread(path)
                for name, value in more.items():
                    setattr(dataset, name, value)
                dataset.save_as(path)
    row = {"exam_id": "1", "date": "2020-01-01", "label_date": "", "date_match": False, "ambiguous_match": False,
           "exam_relpath": "1", "series_relpath": f"1/{next(iter(series))}", "n_instances": 4, "left_code": 5, "right_code": 1,
           "series_reason": ""}
    built = build_manifest(tables.INDEX.frame([row]), base=base, scan_file=base / "scan.jsonl", key=bytes(32), workers=1)
    return built.table, built.rejects


OTHER = {"PatientID": "PAT2", "PatientName": "Somebody^Else", "PatientBirthDate": "19800202"}


@pytest.mark.parametrize("series", [
    {"a": {}, "b": OTHER}, {"a": OTHER, "b": {}}, {"a": [{}, OTHER]}, {"a": {}, "b": [{}, OTHER]},
    {"a": [{}, {}, OTHER, {}]}, {"a": {}, "b": [{}, OTHER, {}, {}]}, {"a": [{}, {"PatientID": "PAT1 "}, OTHER, {}]},
    {"a": {"PatientID": ""}, "b": {"PatientID": "", "PatientName": "Somebody^Else"}},
])
def test_an_exam_with_images_of_two_patients_is_refused_and_nobody_is_named(tmp_path, series):
    manifest, rejects = exam_of(tmp_path, series)
    assert manifest.empty and list(rejects.reason) == ["several_patients"]
    assert "is of another patient than 1/" in rejects.detail[0] and "PAT" not in rejects.detail[0]


@pytest.mark.parametrize("other", [
    {"PatientID": "pat1 "}, {"PatientID": ""}, {"PatientID": "", "PatientName": "Somebody^Else", "PatientBirthDate": ""},
    {"PatientName": "NOBODY^TEST"}, {"PatientID": "", "PatientName": "nobody^test"},
])
@pytest.mark.parametrize("within", [False, True])
def test_one_patient_written_in_two_ways_or_unknown_in_part_is_one(tmp_path, other, within):
    manifest, rejects = exam_of(tmp_path, {"a": [{}, {}, other, {}]} if within else {"a": {}, "b": other})
    assert len(manifest) == 2 and rejects.empty


def test_a_number_that_stands_for_several_people_is_noticed(tmp_path):
    shared, alone = {"PatientID": "ANONYMOUS"}, {"PatientID": "", "PatientName": ""}
    sexes = [(shared, "F"), (shared, "M"), ({}, "F"), ({}, "F"), (alone, "F"), (alone, "M")]
    manifest = manifest_of(tmp_path, [header | {"PatientSex": sex} for header, sex in sexes]).reset_index()
    assert doubtful_patients(manifest) == [["0000", "0001"]]
    many = pd.concat([manifest[:1].assign(exam_id=f"{n:04d}", sex="") for n in range(MANY_EXAMS + 1)])
    assert len(doubtful_patients(many)[0]) == MANY_EXAMS + 1 and not doubtful_patients(many[1:])
    assert not doubtful_patients(manifest.drop(columns="sex"))


@pytest.mark.parametrize(("written", "name"), [
    ("SIEMENS", "Siemens"), ("Siemens Healthineers", "Siemens"), ("GE MEDICAL SYSTEMS", "GE"), ("GE", "GE"),
    ("UIH", "UIH"), ("Shanghai United Imaging Healthcare Co., Ltd.", "UIH"), ("Philips Medical Systems", "Philips"),
    ("TOSHIBA_MEC_CT3", "Canon"), ("Canon Medical Systems", "Canon"), ("Imager GmbH", "Imager GmbH"), (" Gemini ", "Gemini"),
    ("", ""),
])
def test_a_maker_has_one_name_and_an_unknown_one_keeps_its_own(written, name):
    assert vendor(written) == name
