"""Texts and paths without what identifies a person: patient ids, names, birth dates and exam dates."""
import re
from collections.abc import Iterable

from medical_fenlei.dicom.header import Identity
from medical_fenlei.ingest.tree import date_of

HIDDEN = "…"
"""Replacement for whatever identifies a person or a date."""


class Redactor:
    """Hides patient ids, names, birth dates and dates of some exams."""

    def __init__(self, people: Iterable[Identity] = (), dates: Iterable[str] = ()) -> None:
        patterns = set()
        for person in people:
            name = person.name.replace("\\", "")                 # Identity has one between its letters
            parts = [person.patient_id, *re.split(r"[\^=\s,]+", name)]
            patterns |= {_word_pattern(part) for part in parts if len(part) > 1}
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


def _word_pattern(word: str) -> str:
    """Return the pattern of a word. A short Latin word matches whole words only: "Li" does not match in "slices"."""
    short = len(word) < 4 and word.isascii()
    return rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])" if short else re.escape(word)


def _date_patterns(date: str) -> set[str]:
    digits = re.sub(r"\D", "", date)
    if len(digits) != 8:
        return set()
    year, month, day = digits[:4], digits[4:6], digits[6:]
    return {rf"{year}\D?{month}\D?{day}", rf"{day}\D?{month}\D?{year}"}
