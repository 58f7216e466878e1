"""The hard hospital differs from the usual one as it says, and the usual one draws what it always drew."""
import hashlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, chisquare

from medical_fenlei.ingest.label_sheet import read_label_sheet
from medical_fenlei.phantom.disease import sample_change
from medical_fenlei.phantom.hard import LABELS, SEVERITY, SHARPNESS, milder, misread
from medical_fenlei.phantom.hospital import sample_acquisition, write_hospital
from medical_fenlei.phantom.population import sample_population
from medical_fenlei.phantom.spec import HospitalSpec
from medical_fenlei.vocabulary import NORMAL, SIDES, UNLABELLED

HARD = HospitalSpec(num_exams=400, seed=0, difficulty="hard")


@pytest.fixture(scope="module")
def exams():
    return sample_population(HARD.num_exams, HARD.seed, HARD.disease, HARD.difficulty)


def test_the_usual_hospital_draws_what_it_drew_before_there_was_a_hard_one():
    """Hash of codes, labels, people, scans and changes, rounded, of 40 exams."""
    spec, digest = HospitalSpec(num_exams=40, seed=3), hashlib.sha256()
    for exam in sample_population(spec.num_exams, spec.seed):
        acquisition = sample_acquisition(exam, spec)[0]
        scan = [round(value, 6) if isinstance(value, float) else str(value) for value in vars(acquisition.scan).values()]
        changes = [(change.kind, [round(fill, 6) for fill in change.fill.values()], round(change.fill_hu, 4),
                    [np.round(mass.radii, 5).tolist() for mass in change.masses]) for change in acquisition.changes.values()]
        own = [exam.exam_id, {str(side): code for side, code in exam.codes.items()},
               exam.labels and {str(side): code for side, code in exam.labels.items()}, str(exam.date)]
        digest.update(repr([own, scan, changes, np.round(exam.person.scale, 6).tolist()]).encode())
    assert digest.hexdigest() == "3c74451362d4b9b36369e2a608f87eeb8475bed2afec4dbb5a557cde7e263c7e"


def test_codes_are_as_frequent_as_in_life_and_a_patient_has_a_diseased_ear(exams):
    people = {exam.patient.name: exam for exam in exams}.values()
    codes = Counter(code for exam in people for code in exam.codes.values())
    assert codes.most_common(1)[0][0] == 1 and 0 < codes[4] < 0.02 * sum(codes.values()) and codes[NORMAL] > codes[2] > codes[6]
    assert not any(set(exam.codes.values()) == {NORMAL} for exam in people)
    total = sum(number for number, _ in LABELS)
    expected = np.array([number / total for number, _ in LABELS])
    found = np.array([codes[code] for _, code in LABELS]) / sum(codes.values())
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_one_label_in_ten_is_wrong_and_nothing_else_depends_on_the_labels(exams):
    pairs = [(exam.codes[side], exam.labels[side]) for exam in exams if exam.labels for side in SIDES
             if exam.labels[side] != UNLABELLED]
    assert binomtest(sum(code != label for code, label in pairs), len(pairs), 0.1).pvalue > 0.01
    wrong = Counter(misread(5, np.random.default_rng(n)) for n in range(4000))
    assert wrong.pop(5) == pytest.approx(3600, abs=80) and wrong.most_common(1)[0][0] == 1 and wrong[4] < 20


def test_the_sheet_has_the_labels_and_the_truth_the_right_codes(tmp_path):
    spec = HospitalSpec(num_exams=12, slices=8, seed=1, difficulty="hard")
    write_hospital(tmp_path, spec, workers=1)
    exams = {exam.exam_id: exam for exam in sample_population(spec.num_exams, spec.seed, spec.disease, spec.difficulty)}
    sheet = read_label_sheet(tmp_path / "metadata" / "labels.xlsx")
    labels = sheet.labels.set_index("exam_id")
    truth = pd.read_csv(tmp_path / "truth" / "truth.csv", dtype={"exam_id": str}).set_index(["exam_id", "side"])
    differ = 0
    for exam in exams.values():
        for side in SIDES:
            assert truth.code[exam.exam_id, str(side)] == exam.codes[side]
            if exam.labels:
                assert labels[f"{side}_code"][exam.exam_id] == exam.labels[side]
                differ += exam.labels[side] not in (UNLABELLED, exam.codes[side])
    assert differ > 0


@pytest.mark.parametrize("code", [1, 2, 3, 4, 6])
def test_a_disease_is_milder_and_keeps_its_name(code):
    for n in range(40):
        usual, rng = sample_change(code, np.random.default_rng(n)), np.random.default_rng([9, n])
        hard = milder(usual, rng)
        assert (hard.code, hard.kind) == (usual.code, usual.kind)
        for name in ("sclerosis", "cell_loss", "rough_mm", "retraction_mm"):
            assert getattr(hard, name) <= SEVERITY[1] * getattr(usual, name) + 1e-9
        assert usual.scutum <= hard.scutum <= 1 and abs(hard.antrum_scale - 1) <= abs(usual.antrum_scale - 1)
        assert all(hard.fill[region] <= part for region, part in usual.fill.items())
        assert all(hard.ossicles[bone] >= left for bone, left in usual.ossicles.items())
        assert all(np.all(np.less(mine.radii, theirs.radii)) for mine, theirs in zip(hard.masses, usual.masses, strict=True))


def test_fillings_have_the_same_hu_in_all_diseases():
    hu = {code: [milder(sample_change(code, np.random.default_rng(n)), np.random.default_rng([code, n])).fill_hu
                 for n in range(300)] for code in (1, 2, 3, 4, 5, 6)}
    means = [np.mean(values) for values in hu.values()]
    assert np.ptp(means) < 8 and 40 < np.mean(means) < 60


def test_vendors_differ_in_sharpness_and_noise_and_in_no_share_of_the_codes(exams):
    scans = [(exam, sample_acquisition(exam, HARD)[0].scan) for exam in exams]
    by_vendor = {}
    for exam, scan in scans:
        vendor = scan.vendor[:3].upper()
        (low, high), (quiet, loud), texture = SHARPNESS[vendor]
        assert low <= scan.blur_mm <= high and quiet <= scan.noise_hu <= loud and scan.noise_texture == texture
        by_vendor.setdefault(vendor, []).extend(code == NORMAL for code in exam.codes.values())
    assert set(by_vendor) == set(SHARPNESS)
    normal = np.array([sum(each) for each in by_vendor.values()])
    size = np.array([len(each) for each in by_vendor.values()])
    assert chisquare(normal, size * normal.sum() / size.sum()).pvalue > 0.01


def test_a_hospital_of_single_masses_cannot_be_hard():
    with pytest.raises(ValueError, match="difficulty: got hard with --disease one_mass"):
        HospitalSpec(disease="one_mass", difficulty="hard")
