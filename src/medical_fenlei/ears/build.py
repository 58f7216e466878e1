"""Fill a store with the ears of a manifest: each series opened once, both its ears cut from it."""
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from medical_fenlei import tables
from medical_fenlei.dicom.volume import inside, open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected
from medical_fenlei.parallel import map_items
from medical_fenlei.vocabulary import Side


@dataclass(frozen=True)
class _Job:
    """The ears that one series has to give."""

    exam_id: str
    series_relpath: str
    sides: tuple[Side, ...]


def missing_ears(store: EarStore, manifest: pd.DataFrame) -> pd.DataFrame:
    """The rows of the manifest (one an ear) that the store lacks."""
    lacking = [not store.has(exam, Side(side)) for exam, side in zip(manifest.exam_id, manifest.side, strict=True)]
    return manifest[lacking]


def fill_store(store: EarStore, manifest: pd.DataFrame, *, dicom_base: Path, workers: int, label: str) -> pd.DataFrame:
    """Prepare the manifest's ears that the store lacks; what is there is left alone, so an interrupted build goes on.

    Returns the table of those that could not be prepared (`tables.REJECTS`), with the reason; the rest is readable.
    """
    missing = missing_ears(store, manifest)
    jobs = [
        _Job(str(exam), str(series), tuple(Side(s) for s in ears.side))
        for (exam, series), ears in missing.groupby(["exam_id", "series_relpath"], sort=True)
    ]
    store.write_spec()
    rejects: list[dict[str, object]] = []
    try:
        for outcome in map_items(functools.partial(_prepare, store, dicom_base), jobs, workers=workers, label=label):
            if not outcome.ok:
                rejects += _reject(outcome.item, outcome.reason, outcome.detail)
    finally:
        store.write_index()
    return tables.REJECTS.frame(rejects)


def _prepare(store: EarStore, dicom_base: Path, job: _Job) -> None:
    if not job.series_relpath:
        raise Rejected("no_series", "the manifest names no series for this exam")
    series = open_series(inside(dicom_base, job.series_relpath))
    with threadpool_limits(1, user_api="blas"):                  # small matrices: threads would only wait for one another
        ears = prepare_ears(series, store.spec, job.sides)
    for side, ear in ears.items():
        store.write(job.exam_id, side, ear.volume, {"series_relpath": job.series_relpath, **ear.facts})


def _reject(job: _Job, reason: str, detail: str) -> Iterable[dict[str, object]]:
    for side in job.sides:
        yield {"exam_id": job.exam_id, "file": job.series_relpath, "reason": reason, "detail": f"{side}: {detail}"}
