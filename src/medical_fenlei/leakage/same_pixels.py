"""The same pixels under another name: exams that were exported twice, with other ids, other headers, in another syntax.

Exact copies alone are found. The same scan reconstructed anew (another kernel, field of view or increment) has other pixels.
"""
import functools
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei import tables
from medical_fenlei.dicom.volume import inside, open_series
from medical_fenlei.parallel import map_items

MIDDLE = 3
"""Slices around the middle that are decoded: any one of them tells, so that a copy may lack a slice or two."""
DISTINCT = 16
"""Values that an image has at least: two exams may share air, padding and a frame around them without being the same."""

CACHED, DECODED = "cached ear", "middle slice"


def caches(cache_dir: Path) -> list[Path]:
    """The folders of the caches below a folder that have an index."""
    return sorted(path.parent for path in cache_dir.glob("*/index.csv"))


def cached_marks(cache: Path) -> pd.DataFrame:
    """Marks of a cache's ears, from the hashes in its index: nothing is read but what occurs twice.

    An ear that lies left in one exam and right in another is the same: a copy may be mirrored. Raises UserError as tables do.
    """
    index = tables.CACHE_INDEX.read(cache / "index.csv")
    exams = index.groupby("sha256").exam_id.transform("nunique")
    empty = {own.sha256 for own in index[exams > 1].drop_duplicates("sha256").itertuples() if _is_empty(cache / str(own.file))}
    return index[~index.sha256.isin(empty)][["exam_id", "sha256"]].rename(columns={"sha256": "mark"}).assign(evidence=CACHED)


def decoded_marks(exams: pd.DataFrame, *, dicom_base: Path, workers: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Marks of the slices around the middle of each series, and `tables.REJECTS`: series that could not be decoded.

    They are made from HU in canonical order, whatever the files look like. exams: exam_id, series_relpath, a row a series.
    """
    rows, rejects = [], []
    series = list(zip(exams.exam_id, exams.series_relpath, strict=True))
    for outcome in map_items(functools.partial(_middle, dicom_base), series, workers=workers, label="middle slices"):
        exam_id, relpath = outcome.item
        if outcome.value is None:
            rejects.append({"exam_id": exam_id, "file": relpath, "reason": outcome.reason, "detail": outcome.detail})
        else:
            rows += [{"exam_id": exam_id, "mark": mark, "evidence": DECODED} for mark in outcome.value]
    return pd.DataFrame(rows, columns=["exam_id", "mark", "evidence"]), tables.REJECTS.frame(rejects)


def _middle(dicom_base: Path, item: tuple[str, str]) -> list[str]:
    series = open_series(inside(dicom_base, item[1]))
    first = max(0, (series.shape[0] - MIDDLE) // 2)
    images = [series.slice(k) for k in range(first, min(series.shape[0], first + MIDDLE))]
    return [hashlib.sha256(f"{hu.shape}".encode() + hu.astype("<i2").tobytes()).hexdigest() for hu in images if not _blank(hu)]


def _is_empty(path: Path) -> bool:
    try:
        return _blank(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError):                                # not there to be looked at: its hash stands for it
        return False


def _blank(hu: np.ndarray) -> bool:
    return len(np.unique(hu)) < DISTINCT
