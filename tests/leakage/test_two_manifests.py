"""Patients of two hospitals are taken for one person on evidence beyond a bare number, and on nothing else."""
import hashlib

import numpy as np
import pandas as pd
import pytest

from medical_fenlei import tables
from medical_fenlei.config import EarSpec
from medical_fenlei.dicom.identity import Identity
from medical_fenlei.ears.store import EarStore
from medical_fenlei.ingest.patient_links import link_patients
from medical_fenlei.ingest.patients import key_mark, patient_evidence, study_key
from medical_fenlei.leakage.same_pixels import exams_with_same_ears
from medical_fenlei.leakage.two_manifests import patients_in_common, patients_of_one_manifest
from medical_fenlei.vocabulary import SIDES, Side

KEY, OTHER_KEY = bytes(range(32)), bytes(32)
ANNA, BEN, EVA = ("Meier^Anna", "19340217"), ("Huber^Ben", "19551224"), ("Zhang^San=张^三", "19700102")
NO_NAME = ("", "")


def manifest_of(hospital, *people, key=KEY):
    """Both ears of an exam of each person (PatientID, (name, birth date), sex), with the facts of build_manifest_ears.

    hospital: makes studies and images differ from those of another hospital.
    """
    exams = [(f"{number:04d}", patient_id, *who, sex) for number, (patient_id, who, sex) in enumerate(people)]
    found = [patient_evidence(Identity(patient_id=patient_id, issuer="", name=name, birth_date=born), exam, key, sex)
             for exam, patient_id, name, born, sex in exams]
    links = link_patients(found).keys
    rows = []
    for (exam, _, _, _, sex), own in zip(exams, found, strict=True):
        images = hashlib.sha256(f"{hospital} {exam}".encode()).hexdigest()
        rows += [{"exam_id": exam, "side": str(side), "sex": sex, "patient_key": links[exam][0],
                  "patient_key_source": links[exam][1], "study_key": study_key(f"{hospital}.{exam}", exam, key),
                  "study_key_source": "study_uid", "person_keys": ";".join(own.person_keys), "hashed_with": key_mark(key),
                  "series_digest": f"{images[:24]}-{images[24:36]}"} for side in SIDES]
    return pd.DataFrame(rows)


def left_out(theirs, fitted, pixels=()):
    found = patients_in_common(theirs, fitted, pixels)
    assert found.ears.groupby(theirs.exam_id).nunique().eq(1).all()                     # both ears of an exam, or none
    return set(theirs.exam_id[found.ears]), found


def test_equal_numbers_of_different_people_are_no_evidence_and_nothing_is_unknown_about_them():
    fitted = manifest_of("a", ("1", ANNA, "F"), ("2", BEN, "M"))
    exams, found = left_out(manifest_of("b", ("1", EVA, "F"), ("2", ("Kunz^Max", "19610605"), "M")), fitted)
    assert exams == set() and found.describe() == "" and found.unknown == ()


@pytest.mark.parametrize("theirs", [
    ("77", ANNA, "F"), ("77", ("ANNA meier", "1934-02-17"), ""), ("", ANNA, "F"), ("1", ANNA, "F")])
def test_name_with_birth_date_is_evidence_however_it_is_written_and_whatever_the_number(theirs):
    exams, found = left_out(manifest_of("b", ("9", BEN, "M"), theirs), manifest_of("a", ("1", ANNA, "F"), ("2", EVA, "F")))
    assert exams == {"0001"} and found.by_evidence == {"name and birth date": 1}
    assert "2 ears" in found.describe() and "1 by name and birth date" in found.describe()


@pytest.mark.parametrize("theirs", [
    ("77", (ANNA[0], "19340218"), "F"), ("77", ("Meier^Anne", ANNA[1]), "F"), ("77", ANNA, "M"), ("77", (ANNA[0], ""), "F"),
    ("77", ("Anonymous", ANNA[1]), "F")])
def test_another_birth_date_name_or_sex_is_another_person(theirs):
    assert left_out(manifest_of("b", theirs), manifest_of("a", ("1", ANNA, "F")))[0] == set()


def test_the_same_study_or_the_same_images_are_evidence_for_all_exams_of_the_patient():
    fitted = manifest_of("a", ("1", NO_NAME, ""), ("2", NO_NAME, ""))
    theirs = manifest_of("b", ("8", NO_NAME, ""), ("8", NO_NAME, ""), ("9", NO_NAME, ""))
    first = theirs.exam_id == "0000"
    again = theirs.assign(study_key=theirs.study_key.mask(first, fitted.study_key[0]))
    assert left_out(again, fitted)[0] == {"0000", "0001"}
    images, times = fitted.series_digest[2].split("-")
    copied = theirs.assign(series_digest=theirs.series_digest.mask(first, f"{images}-{times[::-1]}"))
    assert left_out(copied, fitted)[0] == {"0000", "0001"}
    exams, found = left_out(theirs, fitted, pixels={"0002"})
    assert exams == {"0002"} and found.by_evidence == {"the same images": 1}


def test_the_key_of_a_study_without_a_uid_is_that_of_a_number_and_no_evidence():
    fitted, theirs = manifest_of("a", ("1", ANNA, "F")), manifest_of("b", ("2", BEN, "M"))
    no_uid = {"study_key": study_key("", "0000", KEY), "study_key_source": "exam_id"}
    assert left_out(theirs.assign(**no_uid), fitted.assign(**no_uid))[0] == set()


def test_equal_numbers_without_further_evidence_are_kept_and_said():
    people = ("1", NO_NAME, ""), ("2", NO_NAME, ""), ("", NO_NAME, "")
    exams, found = left_out(manifest_of("b", *people), manifest_of("a", *people))
    note, = found.unknown
    assert exams == set() and note.startswith("3 patients share the id") and note.endswith("they are kept")


def test_ids_of_one_hospital_count_once_more_of_them_are_confirmed_than_contradicted():
    fitted = manifest_of("a", ("1", ANNA, "F"), ("2", BEN, "M"), ("3", NO_NAME, ""), ("4", EVA, "F"))
    theirs = manifest_of("b", ("1", ANNA, "F"), ("2", BEN, "M"), ("3", NO_NAME, ""), ("4", ("Zhang^Shan", EVA[1]), "F"))
    exams, found = left_out(theirs, fitted)
    assert exams == {"0000", "0001", "0002", "0003"}
    assert found.by_evidence == {"name and birth date": 2, "patient id": 2} and found.unknown == ()
    mixed = manifest_of("b", ("1", ANNA, "F"), ("2", EVA, "F"), ("3", NO_NAME, ""))
    exams, found = left_out(mixed, fitted)                                               # one confirmed, one contradicted
    assert exams == {"0000", "0001"} and "1 patients share the id" in found.unknown[0]   # EVA is there under another number


def test_a_name_that_several_patients_of_a_manifest_have_is_a_constant_of_the_export():
    test = ("Test^Patient", "19800101")
    fitted = manifest_of("a", *((str(n), test, "") for n in range(9)))
    assert left_out(manifest_of("b", ("77", test, "")), fitted)[0] == set()


def test_hashes_of_another_key_are_said_to_tell_nothing_but_images_still_do():
    fitted, theirs = manifest_of("a", ("1", ANNA, "F")), manifest_of("b", ("1", ANNA, "F"), ("2", BEN, "M"), key=OTHER_KEY)
    exams, found = left_out(theirs, fitted)
    note, = found.unknown
    assert exams == set() and "another key" in note and "--patient-key-file" in note
    assert left_out(theirs, fitted, pixels={"0001"})[0] == {"0001"}


def test_manifests_of_an_earlier_version_are_compared_by_images_and_what_they_do_not_tell_is_said():
    fitted, theirs = (manifest_of(hospital, ("1", ANNA, "F")).drop(columns=[*tables.PERSON_FACTS, "study_key", "sex"])
                      for hospital in "ab")
    exams, found = left_out(theirs, fitted)
    assert exams == set() and len(found.unknown) == 1
    assert left_out(theirs.assign(series_digest=fitted.series_digest), fitted)[0] == {"0000"}


def test_within_one_manifest_its_own_keys_decide():
    manifest = manifest_of("a", ("1", NO_NAME, ""), ("1", NO_NAME, ""), ("2", NO_NAME, ""))
    found = patients_of_one_manifest(manifest, manifest[manifest.exam_id == "0000"])
    assert set(manifest.exam_id[found.ears]) == {"0000", "0001"} and found.describe().endswith("are left out")


def test_cached_ears_of_equal_content_are_found_in_another_cache_and_empty_ones_are_not(tmp_path):
    spec, rng = EarSpec(num_slices=2, image_size=8), np.random.default_rng(0)
    volumes = {name: rng.integers(-1000, 2000, spec.shape).astype(np.int16) for name in "xyz"}
    volumes["air"] = np.full(spec.shape, -1000, np.int16)
    stores = []
    for hospital, exams in (("a", {"1": "x", "2": "air", "3": "y"}), ("b", {"1": "z", "2": "x", "4": "air"})):
        stores.append(EarStore(tmp_path / hospital, spec))
        for exam, name in exams.items():
            stores[-1].write(exam, Side.LEFT, volumes[name], {})
        stores[-1].write_index()
    own, other = (store.folder for store in stores)
    assert exams_with_same_ears(other, {"1", "2", "4"}, own, {"1", "2", "3"}) == {"2"}
    assert exams_with_same_ears(other, {"1", "2", "4"}, own, {"2", "3"}) == set()
    assert exams_with_same_ears(other, {"1", "2"}, tmp_path / "none", {"1"}) == set()
