"""Which exams are of one patient, and the account of why."""
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from helpers.commands import run
from helpers.dicom_files import SeriesFormat, axial, write_volume

from medical_fenlei import tables
from medical_fenlei.dicom.identity import Identity
from medical_fenlei.ingest.manifest import build_manifest
from medical_fenlei.ingest.patient_links import link_patients
from medical_fenlei.ingest.patients import patient_evidence
from medical_fenlei.ingest.person import are_different

KEY, SHAPE = bytes(range(32)), (4, 16, 16)


def who(patient_id="", name="", birth_date="", issuer="", sex=""):
    return Identity(patient_id=patient_id, issuer=issuer, name=name, birth_date=birth_date), sex


ANNA, BEN = ("Meier^Anna", "19340217"), ("Huber^Ben", "19551224")


def link(*people):
    return link_patients(patient_evidence(identity, f"e{n}", KEY, sex) for n, (identity, sex) in enumerate(people))


def sets_of(links):
    """The exams of each patient, as numbers."""
    frame = pd.Series({int(exam[1:]): key for exam, (key, _) in links.keys.items()})
    return sorted(sorted(own.index.tolist()) for _, own in frame.groupby(frame))


@pytest.mark.parametrize(("one", "other", "evidence"), [
    (who("P1"), who("P1"), "patient_id"),
    (who("zy0012345"), who("ZY0012345"), "patient_id_spelling"),
    (who("P１２"), who("P12"), "patient_id_spelling"),
    (who(" P 12\0"), who("P12"), "patient_id_spelling"),
    (who("00123", *ANNA), who("123", "MEIER ANNA", "1934-02-17"), "leading_zeros"),
    (who("00123"), who("123", *ANNA), "leading_zeros"),
    (who("123", *ANNA), who("123", *ANNA, issuer="HIS"), "issuer_missing"),
    (who("123", *ANNA, issuer="his"), who("123", issuer="HIS "), "patient_id"),
    (who("", *ANNA), who("P1", "anna meier", "19340217"), "name_birth_date"),
    (who("P1", *ANNA, issuer="A"), who("P2", "MEIER^ANNA^^Dr", "1934.02.17", issuer="B"), "name_birth_date"),
    (who("P1", *ANNA), who("P2", *ANNA), "name_birth_date"),
    (who("", "Zhang^San=张^三", "19700102"), who("", "张三", "19700102"), "name_birth_date"),
    (who("", "HE^CHENGBING", "19700102"), who("", "he cheng-bing", "19700102"), "name_birth_date"),
    (who("", "Müller^Jörg", "19700102"), who("", "Mu\u0308ller, JO\u0308RG", "19700102"), "name_birth_date"),
    (who("", "ＬＩ^Ｗｕ", "19700102"), who("", "LI_WU", "19700102"), "name_birth_date"),
])
def test_a_patient_in_two_writings_is_one_and_it_is_said_why(one, other, evidence):
    links = link(one, other)
    assert sets_of(links) == [[0, 1]]
    row, = links.table.itertuples()
    assert (row.exam_id, row.other_exam_id, row.evidence, row.linked) == ("e0", "e1", evidence, True)


@pytest.mark.parametrize(("one", "other"), [
    (who("P1"), who("P2")), (who("123", issuer="A"), who("123", issuer="B")), (who("", "Meier^Anna"), who("", "Meier^Anna")),
    (who("", *ANNA), who("", ANNA[0], BEN[1])), (who("", *ANNA), who("", BEN[0], ANNA[1])),
    (who("", "Meier^Anna", "19000101"), who("", "Meier^Anna", "19000101")),
    (who("ANONYMOUS"), who("Anonymous")), (who("0000"), who("0000")), (who("匿名"), who("匿名")),
    (who("", "ANONYMOUS", "19700102"), who("", "anonymous", "19700102")),
])
def test_what_is_no_evidence_links_nobody(one, other):
    links = link(one, other)
    assert sets_of(links) == [[0], [1]] and links.table.empty


@pytest.mark.parametrize(("one", "other", "why"), [
    (who("00123", *ANNA), who("123", *BEN), "sex, name or birth date differs"),
    (who("00123", *ANNA), who("123", "", BEN[1]), "sex, name or birth date differs"),
    (who("123", *ANNA, sex="F"), who("0123", sex="M"), "sex, name or birth date differs"),
    (who("123", *ANNA), who("123", *BEN, issuer="HIS"), "sex, name or birth date differs"),
    (who("P1", *ANNA, sex="F"), who("P2", *ANNA, sex="M"), "the sex differs"),
])
def test_evidence_that_something_contradicts_is_not_used_and_that_is_said(one, other, why):
    links = link(one, other)
    assert sets_of(links) == [[0], [1]]
    assert list(links.table.linked) == [False] and links.table.why[0] == why and "e0 and e1" in links.warnings[0]


def test_an_exam_without_a_name_does_not_link_two_people_whose_ids_it_resembles():
    links = link(who("123", *ANNA), who("0123"), who("00123", *BEN))
    assert sets_of(links) == [[0, 1], [2]] and links.table.linked.tolist().count(False) == 2


def test_an_id_without_issuer_joins_none_of_several_issuers():
    links = link(who("123"), who("123", issuer="A"), who("123", issuer="B"))
    assert sets_of(links) == [[0], [1], [2]] and "several issuers" in links.warnings[0]
    assert sets_of(link(who("123", *ANNA), who("123", *ANNA, issuer="A"), who("123", issuer="B"))) == [[0, 1], [2]]


def test_links_reach_over_a_chain_and_do_not_depend_on_the_order():
    people = [who("P1"), who("p1", *ANNA), who("", *ANNA), who("P9")]
    alike = {}
    for order in permutations(range(4)):
        links = link_patients(patient_evidence(people[n][0], f"e{n}", KEY) for n in order)
        assert sets_of(links) == [[0, 1, 2], [3]]
        alike[str(links.keys["e0"]), links.table.to_csv()] = order
    assert len(alike) == 1 and links.keys["e2"][1] == "patient_id"


def test_an_anonymiser_s_constant_leaves_exams_apart_and_is_said():
    links = link(*[who("ANONYMOUS", "ANONYMOUS")] * 6)
    assert len(sets_of(links)) == 6 and "6 exams have a placeholder" in links.warnings[0]
    numbers = link(*[who("1", f"Person^{letter}", f"1970010{n + 1}") for n, letter in enumerate("ABCDE")])
    assert len(sets_of(numbers)) == 5 and "5 of 5 exams share a PatientID, but not" in numbers.warnings[0]
    assert all(source == "name_birth_date" for _, source in numbers.keys.values())


def test_an_id_of_nearly_all_exams_that_nothing_confirms_is_doubted_from_the_first_handful():
    links = link(*[who("1")] * 5, who("2"))
    assert sets_of(links) == [[0, 1, 2, 3, 4], [5]] and "5 of 6 exams share a PatientID" in links.warnings[0]
    assert not link(*[who("1", *ANNA)] * 5, who("2")).warnings and not link(*[who("1")] * 4, *map(who, "234567")).warnings


def test_two_people_under_one_id_are_said():
    links = link(who("P1", *ANNA), who("P1", *BEN))
    assert sets_of(links) == [[0, 1]] and "not their name or birth date (e0, e1)" in links.warnings[0]


def test_a_name_of_everybody_does_not_link_their_ids():
    links = link(*[who(f"P{n}", "Somebody^Else", "19700102") for n in range(4)])
    assert len(sets_of(links)) == 4 and "4 PatientIDs have one name" in links.warnings[0]
    without_ids = link(*[who("", "Somebody^Else", "19700102")] * 5)
    assert len(sets_of(without_ids)) == 1 and "constants of the export" in without_ids.warnings[0]


def test_neither_table_nor_warnings_name_anybody():
    links = link(who("P7731", *ANNA), who("p7731", *BEN), who("07731"), who("7731", *ANNA), who("ANONYMOUS"))
    told = f"{links.table.to_csv()} {links.warnings} {links} {patient_evidence(who('P7731', *ANNA)[0], 'e', KEY)}".lower()
    assert not any(word in told for word in ("7731", "anna", "meier", "1934", "huber"))


@pytest.mark.parametrize(("one", "other", "different"), [
    (who("P1"), who("p1 "), False), (who("P1"), who("P2"), True), (who("P1", *ANNA), who("P2", *ANNA), True),
    (who("00123", *ANNA), who("123", *ANNA), False), (who("00123", *ANNA), who("123", *BEN), True),
    (who("123", *ANNA, issuer="A"), who("123", *BEN, issuer="B"), True), (who("1", issuer="A"), who("2", issuer="B"), True),
    (who("1", *ANNA, issuer="A"), who("2", "anna meier", "1934-02-17", issuer="B"), False),
    (who("", *ANNA), who("P1", "MEIER, ANNA", "19340217"), False), (who("", *ANNA), who("P1", *BEN), True),
    (who("ANONYMOUS"), who("P1"), False), (who("", "张三", "19700102"), who("", "ZHANG^SAN", "19700102"), False),
    (who("", "张三", "19700102"), who("", "李四", "19700102"), True),
])
def test_images_are_compared_with_the_same_evidence(one, other, different):
    assert are_different(one[0], other[0]) is are_different(other[0], one[0]) is different


def index_row(exam):
    """The row of an exam whose only series lies in its folder."""
    return {"exam_id": exam, "date": "2020-01-01", "label_date": "", "date_match": False, "ambiguous_match": False,
            "exam_relpath": exam, "series_relpath": exam, "n_instances": 4, "left_code": 5, "right_code": 1,
            "series_reason": ""}


def write_exam(folder, number, **header):
    hu = np.random.default_rng(number).integers(-1000, 2000, SHAPE)
    return write_volume(folder, hu, axial(SHAPE), SeriesFormat(attributes=header))


def test_a_name_in_several_character_sets_is_one_patient_in_the_manifest(tmp_path):
    rows, mark = [], "QQQQQQQQQQ"
    for number, (encoding, charset) in enumerate([("gb18030", "GB18030"), ("gbk", None), ("gbk", "ISO_IR 100"),
                                                  ("utf-8", "ISO_IR 192"), ("utf-8", "ISO_IR 100")]):
        declared = {"SpecificCharacterSet": charset} if charset else {}
        for path in write_exam(tmp_path / f"{number:04d}", number, PatientID="", PatientName=mark, **declared):
            path.write_bytes(path.read_bytes().replace(mark.encode(), "合成^甲".encode(encoding).ljust(len(mark))))
        rows.append(index_row(f"{number:04d}"))
    built = build_manifest(tables.INDEX.frame(rows), base=tmp_path, scan_file=tmp_path / "scan.jsonl", key=KEY, workers=1)
    assert built.table.patient_key.nunique() == 1 and set(built.table.patient_key_source) == {"name_birth_date"}
    assert len(built.patients.table) == 4 and set(built.patients.table.evidence) == {"name_birth_date"}


def test_the_script_says_what_was_linked_and_what_stands_for_nobody(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    people = [{"PatientID": "D3"}, {"PatientID": "D3", "IssuerOfPatientID": "HIS"}, {"PatientID": "zy0012345"},
              {"PatientID": "ZY0012345"}, *[{"PatientID": "ANONYMOUS", "PatientBirthDate": ""}] * 2]
    for number, header in enumerate(people):
        letter = "AABBCC"[number]
        write_exam(tmp_path / f"base/{number:04d}", number, **{"PatientName": f"Person^{letter}"} | header)
    tables.INDEX.write(tmp_path / "index.csv", tables.INDEX.frame([index_row(f"{n:04d}") for n in range(6)]))
    assert run("build_manifest_ears", "--index-csv", "index.csv", "--dicom-base", "base", "--out-csv", "m.csv",
               "--num-workers", 1) == 0
    said = capsys.readouterr()
    assert "4 patients" in said.out and "2 exams linked" in said.out and "m_linked_patients.csv" in said.out
    assert "2 exams have a placeholder such as ANONYMOUS as PatientID (0004, 0005)" in said.err
    linked = tables.LINKED_PATIENTS.read(tmp_path / "m_linked_patients.csv")
    assert linked.linked.all() and list(linked.evidence) == ["issuer_missing", "patient_id_spelling"]
    written = (tmp_path / "m_linked_patients.csv").read_text() + (tmp_path / "m.csv").read_text() + said.out + said.err
    assert not any(word in written.lower() for word in ("person^", "12345", "1970"))
