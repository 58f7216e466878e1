"""Which cached ears look unlike the others, and by what.

The score of an ear is the largest of a few parts, each a number with a unit, told in robust deviations from the cohort: how far
above its median, divided by 1.4826 times the median absolute deviation (which estimates the standard deviation of a normal
distribution, and which a few bad ears do not move).
"""
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from medical_fenlei import tables
from medical_fenlei.ears.build import missing_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected
from medical_fenlei.parallel import map_items
from medical_fenlei.vocabulary import Side

BIN_EDGES = np.arange(-1024, 3073, 64)
"""HU; what lies beyond counts in the outermost bin."""
BIN_CENTRES = (BIN_EDGES[:-1] + BIN_EDGES[1:]) / 2

PARTS = {"confidence": 0.05, "padding": 0.02, "histogram": 20.0, "plane": 2.0, "height": 2.0}
"""The parts of the score, and of each what it is divided by at least: less is no difference that matters, however alike a small
cohort is. Of 1 - confidence, of the padded share, HU, mm, mm."""

DAMAGED, NOT_CACHED = "damaged_entry", "not_cached"


@dataclass(frozen=True)
class Ear:
    """What one cached ear says of itself. A number that its facts do not hold is NaN."""

    exam_id: str
    side: Side
    series_relpath: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    """(4, 4): (k, row, column, 1) of the volume to LPS mm."""

    centre: np.ndarray
    """(3,) LPS mm, of the ear; a coordinate that the facts do not name is that of the volume's centre."""

    plane_point: np.ndarray
    plane_normal: np.ndarray
    """(3,) each, LPS mm: the midsagittal plane, its unit normal to the patient's left."""

    method: str
    confidence: float
    reasons: tuple[str, ...]
    padded_share: float
    histogram: np.ndarray
    """(bins,) share of the voxels in each bin of `BIN_EDGES`."""

    @property
    def lateral(self) -> float:
        """Distance of the centre from the plane, mm, positive on its own side."""
        return float((self.centre - self.plane_point) @ self.plane_normal) * self.side.sign


def read_ear(store: EarStore, name: tuple[str, Side]) -> Ear:
    """Of exam and side. Raises Rejected (damaged_entry) if the volume is not as it was written, or its facts cannot be read."""
    exam_id, side = name
    if not store.is_sound(exam_id, side):
        raise Rejected(DAMAGED, f"{side}: not as it was written; build_cache_ears --verify makes it anew")
    try:
        return _parse(exam_id, side, store.read_facts(exam_id, side), store.read(exam_id, side))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Rejected(DAMAGED, f"{side}: its facts are incomplete; remove it and build again") from None


def read_ears(store: EarStore, manifest: pd.DataFrame, *, workers: int) -> tuple[list[Ear], pd.DataFrame]:
    """The manifest's ears that are sound in the store, and of the others `tables.REJECTS` (not_cached, damaged_entry)."""
    missing = missing_ears(store, manifest)
    there = manifest.drop(missing.index)
    rejects: list[dict[str, object]] = [
        {"exam_id": exam, "file": "", "reason": NOT_CACHED, "detail": side}
        for exam, side in zip(missing.exam_id, missing.side, strict=True)]
    ears = []
    names = [(str(exam), Side(side)) for exam, side in zip(there.exam_id, there.side, strict=True)]
    for outcome in map_items(functools.partial(read_ear, store), names, workers=workers, label="ears"):
        if outcome.value is None:
            exam, side = outcome.item
            rejects.append({"exam_id": exam, "file": f"{exam}_{side}.npy", "reason": outcome.reason, "detail": outcome.detail})
        else:
            ears.append(outcome.value)
    return ears, tables.REJECTS.frame(rejects)


def _parse(exam_id: str, side: Side, facts: dict[str, Any], volume: np.ndarray) -> Ear:
    found = facts.get("localization") or {}
    affine = np.array(facts["affine_lps"], np.float64).reshape(4, 4)
    centre = (affine @ [*(np.array(volume.shape) - 1) / 2, 1])[:3]
    centre = np.array(found.get("ear_centre") or centre, np.float64).reshape(3)
    unknown = [np.nan] * 3
    return Ear(
        exam_id, side, str(facts.get("series_relpath", "")), volume.shape, affine, centre,
        np.array(found.get("midsagittal_point") or unknown, np.float64).reshape(3),
        np.array(found.get("midsagittal_normal") or unknown, np.float64).reshape(3),
        str(found.get("method", "")), _number(found.get("confidence")), tuple(map(str, found.get("reasons") or ())),
        _number(facts.get("padded_share")), histogram(volume),
    )


def _number(value: object) -> float:
    """JSON has no NaN: what is unknown is null, or not there."""
    return np.nan if value is None else float(str(value))


def histogram(volume: np.ndarray) -> np.ndarray:
    """(bins,) share of the voxels of int16 HU in each bin of `BIN_EDGES`."""
    step, last = BIN_EDGES[1] - BIN_EDGES[0], len(BIN_CENTRES) - 1
    bins = np.clip((volume.astype(np.int32).ravel() - BIN_EDGES[0]) // step, 0, last)
    return np.bincount(bins, minlength=last + 1) / bins.size


def median_histogram(ears: Sequence[Ear]) -> np.ndarray:
    """(bins,) the median of each bin over the ears, made to add up to 1."""
    each = np.stack([ear.histogram for ear in ears])
    middle = np.median(each, axis=0)
    return middle / middle.sum() if middle.any() else each.mean(axis=0)


def disagreement(left: Ear, right: Ear) -> tuple[float, float]:
    """How far the left centre, mirrored at the plane, misses the right one: away from the plane, and in height; mm.

    So a head that lies askew is no disagreement where the plane lies with it. NaN where the two come from different series.
    """
    if left.series_relpath != right.series_relpath:
        return np.nan, np.nan
    normal = left.plane_normal
    apart = left.centre - 2 * ((left.centre - left.plane_point) @ normal) * normal - right.centre
    across = apart @ normal
    return abs(float(across)), abs(float((apart - across * normal)[2]))


def deviations(values: np.ndarray, at_least: float) -> np.ndarray:
    """(N,) how far each value lies above the median, in robust deviations of `at_least` or more; NaN stays NaN."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.full(len(values), np.nan)
    middle = np.median(known)
    return (values - middle) / max(1.4826 * float(np.median(np.abs(known - middle))), at_least)


def rank(ears: Sequence[Ear]) -> pd.DataFrame:
    """`tables.QA_EARS`, the oddest ear first: the parts in their units and in deviations (`odd_<part>`); score and its part."""
    by_name = {(ear.exam_id, ear.side): ear for ear in ears}
    middle = median_histogram(ears)
    rows = []
    for ear in ears:
        other = by_name.get((ear.exam_id, ear.side.other))
        left, right = (ear, other) if ear.side is Side.LEFT else (other, ear)
        plane, height = disagreement(left, right) if left and right else (np.nan, np.nan)
        rows.append({
            "exam_id": ear.exam_id, "side": str(ear.side), "confidence": ear.confidence, "method": ear.method,
            "reasons": "; ".join(ear.reasons), "padded_share": ear.padded_share,
            "histogram_distance": wasserstein_distance(BIN_CENTRES, BIN_CENTRES, ear.histogram, middle),
            "plane_difference_mm": plane, "height_difference_mm": height,
        })
    frame = pd.DataFrame(rows)
    values = (1 - frame.confidence, frame.padded_share, frame.histogram_distance, frame.plane_difference_mm,
              frame.height_difference_mm)
    parts = np.stack([deviations(value.to_numpy(np.float64), at_least)
                      for value, at_least in zip(values, PARTS.values(), strict=True)])
    frame = frame.assign(**{f"odd_{name}": part for name, part in zip(PARTS, parts, strict=True)})
    known = np.nan_to_num(parts, nan=-np.inf)                    # the histogram's part is always known
    frame = frame.assign(score=known.max(axis=0).clip(0), why=np.array(list(PARTS))[known.argmax(axis=0)], picture="")
    return tables.QA_EARS.frame(frame.round(4).sort_values(["score", "exam_id", "side"], ascending=[False, True, True],
                                                  ignore_index=True))
