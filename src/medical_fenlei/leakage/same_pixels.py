"""Exams with the same pixels: exported twice, with other ids, other headers, or in another transfer syntax.

Only exact copies are found. A new reconstruction of the same scan (another kernel, field of view or increment) has other
pixels.
"""
import functools
import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.dicom.volume import inside, open_series
from medical_fenlei.ears.source import entry_facts, sources_of, state_of
from medical_fenlei.log import LOG
from medical_fenlei.parallel import map_items

MIDDLE_SLICES = 3
"""Number of slices around the middle that are decoded; one match suffices, so that a copy may lack a slice or two."""
MIN_DISTINCT_VALUES = 16
"""Distinct values from which on an image identifies its exam; different exams may share air, padding and frames."""

CACHED, DECODED = "cached ear", "middle slice"


def cache_folders(cache_dir: Path) -> list[Path]:
    """Return the caches in a folder that have an index."""
    return sorted(path.parent for path in cache_dir.glob("*/index.csv"))


def cached_marks(cache: Path, manifest: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the marks of a cache's ears, from the hashes in its index; only ears that occur twice are read.

    A left ear may match a right one, since a copy may be mirrored. manifest: ears that were cut from other series than it names
    are left out, and their number is logged. Raises UserError if the index cannot be read.
    """
    index = tables.CACHE_INDEX.read(cache / "index.csv")
    if manifest is not None and (stale := _stale(cache, index, manifest)).any():
        LOG.warning("%s: %d of %d cached ears were not cut from the series that the manifest names, and are left out; "
                    "build the cache again", cache, stale.sum(), len(index))
        index = index[~stale]
    exams = index.groupby("sha256").exam_id.transform("nunique")
    empty = {ear.sha256 for ear in index[exams > 1].drop_duplicates("sha256").itertuples() if _is_empty(cache / str(ear.file))}
    return index[~index.sha256.isin(empty)][["exam_id", "sha256"]].rename(columns={"sha256": "mark"}).assign(evidence=CACHED)


def exams_with_same_ears(cache: Path, exams: Collection[str], other_cache: Path, other_exams: Collection[str]) -> set[str]:
    """Return those of the exams with a cached ear that is, bit for bit, one of another cache's exams; none without an index.

    Ears without content do not count. Raises UserError if an index cannot be read.
    """
    if not all((folder / "index.csv").is_file() for folder in (cache, other_cache)):
        return set()
    index, other = (tables.CACHE_INDEX.read(folder / "index.csv") for folder in (cache, other_cache))
    known = set(other.sha256[other.exam_id.isin(other_exams)])
    same = index[index.exam_id.isin(exams) & index.sha256.isin(known)]
    return {str(ear.exam_id) for ear in same.itertuples() if not _is_empty(cache / str(ear.file))}


def decoded_marks(exams: pd.DataFrame, *, dicom_base: Path, workers: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return marks of the slices around the middle of each series, and `tables.REJECTS` of series that cannot be decoded.

    A mark is a hash of HU in canonical order, and so independent of the file format. exams: exam_id, series_relpath, one row
    per series.
    """
    rows, rejects = [], []
    series = list(zip(exams.exam_id, exams.series_relpath, strict=True))
    for outcome in map_items(functools.partial(_middle_hashes, dicom_base), series, workers=workers, label="middle slices"):
        exam_id, relpath = outcome.item
        if outcome.value is None:
            rejects.append({"exam_id": exam_id, "file": relpath, "reason": outcome.reason, "detail": outcome.detail})
        else:
            rows += [{"exam_id": exam_id, "mark": mark, "evidence": DECODED} for mark in outcome.value]
    return pd.DataFrame(rows, columns=["exam_id", "mark", "evidence"]), tables.REJECTS.frame(rejects)


def _middle_hashes(dicom_base: Path, item: tuple[str, str]) -> list[str]:
    series = open_series(inside(dicom_base, item[1]))
    first = max(0, (series.shape[0] - MIDDLE_SLICES) // 2)
    images = [series.slice(k) for k in range(first, min(series.shape[0], first + MIDDLE_SLICES))]
    return [hashlib.sha256(f"{hu.shape}".encode() + hu.astype("<i2").tobytes()).hexdigest()
            for hu in images if not _is_blank(hu)]


def _stale(cache: Path, index: pd.DataFrame, manifest: pd.DataFrame) -> np.ndarray:
    """Return a mask (rows of the index,) of ears cut from another series, or cut anew since the index was written."""
    wanted = dict(zip(zip(manifest.exam_id, manifest.side, strict=True), sources_of(manifest), strict=True))
    stale = np.zeros(len(index), bool)
    for number, ear in enumerate(index.itertuples()):
        source, facts = wanted.get((str(ear.exam_id), str(ear.side))), entry_facts(cache / str(ear.file))
        if source and facts:
            stale[number] = state_of(facts, source) == "stale" or facts.get("sha256", ear.sha256) != ear.sha256
    return stale


def _is_empty(path: Path) -> bool:
    try:
        return _is_blank(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError):                                # the volume cannot be read: trust its hash
        return False


def _is_blank(hu: np.ndarray) -> bool:
    return len(np.unique(hu)) < MIN_DISTINCT_VALUES
