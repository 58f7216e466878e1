"""Names of reconstruction kernels by manufacturer: which are bone kernels, which are not, and which are in no table.

A pattern is a regular expression, case ignored, that is searched in the whole kernel and in its first value. What is marked
(est.) is an estimate from files and papers in circulation, not from a document of the manufacturer.
"""
import re
from collections.abc import Mapping
from dataclasses import dataclass

OTHER = "other"
"""Key of the table for manufacturers without one of their own."""

_SHARP_WORDS = "bone|edge|sharp|inner.?ear|temporal|petrous|mastoid|骨|内耳|颞"
_SMOOTH_WORDS = "soft|smooth|stand|std|brain|lung|body|chest|abdomen|cardiac|vascular|medium|软组织|标准|平滑|肺|脑"


@dataclass(frozen=True, kw_only=True)
class KernelTable:
    """The kernels of one manufacturer."""

    bone: str
    """Pattern of bone kernels."""

    smooth: str = _SMOOTH_WORDS
    """Pattern of kernels that are no bone kernels: soft tissue, lung, vessels. `bone` counts where both match."""

    source: str
    """What is known from where, for those who check or extend the table."""


_CONE_BEAM = KernelTable(
    bone=f"{_SHARP_WORDS}|hard|hi.?res|high", smooth=f"{_SMOOTH_WORDS}|normal|general|low",
    source="Words only: most cone-beam scanners name no kernel, and some name a filter (est.)")

KERNELS: Mapping[str, KernelTable] = {
    "Siemens": KernelTable(
        bone=r"^(?!bl|bv|hv|fc)[a-z]{0,2}[6-9]\d", smooth=r"^(?!fc)[a-z]{1,2}\d\d",
        source="A body region of one letter (B, H, C, U, I, J, T) or two (Br, Hr, Ur, Qr, Sa), a sharpness from 10 to 98, and "
               "a suffix (f, s, m, h, u), the same on photon-counting scanners (Hr84u, Qr76, Br98u); U75u, Ur73u and Ur69u are "
               "those of the collection. From 60 up sharp; Bl is lung, Bv and Hv are vessels. Letters and suffixes (est.)"),
    "GE": KernelTable(
        bone="bone|edge|ultra", smooth=f"{_SMOOTH_WORDS}|stnd|detail$|exper|perf|^c[12]$",
        source="BONEPLUS and BONEPLUS2 of the collection; BONE, EDGE, ULTRA and the HD variants (HD BONE PLUS, HD EDGE, "
               "HD ULTRA); DETAIL is not sharp enough (est.)"),
    "UIH": KernelTable(
        bone="sharp|bone|uhr|inner",
        source="Region, word and letter: H_VSHARP_C and H_SHARP_C of the collection; others (est.)"),
    "Philips": KernelTable(
        bone=r"^y[a-e]\b|^y[- ]?(sharp|detail)|^[de]$|^(detail|sharp|edge)|\((d|e|y[a-e])\)|bone|inner.?ear|\biac\b",
        smooth=rf"^(a|b|c|f|l|u[a-c]|e[bc]|c[a-d]|xc[a-d]|l[a-c])$|{_SMOOTH_WORDS}",
        source="One letter (A smooth to E sharp), two (YA to YE sharp; UA to UC, EB, EC brain; CB, XCB heart) or words "
               "(Detail, Sharp, Y-Detail, Y-Sharp) (est.)"),
    "Canon": KernelTable(
        bone=r"^fc(3[0-5]|8\d)|bone|inner.?ear|temporal", smooth=rf"^fc\d\d|{_SMOOTH_WORDS}|head",
        source="FC30 to FC35 and FC80 and above: bone and inner ear; FC01 to FC29, FC40 to FC79: body, head, lung. Words on "
               "newer scanners, also after AiCE or FIRST (AiCE BONE, INNER EAR); BODY SHARP is no bone kernel (est.)"),
    "Neusoft": KernelTable(
        bone=rf"^y[a-e]\b|^[de]$|^s?f[6-9]\d|{_SHARP_WORDS}|detail",
        smooth=rf"^(a|b|c|l|u[a-c]|e[bc])$|^s?f\d\d|{_SMOOTH_WORDS}",
        source="NeuViz: F and two digits, or words; scanners of the joint venture with Philips use its letters (est.)"),
    "MinFound": KernelTable(bone=f"{_SHARP_WORDS}|^h?b(ne)?_", source="Words, alone or behind a region (est.)"),
    "FUJIFILM": KernelTable(bone=_SHARP_WORDS, smooth=f"{_SMOOTH_WORDS}|head", source="Words; numbers are in no table (est.)"),
    "Anke": KernelTable(bone=_SHARP_WORDS, source="Words (est.)"),
    "SinoVision": KernelTable(bone=_SHARP_WORDS, source="Words (est.)"),
    **dict.fromkeys(("Morita", "NewTom", "Planmeca", "Carestream", "Sirona", "KaVo", "Vatech", "Xoran", "LargeV", "Meyer"),
                    _CONE_BEAM),
    OTHER: KernelTable(bone=_SHARP_WORDS, smooth=f"{_SMOOTH_WORDS}|detail$", source="Words that several manufacturers use"),
}
"""Tables by manufacturer (`vocabulary.vendor`)."""


def first_kernel(kernel: str) -> str:
    """Return the first value of a kernel; further ones are strengths of an iterative reconstruction (`Ur73u`, `3`)."""
    return next((part.strip() for part in re.split(r"[\\/]", kernel) if part.strip()), "")


def matches_kernel(pattern: str, kernel: str) -> bool:
    """Return whether a pattern is found in a kernel, or in its first value."""
    return any(re.search(pattern, text, re.IGNORECASE) for text in (kernel, first_kernel(kernel)))


def is_smooth(maker: str, kernel: str) -> bool:
    """Return whether a table has this kernel as one that is no bone kernel.

    All tables are tried for a manufacturer that has none, or is unknown; those that also have it as a bone kernel do not count.
    """
    tables = [KERNELS[maker]] if maker in KERNELS else KERNELS.values()
    return any(matches_kernel(table.smooth, kernel) and not matches_kernel(table.bone, kernel) for table in tables)
