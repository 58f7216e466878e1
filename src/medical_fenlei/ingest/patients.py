"""Pseudonyms of patients: HMAC-SHA256 of their identity, under a key that stays outside every output.

An unkeyed hash of an id can be reversed by trying all ids; a keyed hash cannot without the key.
"""
import hmac
import os
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from medical_fenlei.dicom.identity import Identity
from medical_fenlei.errors import UserError
from medical_fenlei.files import write_new
from medical_fenlei.ingest.person import PersonEvidence, normalize_identity

KEY_BYTES = 32


def default_key_file() -> Path:
    """Return the path of the key in the user's configuration folder (XDG_CONFIG_HOME, else ~/.config)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medical_fenlei" / "patient.key"


def read_or_make_key(path: Path) -> tuple[bytes, bool]:
    """Return the key, and whether it was made now (mode 0600, complete or not at all). Raises UserError if it is no key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = not path.exists() and write_new(path, secrets.token_bytes(KEY_BYTES), permissions=0o600)
        key = path.read_bytes()
    except OSError as error:
        raise UserError(f"--patient-key-file {path}: cannot be made or read ({error.strerror})") from None
    if len(key) != KEY_BYTES:
        raise UserError(f"--patient-key-file {path}: got {len(key)} bytes, expected a key of {KEY_BYTES}; put the key "
                        "there that made your manifest, or remove this file and build the manifest again")
    return key, made


@dataclass(frozen=True, kw_only=True)
class ExamPatient:
    """The patient of one exam, as keyed hashes."""

    exam_id: str
    person: PersonEvidence
    sex: str
    """F, M, O (other), or empty where unknown."""

    keys: tuple[tuple[str, str], ...]
    """(patient_key_source, patient_key) by each evidence there is, the best first; the last is that of the exam alone."""

    person_keys: tuple[str, ...] = ()
    """Keyed hashes of each form of the name with the birth date; none where one of the two is unknown."""


def patient_evidence(identity: Identity, exam_id: str, key: bytes, sex: str = "") -> ExamPatient:
    """Return the patient of an exam, from PatientID, else name and birth date, else the exam id.

    An empty PatientID never identifies a person, and neither does a placeholder: it would merge all patients that lack one.
    """
    person = normalize_identity(identity)
    words: dict[str, tuple[str, ...]] = {}
    if person.patient_id:
        words["patient_id"] = (person.issuer, person.patient_id)
    if person.names and person.birth_date:
        words["name_birth_date"] = (min(person.names), person.birth_date)
    words["exam_id"] = (exam_id,)
    known = sorted(person.names) if person.birth_date else []
    return ExamPatient(exam_id=exam_id, person=person.hashed(lambda text: _keyed(key, text)), sex=sex,
                       keys=tuple((source, _keyed(key, source, *own)) for source, own in words.items()),
                       person_keys=tuple(_keyed(key, "name_birth_date", name, person.birth_date) for name in known))


def study_key(study_uid: str, exam_id: str, key: bytes) -> str:
    """Return the keyed hash of an exam's study, the same for exams that are one study exported under several ids.

    Without a StudyInstanceUID it is the hash of the exam id.
    """
    return _keyed(key, "study_uid", study_uid) if study_uid else _keyed(key, "exam_id", exam_id)


def key_mark(key: bytes) -> str:
    """Return a mark of the key that two manifests share if their hashes can be compared; it does not reveal the key."""
    return _keyed(key, "mark")[:8]


def _keyed(key: bytes, *words: str) -> str:
    return hmac.new(key, "\x1f".join(words).encode(), sha256).hexdigest()[:32]
