"""Which cached ears are outliers, and in what respect.

The score of an ear is the largest of a few parts, each expressed in robust deviations from the cohort: how far it lies above
the median, divided by 1.4826 times the median absolute deviation (which estimates the standard deviation of a normal
distribution and is insensitive to a few outliers).
"""
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from medical_fenlei import tables
from medical_fenlei.ears.crop_extent import CROP_MM, REMEDY
from medical_fenlei.ears.source import builder_of, describe_stale, entry_states, warn_unproven
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected
from medical_fenlei.parallel import map_items
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import Side

BIN_EDGES = np.arange(-1024, 3073, 64)
"""Edges of the histogram's bins in HU; values beyond count in the outermost bin."""
BIN_CENTRES = (BIN_EDGES[:-1] + BIN_EDGES[1:]) / 2

PARTS = {"confidence": 0.05, "padding": 0.02, "histogram": 20.0, "plane": 2.0, "height": 2.0, "anatomy": 2.0}
"""Parts of the score and the smallest deviation of each: a smaller difference does not matter, however alike a small cohort is.
In units of 1 - confidence, padded share, HU, mm, mm, mm."""

DAMAGED, NOT_CACHED, STALE = "damaged_entry", "not_cached", "stale_entry"


class Opinion(Protocol):
    """Where somebody else finds an ear (`anatomy.second_opinion`)."""

    @property
    def apart_mm(self) -> float:
        """How far from its stored centre."""

    @property
    def doubt(self) -> str:
        """Why its place is doubtful; empty if it is not."""


Ask = Callable[[np.ndarray, Affine, np.ndarray], Opinion]
"""Finds the ear in a volume, HU (K, H, W), with its voxel index to LPS mm and its stored centre (3,) LPS mm."""


@dataclass(frozen=True)
class CachedEar:
    """The facts of one cached ear; a number that is not stored is NaN."""

    exam_id: str
    side: Side
    series_relpath: str
    shape: tuple[int, int, int]
    affine: Affine
    """Voxel index (k, row, column) of the volume to LPS mm."""

    centre: np.ndarray
    """(3,) LPS mm: centre of the tympanic cavity, or that of the volume where the location is not stored."""

    plane_point: np.ndarray
    """(3,) LPS mm: a point of the midsagittal plane."""

    plane_normal: np.ndarray
    """(3,): unit normal of the midsagittal plane, to the patient's left."""

    method: str
    confidence: float
    reasons: tuple[str, ...]
    """What is doubtful about the scan and about the location."""

    padded_share: float
    histogram: np.ndarray
    """(bins,) share of the voxels in each bin of `BIN_EDGES`."""

    apart_mm: float = np.nan
    """How far away the anatomy network finds the tympanic cavity; NaN if it was not asked."""

    @property
    def lateral(self) -> float:
        """Distance of the centre from the midsagittal plane in mm, positive on the ear's own side."""
        return float((self.centre - self.plane_point) @ self.plane_normal) * self.side.sign


def read_ear(store: EarStore, name: tuple[str, Side], ask: Ask | None = None) -> CachedEar:
    """Read one ear, named by exam and side; ask: also asks where it is.

    Raises Rejected (damaged_entry) if the volume is not what was written, or its facts cannot be read.
    """
    exam_id, side = name
    if not store.is_sound(exam_id, side):
        raise Rejected(DAMAGED, f"{side}: not as it was written; {builder_of(store.spec)[1]} --verify prepares it anew")
    try:
        volume = store.read(exam_id, side)
        ear = _parse(exam_id, side, store.read_facts(exam_id, side), volume)
        if ask is not None:
            opinion = ask(volume, ear.affine, ear.centre)
            ear = replace(ear, apart_mm=opinion.apart_mm, reasons=(*ear.reasons, *filter(None, [opinion.doubt])))
        return replace(ear, reasons=(*_doubts_about_size(ear), *ear.reasons)) if store.spec.extent == "crop" else ear
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Rejected(DAMAGED, f"{side}: its facts are incomplete; remove it and build again") from None


def read_ears(
    store: EarStore, manifest: pd.DataFrame, *, workers: int, ask: Ask | None = None
) -> tuple[list[CachedEar], pd.DataFrame]:
    """Read the ears of the manifest, asking where each is if `ask` is given.

    Also returns `tables.REJECTS` of those not cached, cut from other images, or damaged.
    """
    states = entry_states(store, manifest)
    warn_unproven(store, manifest, states)
    missing, stale, cached = (manifest[mask] for mask in (
        states == "missing", states == "stale", ~states.isin(["missing", "stale"])))
    labelled = {*manifest.exam_id[manifest.label_code > 0]}
    rejects: list[dict[str, object]] = [
        {"exam_id": exam, "file": "", "reason": NOT_CACHED,
         "detail": side if exam in labelled else f"{side}: of an exam without a label, which no split contains"}
        for exam, side in zip(missing.exam_id, missing.side, strict=True)]
    rejects += [{"exam_id": ear["exam_id"], "file": f"{ear['exam_id']}_{ear['side']}.npy", "reason": STALE,
                 "detail": f"{ear['side']}: {describe_stale(store, ear)}; build the cache again"}
                for ear in stale.to_dict("records")]
    ears = []
    names = [(str(exam), Side(side)) for exam, side in zip(cached.exam_id, cached.side, strict=True)]
    for outcome in map_items(functools.partial(read_ear, store, ask=ask), names, workers=workers, label="ears"):
        if outcome.value is None:
            exam, side = outcome.item
            rejects.append({"exam_id": exam, "file": f"{exam}_{side}.npy", "reason": outcome.reason, "detail": outcome.detail})
        else:
            ears.append(outcome.value)
    return ears, tables.REJECTS.frame(rejects)


def _parse(exam_id: str, side: Side, facts: tables.EarFacts, volume: np.ndarray) -> CachedEar:
    location = facts.get("localization") or {}
    doubts = [*(facts.get("scan_doubts") or ()), *(location.get("reasons") or ())]
    affine = Affine.from_list(facts["affine_lps"])
    unknown = [np.nan] * 3
    return CachedEar(
        exam_id, side, str(facts.get("series_relpath", "")), volume.shape, affine,
        np.array(location.get("ear_centre") or affine.centre(volume.shape), np.float64).reshape(3),
        np.array(location.get("midsagittal_point") or unknown, np.float64).reshape(3),
        np.array(location.get("midsagittal_normal") or unknown, np.float64).reshape(3),
        str(location.get("method", "")), _number(location.get("confidence")), tuple(map(str, doubts)),
        _number(facts.get("padded_share")), histogram(volume),
    )


def _doubts_about_size(ear: CachedEar) -> tuple[str, ...]:
    """Return the doubt that a crop of so many pixels is too small or too large in mm for an ear."""
    _, down, across = (int(mm + 0.5) for mm in ear.affine.spacing * ear.shape)
    if all(CROP_MM[0] <= mm <= CROP_MM[1] for mm in (down, across)):
        return ()
    return (f"a crop of {down} × {across} mm, expected {CROP_MM[0]:.0f} to {CROP_MM[1]:.0f} mm: use {REMEDY}",)


def _number(value: object) -> float:
    """Return a number from JSON, NaN where it is null or absent: JSON has no NaN."""
    return np.nan if value is None else float(str(value))


def histogram(volume: np.ndarray) -> np.ndarray:
    """Return the share (bins,) of the voxels of int16 HU in each bin of `BIN_EDGES`."""
    width, last = BIN_EDGES[1] - BIN_EDGES[0], len(BIN_CENTRES) - 1
    bins = np.clip((volume.astype(np.int32).ravel() - BIN_EDGES[0]) // width, 0, last)
    return np.bincount(bins, minlength=last + 1) / bins.size


def median_histogram(ears: Sequence[CachedEar]) -> np.ndarray:
    """Return the median (bins,) of each bin over the ears, normalized to a sum of 1."""
    each = np.stack([ear.histogram for ear in ears])
    median = np.median(each, axis=0)
    return median / median.sum() if median.any() else each.mean(axis=0)


def disagreement(left: CachedEar, right: CachedEar) -> tuple[float, float]:
    """Return by how much the left centre, mirrored at the plane, misses the right one: across the plane, and in height; mm.

    A head that lies askew is no disagreement where the plane lies askew with it. NaN where the ears come from different series.
    """
    if left.series_relpath != right.series_relpath:
        return np.nan, np.nan
    normal = left.plane_normal
    apart = left.centre - 2 * ((left.centre - left.plane_point) @ normal) * normal - right.centre
    across = apart @ normal
    return abs(float(across)), abs(float((apart - across * normal)[2]))


def deviations(values: np.ndarray, at_least: float) -> np.ndarray:
    """Return how far each value (N,) lies above the median, in robust deviations of at least `at_least`; NaN stays NaN."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.full(len(values), np.nan)
    median = np.median(known)
    return (values - median) / max(1.4826 * float(np.median(np.abs(known - median))), at_least)


def rank(ears: Sequence[CachedEar]) -> pd.DataFrame:
    """Return `tables.QA_EARS`, the largest score first: each part in its unit and in deviations (`odd_<part>`)."""
    by_name = {(ear.exam_id, ear.side): ear for ear in ears}
    median = median_histogram(ears)
    rows = []
    for ear in ears:
        other = by_name.get((ear.exam_id, ear.side.other))
        left, right = (ear, other) if ear.side is Side.LEFT else (other, ear)
        plane, height = disagreement(left, right) if left and right else (np.nan, np.nan)
        rows.append({
            "exam_id": ear.exam_id, "side": str(ear.side), "confidence": ear.confidence, "method": ear.method,
            "reasons": "; ".join(ear.reasons), "padded_share": ear.padded_share,
            "histogram_distance": wasserstein_distance(BIN_CENTRES, BIN_CENTRES, ear.histogram, median),
            "plane_difference_mm": plane, "height_difference_mm": height, "anatomy_apart_mm": ear.apart_mm,
        })
    frame = pd.DataFrame(rows)
    values = (1 - frame.confidence, frame.padded_share, frame.histogram_distance, frame.plane_difference_mm,
              frame.height_difference_mm, frame.anatomy_apart_mm)
    parts = np.stack([deviations(value.to_numpy(np.float64), at_least)
                      for value, at_least in zip(values, PARTS.values(), strict=True)])
    frame = frame.assign(**{f"odd_{name}": part for name, part in zip(PARTS, parts, strict=True)})
    known = np.nan_to_num(parts, nan=-np.inf)                    # the histogram's part is always known
    frame = frame.assign(score=known.max(axis=0).clip(0), why=np.array(list(PARTS))[known.argmax(axis=0)], picture="")
    return tables.QA_EARS.frame(frame.round(4).sort_values(["score", "exam_id", "side"], ascending=[False, True, True],
                                                  ignore_index=True))
