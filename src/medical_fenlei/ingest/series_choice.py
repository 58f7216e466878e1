"""Which series of an exam to use: readable rules over what headers tell, a reason for each candidate.

Names and descriptions prove nothing and are not looked at. A series is refused for one stated reason; the rest is compared by
the criteria of `SeriesRules.prefer`, of which the first that differs decides. Two series that show an ear each (reconstructions
of one ear) stand together as one.
"""
import itertools
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from medical_fenlei.errors import UserError
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.vocabulary import Side, vendor

Criterion = Literal["bone_kernel", "both_ears", "high", "original", "thin", "many"]

WIDEST_MM = 1000.0
"""A field of view beyond this fits no scanner: its pixel spacing is wrong."""

NOT_WIDE = 1.4
"""Times `both_ears_mm`: fields of view from there on hold the whole head."""

OTHER = "other"
BONE_KERNELS = {
    "Siemens": r"^(?!bl|bv|hv)[a-z]{0,2}[6-9]\d", "GE": "bone|edge", "UIH": "sharp|bone", "Philips": r"^y[a-e]|^[de]$|bone",
    "Canon": r"^fc(30|31|8\d)", OTHER: "bone|sharp|edge",
}
"""Kernels, by maker (`vocabulary.vendor`), that keep the edges of bone: Siemens numbers from 60 up (U75u, Ur73u, H70h, J70h),
but not those for lungs and vessels."""


@dataclass(frozen=True, kw_only=True)
class SeriesRules:
    """What a series must have to be used, and which of several is the best."""

    max_step_mm: float = 2.0
    """Slices farther apart than this do not resolve the middle ear, mm."""

    min_slices: int = 8
    """Fewer are no scan of the ears."""

    min_height_mm: float = 6.0
    """From the lowest slice to the highest, mm: less shows hardly half of a cavity, which is 15 mm high."""

    high_mm: float = 30.0
    """A scan at least so high, mm, shows cavity, antrum and canal of both ears, however the head lies."""

    both_ears_mm: float = 120.0
    """A field of view at least so wide, mm, holds both ears: outer ends of the bony canals lie some 118 mm apart."""

    apart_mm: float = 40.0
    """Two narrower fields of view show an ear each where their middles lie at least so far apart from right to left, mm;
    the cavities' centres lie some 84 mm apart."""

    prefer: tuple[Criterion, ...] = get_args(Criterion)
    """What decides between two that can be used, in this order: a bone kernel; both ears in one series; `high_mm` of height;
    original, not derived; thinner steps (to 0.05 mm); more slices."""

    bone_kernels: dict[str, str] = field(default_factory=lambda: dict(BONE_KERNELS))
    """Regular expressions that find a kernel in small or capital letters, by maker as the manifest spells it; `other` is for
    those that are not named."""

    refuse: dict[str, str] = field(default_factory=dict)
    """Further series to refuse: regular expressions by what they are looked for in (kernel, image_type, model, manufacturer or
    relpath)."""

    def __post_init__(self) -> None:
        for name in ("max_step_mm", "min_slices", "min_height_mm", "high_mm", "both_ears_mm", "apart_mm"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"{name}: got {value!r}, expected a number above 0")
        unknown = [name for name in self.prefer if name not in get_args(Criterion)]
        if unknown or len(set(self.prefer)) < len(self.prefer):
            raise ValueError(f"prefer: got {list(self.prefer)}, expected each at most once of {', '.join(get_args(Criterion))}")
        looked_in = ("kernel", "image_type", "model", "manufacturer", "relpath")
        for name in self.refuse:
            if name not in looked_in:
                raise ValueError(f"refuse: got {name!r}, expected some of {', '.join(looked_in)}")
        for pattern in (*self.bone_kernels.values(), *self.refuse.values()):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"got {pattern!r}, which is no regular expression ({error})") from None

    def is_bone(self, facts: SeriesScan) -> bool:
        """Whether its kernel keeps the edges of bone."""
        return self.keeps_bone(facts.manufacturer, facts.kernel)

    def keeps_bone(self, manufacturer: str, kernel: str) -> bool:
        """Whether this maker's kernel keeps the edges of bone."""
        known = self.bone_kernels.get(vendor(manufacturer), self.bone_kernels.get(OTHER, "(?!)"))
        return bool(re.search(known, kernel, re.IGNORECASE))


def read_rules(path: Path | None) -> SeriesRules:
    """The rules with what a TOML file says in place of the defaults; None: the defaults. Raises UserError."""
    if path is None:
        return SeriesRules()
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--series-rules {path}: cannot be read as TOML ({error})") from None
    known = [item.name for item in fields(SeriesRules)]
    if unknown := set(said) - set(known):
        raise UserError(f"--series-rules {path}: got {sorted(unknown)[0]!r}, expected some of {', '.join(known)}")
    try:
        if "prefer" in said:
            said["prefer"] = tuple(said["prefer"])
        if "bone_kernels" in said:
            said["bone_kernels"] = {**BONE_KERNELS, **said["bone_kernels"]}
        return SeriesRules(**said)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--series-rules {path}: {error}") from None


@dataclass(frozen=True)
class Candidate:
    """One series that shows both ears, or two that show one each (left, right)."""

    series: tuple[SeriesScan, ...]
    rank: tuple[float, ...]
    """By the criteria, higher is better."""

    reason: str

    def of(self, side: Side) -> SeriesScan:
        return self.series[0 if side is Side.LEFT else -1]


@dataclass(frozen=True)
class Choice:
    """What became of each series of an exam."""

    chosen: Candidate | None
    verdicts: tuple[tuple[SeriesScan, str, str], ...]
    """(series, reason code, detail), `chosen` and `not_chosen` among the codes."""


def choose_series(series: Sequence[SeriesScan], rules: SeriesRules) -> Choice:
    """The best that these series have to give."""
    verdicts = {facts.relpath: refusal(facts, rules) for facts in series}
    usable = [facts for facts in series if verdicts[facts.relpath] is None]
    single = [facts for facts in usable if _shows_one_ear(facts, usable, rules)]
    whole = [facts for facts in usable if facts not in single]
    pairs = [pair for pair in itertools.permutations(single, 2) if pair[0].middle - pair[1].middle >= rules.apart_mm]
    candidates = [_candidate(parts, rules) for parts in (*((facts,) for facts in whole), *pairs)]
    candidates.sort(key=lambda found: (found.rank, [facts.relpath for facts in found.series]), reverse=True)
    chosen = candidates[0] if candidates else None
    taken = {facts.relpath for facts in chosen.series} if chosen else set()
    paired = {facts.relpath for pair in pairs for facts in pair}
    said = []
    for facts in series:
        verdict = verdicts[facts.relpath]
        if verdict is None and chosen and facts.relpath in taken:
            verdict = "chosen", chosen.reason
        elif verdict is None and facts in single and facts.relpath not in paired:
            verdict = "single_ear", f"{facts.width:.0f} mm wide: one ear, and no series goes with it that shows the other"
        elif verdict is None:
            best = max((found for found in candidates if facts in found.series), key=lambda found: found.rank)
            verdict = "not_chosen", f"{best.reason}; {_lost_by(best, candidates[0], rules)}"
        said.append((facts, *verdict))
    return Choice(chosen, tuple(said))


def _shows_one_ear(facts: SeriesScan, others: Sequence[SeriesScan], rules: SeriesRules) -> bool:
    """Its field of view is narrow; or not wide, and stands aside of another one that is no narrower."""
    return facts.width < rules.both_ears_mm or (facts.width < NOT_WIDE * rules.both_ears_mm and any(
        other.width >= facts.width and abs(other.middle - facts.middle) >= rules.apart_mm / 2 for other in others))


def refusal(facts: SeriesScan, rules: SeriesRules) -> tuple[str, str] | None:
    """(reason code, detail) of why a series cannot be used; None where it can."""
    if facts.plane != "axial" or facts.refused == "not_axial":
        if "LOCALIZER" in facts.image_type.split("\\") or facts.images < rules.min_slices:
            return "localizer", f"{facts.images} {facts.plane} images: a scout"
        return "not_axial", f"{facts.images} {facts.plane} images"
    if "LOCALIZER" in facts.image_type.split("\\"):
        return "localizer", "its images are said to be a scout"
    for name, pattern in rules.refuse.items():
        if re.search(pattern, str(getattr(facts, name))):
            return "refused_by_rules", f"{name}: got {getattr(facts, name)!r}, refused: {pattern}"
    if facts.images < rules.min_slices or 0 < facts.slices < rules.min_slices:
        return "too_few_slices", f"got {facts.slices or facts.images}, expected at least {rules.min_slices}"
    if facts.refused:
        return facts.refused, facts.detail
    if facts.width > WIDEST_MM:
        return "bad_attribute", f"PixelSpacing: the field of view is {facts.width:.0f} mm wide, expected at most {WIDEST_MM:g}"
    if facts.step > rules.max_step_mm:
        return "too_thick", f"got {facts.step:.2f} mm between slices, expected at most {rules.max_step_mm:g}"
    if facts.height < rules.min_height_mm:
        return "too_low", f"got {facts.height:.1f} mm of height, expected at least {rules.min_height_mm:g}"
    return None


def _candidate(parts: tuple[SeriesScan, ...], rules: SeriesRules) -> Candidate:
    facts = min(parts, key=lambda part: _rank((part,), rules))   # a pair is worth what its lesser half is
    words = [f"{'bone kernel' if rules.is_bone(facts) else 'no bone kernel'} {facts.kernel or 'unknown'}",
             "both ears" if len(parts) == 1 else "one of two series that show an ear each", f"{facts.height:.0f} mm high",
             f"step {facts.step:.2f} mm", f"{facts.slices} slices", *(["derived"] if _is_derived(facts) else []), *facts.notes]
    return Candidate(parts, _rank((facts,) if len(parts) == 1 else (facts, facts), rules), "; ".join(words))


def _is_derived(facts: SeriesScan) -> bool:
    return "DERIVED" in facts.image_type.split("\\")


_VALUES: dict[Criterion, Callable[[SeriesScan, SeriesRules], float]] = {
    "bone_kernel": lambda facts, rules: rules.is_bone(facts), "high": lambda facts, rules: facts.height >= rules.high_mm,
    "original": lambda facts, rules: not _is_derived(facts), "thin": lambda facts, rules: -round(facts.step / 0.05),
    "many": lambda facts, rules: facts.slices,
}


def _rank(parts: tuple[SeriesScan, ...], rules: SeriesRules) -> tuple[float, ...]:
    return tuple(float(len(parts) == 1 if name == "both_ears" else _VALUES[name](parts[0], rules)) for name in rules.prefer)


_LOST: dict[Criterion, str] = {
    "bone_kernel": "has a bone kernel", "both_ears": "shows both ears in one series", "high": "is higher",
    "original": "is original", "thin": "has thinner steps", "many": "has more slices",
}


def _lost_by(lost: Candidate, best: Candidate, rules: SeriesRules) -> str:
    """What decided against it."""
    for name, own, other in zip(rules.prefer, lost.rank, best.rank, strict=True):
        if own != other:
            return f"the chosen one {_LOST[name]}"
    return "the chosen one is as good, and comes later by name"
