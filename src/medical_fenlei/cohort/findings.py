"""Findings about a cohort that deserve a look before anything is trained.

A network learns whatever is associated with the label: a scanner, a kernel, a date. So the findings are parameters that are
associated with the label, values that one set has and another lacks, small classes, and unusual or missing values.
"""
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from medical_fenlei import tables
from medical_fenlei.cohort.groupings import Grouping, first_exam_per_patient
from medical_fenlei.cohort.summaries import SCAN_NUMBERS, missing_values
from medical_fenlei.vocabulary import DIAGNOSES, plural

USUAL = {
    "slice_thickness_mm": (0.3, 1.25), "slice_increment_mm": (0.2, 1.25), "pixel_spacing_mm": (0.15, 0.6),
    "n_instances": (60, 500), "kvp": (80, 140),
}
"""Usual ranges of temporal-bone CT as hospitals export it, from targeted reconstructions of one ear to whole heads."""

FEW_EARS = 10
"""Ears of a class in a set below which figures say little."""
MIN_EXAMS_MISSED = 5
"""Exams with a value in one set from which on its absence from another set is a finding."""
MAX_P = 0.001
"""p-value below which an association or difference is a finding; dozens are tested at once."""
MIN_CRAMERS_V, MIN_KS = 0.1, 0.15
"""Smallest effect of a finding: Cramér's V, and the Kolmogorov-Smirnov distance of two distributions."""
RARE_EXAMS = 5
"""Values of fewer exams are compared together."""
CHILD_YEARS = 18


class Finding(NamedTuple):
    """One line that deserves a look: a row of `tables.QA_FINDINGS`."""

    kind: str
    text: str
    """One line with figures."""


def list_findings(ears: pd.DataFrame, dates: Grouping, splits: Sequence[Grouping]) -> list[Finding]:
    """Return what deserves a look, the most serious kinds first."""
    exams = ears.drop_duplicates("exam_id")
    sides = Grouping("side", {side: ears[ears.side == side] for side in ("left", "right")})
    return [
        *_one_class(ears), *_associated_with_label(ears),
        *(finding for split in splits for finding in (*_missing_in_set(split), *_few_ears(split), *_in_no_set(ears, split))),
        *_differences(dates, "same date", "another date"),
        *(finding for split in splits for other in ("val", "test") for finding in _differences(split, "train", other)),
        *_differences(sides, "left", "right"),
        *_unusual_scans(exams), *_children(exams), *_incomplete(ears, exams),
    ]


def _code_name(code: object) -> str:
    return f"code {code} ({DIAGNOSES[int(str(code))].english})"


def _one_class(ears: pd.DataFrame) -> Iterator[Finding]:
    """Yield values whose ears all have one code, if they are too many for chance."""
    overall = ears.label_code.value_counts(normalize=True)
    for name in ("manufacturer", "model", "kernel", "thickness"):
        for value, own in ears.groupby(ears[name].replace("", "unknown"), sort=True):
            codes = own.label_code.unique()
            if len(codes) == 1 and overall[codes[0]] ** own.exam_id.nunique() < MAX_P:
                yield Finding("one class only", f"{name} {value!s}: all {len(own)} ears of {own.exam_id.nunique()} exams have "
                              f"{_code_name(codes[0])}, against {overall[codes[0]]:.0%} of all ears")


def _associated_with_label(ears: pd.DataFrame) -> Iterator[Finding]:
    for name in ("manufacturer", "model", "kernel", "thickness", "date_match"):
        strength, p = association(_common(ears[name]), ears.label_code)
        if strength >= MIN_CRAMERS_V and p < MAX_P:
            shares = pd.crosstab(_common(ears[name]), ears.label_code, normalize="index")
            code = (shares.max() - shares.min()).astype("float64").idxmax()
            most, least = shares[code].idxmax(), shares[code].idxmin()
            yield Finding("goes with the label", f"{name}: Cramér's V with the code {strength:.2f}; {_code_name(code)}: "
                          f"{shares[code].max():.0%} of the ears with {most!s}, {shares[code].min():.0%} with {least!s}")


def _missing_in_set(split: Grouping) -> Iterator[Finding]:
    """Yield values of the training set that a held-out set lacks, and the reverse."""
    train = split.groups["train"].drop_duplicates("exam_id")
    for name in ("manufacturer", "kernel"):
        trained = train[name].value_counts()
        for group in ("val", "test"):
            if group not in split.groups:
                continue
            held_out = split.groups[group].drop_duplicates("exam_id")[name].value_counts()
            for value, number in trained.items():
                if number >= MIN_EXAMS_MISSED and value not in held_out:
                    yield Finding("missing in a set", f"{split.name}: {name} {value or 'unknown'}: {plural(number, 'exam')} in "
                                  f"train ({number / len(train):.0%}), none in {group}")
            for value, number in held_out.items():
                if value not in trained:
                    yield Finding("missing in a set", f"{split.name}: {name} {value or 'unknown'}: {plural(number, 'exam')} in "
                                  f"{group}, none in train")


def _few_ears(split: Grouping) -> Iterator[Finding]:
    for group, ears in {**split.nested, **split.groups}.items():
        counts = ears.label_code.value_counts().reindex(list(DIAGNOSES), fill_value=0)
        few = [f"{f'only {number}' if number else 'none'} of {_code_name(code)}" for code, number in counts.items()
               if number < FEW_EARS]
        if few:
            yield Finding("few ears", f"{split.name}: {group} has {plural(len(ears), 'labelled ear')}, {', '.join(few)}")


def _in_no_set(ears: pd.DataFrame, split: Grouping) -> Iterator[Finding]:
    """Yield the labelled exams that a split does not hold, since it was made from another index."""
    inside = {exam for own in split.groups.values() for exam in own.exam_id}
    outside = ears[~ears.exam_id.isin(inside)]
    if len(outside):
        yield Finding("in no set", f"{split.name}: {plural(outside.exam_id.nunique(), 'exam')} with "
                      f"{plural(len(outside), 'labelled ear')} in no set, e.g. {_examples(outside.exam_id)}")


def _differences(grouping: Grouping, one: str, other: str) -> Iterator[Finding]:
    """Yield diagnoses, scan parameters, ages and sexes in which two groups differ by more than chance."""
    ears = [grouping.groups.get(name, pd.DataFrame()) for name in (one, other)]
    if not all(map(len, ears)):
        return
    exams = [own.drop_duplicates("exam_id") for own in ears]
    patients = [first_exam_per_patient(own) for own in ears]
    for name, (a, b) in {"label_code": ears, "manufacturer": exams, "kernel": exams, "sex": patients}.items():
        if difference := _difference_of_shares(a[name], b[name], one, other):
            yield Finding("groups differ", f"{grouping.name}: {difference}")
    for name, (a, b) in {"age_years": patients, **dict.fromkeys(SCAN_NUMBERS[1:], exams)}.items():
        if difference := _difference_of_numbers(a[name], b[name], one, other):
            yield Finding("groups differ", f"{grouping.name}: {difference}")


def _difference_of_shares(a: pd.Series, b: pd.Series, one: str, other: str) -> str:
    """Return how two groups differ in a category, or "" if they do not. a, b: values of the groups `one` and `other`."""
    values = pd.concat([a, b], ignore_index=True).astype("str")
    member = pd.Series(np.repeat([one, other], (len(a), len(b))))
    values, member = values[values != ""], member[values != ""]
    strength, p = association(_common(values), member)
    if not (strength >= MIN_CRAMERS_V and p < MAX_P):
        return ""
    shares = pd.crosstab(_common(values), member, normalize="columns")
    value = str((shares[one] - shares[other]).abs().idxmax())
    what = _code_name(value) if a.name == "label_code" else f"{a.name} {value}"
    return f"{what}: {shares[one][value]:.0%} of {one}, {shares[other][value]:.0%} of {other} (Cramér's V {strength:.2f})"


def _difference_of_numbers(a: pd.Series, b: pd.Series, one: str, other: str) -> str:
    """Return how two groups differ in a number, or "" if they do not. a, b: values of the groups `one` and `other`."""
    known = [values.astype("float64").dropna().to_numpy() for values in (a, b)]
    if min(map(len, known)) < 2:
        return ""
    tested = stats.ks_2samp(known[0], known[1], method="asymp")
    if not (tested.statistic >= MIN_KS and tested.pvalue < MAX_P):
        return ""
    return (f"{a.name}: median {np.median(known[0]):g} of {one}, {np.median(known[1]):g} of {other} "
            f"(distributions {tested.statistic:.0%} apart)")


def _unusual_scans(exams: pd.DataFrame) -> Iterator[Finding]:
    for name, (low, high) in USUAL.items():
        unusual = exams[(exams[name] < low) | (exams[name] > high)]
        if len(unusual):
            yield Finding("unusual scan", f"{name}: {len(unusual)} of {len(exams)} exams outside {low:g} to {high:g} "
                          f"({unusual[name].min():g} to {unusual[name].max():g}), e.g. {_examples(unusual.exam_id)}")
    gaps = exams[exams.slice_increment_mm > 1.05 * exams.slice_thickness_mm]
    if len(gaps):
        yield Finding("unusual scan", f"slices farther apart than thick in {len(gaps)} of {len(exams)} exams, "
                      f"e.g. {_examples(gaps.exam_id)}")


def _children(exams: pd.DataFrame) -> Iterator[Finding]:
    children = exams[exams.age_years < CHILD_YEARS]
    if len(children):
        yield Finding("children", f"{len(children)} of {exams.age_years.notna().sum()} exams with a known age are of patients "
                      f"under {CHILD_YEARS}, with smaller heads and less pneumatised mastoids")


def _incomplete(ears: pd.DataFrame, exams: pd.DataFrame) -> Iterator[Finding]:
    for name, missing in missing_values(ears).set_index("column").missing.items():
        if missing:
            earlier = missing == len(ears) and name in tables.SUBGROUP_FACTS
            yield Finding("missing values", f"{name}: unknown for {missing} of {len(ears)} ears ({missing / len(ears):.0%})"
                          + ("; a manifest of an earlier version lacks it, build it again" if earlier else ""))
    unnamed = exams[exams.patient_key_source == "exam_id"]
    if len(unnamed):
        yield Finding("unknown patients", f"{len(unnamed)} of {len(exams)} exams name no patient: each counts as a patient of "
                      "its own, and no split can keep two exams of the same person together")


def _examples(exam_ids: pd.Series) -> str:
    return ", ".join(exam_ids.drop_duplicates().head(5))


def _common(values: pd.Series) -> pd.Series:
    """Return the values as text, with the rare ones merged."""
    text = values.astype("str")
    return text.where(text.map(text.value_counts()) >= RARE_EXAMS, "rare ones")


def association(a: pd.Series, b: pd.Series) -> tuple[float, float]:
    """Return Cramér's V with bias correction, and the p-value of the chi-squared test; NaN if either has a single value.

    The correction is that of Bergsma (2013, doi:10.1016/j.jkss.2012.10.002). The ears of a patient count as independent, so
    that p is somewhat too small.
    """
    table = pd.crosstab(a, b).to_numpy()
    n, (r, c) = table.sum(), table.shape
    if min(r, c) < 2:
        return np.nan, np.nan
    tested = stats.chi2_contingency(table, correction=False)
    phi2 = max(0.0, tested.statistic / n - (r - 1) * (c - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(phi2 / smaller)) if smaller > 0 else np.nan, float(tested.pvalue)
