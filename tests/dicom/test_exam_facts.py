"""Age, sex and tube voltage of one header; implausible values are not believed, and the birth date is not kept."""
import math
from dataclasses import fields

import numpy as np
import pytest
from helpers.dicom_files import SeriesFormat, axial, write_volume

from medical_fenlei.dicom.exam_facts import ExamFacts, read_exam_facts

SHAPE = (1, 8, 8)


@pytest.fixture
def facts(tmp_path):
    def read(**header):
        path, = write_volume(tmp_path / "s", np.zeros(SHAPE, int), axial(SHAPE), SeriesFormat(attributes=header))
        return read_exam_facts(path)

    return read


@pytest.mark.parametrize(("header", "years"), [
    ({"PatientAge": "045Y"}, 45), ({"PatientAge": "018M"}, 1), ({"PatientAge": "011M"}, 0), ({"PatientAge": "104W"}, 1),
    ({"PatientAge": "105W"}, 2), ({"PatientAge": "300D"}, 0), ({"PatientAge": "045y "}, 45),
    ({"PatientAge": "089Y"}, 89), ({"PatientAge": "090Y"}, 90), ({"PatientAge": "104Y"}, 90),        # 90 or more
    ({"PatientAge": "121Y"}, None), ({"PatientAge": "45"}, None), ({"PatientAge": "junk"}, None), ({}, None),
])
def test_the_age_is_in_years_whatever_its_unit_and_above_89_only_90_or_more(facts, header, years):
    assert facts(PatientBirthDate="", **header).age_years == years


@pytest.mark.parametrize(("born", "days", "years"), [
    ("19700615", {"StudyDate": "20200614"}, 49), ("19700615", {"StudyDate": "20200615"}, 50),
    ("1970.06.15", {"SeriesDate": "20200615"}, 50), ("19700615", {"AcquisitionDate": "20200615", "StudyDate": ""}, 50),
    ("19000101", {"StudyDate": "20190101"}, 90), ("18900101", {"StudyDate": "20190101"}, None),
    ("20210101", {"StudyDate": "20200615"}, None), ("19701332", {"StudyDate": "20200615"}, None), ("19700615", {}, None),
])
def test_without_an_age_the_birth_date_and_the_day_of_the_exam_give_it(facts, born, days, years):
    assert facts(PatientBirthDate=born, **days).age_years == years


def test_an_impossible_age_is_replaced_by_that_of_the_birth_date(facts):
    assert facts(PatientAge="999Y", PatientBirthDate="19700101", StudyDate="20200101").age_years == 50


@pytest.mark.parametrize(("said", "sex"), [("F", "F"), ("m", "M"), ("O", "O"), ("Male", "M"), ("", ""), ("U", "")])
def test_the_sex_is_one_of_three_or_unknown(facts, said, sex):
    assert facts(PatientSex=said).sex == sex


def test_an_invalid_voltage_is_unknown(facts):
    assert facts(KVP="120").kvp == 120
    assert math.isnan(facts(KVP="0").kvp) and math.isnan(facts().kvp)


def test_the_birth_date_is_not_kept(facts):
    told = facts(PatientBirthDate="19700615", StudyDate="20200615")
    assert "1970" not in repr(told) and {f.name for f in fields(ExamFacts)} == {"age_years", "sex", "kvp", "study_uid"}
