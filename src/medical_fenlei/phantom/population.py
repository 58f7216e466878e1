"""The exams of the synthetic hospital: patients, dates, the disease of each ear, and the entries of the label sheet."""
import datetime
from dataclasses import dataclass

import numpy as np

from medical_fenlei.phantom.anatomy import Person, sample_person
from medical_fenlei.phantom.hard import misread
from medical_fenlei.phantom.scanner import weighted_choice
from medical_fenlei.phantom.series import Patient
from medical_fenlei.phantom.spec import Difficulty, Disease
from medical_fenlei.vocabulary import NORMAL, UNLABELLED, Side

PAIRS: tuple[tuple[float, tuple[int, int]], ...] = (
    (0.17, (1, 5)), (0.15, (5, 1)), (0.13, (1, 1)), (0.09, (5, 2)), (0.08, (2, 5)), (0.07, (3, 3)), (0.04, (1, 6)),
    (0.04, (6, 1)), (0.04, (5, 3)), (0.03, (2, 6)), (0.03, (3, 5)), (0.03, (6, 2)), (0.02, (2, 2)), (0.01, (1, 2)),
    (0.01, (3, 6)), (0.06, (5, 5)),
)
"""Shares of the exams by their codes (left, right): those of a real collection, and 6 % with both ears normal."""

RARE_PAIRS: tuple[tuple[float, tuple[int, int]], ...] = ((0.4, (4, 5)), (0.4, (5, 4)), (0.1, (4, 1)), (0.1, (1, 4)))
RARE_SHARE, RARE_AT_LEAST = 0.06, 8
"""Share of the exams, and minimum number of patients, with code 4: far more than in reality, so that it can be learnt."""

LIFE_PAIRS = tuple((share / (1 - sum(both for both, codes in PAIRS if codes == (NORMAL, NORMAL))), codes)
                   for share, codes in PAIRS if codes != (NORMAL, NORMAL))
RARE_LIFE_SHARE = 36 / 3859
"""The same two of the hard hospital: the shares of PAIRS without ears that are both normal, and of code 4 as in reality."""

OTHER = 6
"""Code of an abnormal ear with `one_mass`."""
FIRST_DAY, DAYS = datetime.date(2019, 1, 2), 4 * 365


@dataclass(frozen=True, kw_only=True)
class Exam:
    """One exam with its patient, the true codes and the labels of the sheet."""

    number: int
    """Number of the exam, which seeds everything drawn for it."""

    exam_id: str
    patient: Patient
    person: Person
    codes: dict[Side, int]
    """True code of each ear."""

    labels: dict[Side, int] | None
    """Codes in the label sheet (UNLABELLED for an empty cell); None if the sheet has no row for the exam."""

    date: datetime.date
    label_date: datetime.date
    """Date in the label sheet."""

    other_date: datetime.date | None
    """Date of a second folder with this exam id, which holds only a thick soft-tissue series."""


def sample_population(
    num_exams: int, seed: int, disease: Disease = "as_in_life", difficulty: Difficulty = "usual"
) -> list[Exam]:
    """Sample the exams of a synthetic hospital, in the order of their ids, with the irregularities of real sheets and disks.

    About 4 % are second exams of a patient; two thirds of the dates in the sheet differ; a few ears or exams have no label; a
    few ids occur under two dates; some patients have no PatientID; one exam is not in the sheet. With `one_mass` all abnormal
    ears have code 6 and the aeration of a healthy ear. In a hard hospital codes are as frequent as in life, and some labels are
    wrong.
    """
    rng, hard = np.random.default_rng([seed, 1]), difficulty == "hard"
    rare = min(max(RARE_AT_LEAST, round(RARE_SHARE * num_exams)), num_exams // 3)
    if hard:
        rare = _share(num_exams, RARE_LIFE_SHARE, 1)
    second = min(_share(num_exams, 0.04, 2), (num_exams - rare) // 2)
    pairs = [weighted_choice(rng, RARE_PAIRS) for _ in range(rare)]
    pairs += [weighted_choice(rng, LIFE_PAIRS if hard else PAIRS) for _ in range(num_exams - rare - second)]
    people = []
    for n, i in enumerate(rng.permutation(len(pairs))):
        codes = dict(zip((Side.LEFT, Side.RIGHT), pairs[i], strict=True))
        if disease == "one_mass":
            codes = {side: code if code == NORMAL else OTHER for side, code in codes.items()}
        moved = {side: code != NORMAL and disease == "as_in_life" for side, code in codes.items()}
        person = sample_person(np.random.default_rng([seed, 2, n]), moved)
        people.append((_patient(seed, n, person, rng), person, codes))
    again = rng.choice(len(people), second, replace=False)
    who = rng.permutation(np.concatenate([np.arange(len(people)), again]))

    ids = sorted(rng.choice(np.arange(1_000, 9_999_999), num_exams, replace=False))
    odd = iter(rng.permutation(num_exams))                       # each exam has at most one irregularity
    no_label, two_dates, not_in_sheet = (
        {int(next(odd)) for _ in range(min(count, num_exams // 8))}
        for count in (_share(num_exams, 0.03, 1), _share(num_exams, 0.02, 1), 1))
    half_label = {int(next(odd)) for _ in range(min(_share(num_exams, 0.04, 2), num_exams // 8))}
    exams = []
    reader = np.random.default_rng([seed, 6])                    # of its own, so that nothing else depends on the labels
    for n, (exam_id, p) in enumerate(zip(ids, who, strict=True)):
        patient, person, codes = people[p]
        written = {side: misread(code, reader) for side, code in codes.items()} if hard else codes
        labels: dict[Side, int] | None = dict(written)
        if n in no_label:
            labels = dict.fromkeys(codes, UNLABELLED)
        elif n in half_label:
            labels = {**written, weighted_choice(rng, ((0.5, Side.LEFT), (0.5, Side.RIGHT))): UNLABELLED}
        elif n in not_in_sheet:
            labels = None
        date = FIRST_DAY + datetime.timedelta(days=int(rng.integers(DAYS)))
        late = datetime.timedelta(days=int(rng.integers(1, 9))) if rng.random() < 2 / 3 else datetime.timedelta()
        other = date + datetime.timedelta(days=int(rng.integers(20, 90))) if n in two_dates else None
        exams.append(Exam(number=n, exam_id=f"{exam_id:08d}", patient=patient, person=person, codes=codes, labels=labels,
                          date=date, label_date=date - late, other_date=other))
    return exams


def _share(number: int, share: float, at_least: int) -> int:
    """The rounded share of a number, but at least `at_least`."""
    return max(at_least, round(share * number))


def _patient(seed: int, n: int, person: Person, rng: np.random.Generator) -> Patient:
    """A patient whose id and name no hospital of another seed has."""
    born = FIRST_DAY - datetime.timedelta(days=int(person.age_years * 365.25) + int(rng.integers(365)))
    known = rng.random() > 0.02
    return Patient(patient_id=f"D{seed}-{n:06d}" if known else "", name=f"SYNTHETIC^PATIENT{seed}N{n:04d}", birth_date=born,
                   sex=person.sex, age_years=int(person.age_years))
