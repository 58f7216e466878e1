"""Who is the same person: what identifies somebody, in one spelling whatever the device, and the comparison of two people."""
import datetime
import functools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace

from medical_fenlei.dicom.charsets import SEPARATORS, has_wide_letter, is_plausible
from medical_fenlei.dicom.identity import Identity

PLACEHOLDERS = {
    "anon", "anonym", "anonymous", "anonymouspatient", "anonymised", "anonymized", "anonymizedpatient", "deidentified",
    "deidentifiedpatient", "hidden", "na", "nil", "noid", "noname", "none", "null", "patient", "patientid", "patientname",
    "private", "removed", "unknown", "匿名", "匿名患者", "无", "未知", "不详", "患者",
}
"""Words that devices and anonymisers write in place of an id or a name; they stand for nobody, like an empty value."""

NAME_PARTS = 3
"""Family, given and middle name; prefix and suffix, the last two components of a DICOM name, are often left out."""

_SEPARATED = re.compile(f"[{re.escape(SEPARATORS)}\\s]+")
_OLDEST_BIRTH = datetime.date(1900, 1, 2)
"""Birth dates before stand for none: 19000101, 00010101."""


@dataclass(frozen=True, kw_only=True)
class PersonEvidence:
    """What identifies the patient of an exam, in one spelling; every value may be a keyed hash in place of the text.

    Ids have no spaces and invisible characters, and no distinction of case and width. Placeholders such as ANONYMOUS count as
    empty. Equal values are equal evidence; nothing else is done with them.
    """

    patient_id: str = ""
    written_id: str = ""
    """The PatientID as the header has it."""

    short_id: str = ""
    """The PatientID without leading zeros."""

    issuer: str = ""
    names: frozenset[str] = frozenset()
    """Every form of the name: each writing (Latin, Chinese, …) and reading of its bytes, in order and with sorted parts."""

    scripts: frozenset[str] = frozenset()
    """Writings of the name, `latin` and `wide` (East Asian): names are comparable if they share one."""

    birth_date: str = ""
    has_placeholder: bool = False
    """Whether the PatientID is a placeholder."""

    def __repr__(self) -> str:
        """Show nothing that identifies the person."""
        return "PersonEvidence(…)"

    def hashed(self, digest: Callable[[str], str]) -> "PersonEvidence":
        """Return the person with a hash in place of each text; empty values stay empty."""
        def hashed(text: str) -> str:
            return digest(text) if text else ""

        return replace(
            self, patient_id=hashed(self.patient_id), written_id=hashed(self.written_id), short_id=hashed(self.short_id),
            issuer=hashed(self.issuer), birth_date=hashed(self.birth_date), names=frozenset(map(digest, self.names)))

    def has_other_name(self, other: "PersonEvidence") -> bool:
        """Return whether both names are known in a common script and differ."""
        return bool(self.scripts & other.scripts) and not self.names & other.names

    def conflicts_with(self, other: "PersonEvidence") -> bool:
        """Return whether the names, or the birth dates, are known of both and differ."""
        return self.has_other_name(other) or _differ(self.birth_date, other.birth_date)

    def has_same_name_and_birth_date(self, other: "PersonEvidence") -> bool:
        """Return whether name and birth date are known of both and equal."""
        return bool(self.birth_date) and self.birth_date == other.birth_date and bool(self.names & other.names)


def are_different(one: Identity, other: Identity) -> bool:
    """Return whether two images are of different people: by PatientID, else by name and birth date.

    Ids that are equal but for leading zeros are one person unless name or birth date differs; ids of different issuers are
    compared by name and birth date. What is unknown of one of them is no difference.
    """
    first, second = normalize_identity(one), normalize_identity(other)
    if first.patient_id and second.patient_id:
        if _differ(first.issuer, second.issuer):
            return not first.has_same_name_and_birth_date(second) and (
                first.short_id != second.short_id or first.conflicts_with(second))
        if first.patient_id == second.patient_id:
            return False
        return first.short_id != second.short_id or first.conflicts_with(second)
    known = all(person.names and person.birth_date for person in (first, second))
    return known and first.conflicts_with(second)


@functools.lru_cache(maxsize=4096)
def normalize_identity(identity: Identity) -> PersonEvidence:
    """Return the person of an identity."""
    patient_id, issuer = _plain(identity.patient_id), _plain(identity.issuer)
    has_placeholder = _is_placeholder(patient_id)
    if has_placeholder or not patient_id:
        patient_id = ""
    likely = [identity.name, *(name for name in identity.other_names if is_plausible(name))]
    return PersonEvidence(
        patient_id=patient_id, written_id=identity.patient_id.strip() if patient_id else "", short_id=patient_id.lstrip("0"),
        issuer="" if _is_placeholder(issuer) else issuer,
        names=frozenset(form for name in likely for form in _forms(name)), scripts=_scripts(identity.name),
        birth_date=_birth_date(identity.birth_date), has_placeholder=has_placeholder)


def _plain(text: str) -> str:
    """Return an id in capitals of normal width, without spaces and invisible characters."""
    text = unicodedata.normalize("NFKC", text).casefold().upper()
    return "".join(char for char in text if not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf"))


def _is_placeholder(text: str) -> bool:
    """Return whether a text stands for nobody: a word of `PLACEHOLDERS`, signs without a letter or digit, only zeros or X."""
    word = "".join(char for char in text.casefold() if char.isalnum())
    return bool(text) and (word in PLACEHOLDERS or not word.strip("0x"))


def name_parts(group: str) -> list[str]:
    """Return the parts of one writing of a name, without prefix and suffix."""
    components = group.split("^")
    return [part for part in _SEPARATED.split(" ".join(components[:NAME_PARTS])) if part]


def _groups(name: str) -> list[list[str]]:
    """Return the parts of each writing of a name, folded; none for a placeholder."""
    groups = [[part for part in map(_folded, name_parts(group)) if part] for group in name.split("=")]
    return [parts for parts in groups if parts and not _is_placeholder("".join(parts))]


def _forms(name: str) -> set[str]:
    return {"".join(order) for parts in _groups(name) for order in (parts, sorted(parts))}


def _scripts(name: str) -> frozenset[str]:
    return frozenset("wide" if has_wide_letter("".join(parts)) else "latin" for parts in _groups(name))


def _folded(part: str) -> str:
    """Return a part of a name without case, width, and accents on Latin letters."""
    text = re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", unicodedata.normalize("NFKD", part.casefold()))
    return _plain(text)


def _birth_date(text: str) -> str:
    digits = re.sub(r"\D", "", unicodedata.normalize("NFKC", text))
    try:
        born = datetime.datetime.strptime(digits, "%Y%m%d").date()
    except ValueError:
        return ""
    return digits if born >= _OLDEST_BIRTH else ""


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)
