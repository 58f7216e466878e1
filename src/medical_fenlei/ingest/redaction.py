"""Texts and paths without what identifies a person: patient ids, names, birth dates and exam dates."""
import contextlib
import re
import unicodedata
from collections.abc import Iterable
from itertools import product

from medical_fenlei.dicom.charsets import SEPARATORS
from medical_fenlei.dicom.identity import Identity
from medical_fenlei.ingest.person import name_parts, normalize_identity
from medical_fenlei.ingest.tree import date_of

HIDDEN = "…"
"""Replacement for whatever identifies a person or a date."""

_SEPARATED = re.compile(f"[{re.escape(SEPARATORS)}\\s]+")
_GAP = r"(?:[^\w/]|_){0,2}"
"""Between the letters of a whole name; a slash separates folders."""

_LONG_NAME = 4
"""Letters of a Latin word that is hidden within longer words, too; a shorter one would match by chance."""

_LONG_NUMBER = 5
"""Digits of a number that is hidden with any leading zeros; a shorter one may number a series."""

_FULL_WIDTH = 0xFEE0
"""Distance of the full-width forms of Unicode from ASCII."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_UMLAUTS = {"ä": ("ae",), "ö": ("oe",), "ü": ("ue",), "ß": ("ss",), "å": ("aa",), "æ": ("ae",), "ø": ("o", "oe")}
_WRITTEN, _READ = ("utf-8", "gb18030", "big5"), ("utf-8", "latin_1", "cp437", "gb18030")
"""Character sets in which a folder's name may have been written, and read again."""


class Redactor:
    """Hides patient ids, names, birth dates and dates of some exams."""

    def __init__(self, people: Iterable[Identity] = (), dates: Iterable[str] = (), *, names_alone: bool = False) -> None:
        """names_alone: neither ids nor birth dates, and of names whole words only, so that nothing is found by chance."""
        patterns = set()
        if names_alone:
            patterns = {pattern for person in set(people) for pattern in _whole_name_patterns(person)}
            people = ()
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

    def finds(self, text: str) -> bool:
        """Return whether the text holds something that `hide` would hide."""
        return bool(self._pattern and self._pattern.search(text))

    def finds_long(self, text: str) -> bool:
        """Return whether the text holds a finding of at least `_LONG_NAME` letters, or one in other than Latin characters."""
        found = self._pattern.finditer(text) if self._pattern else ()
        return any(sum(map(str.isalpha, one[0])) >= _LONG_NAME or not one[0].isascii() for one in found)

    def path(self, relpath: str) -> str:
        """Return a path without its date folders, its parts redacted."""
        return "/".join(self.hide(part) for part in relpath.split("/") if part not in ("", ".") and not date_of(part))


def _name_patterns(name: str) -> set[str]:
    """Return the patterns of a name: of each part, and of all parts of a writing in a row, with or without separators.

    A short family name also counts beside the initials of the others.
    """
    patterns = set()
    for group in name.split("="):
        parts = [part for part in _SEPARATED.split(group) if part]
        patterns |= {_part_pattern(part) for part in parts if len(part) > 1}
        for row in (name_parts(group), parts):
            rows = {"".join(order) for order in (row, row[1:] + row[:1]) if len("".join(order)) > 1}
            patterns |= {_row_pattern(word) for word in rows} | {_part_pattern(word) for word in rows}
            if len(row) > 1 and len(row[0]) < _LONG_NAME and group.isascii():
                initials = "".join(part[0] for part in row[1:])
                patterns |= {_part_pattern(row[0] + initials), _part_pattern(initials + row[0])}
    return patterns


def _whole_name_patterns(person: Identity) -> set[str]:
    """Return the patterns of a name as words of their own; none for a placeholder, and for a number in place of a name."""
    if not normalize_identity(person).names or any(char.isdecimal() for char in person.name):
        return set()
    return {rf"(?<![^\W\d_]){pattern}(?![^\W\d_])" for name in (person.name, *person.other_names)
            for pattern in _name_patterns(name)}


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
    """Return the pattern of a word. A short Latin one does not match among other letters and digits: "P1" not in "P12"."""
    short = len(word) < _LONG_NAME and word.isascii()
    return rf"(?<![A-Za-z0-9]){_letters(word)}(?![A-Za-z0-9])" if short else _letters(word)


def _part_pattern(word: str) -> str:
    """Return the pattern of a name. A short Latin one does not match among other letters: "Li" in "Li2", not in "slices"."""
    short = len(word) < _LONG_NAME and word.isascii()
    return rf"(?<![A-Za-z]){_letters(word)}(?![A-Za-z])" if short else _letters(word)


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
    """Return the patterns of a date: in any order, with or without zeros and separators, month in words, year in two digits."""
    digits = re.sub(r"\D", "", date)
    if len(digits) != 8 or not 1 <= int(digits[4:6]) <= len(_MONTHS):
        return set()
    year, month, day = digits[:4], digits[4:6], digits[6:]
    short, word = year[2:], rf"{_MONTHS[int(month) - 1]}[a-z]*"
    m, d = (rf"0?{int(part)}" for part in (month, day))
    gap, apart = r"\D{0,2}", r"(?:[^\w/]|_)"
    alone = {rf"{year}{gap}{m}{gap}{d}", rf"{d}{gap}{m}{gap}{year}", rf"{m}{gap}{d}{gap}{year}",
             rf"{d}{gap}{word}{gap}{year}", rf"{year}{gap}{word}{gap}{d}", rf"{word}{gap}{d}{gap}{year}",
             *("".join(order) for order in ((short, month, day), (day, month, short), (month, day, short))),
             *(apart.join(order) for order in ((short, m, d), (d, m, short), (m, d, short)))}
    return {rf"{year}\D?{month}\D?{day}", rf"{day}\D?{month}\D?{year}", *(rf"(?<!\d){one}(?!\d)" for one in alone)}
