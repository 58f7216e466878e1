"""Division of patients (or exams) into sets that are stratified by class.

The units of a division are patients, or exams. Units of one kind have equally many exams, with the same codes on the same
sides. A set takes its share of each kind, rounded up or down to whole units. Then units of two kinds are exchanged between the
set and the rest, as long as that brings the ears of each class closer to their shares. Which units of a kind are taken is
random.
"""
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from medical_fenlei.vocabulary import DIAGNOSES, SIDES, UNLABELLED

KINDS_AT_ONCE = 100
"""Largest number of kinds on either side whose exchanges are tried at once; a collection has some 60 kinds."""
WEIGHT_OF_KIND = 0.05
"""Weight of a kind's distance from its share, in units, against a class's distance from its own, in ears."""
WEIGHT_OF_MINIMUM = 1000.0
"""Weight of each ear that `min_per_class` asks for and that is missing."""


class StratifiedUnits:
    """The units of an index, and their division.

    `unit_of` (exams,) is the unit of each exam, numbered by its first exam, so that the values of patient keys do not matter;
    `ears` (units, classes) counts the labelled ears of each unit; `kind` (units,) numbers kinds by their codes.
    """

    def __init__(self, index: pd.DataFrame, patients: Mapping[str, str] | None, min_per_class: int) -> None:
        self.exam_ids, self.min_per_class = index.exam_id, min_per_class
        self.unit_of, units = pd.factorize(index.exam_id if patients is None else index.exam_id.map(patients))
        codes = index[[f"{side}_code" for side in SIDES]].to_numpy(dtype=np.int64)       # (exams, sides)
        self.ears = np.zeros((len(units), len(DIAGNOSES)), dtype=np.int64)
        for of_side in codes.T:
            labelled = of_side != UNLABELLED
            np.add.at(self.ears, (self.unit_of[labelled], of_side[labelled] - 1), 1)
        exams: list[list[tuple[int, ...]]] = [[] for _ in units]
        for unit, pair in zip(self.unit_of, map(tuple, codes), strict=True):
            exams[unit].append(pair)
        kinds = [tuple(sorted(pairs)) for pairs in exams]
        number = {kind: nth for nth, kind in enumerate(sorted(set(kinds)))}
        self.kind = np.array([number[kind] for kind in kinds], dtype=np.int64)

    def owners_of(self, exams: Collection[str]) -> np.ndarray:
        """Return the units that own these exams."""
        return np.unique(self.unit_of[self.exam_ids.isin(list(exams)).to_numpy()])

    def equal_parts(self, units: np.ndarray, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Divide units into equal parts."""
        parts = []
        for left in range(number, 1, -1):
            units, part = self.divide(units, 1 / left, rng, before=0, after=left - 1)
            parts.append(part)
        return [*parts, units]

    def divide(
        self, units: np.ndarray, share: float, rng: np.random.Generator, *, before: int, after: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (units left, units taken), where about `share` of the units, of each kind and of each class's ears are taken.

        before, after: number of sets, still to be made from the units left, whose need of a rare class comes before or after
        that of the set taken. At least one unit stays for each of them; at least one is taken, unless share is 0.
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
        counts = _exchanged(_rounded(size * (quota / len(units)), quota, rng), size, ears, least_taken, total - least_left, rng)

        shuffled = rng.permutation(len(units))
        by_kind = shuffled[np.argsort(of_kind[shuffled], kind="stable")]     # random order within each kind
        position = np.arange(len(units)) - np.repeat(np.cumsum(size) - size, size)
        taken = np.sort(units[by_kind[position < np.repeat(counts, size)]])
        return np.setdiff1d(units, taken), taken


def _rounded(wanted: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Round numbers up or down to integers with the sum `total`; the chance to round up is the fraction."""
    order = rng.permutation(len(wanted))
    edges = np.cumsum(wanted[order]) * (total / wanted.sum())
    edges[-1] = total
    counts = np.empty(len(wanted), dtype=np.int64)
    counts[order] = np.diff(np.floor(edges + rng.random()), prepend=0)
    return counts


def _exchanged(
    counts: np.ndarray, size: np.ndarray, ears: np.ndarray, least: np.ndarray, most: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the units of each kind to take, after the exchanges between kinds that bring classes closer to their shares.

    counts, size (kinds,): units to take and units there are; ears (kinds, classes): ears of one unit; least, most (classes,):
    bounds of the ears to take. The sum of the counts does not change.
    """
    share = counts.sum() / size.sum()
    wanted = share * size

    def cost(excess: np.ndarray) -> np.ndarray:
        """Return the cost of ears taken beyond each class's share; excess (..., classes)."""
        taken = excess + share * (size @ ears)
        missing = np.maximum(0, least - taken) + np.maximum(0, taken - most)
        return (excess ** 2 + WEIGHT_OF_MINIMUM * missing ** 2).sum(axis=-1)

    counts = counts.copy()
    while True:
        gives = rng.permutation(np.flatnonzero(counts > 0))[:KINDS_AT_ONCE]
        gets = rng.permutation(np.flatnonzero(counts < size))[:KINDS_AT_ONCE]
        excess = (counts - wanted) @ ears
        change = cost(excess + ears[gets] - ears[gives][:, None]) - cost(excess)     # (gives, gets)
        distance = counts - wanted                                           # changes by one unit less here, one more there
        change += 2 * WEIGHT_OF_KIND * (1 - distance[gives][:, None] + distance[gets])
        if not change.size or change.min() > -1e-9:
            return counts
        give, get = np.unravel_index(change.argmin(), change.shape)
        counts[gives[give]] -= 1
        counts[gets[get]] += 1
