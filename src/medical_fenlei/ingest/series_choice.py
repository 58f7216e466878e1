"""Which series of an exam to use: readable rules over header facts, with a reason for each candidate.

Names and descriptions are not used: they are unreliable. A series is refused for one stated reason. The others are compared by
the criteria in `SeriesRules.prefer`; the first that differs decides. Two series that show one ear each (targeted
reconstructions) count together as one candidate.
"""
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_rules import Criterion, SeriesRules
from medical_fenlei.vocabulary import Side

WIDEST_MM = 1000.0
"""A field of view wider than this fits no scanner: its pixel spacing is wrong."""

WHOLE_HEAD = 1.4
"""A field of view from this multiple of `both_ears_x_coverage_mm` on shows the whole head."""

SeriesVerdict = tuple[SeriesScan, str, str]
"""(series, reason code, detail); `chosen` and `not_chosen` are among the codes."""


@dataclass(frozen=True)
class Candidate:
    """One series that shows both ears, or two series that show one each (left, right)."""

    series: tuple[SeriesScan, ...]
    rank: tuple[float, ...]
    """Value of each criterion, in the order of `SeriesRules.prefer`; higher is better."""

    reason: str

    def of(self, side: Side) -> SeriesScan:
        """Return the series that shows this ear."""
        return self.series[0 if side is Side.LEFT else -1]


@dataclass(frozen=True)
class Choice:
    """The chosen candidate of an exam, and the verdict on each of its series."""

    chosen: Candidate | None
    verdicts: tuple[SeriesVerdict, ...]


def choose_series(series: Sequence[SeriesScan], rules: SeriesRules) -> Choice:
    """Choose the best candidate among the series of an exam."""
    refusals = {facts.relpath: refusal(facts, rules) for facts in series}
    usable = [facts for facts in series if refusals[facts.relpath] is None]
    single = [facts for facts in usable if _shows_one_ear(facts, usable, rules)]
    whole = [facts for facts in usable if facts not in single]
    pairs = [pair for pair in itertools.permutations(single, 2)
             if pair[0].x_centre - pair[1].x_centre >= rules.min_pair_distance_mm]
    candidates = [_candidate(parts, rules) for parts in (*((facts,) for facts in whole), *pairs)]
    candidates.sort(key=lambda found: (found.rank, [facts.relpath for facts in found.series]), reverse=True)
    verdicts = [(facts, *(refusals[facts.relpath] or _verdict(facts, candidates, rules))) for facts in series]
    return Choice(candidates[0] if candidates else None, tuple(verdicts))


def _verdict(facts: SeriesScan, candidates: Sequence[Candidate], rules: SeriesRules) -> tuple[str, str]:
    """Return (reason code, detail) of a usable series. candidates: best first."""
    own = [candidate for candidate in candidates if facts in candidate.series]
    if not own:
        return "single_ear", f"{facts.x_coverage:.0f} mm wide: one ear, and no matching series shows the other"
    if own[0] is candidates[0]:
        return "chosen", own[0].reason
    return "not_chosen", f"{own[0].reason}; {_lost_by(own[0], candidates[0], rules)}"


def _shows_one_ear(facts: SeriesScan, others: Sequence[SeriesScan], rules: SeriesRules) -> bool:
    """Return whether the field of view is narrow, or not wide and off-centre of another one that is at least as wide."""
    narrow = rules.both_ears_x_coverage_mm
    return facts.x_coverage < narrow or (facts.x_coverage < WHOLE_HEAD * narrow and any(
        other.x_coverage >= facts.x_coverage and abs(other.x_centre - facts.x_centre) >= rules.min_pair_distance_mm / 2
        for other in others))


def refusal(facts: SeriesScan, rules: SeriesRules) -> tuple[str, str] | None:
    """Return (reason code, detail) of why a series cannot be used, or None if it can."""
    localizer = "LOCALIZER" in facts.image_type.split("\\")
    if facts.plane != "axial" or facts.refused == "not_axial":
        if localizer or facts.images < rules.min_slices:
            return "localizer", f"{facts.images} {facts.plane} images: a scout"
        return "not_axial", f"{facts.images} {facts.plane} images"
    if localizer:
        return "localizer", "ImageType marks its images as a scout"
    if refused := rules.refused_by(facts):
        return "refused_by_rules", refused
    if facts.images < rules.min_slices or 0 < facts.slices < rules.min_slices:
        return "too_few_slices", f"got {facts.slices or facts.images}, expected at least {rules.min_slices}"
    if facts.refused:
        return facts.refused, facts.detail
    if facts.x_coverage > WIDEST_MM:
        return "bad_attribute", (f"PixelSpacing: the field of view is {facts.x_coverage:.0f} mm wide, "
                                 f"expected at most {WIDEST_MM:g}")
    if facts.slice_spacing > rules.max_slice_spacing_mm:
        return "too_large_spacing", (f"got a slice spacing of {facts.slice_spacing:.2f} mm, "
                                     f"expected at most {rules.max_slice_spacing_mm:g}")
    if facts.z_coverage < rules.min_z_coverage_mm:
        return "too_little_coverage", (f"got a z-coverage of {facts.z_coverage:.1f} mm, "
                                       f"expected at least {rules.min_z_coverage_mm:g}")
    return None


def _candidate(parts: tuple[SeriesScan, ...], rules: SeriesRules) -> Candidate:
    facts = min(parts, key=lambda part: _rank((part,), rules))   # a pair ranks as its lesser part
    reasons = [f"{'bone kernel' if rules.is_bone(facts) else 'no bone kernel'} {facts.kernel or 'unknown'}",
               "both ears" if len(parts) == 1 else "one of two series that show an ear each",
               f"z-coverage {facts.z_coverage:.0f} mm", f"slice spacing {facts.slice_spacing:.2f} mm",
               f"{facts.slices} slices", *(["derived"] if _is_derived(facts) else []), *facts.notes]
    return Candidate(parts, _rank((facts,) if len(parts) == 1 else (facts, facts), rules), "; ".join(reasons))


def _is_derived(facts: SeriesScan) -> bool:
    return "DERIVED" in facts.image_type.split("\\")


_VALUES: dict[Criterion, Callable[[SeriesScan, SeriesRules], float]] = {
    "bone_kernel": lambda facts, rules: rules.is_bone(facts),
    "z_coverage": lambda facts, rules: facts.z_coverage >= rules.full_z_coverage_mm,
    "original": lambda facts, rules: not _is_derived(facts),
    "slice_spacing": lambda facts, rules: -round(facts.slice_spacing / 0.05),
    "slice_count": lambda facts, rules: facts.slices,
}


def _rank(parts: tuple[SeriesScan, ...], rules: SeriesRules) -> tuple[float, ...]:
    return tuple(float(len(parts) == 1 if name == "both_ears" else _VALUES[name](parts[0], rules)) for name in rules.prefer)


_ADVANTAGES: dict[Criterion, str] = {
    "bone_kernel": "has a bone kernel", "both_ears": "shows both ears in one series", "z_coverage": "covers more along z",
    "original": "is original", "slice_spacing": "has a smaller slice spacing", "slice_count": "has more slices",
}


def _lost_by(candidate: Candidate, best: Candidate, rules: SeriesRules) -> str:
    """Return the advantage of the best candidate over this one."""
    for name, own, other in zip(rules.prefer, candidate.rank, best.rank, strict=True):
        if own != other:
            return f"the chosen one {_ADVANTAGES[name]}"
    return "the chosen one is as good, and comes later by name"
