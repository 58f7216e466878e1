"""Patients into sets: stratified by class, nested amounts of training data, a fixed validation set.

Units are patients (or exams); a unit goes to one set whole. Classes are kept proportional by iterative stratification
(Sechidis, Tsoumakas and Vlahavas 2011, doi:10.1007/978-3-642-23808-6_10): the rarest class is dealt out first.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medical_fenlei.vocabulary import DIAGNOSES, SIDES, UNLABELLED


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How exams are divided."""

    val_ratio: float = 0.2
    """Share of the patients (exams, without --patient-split) that validates."""

    test_ratio: float = 0.0
    """Share that tests, 0 for none."""

    tune_ratio: float = 0.1
    """Share of the training patients that chooses checkpoint and thresholds and is never fitted, 0 for none."""

    ratios: tuple[float, ...] = (0.01, 0.2, 1.0)
    """Amounts of training data, each set inside the next."""

    seed: int = 42
    """Of the draw."""

    def __post_init__(self) -> None:
        for name in ("val_ratio", "test_ratio", "tune_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 up to 1")
        if self.val_ratio + self.test_ratio >= 1:
            raise ValueError(f"val-ratio: {self.val_ratio} and --test-ratio {self.test_ratio} leave nothing to train on")
        if not self.ratios or not all(0 < r <= 1 for r in self.ratios):
            raise ValueError(f"ratios: got {self.ratios}, expected numbers above 0 and up to 1")
        if len({percent(r) for r in self.ratios}) < len(self.ratios) or min(map(percent, self.ratios)) < 1:
            raise ValueError(f"ratios: got {self.ratios}, expected different whole percents")


def percent(ratio: float) -> int:
    return round(100 * ratio)


def make_splits(index: pd.DataFrame, patients: Mapping[str, str] | None, spec: SplitSpec) -> dict[int, dict[str, pd.DataFrame]]:
    """{percent: {"train", "tune", "val", "test": rows of the index}}, for labelled exams with a series.

    index: `tables.INDEX` rows; patients: exam id to patient, None to divide by exam. The result depends on who is the same
    person and on the seed, not on the order of the rows nor on the value of a patient's key.
    """
    index = index.sort_values("exam_id", ignore_index=True)
    owner = index.exam_id if patients is None else index.exam_id.map(patients)
    unit_of, units = pd.factorize(owner)                         # numbered by the first exam, whatever the key's value
    counts = np.zeros((len(units), len(DIAGNOSES)))
    for side in SIDES:
        codes = index[f"{side}_code"].to_numpy()
        labelled = codes != UNLABELLED
        np.add.at(counts, (unit_of[labelled], codes[labelled] - 1), 1)

    rng = np.random.default_rng(spec.seed)
    everyone = np.arange(len(units))
    rest, test = _divide(everyone, counts, spec.test_ratio, rng)
    rest, val = _divide(rest, counts, spec.val_ratio / (1 - spec.test_ratio), rng)
    amount, tune = _divide(rest, counts, spec.tune_ratio, rng)
    sets = {"tune": tune, "val": val, "test": test}
    whole = len(amount)
    splits: dict[int, dict[str, pd.DataFrame]] = {}
    for ratio in sorted(spec.ratios, reverse=True):              # each smaller amount is drawn from the next larger one
        _, amount = _divide(amount, counts, min(1.0, ratio * whole / len(amount)), rng)
        chosen = {"train": amount, **sets}
        splits[percent(ratio)] = {
            name: index[np.isin(unit_of, members)].reset_index(drop=True) for name, members in chosen.items()
        }
    return dict(sorted(splits.items()))


def _divide(units: np.ndarray, counts: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(those left, those taken): about `share` of the units, of every class's ears and of everything at once.

    units (U,) numbers of rows of counts (all, classes). At least one unit is taken unless share is 0.
    """
    units = rng.permutation(units)
    if share <= 0:
        return np.sort(units), units[:0]
    if share >= 1:
        return units[:0], np.sort(units)
    quota = max(1, round(share * len(units)))
    wanted = share * counts[units].sum(axis=0)                   # ears of each class still to be taken
    kept = (1 - share) * counts[units].sum(axis=0)               # and to be left
    room = np.array([quota, len(units) - quota])
    taken: list[int] = []
    remaining = list(units)
    while remaining:
        left = counts[remaining].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        members = [u for u in remaining if counts[u, rarest] > 0] or list(remaining)
        for unit in members:
            needs = wanted[rarest] / share, kept[rarest] / (1 - share)
            take = needs[0] > needs[1] or (needs[0] == needs[1] and room[0] / share >= room[1] / (1 - share))
            take = bool(take) if room.all() else bool(room[0])
            (wanted if take else kept).__isub__(counts[unit])
            room[0 if take else 1] -= 1
            if take:
                taken.append(unit)
        gone = set(members)
        remaining = [u for u in remaining if u not in gone]
    chosen = np.array(sorted(taken), dtype=units.dtype)
    return np.setdiff1d(units, chosen), chosen


def stats(sets: Mapping[str, pd.DataFrame], patients: Mapping[str, str] | None) -> dict[str, Any]:
    """Exams, patients and labelled ears of each class, for each set."""
    return {
        name: {
            "exams": len(frame),
            **({"patients": int(frame.exam_id.map(patients).nunique())} if patients is not None else {}),
            "code": {str(code): int(sum((frame[f"{side}_code"] == code).sum() for side in SIDES)) for code in DIAGNOSES},
        }
        for name, frame in sets.items()
    }
