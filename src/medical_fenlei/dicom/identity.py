"""The attributes of an image that identify its patient, in whatever character set they are written."""
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from medical_fenlei.dicom.charsets import readings
from medical_fenlei.dicom.dataset import damage_refused, read_dataset
from medical_fenlei.dicom.elements import tag_of, value_of

_CHARSET = "SpecificCharacterSet"
IDENTITY_TAGS = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
_KEY = secrets.token_bytes(32)


@dataclass(frozen=True)
class Identity:
    """Attributes that identify a person; kept out of every log and file."""

    patient_id: str
    issuer: str
    name: str
    birth_date: str
    other_names: tuple[str, ...] = ()
    """Other readings of the name's bytes: its character set may be declared wrong, or not at all."""

    other_ids: tuple[str, ...] = ()
    """Other readings of the bytes of the PatientID."""

    def __repr__(self) -> str:
        """Show nothing that identifies the person."""
        return "Identity(…)"


def identity_mark(dataset: Dataset) -> bytes:
    """Return what images of this process share if their IDENTITY_TAGS hold the same bytes; it tells nothing about the person.

    A hash under a key that no file holds and that ends with the process, so that marks are comparable within one scan only.
    """
    elements = (dataset.get_item(tag_of(name)) for name in IDENTITY_TAGS)
    return hashlib.blake2b(repr([element and element.value for element in elements]).encode("utf-8", "backslashreplace"),
                           key=_KEY, digest_size=16).digest()


@damage_refused()
def read_identity(path: Path) -> Identity:
    """Read the attributes that identify the patient. Raises Rejected (not_dicom, unreadable, damaged_header)."""
    dataset = read_dataset(path, [_CHARSET, *IDENTITY_TAGS])
    stated = value_of(dataset, _CHARSET)
    declared = [stated] if isinstance(stated, str) else [str(term) for term in stated or ()]
    ids, issuers, names, dates = (_readings(dataset, name, declared) for name in IDENTITY_TAGS)
    return Identity(ids[0], issuers[0], names[0], dates[0], names[1:], ids[1:])


def _readings(dataset: Dataset, name: str, declared: Sequence[str]) -> tuple[str, ...]:
    element = dataset.get_item(tag_of(name))
    if isinstance(element, RawDataElement):
        return readings(element.value or b"", declared)
    return (str(dataset.get(name) or "").strip(),)
