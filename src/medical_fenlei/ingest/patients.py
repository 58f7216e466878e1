"""Pseudonyms of patients: HMAC-SHA256 of their identity, under a key that stays outside every output.

An unkeyed hash of an id can be reversed by trying all ids; a keyed hash cannot without the key.
"""
import hmac
import os
import secrets
from hashlib import sha256
from pathlib import Path

from medical_fenlei.dicom.header import Identity
from medical_fenlei.errors import UserError

KEY_BYTES = 32


def default_key_file() -> Path:
    """Return the path of the key in the user's configuration folder (XDG_CONFIG_HOME, else ~/.config)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medical_fenlei" / "patient.key"


def read_or_make_key(path: Path) -> tuple[bytes, bool]:
    """Return the key, and whether it was made just now (mode 0600). Raises UserError if the file is no key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise UserError(f"--patient-key-file {path}: got {len(key)} bytes, expected a key of {KEY_BYTES}") from None
        return key, False
    except OSError as error:
        raise UserError(f"--patient-key-file {path}: cannot be made ({error.strerror})") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    return path.read_bytes(), True


def patient_key(identity: Identity | None, exam_id: str, key: bytes) -> tuple[str, str]:
    """Return (patient_key, patient_key_source) of an exam, from PatientID, else name and birth date, else the exam id.

    An empty PatientID never identifies a person: it would merge all patients that lack one.
    """
    words: tuple[str, ...]
    if identity is not None and identity.patient_id:
        source, words = "patient_id", (identity.issuer, identity.patient_id)
    elif identity is not None and identity.name and identity.birth_date:
        source, words = "name_birth_date", (identity.name.upper(), identity.birth_date)
    else:
        source, words = "exam_id", (exam_id,)
    return _keyed(key, source, *words), source


def are_different(one: Identity, other: Identity) -> bool:
    """Return whether two identities are different people, by PatientID, or by name and birth date if one has no PatientID."""
    if one.patient_id and other.patient_id:
        return one.patient_id.casefold() != other.patient_id.casefold()
    named = [(person.name.casefold(), person.birth_date) for person in (one, other)]
    return all(name and birth_date for name, birth_date in named) and named[0] != named[1]


def study_key(study_uid: str, exam_id: str, key: bytes) -> str:
    """Return the keyed hash of an exam's study, the same for exams that are one study exported under several ids.

    Without a StudyInstanceUID it is the hash of the exam id.
    """
    return _keyed(key, "study_uid", study_uid) if study_uid else _keyed(key, "exam_id", exam_id)


def _keyed(key: bytes, *words: str) -> str:
    return hmac.new(key, "\x1f".join(words).encode(), sha256).hexdigest()[:32]
