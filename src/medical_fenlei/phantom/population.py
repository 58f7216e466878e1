"""Who is examined, when, with which disease in which ear, and what the label sheet says of it. Nobody real."""
import datetime
from dataclasses import dataclass

import numpy as np

from medical_fenlei.phantom.anatomy import Person, draw_person
from medical_fenlei.phantom.scanner import pick
from medical_fenlei.phantom.series import Patient
from medical_fenlei.phantom.spec import Disease
from medical_fenlei.vocabulary import NORMAL, UNLABELLED, Side

PAIRS: tuple[tuple[float, tuple[int, int]], ...] = (
    (0.17, (1, 5)), (0.15, (5, 1)), (0.13, (1, 1)), (0.09, (5, 2)), (0.08, (2, 5)), (0.07, (3, 3)), (0.04, (1, 6)),
    (0.04, (6, 1)), (0.04, (5, 3)), (0.03, (2, 6)), (0.03, (3, 5)), (0.03, (6, 2)), (0.02, (2, 2)), (0.01, (1, 2)),
    (0.01, (3, 6)), (0.06, (5, 5)),
)
"""Codes (left, right) and their share of the exams: those of a real collection, and 6 % with both ears normal."""

RARE_PAIRS: tuple[tuple[float, tuple[int, int]], ...] = ((0.4, (4, 5)), (0.4, (5, 4)), (0.1, (4, 1)), (0.1, (1, 4)))
RARE_SHARE, RARE_AT_LEAST = 0.06, 8
"""Of the exams have code 4 in an ear, and at least so many patients: far more often than in life, so that it can be learnt."""

OTHER = 6
FIRST_DAY, DAYS = datetime.date(2019, 1, 2), 4 * 365


@dataclass(frozen=True, kw_only=True)
class Exam:
    """One exam as the hospital knows it."""

    number: int
    """Seeds everything drawn for it."""

    exam_id: str
    patient: Patient
    person: Person
    codes: dict[Side, int]
    """The truth."""

    labels: dict[Side, int] | None
    """What the sheet says (UNLABELLED for an empty cell); None where the sheet has no such row."""

    date: datetime.date
    label_date: datetime.date
    other_date: datetime.date | None
    """A second folder with this id, in which only a thick soft-tissue series lies."""


def draw_population(num_exams: int, seed: int, disease: Disease = "as_in_life") -> list[Exam]:
    """The exams of a synthetic hospital, by exam id, with all that makes real sheets and disks untidy.

    With one mass an ear that is not normal has code 6, and its mastoid is as that of anybody.

    Some 4 % are second exams of a patient; two thirds of the sheet's dates differ; a few ears or exams have no label; a few ids
    lie under two dates; some files have no PatientID; one exam is not in the sheet.
    """
    rng = np.random.default_rng([seed, 1])
    rare = min(max(RARE_AT_LEAST, round(RARE_SHARE * num_exams)), num_exams // 3)
    second = min(_share(num_exams, 0.04, 2), (num_exams - rare) // 2)
    pairs = [pick(rng, RARE_PAIRS) for _ in range(rare)] + [pick(rng, PAIRS) for _ in range(num_exams - rare - second)]
    people = []
    for n, i in enumerate(rng.permutation(len(pairs))):
        codes = dict(zip((Side.LEFT, Side.RIGHT), pairs[i], strict=True))
        if disease == "one_mass":
            codes = {side: code if code == NORMAL else OTHER for side, code in codes.items()}
        moved = {side: code != NORMAL and disease == "as_in_life" for side, code in codes.items()}
        person = draw_person(np.random.default_rng([seed, 2, n]), moved)
        people.append((_patient(n, person, rng), person, codes))
    again = rng.choice(len(people), second, replace=False)
    who = rng.permutation(np.concatenate([np.arange(len(people)), again]))

    ids = sorted(rng.choice(np.arange(1_000, 9_999_999), num_exams, replace=False))
    odd = iter(rng.permutation(num_exams))                       # each exam is odd in one way at most
    no_label, two_dates, not_in_sheet = (
        {int(next(odd)) for _ in range(min(count, num_exams // 8))}
        for count in (_share(num_exams, 0.03, 1), _share(num_exams, 0.02, 1), 1))
    half_label = {int(next(odd)) for _ in range(min(_share(num_exams, 0.04, 2), num_exams // 8))}
    exams = []
    for n, (exam_id, p) in enumerate(zip(ids, who, strict=True)):
        patient, person, codes = people[p]
        labels: dict[Side, int] | None = dict(codes)
        if n in no_label:
            labels = dict.fromkeys(codes, UNLABELLED)
        elif n in half_label:
            labels = {**codes, pick(rng, ((0.5, Side.LEFT), (0.5, Side.RIGHT))): UNLABELLED}
        elif n in not_in_sheet:
            labels = None
        date = FIRST_DAY + datetime.timedelta(days=int(rng.integers(DAYS)))
        late = datetime.timedelta(days=int(rng.integers(1, 9))) if rng.random() < 2 / 3 else datetime.timedelta()
        other = date + datetime.timedelta(days=int(rng.integers(20, 90))) if n in two_dates else None
        exams.append(Exam(number=n, exam_id=f"{exam_id:08d}", patient=patient, person=person, codes=codes, labels=labels,
                          date=date, label_date=date - late, other_date=other))
    return exams


def _share(number: int, share: float, at_least: int) -> int:
    return max(at_least, round(share * number))


def _patient(n: int, person: Person, rng: np.random.Generator) -> Patient:
    born = FIRST_DAY - datetime.timedelta(days=int(person.age_years * 365.25) + int(rng.integers(365)))
    known = rng.random() > 0.02
    return Patient(patient_id=f"D{n:06d}" if known else "", name=f"SYNTHETIC^PATIENT{n:04d}", birth_date=born, sex=person.sex,
                   age_years=int(person.age_years))
