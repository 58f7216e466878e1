"""Readings of a text whose character set is not declared, or declared wrong.

Many modalities write names in the character set of their country and declare none, or ISO_IR 100. Bytes alone do not always
decide: `readings` returns every strict decoding, the likely ones first, so that a name is found whichever of them is right.
"""
import contextlib
import re
import unicodedata
import warnings
from collections.abc import Iterable

from pydicom.charset import ESC, decode_bytes, python_encoding
from pydicom.valuerep import PN_DELIMS

GUESSES = ("gb2312", "big5", "gb18030", "euc_kr", "shift_jis", "latin_1")
"""Decoders that are tried after UTF-8 and the declared character set; the last one decodes anything."""

SEPARATORS = " ^=,.'’`·・-_/()（），、。:;&*\\"
"""Characters between the parts of a name, as people and devices write them."""

_SEPARATED = re.compile(f"[{re.escape(SEPARATORS)}]+")
_SINGLE_BYTE = {"iso8859", "latin_1", "iso8859_2", "iso8859_3", "iso8859_4", "iso_ir_148"}
"""Latin character sets: any byte is a character, so that a strict decoding proves nothing."""
_CODE_EXTENSIONS = tuple(dict.fromkeys(name for term, name in python_encoding.items() if term.startswith("ISO 2022")))
_ESCAPE = re.compile(r"\x1b[$()-]{1,2}[@-Z]")


def readings(raw: bytes, declared: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the different texts that these bytes may be, the most likely first; at least one.

    declared: defined terms of SpecificCharacterSet (0008,0005). Order: UTF-8, ISO 2022 if there are escape sequences, the
    declared character set, `GUESSES`; then plausible names (`is_plausible`) before others.
    """
    raw = raw.strip(b" \0")
    if raw.isascii() and ESC not in raw:
        return (raw.decode("ascii"),)
    encodings = [python_encoding[term] for term in declared if term in python_encoding]
    if ESC in raw:
        found = [*_with_escapes(raw, encodings), *_decoded(raw, ("latin_1",))]
    else:
        several_bytes = [name for name in encodings[:1] if name not in _SINGLE_BYTE]
        as_utf8 = _decoded(raw, ("utf-8",))
        is_certain = any(char > "\u07ff" for text in as_utf8 for char in text)           # three bytes fit, not only two
        found = [*(as_utf8 if is_certain else ()), *_decoded(raw, several_bytes), *as_utf8, *_decoded(raw, encodings[:1]),
                 *_decoded(raw, GUESSES)]
    return tuple(sorted(dict.fromkeys(text.strip(" \0") for text in found), key=lambda text: not is_plausible(text)))


def is_plausible(text: str) -> bool:
    """Return whether a text can be a name: letters, digits and separators, few accents, no scripts mixed within a word.

    The bytes of a Chinese name read as Latin have signs among the letters, or hardly a letter without an accent.
    """
    letters = [char for char in text if char.isalpha()]
    if any(char in "ªº" or not (char.isalnum() or char in SEPARATORS or unicodedata.combining(char)) for char in text):
        return False
    latin = [char for char in letters if char < "\u0250"]
    return 2 * sum(map(str.isascii, latin)) >= len(latin) and not any(map(_is_mixed, _SEPARATED.split(text)))


def has_wide_letter(text: str) -> bool:
    """Return whether a text has a letter of East Asia: Chinese, Japanese or Korean."""
    return any(char > "\u2e7f" and char.isalpha() and not unicodedata.normalize("NFKC", char).isascii() for char in text)


def _is_mixed(word: str) -> bool:
    """Return whether Latin and East Asian letters alternate; a Latin letter at the end distinguishes people of one name."""
    wide = [n for n, char in enumerate(word) if has_wide_letter(char)]
    latin = [n for n, char in enumerate(word) if char.isascii() and char.isalpha()]
    return bool(wide and latin) and (len(latin) > 1 or latin[0] < wide[-1])


def _decoded(raw: bytes, encodings: Iterable[str]) -> list[str]:
    texts = []
    for encoding in encodings:
        with contextlib.suppress(UnicodeError):
            texts.append(raw.decode(encoding))
    return texts


def _with_escapes(raw: bytes, encodings: list[str]) -> list[str]:
    """Decode by escape sequences, whether or not their character sets are declared."""
    with warnings.catch_warnings(), contextlib.suppress(UnicodeError):
        warnings.simplefilter("ignore")
        text = decode_bytes(raw, [*(encodings[:1] or ["iso8859"]), *_CODE_EXTENSIONS], PN_DELIMS)
        return [_ESCAPE.sub("", text)] if "\ufffd" not in text else []
    return []
