"""Who and what the labelled ears of a manifest are, set by set, and what of it deserves a look before anything is trained.

Scans and ages are counted by exam, people by patient, diagnoses by ear. A network learns whatever goes along with the label: a
scanner, a kernel, a day. So what is looked for is anything that goes along with it, or that one set has and another lacks.
"""
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from medical_fenlei import tables
from medical_fenlei.vocabulary import DIAGNOSES, UNLABELLED

NUMBERS = ("n_instances", "slice_thickness_mm", "slice_increment_mm", "pixel_spacing_mm", "kvp")
NAMES = ("manufacturer", "model", "kernel", "transfer_syntax")
USUAL = {
    "slice_thickness_mm": (0.3, 1.25), "slice_increment_mm": (0.2, 1.25), "pixel_spacing_mm": (0.15, 0.6),
    "n_instances": (60, 500), "kvp": (80, 140),
}
"""Of temporal-bone CT as hospitals export it: targeted reconstructions of one ear up to whole heads."""

THICKNESS = (0.5, 0.7, 1.0)
"""Bounds between the bands of slice thickness, mm."""

FEW = 10
"""Ears of a class in a set below which its figures say little."""
SEEN = 5
"""Exams with a value that make its absence from another set worth a line."""
UNLIKELY = 0.001
"""Probability below which a difference is taken for one: dozens are looked for at once."""
LARGE_V, LARGE_KS = 0.1, 0.15
"""And its least size: Cramér's V, and the largest distance of two cumulative distributions."""
RARE = 5
"""Values of fewer exams are compared together."""
CHILD = 18
"""Years."""


@dataclass(frozen=True)
class Grouping:
    """The labelled ears, parted in one way."""

    name: str
    groups: dict[str, pd.DataFrame]
    """Ears (`labelled_ears`) by group; no exam is in two."""

    nested: dict[str, pd.DataFrame] = field(default_factory=dict)
    """Smaller training sets, which lie inside a group."""


class Finding(NamedTuple):
    kind: str
    text: str
    """One line with figures."""


def labelled_ears(manifest: pd.DataFrame) -> pd.DataFrame:
    """The ears with a label, with what a manifest of an earlier version lacks as unknown, and `thickness`, a band of it."""
    missing = [name for name in tables.SUBGROUP_FACTS if name not in manifest]
    ears = tables.MANIFEST.frame(manifest.assign(**{name: "" if tables.SUBGROUP_FACTS[name] == "text" else np.nan
                                                    for name in missing}))
    ears = ears[ears.label_code != UNLABELLED].reset_index(drop=True)
    bounds = (-np.inf, *THICKNESS, np.inf)
    names = [f"below {THICKNESS[0]} mm", *(f"{low} to {high} mm" for low, high in itertools.pairwise(THICKNESS)),
             f"from {THICKNESS[-1]} mm"]
    band = pd.cut(ears.slice_thickness_mm, bounds, right=False, labels=names).astype("object")
    return ears.assign(thickness=band.where(band.notna(), "").astype("str"))


def by_date(ears: pd.DataFrame) -> Grouping:
    """Whether the sheet's date is that of the folder."""
    return Grouping("date", {"same date": ears[ears.date_match], "another date": ears[~ears.date_match]})


def by_set(ears: pd.DataFrame, splits: Sequence[tables.Split], name: str) -> Grouping:
    """The sets of a splits folder's largest amount, and the smaller training sets inside it. splits: its amounts, ascending."""
    def of(exams: pd.DataFrame) -> pd.DataFrame:
        return ears[ears.exam_id.isin(exams.exam_id)]

    largest = splits[-1]
    nested = {f"train, {split.folder.name.removesuffix('pct')} %": of(split.sets["train"]) for split in splits[:-1]}
    sets = {of_set: of(exams) for of_set, exams in largest.sets.items() if len(exams)}
    return Grouping(name, sets, nested)


def scan_numbers(groupings: Sequence[Grouping]) -> pd.DataFrame:
    """`tables.QA_SCAN_NUMBERS`: how each number of a scan is distributed over the exams of each group."""
    rows = []
    for by, group, ears in _every_group(groupings):
        exams = ears.drop_duplicates("exam_id")
        for name in NUMBERS:
            rows.append({"by": by, "group": group, "parameter": name, **_quantiles(exams[name])})
    return tables.QA_SCAN_NUMBERS.frame(rows)


def scan_names(groupings: Sequence[Grouping]) -> pd.DataFrame:
    """`tables.QA_SCAN_NAMES`: how many exams of each group have each maker, model, kernel and transfer syntax."""
    rows = []
    for by, group, ears in _every_group(groupings):
        exams = ears.drop_duplicates("exam_id")
        for name in NAMES:
            for value, number in exams[name].value_counts().items():
                rows.append({"by": by, "group": group, "parameter": name, "value": value, "exams": number,
                             "share": number / len(exams)})
    return tables.QA_SCAN_NAMES.frame(rows)


def classes(ears: pd.DataFrame, groupings: Sequence[Grouping]) -> pd.DataFrame:
    """`tables.QA_CLASSES`: labelled ears and patients of each code, by set, date, side, maker, kernel and thickness."""
    rows = []
    for by, value, own in _every_part(ears, groupings):
        for code, diagnosis in DIAGNOSES.items():
            of_code = own[own.label_code == code]
            rows.append({"by": by, "value": value, "label_code": code, "diagnosis": diagnosis.key, "ears": len(of_code),
                         "patients": of_code.patient_key.nunique(), "share": len(of_code) / len(own) if len(own) else np.nan})
    return tables.QA_CLASSES.frame(rows)


def people(groupings: Sequence[Grouping]) -> pd.DataFrame:
    """`tables.QA_PEOPLE`: age and sex in each group. A patient with several exams counts once, with the first."""
    rows = []
    for by, group, ears in _every_group(groupings):
        patients = first_exams(ears)
        sexes = {f"sex_{name or 'unknown'}": int((patients.sex == name).sum()) for name in ("F", "M", "O", "")}
        ages = {f"age_{name}": value for name, value in _quantiles(patients.age_years).items() if name != "exams"}
        rows.append({"by": by, "group": group, "exams": ears.exam_id.nunique(), "patients": len(patients), **sexes, **ages})
    return tables.QA_PEOPLE.frame(rows)


def missing_values(ears: pd.DataFrame) -> pd.DataFrame:
    """`tables.QA_MISSING`: of each column that may be empty, how many labelled ears lack it."""
    rows = []
    for name, kind in {**tables.MANIFEST.columns, **tables.SUBGROUP_FACTS}.items():
        if kind in ("text", "float", "count") and not name.startswith("task_"):
            missing = int((ears[name].isna() | (ears[name].astype("str") == "")).sum())
            rows.append({"column": name, "ears": len(ears), "missing": missing, "share": missing / max(len(ears), 1)})
    return tables.QA_MISSING.frame(rows)


def first_exams(ears: pd.DataFrame) -> pd.DataFrame:
    """The first row of each patient's first exam."""
    return ears.sort_values(["date", "exam_id"], kind="stable").drop_duplicates("patient_key")


def findings(ears: pd.DataFrame, dates: Grouping, splits: Sequence[Grouping]) -> list[Finding]:
    """What deserves a look, each with its figures; the worst kinds first."""
    exams = ears.drop_duplicates("exam_id")
    return [
        *_one_class(ears), *_goes_with_the_label(ears),
        *(finding for split in splits for finding in (*_absent(split), *_few(split), *_outside(ears, split))),
        *_contrasts(dates, [("same date", "another date")]),
        *(finding for split in splits for finding in _contrasts(split, [("train", "val"), ("train", "test")])),
        *_contrasts(Grouping("side", {side: ears[ears.side == side] for side in ("left", "right")}), [("left", "right")]),
        *_unusual(exams), *_incomplete(ears, exams),
    ]


def _every_group(groupings: Sequence[Grouping]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for grouping in groupings:
        for group, ears in grouping.groups.items():
            yield grouping.name, group, ears


def _every_part(ears: pd.DataFrame, groupings: Sequence[Grouping]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    yield "all", "all", ears
    for grouping in groupings:
        for group, own in {**grouping.nested, **grouping.groups}.items():
            yield grouping.name, group, own
    for by in ("side", "manufacturer", "kernel", "thickness"):
        for value, own in ears.groupby(by, sort=True):
            yield by, str(value), own


def _quantiles(values: pd.Series) -> dict[str, float]:
    known = values.astype("float64").dropna().to_numpy()
    marks = np.quantile(known, (0, 0.1, 0.5, 0.9, 1)) if len(known) else np.full(5, np.nan)
    return {"exams": len(values), "missing": len(values) - len(known),
            **dict(zip(("min", "p10", "median", "p90", "max"), map(float, marks), strict=True))}


def _coded(code: object) -> str:
    return f"code {code} ({DIAGNOSES[int(str(code))].english})"


def _one_class(ears: pd.DataFrame) -> Iterator[Finding]:
    """A value that tells the code, where its exams are too many for chance."""
    overall = ears.label_code.value_counts(normalize=True)
    for name in ("manufacturer", "model", "kernel", "thickness"):
        for value, own in ears.groupby(ears[name].replace("", "unknown"), sort=True):
            codes = own.label_code.unique()
            if len(codes) == 1 and overall[codes[0]] ** own.exam_id.nunique() < UNLIKELY:
                yield Finding("one class only", f"{name} {value!s}: all {len(own)} ears of {own.exam_id.nunique()} "
                              f"exams have {_coded(codes[0])}, of all ears {overall[codes[0]]:.0%} do")


def _goes_with_the_label(ears: pd.DataFrame) -> Iterator[Finding]:
    for name in ("manufacturer", "model", "kernel", "thickness", "date_match"):
        strength, chance = association(_common(ears[name]), ears.label_code)
        if strength >= LARGE_V and chance < UNLIKELY:
            shares = pd.crosstab(_common(ears[name]), ears.label_code, normalize="index")
            spread = (shares.max() - shares.min()).astype("float64")
            code = spread.idxmax()
            high, low = shares[code].idxmax(), shares[code].idxmin()
            yield Finding("goes with the label", f"{name}: Cramér's V with the code {strength:.2f}; {_coded(code)}: "
                          f"{shares[code].max():.0%} of the ears with {high!s}, {shares[code].min():.0%} with {low!s}")


def _absent(split: Grouping) -> Iterator[Finding]:
    train = split.groups["train"].drop_duplicates("exam_id")
    for name in ("manufacturer", "kernel"):
        fitted = train[name].value_counts()
        for group in ("val", "test"):
            if group not in split.groups:
                continue
            held = split.groups[group].drop_duplicates("exam_id")[name].value_counts()
            for value, number in fitted.items():
                if number >= SEEN and value not in held:
                    yield Finding("missing in a set", f"{split.name}: {name} {value or 'unknown'}: {number} exams in train "
                                  f"({number / len(train):.0%}), none in {group}")
            for value, number in held.items():
                if value not in fitted:
                    yield Finding("missing in a set", f"{split.name}: {name} {value or 'unknown'}: {number} exams in {group}, "
                                  "none in train")


def _few(split: Grouping) -> Iterator[Finding]:
    for group, ears in {**split.nested, **split.groups}.items():
        counts = ears.label_code.value_counts().reindex(list(DIAGNOSES), fill_value=0)
        few = [f"{number} of {_coded(code)}" for code, number in counts.items() if number < FEW]
        if few:
            yield Finding("few ears", f"{split.name}: {group} has {len(ears)} labelled ears, only {', '.join(few)}")


def _outside(ears: pd.DataFrame, split: Grouping) -> Iterator[Finding]:
    """Labelled exams that the split does not know: it was made from another index."""
    inside = {exam for own in split.groups.values() for exam in own.exam_id}
    outside = ears[~ears.exam_id.isin(inside)]
    if len(outside):
        yield Finding("in no set", f"{split.name}: {outside.exam_id.nunique()} exams with {len(outside)} labelled ears are "
                      f"in no set, e.g. {_some(outside.exam_id)}")


def _contrasts(grouping: Grouping, pairs: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Two groups that differ by more than chance in diagnoses, scans or people."""
    for pair in pairs:
        if not all(len(grouping.groups.get(name, ())) for name in pair):
            continue
        one, other = (grouping.groups[name] for name in pair)
        exams = [own.drop_duplicates("exam_id") for own in (one, other)]
        persons = [first_exams(own) for own in (one, other)]
        for name, (a, b) in {"label_code": (one, other), "manufacturer": exams, "kernel": exams, "sex": persons}.items():
            values = pd.concat([a[name], b[name]], ignore_index=True).astype("str")
            member = pd.Series(np.repeat(pair, (len(a), len(b))))
            values, member = values[values != ""], member[values != ""]
            strength, chance = association(_common(values), member)
            if strength >= LARGE_V and chance < UNLIKELY:
                shares = pd.crosstab(_common(values), member, normalize="columns")
                most = str((shares[pair[0]] - shares[pair[1]]).abs().idxmax())
                what = _coded(most) if name == "label_code" else f"{name} {most}"
                yield Finding("groups differ", f"{grouping.name}: {what}: {shares[pair[0]][most]:.0%} of {pair[0]}, "
                              f"{shares[pair[1]][most]:.0%} of {pair[1]} (Cramér's V {strength:.2f})")
        for name, (a, b) in {"age_years": persons, **dict.fromkeys(NUMBERS[1:], exams)}.items():
            known = [own[name].astype("float64").dropna().to_numpy() for own in (a, b)]
            if min(map(len, known)) < 2:
                continue
            found = stats.ks_2samp(known[0], known[1], method="asymp")
            if found.statistic >= LARGE_KS and found.pvalue < UNLIKELY:
                yield Finding("groups differ", f"{grouping.name}: {name}: median {np.median(known[0]):g} of {pair[0]}, "
                              f"{np.median(known[1]):g} of {pair[1]} (distributions {found.statistic:.0%} apart)")


def _unusual(exams: pd.DataFrame) -> Iterator[Finding]:
    for name, (low, high) in USUAL.items():
        odd = exams[(exams[name] < low) | (exams[name] > high)]
        if len(odd):
            yield Finding("unusual scan", f"{name}: {len(odd)} of {len(exams)} exams outside {low:g} to {high:g} "
                          f"({odd[name].min():g} to {odd[name].max():g}), e.g. {_some(odd.exam_id)}")
    gaps = exams[exams.slice_increment_mm > 1.05 * exams.slice_thickness_mm]
    if len(gaps):
        yield Finding("unusual scan", f"slices farther apart than thick in {len(gaps)} of {len(exams)} exams, "
                      f"e.g. {_some(gaps.exam_id)}")
    children = exams[exams.age_years < CHILD]
    if len(children):
        yield Finding("children", f"{len(children)} of {exams.age_years.notna().sum()} exams with a known age are of patients "
                      f"under {CHILD}, whose heads are smaller and mastoids less pneumatised")


def _incomplete(ears: pd.DataFrame, exams: pd.DataFrame) -> Iterator[Finding]:
    for name, missing in missing_values(ears).set_index("column").missing.items():
        if missing:
            earlier = missing == len(ears) and name in tables.SUBGROUP_FACTS
            yield Finding("missing values", f"{name}: unknown for {missing} of {len(ears)} ears ({missing / len(ears):.0%})"
                          + ("; a manifest of an earlier version lacks it, build it again" if earlier else ""))
    alone = exams[exams.patient_key_source == "exam_id"]
    if len(alone):
        yield Finding("unknown patients", f"{len(alone)} of {len(exams)} exams name no patient: each stands for one of its "
                      "own, and no split can keep two of the same person together")


def _some(exam_ids: pd.Series) -> str:
    return ", ".join(exam_ids.drop_duplicates().head(5))


def _common(values: pd.Series) -> pd.Series:
    """As text, rare values as one."""
    text = values.astype("str")
    return text.where(text.map(text.value_counts()) >= RARE, "rare ones")


def association(a: pd.Series, b: pd.Series) -> tuple[float, float]:
    """Cramér's V, corrected for its bias, and the p-value of the chi-squared test; NaN where either takes one value only.

    The correction is Bergsma's (2013, doi:10.1016/j.jkss.2012.10.002). Ears of a patient count as if they were independent, so
    p is on the small side.
    """
    table = pd.crosstab(a, b).to_numpy()
    n, (r, c) = table.sum(), table.shape
    if min(r, c) < 2:
        return np.nan, np.nan
    tested = stats.chi2_contingency(table, correction=False)
    phi2 = max(0.0, tested.statistic / n - (r - 1) * (c - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(phi2 / smaller)) if smaller > 0 else np.nan, float(tested.pvalue)
