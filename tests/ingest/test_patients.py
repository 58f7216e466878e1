"""Exams of one patient share a keyed hash that does not identify the patient."""
import errno
import hashlib
import os
import stat

import pytest

from medical_fenlei.dicom.identity import Identity
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.patients import patient_evidence, read_or_make_key

KEY = bytes(range(32))


def who(patient_id="", name="", birth_date="", issuer=""):
    return Identity(patient_id=patient_id, issuer=issuer, name=name, birth_date=birth_date)


def patient_key(identity, exam_id, key):
    """The key of an exam by itself, and its source."""
    return patient_evidence(identity, exam_id, key).keys[0][::-1]


def test_the_same_patient_has_one_key_and_another_has_another():
    key, source = patient_key(who("123", "A", "19700101"), "exam1", KEY)
    assert patient_key(who("123", "B", ""), "exam2", KEY) == (key, "patient_id") and source == "patient_id"
    assert patient_key(who("124", "A", "19700101"), "exam1", KEY)[0] != key


def test_without_an_id_name_and_birth_date_decide_then_the_exam():
    assert patient_key(who("", "ZHANG", "19700101"), "1", KEY)[1] == "name_birth_date"
    assert patient_key(who("", "ZHANG", ""), "1", KEY)[1] == "exam_id"


def test_an_empty_patient_id_makes_no_giant_patient():
    keys = {patient_key(who(), exam, KEY)[0] for exam in ("1", "2", "3")}
    assert len(keys) == 3


def test_the_hash_depends_on_the_key():
    plain = hashlib.sha256(b"123").hexdigest()
    one, other = patient_key(who("123"), "1", KEY)[0], patient_key(who("123"), "1", bytes(32))[0]
    assert one != other and not plain.startswith(one)


def test_the_key_is_made_once_and_readable_by_its_owner_alone(tmp_path):
    path = tmp_path / "conf" / "patient.key"
    key, made = read_or_make_key(path)
    assert made and len(key) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_make_key(path) == (key, False)
    path.write_bytes(b"short")
    with pytest.raises(UserError, match="got 5 bytes"):
        read_or_make_key(path)


def test_a_key_that_a_full_disk_did_not_take_is_made_by_the_next_start(tmp_path, monkeypatch):
    path = tmp_path / "conf" / "patient.key"

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"patient\.key: cannot be made or read \(No space left on device\)"):
            read_or_make_key(path)
    assert not list(path.parent.iterdir())
    assert read_or_make_key(path)[1] and [file.name for file in path.parent.iterdir()] == ["patient.key"]


def test_an_identity_does_not_print_itself():
    assert "ZHANG" not in repr(who("123", "ZHANG"))
