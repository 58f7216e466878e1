"""Patients into sets: stratified by class, nested amounts of training data, a validation set or folds.

Units are patients (or exams); a unit goes to one set whole. Units of one kind have as many exams, with the same codes on the
same sides. Of each kind a set takes its share, up or down to a whole unit; then units of two kinds change places between the
set and the rest, as long as that brings the ears of the classes nearer to their shares. Which units of a kind go is drawn.
"""
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.errors import UserError
from medical_fenlei.vocabulary import DIAGNOSES, SIDES, UNLABELLED

Sets = dict[str, pd.DataFrame]
"""train, tune, val, test: rows of the index."""

KINDS_AT_ONCE = 100
"""Kinds on either side whose exchange is tried in one step; a collection has some 60."""
WEIGHT_OF_KIND = 0.05
"""Of a kind's distance from its share, in units, beside a class's distance from its own, in ears."""
WEIGHT_OF_MINIMUM = 1000.0
"""Of an ear that `min_per_class` asks for and that is not there."""


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How exams are divided."""

    val_ratio: float = 0.2
    """Share of the patients (exams, without --patient-split) that validates; --folds and --val-from decide it otherwise."""

    test_ratio: float = 0.0
    """Share that tests, 0 for none."""

    tune_ratio: float = 0.1
    """Share of the training patients that chooses checkpoint and thresholds and is never fitted, 0 for none."""

    ratios: tuple[float, ...] = (0.01, 0.2, 1.0)
    """Amounts of training data, each set inside the next."""

    folds: int = 0
    """Splits in whose validation sets each patient stands exactly once, 0 for a single one."""

    val_from: Path | None = None
    """An earlier splits folder, or a CSV with exam_id: these exams validate (all of their patients, with --patient-split)."""

    min_per_class: int = 1
    """Ears of each class that each set gets, however small, where there are enough; one that is named must be met."""

    seed: int = 42
    """Of the draw."""

    def __post_init__(self) -> None:
        for name in ("val_ratio", "test_ratio", "tune_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 up to 1")
        if self.val_ratio + self.test_ratio >= 1 and not self.decided_otherwise:
            raise ValueError(f"val-ratio: {self.val_ratio} and --test-ratio {self.test_ratio} leave nothing to train on")
        if not self.ratios or not all(0 < r <= 1 for r in self.ratios):
            raise ValueError(f"ratios: got {self.ratios}, expected numbers above 0 and up to 1")
        if len({percent(r) for r in self.ratios}) < len(self.ratios) or min(map(percent, self.ratios)) < 1:
            raise ValueError(f"ratios: got {self.ratios}, expected different whole percents")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds: got {self.folds}, expected 0 or at least 2")
        if self.folds and self.val_from:
            raise ValueError("val-from: a fixed validation set and --folds contradict each other; give one of them")
        if self.min_per_class < 0:
            raise ValueError(f"min-per-class: got {self.min_per_class}, expected at least 0")

    @property
    def decided_otherwise(self) -> bool:
        """Is it not `val_ratio` that says how many validate?"""
        return bool(self.folds or self.val_from)


def percent(ratio: float) -> int:
    return round(100 * ratio)


def make_splits(
    index: pd.DataFrame, patients: Mapping[str, str] | None, spec: SplitSpec, *, val_exams: Collection[str] = ()
) -> list[dict[int, Sets]]:
    """For each fold (one, where `spec.folds` is 0) {percent: sets}, of labelled exams with a series.

    index: `tables.INDEX` rows; patients: exam id to patient, None to divide by exam; val_exams: those of `spec.val_from`. The
    result depends on who is the same person, on the labels and on the seed, not on the order of the rows nor on the value of a
    patient's key. Raises UserError where there are too few units for the sets.
    """
    people = _People(index.sort_values("exam_id", ignore_index=True), patients, spec.min_per_class)
    rng = np.random.default_rng(spec.seed)
    everyone = np.arange(len(people.ears))
    fixed = people.owners_of(val_exams) if spec.val_from else None
    rest = everyone if fixed is None else np.setdiff1d(everyone, fixed)
    tuning, testing, validating = (int(share > 0) for share in (spec.tune_ratio, spec.test_ratio, spec.val_ratio))
    others = spec.folds or 1 + (validating if fixed is None else 0)          # sets beside test and tune
    if len(rest) < testing + others + tuning:
        what = "exams" if patients is None else "patients"
        raise UserError(f"--index-csv: {len(rest)} {what} to divide, fewer than the {testing + others + tuning} sets asked for")
    if spec.test_ratio * len(everyone) >= len(rest):
        raise UserError(f"--test-ratio {spec.test_ratio}: with the validation set it leaves nothing to train on")

    rest, test = people.divide(rest, spec.test_ratio * len(everyone) / len(rest), rng, before=others, after=tuning)
    if fixed is not None:
        vals = [fixed]
    elif spec.folds:
        vals = people.parts(rest, spec.folds, rng)
    else:
        vals = [people.divide(rest, spec.val_ratio / (1 - spec.test_ratio), rng, before=1, after=tuning)[1]]
    return [
        people.sets({"val": val, "test": test}, np.setdiff1d(rest, val), spec, own)
        for val, own in zip(vals, rng.spawn(len(vals)), strict=True)
    ]


class _People:
    """The units, and how they are divided.

    `of` (exams,) is the unit of each exam, numbered by its first exam, so that no key's value matters; `ears` (units, classes)
    counts theirs; `kind` (units,) numbers kinds in the order of what they are.
    """

    def __init__(self, index: pd.DataFrame, patients: Mapping[str, str] | None, min_per_class: int) -> None:
        self.index, self.min_per_class = index, min_per_class
        self.of, units = pd.factorize(index.exam_id if patients is None else index.exam_id.map(patients))
        pairs = index[[f"{side}_code" for side in SIDES]].to_numpy(dtype=np.int64)
        self.ears = np.zeros((len(units), len(DIAGNOSES)), dtype=np.int64)
        for codes in pairs.T:
            labelled = codes != UNLABELLED
            np.add.at(self.ears, (self.of[labelled], codes[labelled] - 1), 1)
        exams: list[list[tuple[int, ...]]] = [[] for _ in units]
        for unit, pair in zip(self.of, map(tuple, pairs), strict=True):
            exams[unit].append(pair)
        kinds = [tuple(sorted(theirs)) for theirs in exams]
        number = {kind: nth for nth, kind in enumerate(sorted(set(kinds)))}
        self.kind = np.array([number[kind] for kind in kinds], dtype=np.int64)

    def owners_of(self, exams: Collection[str]) -> np.ndarray:
        """The units of these exams."""
        return np.unique(self.of[self.index.exam_id.isin(list(exams)).to_numpy()])

    def parts(self, units: np.ndarray, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Equal parts of the units."""
        parts = []
        for left in range(number, 1, -1):
            units, part = self.divide(units, 1 / left, rng, before=0, after=left - 1)
            parts.append(part)
        return [*parts, units]

    def sets(
        self, others: dict[str, np.ndarray], units: np.ndarray, spec: SplitSpec, rng: np.random.Generator
    ) -> dict[int, Sets]:
        """Each amount of training data from these units, smallest first, with the sets that all amounts share."""
        amount, others["tune"] = self.divide(units, spec.tune_ratio, rng, before=1, after=0)
        whole = len(amount)
        splits = {}
        for ratio in sorted(spec.ratios, reverse=True):          # each smaller amount is drawn from the next larger one
            _, amount = self.divide(amount, min(1.0, ratio * whole / len(amount)), rng, before=0, after=0)
            chosen = {"train": amount, **others}
            splits[percent(ratio)] = {
                name: self.index[np.isin(self.of, chosen[name])].reset_index(drop=True) for name in tables.SETS
            }
        return dict(sorted(splits.items()))

    def divide(
        self, units: np.ndarray, share: float, rng: np.random.Generator, *, before: int, after: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(those left, those taken): about `share` of the units, of every kind of them, and of every class's ears.

        before, after: for how many sets the units left are whose need of a rare class comes before that of the set that is
        taken, and after it. A unit stays for each of them; at least one is taken, unless share is 0.
        """
        quota = min(max(1, round(share * len(units))), len(units) - before - after)
        if share <= 0 or quota <= 0:
            return units, units[:0]
        _, first, of_kind, size = np.unique(self.kind[units], return_index=True, return_inverse=True, return_counts=True)
        ears = self.ears[units[first]]                                       # (kinds, classes)
        total = size @ ears
        left = np.minimum(total, self.min_per_class * before)
        least_taken = np.minimum(total - left, self.min_per_class)
        least_left = left + np.minimum(total - left - least_taken, self.min_per_class * after)
        counts = _refined(_rounded(size * (quota / len(units)), quota, rng), size, ears, least_taken, total - least_left, rng)

        shuffled = rng.permutation(len(units))
        by_kind = shuffled[np.argsort(of_kind[shuffled], kind="stable")]     # drawn within each kind
        place = np.arange(len(units)) - np.repeat(np.cumsum(size) - size, size)
        taken = np.sort(units[by_kind[place < np.repeat(counts, size)]])
        return np.setdiff1d(units, taken), taken


def _rounded(wanted: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Whole numbers next to those wanted, above or below, that add up to `total`; which go up is drawn by their fractions."""
    order = rng.permutation(len(wanted))
    edges = np.cumsum(wanted[order]) * (total / wanted.sum())
    edges[-1] = total
    counts = np.empty(len(wanted), dtype=np.int64)
    counts[order] = np.diff(np.floor(edges + rng.random()), prepend=0)
    return counts


def _refined(
    counts: np.ndarray, size: np.ndarray, ears: np.ndarray, least: np.ndarray, most: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Units of each kind to take, after exchanges between two kinds that bring the classes nearer to their shares.

    counts, size (kinds,): units to take and units there are; ears (kinds, classes) of one unit; least, most (classes,): ears to
    take at least and at most. The sum of counts stays.
    """
    share = counts.sum() / size.sum()
    wanted = share * size

    def cost(off: np.ndarray) -> np.ndarray:
        """off (..., classes): ears taken beyond each class's share."""
        taken = off + share * (size @ ears)
        missing = np.maximum(0, least - taken) + np.maximum(0, taken - most)
        return (off ** 2 + WEIGHT_OF_MINIMUM * missing ** 2).sum(axis=-1)

    counts = counts.copy()
    while True:
        gives = rng.permutation(np.flatnonzero(counts > 0))[:KINDS_AT_ONCE]
        gets = rng.permutation(np.flatnonzero(counts < size))[:KINDS_AT_ONCE]
        off = (counts - wanted) @ ears
        change = cost(off + ears[gets] - ears[gives][:, None]) - cost(off)   # (gives, gets)
        far = counts - wanted                                                # one unit less here, one more there
        change += 2 * WEIGHT_OF_KIND * (1 - far[gives][:, None] + far[gets])
        if not change.size or change.min() > -1e-9:
            return counts
        give, get = np.unravel_index(change.argmin(), change.shape)
        counts[gives[give]] -= 1
        counts[gets[get]] += 1


def exams_of(source: Path) -> list[str]:
    """The exams that validate in an earlier split (its folder, or that of one amount), or that a CSV names.

    Raises UserError where there is none.
    """
    found = [source] if source.is_file() else sorted([*source.glob("val.csv"), *source.glob("*pct/val.csv")])
    if not found:
        raise UserError(f"--val-from {source}: is neither a CSV nor a splits folder with <pct>pct/val.csv")
    return list(dict.fromkeys(tables.EXAM_IDS.read(found[0]).exam_id))       # every amount has the same


def ears_of(frame: pd.DataFrame) -> dict[int, int]:
    """Labelled ears of each code."""
    return {code: int(sum((frame[f"{side}_code"] == code).sum() for side in SIDES)) for code in DIAGNOSES}


def too_few(splits: Mapping[int, Sets], least: int) -> list[str]:
    """Where a class that occurs has fewer ears than `least` in a set that is asked for: "code 4: 0 of 1 ears in 1pct train"."""
    largest = splits[max(splits)]
    named = {name: frame for name, frame in largest.items() if name != "train" and len(frame)}
    named |= {f"{pct}pct train": sets["train"] for pct, sets in splits.items()}
    whole = ears_of(pd.concat(list(largest.values())))
    return [
        f"code {code}: {number} of {least} ears in {name}"
        for name, frame in named.items() for code, number in ears_of(frame).items() if whole[code] and number < least
    ]


def largest_deviation(sets: Mapping[str, pd.DataFrame]) -> dict[str, Any] | None:
    """By how much the share of a class among the ears of a set differs most between two sets, in percentage points.

    points, code, sets: the one where it is largest, the one where it is smallest. None with fewer than two sets that have ears.
    """
    ears = {name: np.array(list(ears_of(frame).values())) for name, frame in sets.items()}
    names = [name for name, numbers in ears.items() if numbers.any()]
    if len(names) < 2:
        return None
    shares = np.array([100 * ears[name] / ears[name].sum() for name in names])           # (sets, classes)
    worst = int(np.ptp(shares, axis=0).argmax())
    between = [names[shares[:, worst].argmax()], names[shares[:, worst].argmin()]]
    return {"points": round(float(np.ptp(shares[:, worst])), 3), "code": list(DIAGNOSES)[worst], "sets": between}


def stats(sets: Mapping[str, pd.DataFrame], patients: Mapping[str, str] | None) -> dict[str, Any]:
    """Exams, patients and labelled ears of each class, for each set."""
    return {
        name: {
            "exams": len(frame),
            **({"patients": int(frame.exam_id.map(patients).nunique())} if patients is not None else {}),
            "code": {str(code): number for code, number in ears_of(frame).items()},
        }
        for name, frame in sets.items()
    }
