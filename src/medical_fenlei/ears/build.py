"""Fill a store with the ears of a manifest: each series is opened once, and both its ears are cut from it."""
import errno
import functools
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from threadpoolctl import threadpool_limits

from medical_fenlei import tables
from medical_fenlei.dicom.digest import same_images
from medical_fenlei.dicom.volume import Series, inside, open_series
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.ears.source import USABLE, EarSource, entry_state, entry_states, sources_of
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.parallel import Workers, map_items
from medical_fenlei.vocabulary import Side


@dataclass(frozen=True)
class _Job:
    """The ears to cut from one series."""

    exam_id: str
    source: EarSource
    sides: tuple[Side, ...]


FACTS_BYTES = 4096
"""Size of an ear's JSON on disk and its share of the index."""
SPARE_BYTES = 64 << 20
"""Disk space to be left free."""
NOT_IN_SCAN = "ear_not_in_scan", "the series does not reach this ear"
DISK_FULL, FULL = "disk_full", (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class BuildResult:
    """The result of a build."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: ears that could not be prepared, with the reason; all others can be read."""

    made: int
    """Number of ears that this builder prepared, without those of other builders of the same store."""

    seconds: dict[str, float]
    """Processing time of all its processes together, by stage."""


def fill_store(store: EarStore, manifest: pd.DataFrame, *, dicom_base: Path, workers: Workers, label: str) -> BuildResult:
    """Prepare the ears of the manifest that the store lacks or holds from other images, so that an interrupted build continues.

    Several builders of one store share the work: none prepares an exam that another is preparing. Raises UserError if the disk
    has too little space for all ears, before anything is written, or when it is full.
    """
    states = entry_states(store, manifest)
    jobs = _jobs(manifest[~states.isin(USABLE)])
    _check_space(store, int((states == "missing").sum()))
    rejects: list[dict[str, object]] = []
    made, seconds = 0, Counter[str]()
    try:
        with store.building():
            store.write_spec()
            try:
                for wait in (False, True):                       # first exams that are free, then those others left over
                    held = []
                    prepare = functools.partial(_prepare, store, dicom_base, wait=wait)
                    for outcome in map_items(prepare, jobs, workers=workers, label=label):
                        if outcome.reason == DISK_FULL:
                            raise OSError(errno.ENOSPC, DISK_FULL)
                        if not outcome.ok:
                            rejects += _reject(outcome.item, outcome.reason, outcome.detail)
                        elif outcome.value is None:
                            held.append(outcome.item)
                        else:
                            made += len(outcome.value.made)
                            seconds.update(outcome.value.seconds)
                            rejects += _reject(replace(outcome.item, sides=outcome.value.not_in_scan), *NOT_IN_SCAN)
                    jobs = held
            finally:
                store.write_index()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(f"--cache-dir {store.folder}: the disk is full; finished ears are kept, free some space and run "
                        "this again") from None
    return BuildResult(tables.REJECTS.frame(rejects), made, dict(seconds))


def _jobs(ears: pd.DataFrame) -> list[_Job]:
    """Return a job for each series of these ears, sorted by exam."""
    sides: dict[tuple[str, EarSource], list[Side]] = {}
    for exam, side, source in zip(ears.exam_id, ears.side, sources_of(ears), strict=True):
        sides.setdefault((str(exam), source), []).append(Side(side))
    return sorted((_Job(exam, source, tuple(own)) for (exam, source), own in sides.items()),
                  key=lambda job: (job.exam_id, job.source.series_relpath))


def verify_store(store: EarStore, manifest: pd.DataFrame, *, workers: Workers) -> list[str]:
    """Read every stored ear of the manifest, remove the damaged ones, and return their names."""
    stored = [(str(exam), Side(side)) for exam, side in zip(manifest.exam_id, manifest.side, strict=True)
             if store.has(exam, Side(side))]
    checked = map_items(functools.partial(_is_sound, store), stored, workers=workers, label="verified")
    damaged = [outcome.item for outcome in checked if not outcome.value]
    for exam, side in damaged:
        store.remove(exam, side)
    return [f"{exam} {side}" for exam, side in damaged]


def _is_sound(store: EarStore, ear: tuple[str, Side]) -> bool:
    return store.is_sound(*ear)


def _check_space(store: EarStore, ears: int) -> None:
    need = ears * (store.spec.nbytes + FACTS_BYTES) + SPARE_BYTES
    existing = next(folder for folder in (store.folder, *store.folder.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if ears and need > free:
        raise UserError(f"--cache-dir {store.folder}: {ears} ears need {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; "
                        "free disk space, or name a folder on another disk")


@dataclass(frozen=True)
class _Prepared:
    """The result of one job."""

    made: tuple[Side, ...] = ()
    not_in_scan: tuple[Side, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def _prepare(store: EarStore, dicom_base: Path, job: _Job, *, wait: bool) -> _Prepared | None:
    """Prepare the ears of a job; None if another builder is preparing this exam and `wait` is false."""
    if not job.source.series_relpath:
        raise Rejected("no_series", "the manifest names no series for this exam")
    with store.claim(job.exam_id, wait=wait) as claimed:
        if not claimed:
            return None
        sides = tuple(side for side in job.sides if entry_state(store, job.exam_id, side, job.source) not in USABLE)
        if not sides:                                            # another builder has prepared them meanwhile
            return _Prepared()
        for side in sides:                                       # stale: also if it cannot be cut anew
            store.remove(job.exam_id, side)
        began = time.monotonic()
        series = open_series(inside(dicom_base, job.source.series_relpath))
        opened = time.monotonic()
        with threadpool_limits(1, user_api="blas"):              # for small matrices, threads cost more than they save
            ears = prepare_ears(series, store.spec, sides)
        cut, source = time.monotonic(), _source_of(series, job)
        try:
            for side, ear in ears.items():
                store.write(job.exam_id, side, ear.volume, {**source.facts, **ear.facts})
        except OSError as error:
            if error.errno in FULL:
                raise Rejected(DISK_FULL) from None
            raise
        stages = {"headers": opened - began, "decoding and cutting": cut - opened, "writing": time.monotonic() - cut}
        return _Prepared(tuple(ears), tuple(side for side in sides if side not in ears), stages)


def _source_of(series: Series, job: _Job) -> EarSource:
    """Return the source of the ears of a job. Raises Rejected (changed_file) if it is not the one that is wanted."""
    try:
        digest = series.digest
    except OSError as error:
        raise Rejected("changed_file", f"a file of the series is gone ({error.strerror}): build the index again") from None
    if job.source.digest and not same_images(digest, job.source.digest):
        raise Rejected("changed_file", "the series holds other images than the manifest names: build index and manifest again")
    return replace(job.source, digest=job.source.digest or digest)


def _reject(job: _Job, reason: str, detail: str) -> Iterable[dict[str, object]]:
    for side in job.sides:
        yield {"exam_id": job.exam_id, "file": job.source.series_relpath, "reason": reason, "detail": f"{side}: {detail}"}
