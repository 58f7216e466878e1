"""The inputs of a leakage check: manifest, splits and caches that flags name, or those that a finished run used."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medical_fenlei import settings, tables
from medical_fenlei.config import RunConfig
from medical_fenlei.errors import UserError
from medical_fenlei.files import sha256
from medical_fenlei.leakage.same_pixels import cache_folders
from medical_fenlei.log import LOG
from medical_fenlei.runs import Run
from medical_fenlei.tables import Split


@dataclass(frozen=True)
class LeakageInputs:
    """What a leakage check reads."""

    manifest_csv: Path
    splits: list[Split]
    caches: list[Path]
    """Cache folders with an index."""

    cache_dir: Path
    """Folder that was searched for caches."""

    @classmethod
    def named(cls, manifest_csv: Path, splits_roots: Sequence[Path] | None, cache_dir: Path) -> "LeakageInputs":
        """Return every split below these folders, or below artifacts/splits_dual* if none is named, and every cache.

        Raises UserError if the named folders hold no split.
        """
        roots = splits_roots or sorted(Path("artifacts").glob("splits_dual*"))
        splits = [split for root in roots for split in tables.read_splits(root)]
        if splits_roots and not splits:
            raise UserError(f"--splits-root {' '.join(map(str, roots))}: holds no <pct>pct/train.csv")
        return cls(manifest_csv, splits, cache_folders(cache_dir), cache_dir)

    @classmethod
    def of_run(cls, folder: Path) -> "LeakageInputs":
        """Return what a run read, and warn about files that have changed since. Raises UserError if the folder is no run."""
        run = Run(folder)
        config = settings.from_json(RunConfig, run.read_settings(), where=str(run.config_json))
        split = tables.read_split(config.data.splits_root, config.data.pct)
        hashes = run.read_hashes()
        for name, path in {"manifest": config.data.manifest_csv, **{s: split.folder / f"{s}.csv" for s in split.sets}}.items():
            if path.is_file() and hashes.get(name) != sha256(path):
                LOG.warning("%s: has changed since the run read it", path)
        cache_dir = config.data.cache_dir
        return cls(config.data.manifest_csv, [split], [cache_dir / config.ears.key], cache_dir)
