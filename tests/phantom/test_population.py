"""The population has the stated shares of codes, second exams, and irregularities of its label sheet."""
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.stats import chisquare

from medical_fenlei.phantom.anatomy import DISEASED_AERATION, HEALTHY_AERATION, OPPOSITE_AERATION, sample_person
from medical_fenlei.phantom.population import PAIRS, RARE_AT_LEAST, RARE_PAIRS, sample_population
from medical_fenlei.vocabulary import NORMAL, SIDES, UNLABELLED, Side


@pytest.fixture(scope="module")
def exams():
    return sample_population(400, 0)


def pair(codes):
    return codes[Side.LEFT], codes[Side.RIGHT]


def by_patient(exams):
    found = defaultdict(list)
    for exam in exams:
        found[exam.patient.name].append(exam)
    return found


def test_pairs_of_codes_come_in_the_shares_of_a_real_collection(exams):
    pairs = Counter(pair(group[0].codes) for group in by_patient(exams).values() if 4 not in group[0].codes.values())
    assert set(pairs) <= {codes for _, codes in PAIRS}
    total = sum(pairs.values())
    assert total > 300 and chisquare([pairs[codes] for _, codes in PAIRS], [share * total for share, _ in PAIRS]).pvalue > 0.01


@pytest.mark.parametrize("number", [40, 160, 400])
def test_code_4_is_common_enough_to_be_learnt(number):
    people = by_patient(sample_population(number, 1)).values()
    rare = [pair(group[0].codes) for group in people if 4 in group[0].codes.values()]
    assert len(rare) >= RARE_AT_LEAST == 8 and len(rare) >= 0.05 * number
    assert set(rare) <= {codes for _, codes in RARE_PAIRS}


def test_exam_ids_are_unique_texts_of_8_digits_with_leading_zeros(exams):
    ids = [exam.exam_id for exam in exams]
    assert len(set(ids)) == 400 and ids == sorted(ids)
    assert all(isinstance(i, str) and len(i) == 8 and i.isdigit() and i.startswith("0") for i in ids)


def test_no_patient_id_or_name_occurs_in_a_hospital_of_another_seed(exams):
    others = [exam for seed in (1, 10, 11) for exam in sample_population(100, seed)]
    for own, theirs in ((exams, others), (others[:100], others[200:])):
        for name in ("patient_id", "name"):
            shared = {getattr(e.patient, name) for e in own} & {getattr(e.patient, name) for e in theirs}
            assert shared <= {""}
    assert [e.patient for e in sample_population(400, 0)] == [e.patient for e in exams]


def test_a_second_exam_is_of_the_same_person_with_the_same_codes(exams):
    groups = by_patient(exams).values()
    again = [group for group in groups if len(group) > 1]
    assert len(again) == 16 and all(len(group) == 2 for group in again)
    for one, other in again:
        assert one.person is other.person and one.patient == other.patient and one.codes == other.codes
        assert one.exam_id != other.exam_id and one.number != other.number
    assert len({id(group[0].person) for group in groups}) == len(groups) == 384


def test_two_thirds_of_the_sheets_dates_differ_from_the_exams(exams):
    late = [(exam.date - exam.label_date).days for exam in exams]
    assert 0.60 < np.mean([days != 0 for days in late]) < 0.73
    assert min(late) == 0 and max(late) == 8


def test_some_labels_are_missing_and_none_is_wrong(exams):
    missing = Counter("row" if exam.labels is None else sum(code == UNLABELLED for code in exam.labels.values())
                      for exam in exams)
    assert missing == {0: 400 - 1 - 12 - 16, 1: 16, 2: 12, "row": 1}
    for exam in exams:
        for side, code in (exam.labels or {}).items():
            assert code in (UNLABELLED, exam.codes[side])


def test_some_exams_have_a_second_folder_of_a_later_date(exams):
    twice = [exam for exam in exams if exam.other_date]
    assert len(twice) == 8 and all(exam.other_date > exam.date for exam in twice)


def test_some_patients_have_no_id_and_no_two_share_one(exams):
    patients = {exam.patient.name: exam.patient.patient_id for exam in exams}
    known = [i for i in patients.values() if i]
    assert len(set(known)) == len(known)
    assert 0.005 < 1 - len(known) / len(patients) < 0.05


def test_equal_seeds_sample_equal_populations_and_different_seeds_do_not():
    def spelt(seed):
        return [(e.number, e.exam_id, e.patient, e.codes, e.labels, e.date, e.label_date, e.other_date, e.person.scale,
                 [(ear.aeration, ear.shift, ear.texture_turn.tolist()) for ear in e.person.ears.values()])
                for e in sample_population(30, seed)]

    assert spelt(3) == spelt(3)
    assert not {row[1] for row in spelt(3)} & {row[1] for row in spelt(4)} and spelt(3)[0][-1] != spelt(4)[0][-1]


def aerations(diseased, number=400):
    people = [sample_person(np.random.default_rng([9, n]), diseased, age_years=40) for n in range(number)]
    return np.array([[person.ears[side].aeration for side in SIDES] for person in people])


def test_disease_of_one_ear_lowers_the_aeration_of_both():
    healthy = aerations(dict.fromkeys(SIDES, False))
    one_sided = aerations({Side.LEFT: True, Side.RIGHT: False})
    assert healthy.mean() == pytest.approx(HEALTHY_AERATION, abs=0.03)
    assert one_sided.mean(axis=0) == pytest.approx([DISEASED_AERATION, OPPOSITE_AERATION], abs=0.03)
    assert healthy.mean() > one_sided[:, 1].mean() + 0.1 and one_sided[:, 1].mean() > one_sided[:, 0].mean() + 0.02


def test_the_aeration_of_both_sides_is_correlated_but_not_equal():
    left, right = aerations(dict.fromkeys(SIDES, False)).T
    assert 0.65 < np.corrcoef(left, right)[0, 1] < 0.9
    assert np.abs(left - right).mean() > 0.05


def test_aeration_alone_does_not_separate_healthy_and_diseased_ears():
    """Healthy ears with little air and diseased ears with much air both occur."""
    healthy, diseased = aerations(dict.fromkeys(SIDES, False)).ravel(), aerations(dict.fromkeys(SIDES, True)).ravel()
    assert np.mean(healthy < np.median(diseased)) > 0.1 and np.mean(diseased > np.median(healthy)) > 0.1


def test_the_aeration_of_the_population_differs_between_the_groups_as_sampled(exams):
    groups = defaultdict(list)
    for exam in exams:
        for side in SIDES:
            own, other = exam.codes[side] != NORMAL, exam.codes[side.other] != NORMAL
            groups["diseased" if own else "opposite" if other else "healthy"].append(exam.person.ears[side].aeration)
    means = {name: np.mean(values) for name, values in groups.items()}
    assert means["healthy"] > means["opposite"] > means["diseased"]
