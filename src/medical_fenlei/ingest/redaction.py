"""Texts and paths without what identifies a person: patient ids, names, birth dates and exam dates."""
import contextlib
import re
import unicodedata
from collections.abc import Iterable
from itertools import product

from medical_fenlei.dicom.charsets import SEPARATORS
from medical_fenlei.dicom.identity import Identity
from medical_fenlei.ingest.person import name_parts
from medical_fenlei.ingest.tree import date_of

HIDDEN = "…"
"""Replacement for whatever identifies a person or a date."""

_SEPARATED = re.compile(f"[{re.escape(SEPARATORS)}\\s]+")
_GAP = r"(?:[^\w/]|_){0,2}"
"""Between the letters of a whole name; a slash separates folders."""

_LONG_NUMBER = 5
"""Digits of a number that is hidden with any leading zeros; a shorter one may number a series."""

_FULL_WIDTH = 0xFEE0
"""Distance of the full-width forms of Unicode from ASCII."""

_UMLAUTS = {"ä": ("ae",), "ö": ("oe",), "ü": ("ue",), "ß": ("ss",), "å": ("aa",), "æ": ("ae",), "ø": ("o", "oe")}
_WRITTEN, _READ = ("utf-8", "gb18030", "big5"), ("utf-8", "latin_1", "cp437", "gb18030")
"""Character sets in which a folder's name may have been written, and read again."""


class Redactor:
    """Hides patient ids, names, birth dates and dates of some exams."""

    def __init__(self, people: Iterable[Identity] = (), dates: Iterable[str] = ()) -> None:
        patterns = set()
        for person in set(people):
            for name in (person.name, *person.other_names):
                patterns |= _name_patterns(name)
            patterns |= _misread_patterns(person.name)
            for patient_id in (person.patient_id, *person.other_ids):
                patterns |= _id_patterns(patient_id)
            patterns |= _date_patterns(person.birth_date)
        for date in dates:
            patterns |= _date_patterns(date)
        self._pattern = re.compile("|".join(sorted(patterns, key=len, reverse=True)), re.IGNORECASE) if patterns else None

    def __repr__(self) -> str:
        return "Redactor(…)"

    def hide(self, text: str) -> str:
        """Return the text with `HIDDEN` in place of what identifies a person or a date."""
        return self._pattern.sub(HIDDEN, text) if self._pattern else text

    def path(self, relpath: str) -> str:
        """Return a path without its date folders, its parts redacted."""
        return "/".join(self.hide(part) for part in relpath.split("/") if part not in ("", ".") and not date_of(part))


def _name_patterns(name: str) -> set[str]:
    """Return the patterns of a name: of each part, and of all parts of a writing in a row, with or without separators."""
    patterns = set()
    for group in name.split("="):
        parts = [part for part in _SEPARATED.split(group) if part]
        patterns |= {_word_pattern(part) for part in parts if len(part) > 1}
        for row in (name_parts(group), parts):
            patterns |= {_row_pattern("".join(order)) for order in (row, row[1:] + row[:1]) if len("".join(order)) > 1}
    return patterns


def _misread_patterns(name: str) -> set[str]:
    """Return the patterns of the parts of a name, and of each of its writings as one word, whose bytes were misread."""
    parts = set(_SEPARATED.split(name)) | {"".join(_SEPARATED.split(group)) for group in name.split("=")}
    return {_word_pattern(word) for part in parts if not part.isascii() for word in _misread(part)}


def _id_patterns(patient_id: str) -> set[str]:
    """Return the patterns of an id, and of its number with other leading zeros."""
    number = unicodedata.normalize("NFKC", patient_id).lstrip("0")
    patterns = {_word_pattern(patient_id)} if len(patient_id) > 1 else set()
    if len(number) >= _LONG_NUMBER and number.isdecimal():
        patterns.add(rf"(?<!\d)0*{_letters(number)}(?!\d)")
    return patterns


def _word_pattern(word: str) -> str:
    """Return the pattern of a word. A short Latin word matches whole words only: "Li" does not match in "slices"."""
    short = len(word) < 4 and word.isascii()
    return rf"(?<![A-Za-z0-9]){_letters(word)}(?![A-Za-z0-9])" if short else _letters(word)


def _row_pattern(word: str) -> str:
    """Return the pattern of a whole name, written as one word or apart anywhere; a Latin one does not match within a word."""
    spaced = _letters(word, _GAP)
    return rf"(?<![A-Za-z]){spaced}(?![A-Za-z])" if word.isascii() else spaced


def _letters(word: str, gap: str = "") -> str:
    """Return the pattern of a word in any width, with its accents composed, separate or left out."""
    return gap.join(map(_letter, unicodedata.normalize("NFC", word)))


def _letter(char: str) -> str:
    forms = {char, unicodedata.normalize("NFD", char), unicodedata.normalize("NFKC", char)}
    if char.isascii() and char.isprintable() and char != " ":
        forms.add(chr(ord(char) + _FULL_WIDTH))
    elif char < "\u0250":
        plain = "".join(part for part in unicodedata.normalize("NFKD", char) if part.isascii())
        forms |= {plain, *_UMLAUTS.get(char.lower(), ())} - {""}
    return re.escape(char) if forms == {char} else f"(?:{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"


def _misread(word: str) -> set[str]:
    """Return how a word is shown if its bytes are read in another character set, as archives and copied folders do."""
    texts = set()
    for written, read in product(_WRITTEN, _READ):
        with contextlib.suppress(UnicodeError):
            texts.add(word.encode(written).decode(read, "surrogateescape" if read == "utf-8" else "strict"))
    return {text for text in texts if len(text) > 1}


def _date_patterns(date: str) -> set[str]:
    digits = re.sub(r"\D", "", date)
    if len(digits) != 8:
        return set()
    year, month, day = digits[:4], digits[4:6], digits[6:]
    return {rf"{year}\D?{month}\D?{day}", rf"{day}\D?{month}\D?{year}"}
