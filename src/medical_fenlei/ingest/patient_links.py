"""Exams of the same patient within one manifest, by any evidence that they share, with an account of what was linked why."""
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from medical_fenlei import tables
from medical_fenlei.ingest.patients import ExamPatient

HANDFUL = 5
"""From so many exams on, a PatientID or a name with birth date that most exams share is doubted."""

SEVERAL_IDS = 3
"""From so many PatientIDs on, a name with birth date that most of them share is a constant of the export."""

_WITHOUT_ID = ("they are told apart by name and birth date; without these each exam counts as a patient of its own, and a "
               "split by patient may separate exams of one person")
_SOURCES = ("patient_id", "name_birth_date", "exam_id")
_ID, _SPELLING, _ISSUER, _ZEROS = "patient_id", "patient_id_spelling", "issuer_missing", "leading_zeros"
_NAME = "name_birth_date"


@dataclass(frozen=True)
class PatientLinks:
    """The patient of each exam of a manifest."""

    keys: dict[str, tuple[str, str]]
    """(patient_key, patient_key_source) by exam id; linked exams have one key."""

    table: pd.DataFrame
    """`tables.LINKED_PATIENTS`: pairs of exams that were linked, or were not although some evidence agrees."""

    warnings: list[str]
    """Sentences on evidence that stands for nobody, or may stand for several people."""

    def count_links(self) -> str:
        """Return how many exams were linked to another one, and by which evidence."""
        counts = self.table[self.table.linked].evidence.value_counts()
        by_evidence = ", ".join(f"{number} by {evidence}" for evidence, number in counts.items())
        return f"{counts.sum()} exams linked to another one of their patient{f' ({by_evidence})' if by_evidence else ''}"


@dataclass
class _Linking:
    """Sets of exams of one patient each, by their number, and the account of how they grew."""

    patients: Sequence[ExamPatient]
    sets: DisjointSet
    whys: dict[tuple[int, int, str], str] = field(default_factory=dict)
    """By pair of exams and evidence: why they were not linked; "" if they were."""

    def link(self, one: int, other: int, evidence: str) -> None:
        """Join the patients of two exams."""
        if self.sets.merge(one, other):
            self.whys[one, other, evidence] = ""

    def decline(self, one: int, other: int, evidence: str, why: str) -> None:
        """Record two exams that stay apart although some evidence agrees."""
        self.whys.setdefault((one, other, evidence), why)

    def table(self) -> pd.DataFrame:
        """Return `tables.LINKED_PATIENTS`; pairs that further evidence linked do not count as declined."""
        return tables.LINKED_PATIENTS.frame([
            {"exam_id": self.patients[one].exam_id, "other_exam_id": self.patients[other].exam_id, "evidence": evidence,
             "linked": not why, "why": why}
            for (one, other, evidence), why in sorted(self.whys.items()) if not (why and self.sets.connected(one, other))])

    def groups(self, among: Iterable[int]) -> list[list[int]]:
        """Return these exams by the patient that they have by now."""
        groups: dict[int, list[int]] = {}
        for n in among:
            groups.setdefault(self.sets[n], []).append(n)
        return list(groups.values())

    def conflict(self, one: int, other: int, *, compare_persons: bool) -> bool:
        """Return whether the exams of two patients differ in sex, or (with `compare_persons`) in name or birth date."""
        left, right = ([self.patients[n] for n in self.sets.subset(number)] for number in (one, other))
        if len({patient.sex for patient in (*left, *right)} & {"F", "M"}) > 1:
            return True
        return compare_persons and any(own.person.conflicts_with(its.person) for own in left for its in right)


def link_patients(patients: Iterable[ExamPatient]) -> PatientLinks:
    """Link the exams of each patient.

    Exams with the same PatientID and issuer are one patient. So are exams whose ids differ in leading zeros, or of which one
    has no issuer, unless sex, name or birth date differs, and exams with the same name and birth date, unless the sex differs.
    A PatientID or name that most exams share is no evidence. Linked exams get the smallest key of their best source.
    """
    exams = sorted(patients, key=lambda patient: patient.exam_id)
    warnings = _placeholder_warnings(exams)
    exams, constant = _without_constant_id(exams)
    linking = _Linking(exams, DisjointSet(range(len(exams))))
    doubts = [*_link_ids(linking), *_link_names(linking)]
    keys: dict[str, tuple[str, str]] = {}
    for members in linking.sets.subsets():
        source, key = min((exams[n].keys[0] for n in members), key=lambda own: (_SOURCES.index(own[0]), own[1]))
        keys |= {exams[n].exam_id: (key, source) for n in members}
    table = linking.table()
    return PatientLinks(keys, table, [*warnings, *constant, *doubts, *_unlinked_warnings(table)])


def _unlinked_warnings(table: pd.DataFrame) -> list[str]:
    pairs = [f"{row.exam_id} and {row.other_exam_id} ({row.evidence}: {row.why})" for row in table[~table.linked].itertuples()]
    return [f"{len(pairs)} pairs of exams agree in an id, or in name and birth date, but count as different patients: "
            f"{_shown(pairs)}; correct the headers if they are one"] if pairs else []


def _placeholder_warnings(exams: Sequence[ExamPatient]) -> list[str]:
    own = [exam.exam_id for exam in exams if exam.person.has_placeholder]
    return [f"{len(own)} exams have a placeholder such as ANONYMOUS as PatientID ({_shown(own)}): {_WITHOUT_ID}"] if own else []


def _without_constant_id(exams: list[ExamPatient]) -> tuple[list[ExamPatient], list[str]]:
    """Remove a PatientID that stands for different people in most exams. Returns the exams, and what to say."""
    said = []
    exams = list(exams)
    for members in _groups(exams, lambda exam: [exam.person.patient_id]):
        own = [exams[n] for n in members]
        people = dict.fromkeys(exam.person for exam in own)
        if _are_most(members, exams) and any(one.conflicts_with(other) for one, other in combinations(people, 2)):
            for n in members:
                person = replace(exams[n].person, patient_id="", short_id="")
                exams[n] = replace(exams[n], person=person, keys=exams[n].keys[1:])
            said.append(f"{len(own)} of {len(exams)} exams share a PatientID, but not their name or birth date "
                        f"({_shown([exam.exam_id for exam in own])}): it is not used; {_WITHOUT_ID}")
    return exams, said


def _link_ids(linking: _Linking) -> list[str]:
    """Link exams by PatientID. Returns doubts about it."""
    exams, doubts = linking.patients, []
    for members in _groups(exams, lambda exam: [exam.person.short_id]):
        same = _groups(exams, lambda exam: [(exam.person.issuer, exam.person.patient_id)], members)
        for group in same:
            for n in group[1:]:
                as_written = exams[n].person.written_id == exams[group[0]].person.written_id
                linking.link(group[0], n, _ID if as_written else _SPELLING)
            doubts += _doubts(exams, group)
        issuers = {exams[group[0]].person.issuer for group in same} - {""}
        for one, other in combinations(same, 2):
            first, second = (exams[group[0]].person for group in (one, other))
            if first.issuer and second.issuer and first.issuer != second.issuer:
                continue
            evidence = _ZEROS if first.patient_id != second.patient_id else _ISSUER
            if first.issuer != second.issuer and len(issuers) > 1:
                linking.decline(one[0], other[0], _ISSUER, "several issuers have this PatientID")
            elif linking.conflict(one[0], other[0], compare_persons=True):
                linking.decline(one[0], other[0], evidence, "sex, name or birth date differs")
            else:
                linking.link(one[0], other[0], evidence)
    return doubts


def _doubts(exams: Sequence[ExamPatient], group: Sequence[int]) -> list[str]:
    """Return what makes it doubtful that exams with one PatientID are of one person; both sexes are reported by others."""
    own = [exams[n] for n in group]
    people = list(dict.fromkeys(exam.person for exam in own))
    ids = _shown([exam.exam_id for exam in own])
    if any(one.conflicts_with(other) for one, other in combinations(people, 2)):
        return [f"{len(own)} exams share a PatientID, but not their name or birth date ({ids}): they count as one patient; "
                "correct the PatientID if they are several"]
    if _are_most(group, exams) and not all(people[0].has_same_name_and_birth_date(person) for person in people):
        return [f"{len(own)} of {len(exams)} exams share a PatientID, and no name with birth date confirms that they are one "
                f"person ({ids}): they count as one patient; is it a constant of the export?"]
    return []


def _link_names(linking: _Linking) -> list[str]:
    """Link exams by name and birth date. Returns doubts about them."""
    exams, doubts = linking.patients, set()
    number_of_ids = len({exam.person.short_id for exam in exams} - {""})
    for members in _groups(exams, lambda exam: [(name, exam.person.birth_date) for name in sorted(exam.person.names)
                                                if exam.person.birth_date]):
        without_id = [n for n in members if not exams[n].person.short_id]
        for n in without_id[1:]:
            linking.link(without_id[0], n, _NAME)
        shown = _shown([exams[n].exam_id for n in members])
        number = len({exams[n].person.short_id for n in members} - {""})
        if number >= HANDFUL or (number >= SEVERAL_IDS and 2 * number > number_of_ids):
            doubts.add(f"{number} PatientIDs have one name and birth date ({shown}): these are not used to link exams")
            continue
        if not number and _are_most(members, exams):
            doubts.add(f"{len(members)} of {len(exams)} exams without a PatientID share name and birth date ({shown}): they "
                       "count as one patient; are these constants of the export?")
        for one, other in combinations(linking.groups(members), 2):
            if linking.conflict(one[0], other[0], compare_persons=False):
                linking.decline(one[0], other[0], _NAME, "the sex differs")
            else:
                linking.link(one[0], other[0], _NAME)
    return sorted(doubts)


def _groups(exams: Sequence[ExamPatient], keys: Callable[[ExamPatient], Sequence[Hashable]],
            among: Iterable[int] | None = None) -> list[list[int]]:
    """Return the numbers of the exams that share a key, for each key that is not empty, in the order of the exams."""
    groups: dict[Hashable, list[int]] = {}
    for n in range(len(exams)) if among is None else among:
        for key in keys(exams[n]):
            if key:
                groups.setdefault(key, []).append(n)
    return list(groups.values())


def _are_most(some: Sequence[int], exams: Sequence[ExamPatient]) -> bool:
    return len(some) >= HANDFUL and 2 * len(some) > len(exams)


def _shown(exam_ids: Sequence[str]) -> str:
    return ", ".join(exam_ids[:5]) + (", …" if len(exam_ids) > 5 else "")
