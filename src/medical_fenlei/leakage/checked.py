"""What a leakage check looks at: tables and caches, those that flags name or those of a finished run, and the marks in them."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medical_fenlei import settings, tables
from medical_fenlei.config import RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.leakage.same_pixels import cached_marks, caches, decoded_marks
from medical_fenlei.leakage.shared import study_marks
from medical_fenlei.log import LOG
from medical_fenlei.runs import Run
from medical_fenlei.tables import Split


@dataclass(frozen=True)
class Places:
    manifest_csv: Path
    splits: list[Split]
    caches: list[Path]
    """Folders with an index."""

    cache_dir: Path
    """Where these were looked for."""

    @classmethod
    def named(cls, manifest_csv: Path, splits_roots: Sequence[Path] | None, cache_dir: Path) -> "Places":
        """Every split below these folders, or below artifacts/splits_dual* where none is named; every cache of the folder.

        Raises UserError if the folders that were named hold no split.
        """
        roots = splits_roots or sorted(Path("artifacts").glob("splits_dual*"))
        splits = [split for root in roots for split in tables.read_splits(root)]
        if splits_roots and not splits:
            raise UserError(f"--splits-root {' '.join(map(str, roots))}: holds no <pct>pct/train.csv")
        return cls(manifest_csv, splits, caches(cache_dir), cache_dir)

    @classmethod
    def of_run(cls, folder: Path) -> "Places":
        """Those that a run read; warns of files that are no longer what it read. Raises UserError if the folder is no run."""
        run = Run(folder)
        config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
        split = tables.read_split(config.data.splits_root, config.data.pct)
        for name, path in {"manifest": config.data.manifest_csv, **{s: split.folder / f"{s}.csv" for s in split.sets}}.items():
            if path.is_file() and run.read_hashes().get(name) != sha256(path):
                LOG.warning("%s", f"{path}: has changed since the run read it")
        cache_dir = config.data.cache_dir
        return cls(config.data.manifest_csv, [split], [cache_dir / config.ears.key], cache_dir)


def known_marks(
    manifest: pd.DataFrame, places: Places, *, dicom_base: Path | None, workers: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """By what exams are known to be the same (`ingest.leakage`), and `tables.REJECTS`; says what was looked at and what not.

    dicom_base: where given, the middle slices of every series below it are decoded.
    """
    exams = set(manifest.exam_id)
    marks, rejects = [study_marks(manifest)], tables.REJECTS.empty()
    LOG.info("%s", f"studies checked: {len(marks[0])} of {len(exams)} exams"
            + ("" if len(marks[0]) else "; a manifest of an earlier version does not know them, build it again"))
    for cache in places.caches:
        marks.append(cached_marks(cache))
        LOG.info("%s", f"cached pixels checked: {len(exams & set(marks[-1].exam_id))} of {len(exams)} exams, {cache}")
    if not places.caches:
        LOG.info("%s", f"cached pixels not checked: no cache in {places.cache_dir}")
    if dicom_base is None:
        LOG.info("decoded pixels not checked: --pixels does")
    else:
        series = manifest[manifest.series_relpath != ""].drop_duplicates(["exam_id", "series_relpath"])
        found, rejects = decoded_marks(series, dicom_base=dicom_base, workers=workers)
        LOG.info("%s", f"decoded pixels checked: {found.exam_id.nunique()} of {len(exams)} exams")
        marks.append(found)
    return pd.concat(marks, ignore_index=True), rejects
