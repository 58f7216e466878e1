"""Which ears a run uses, and where they come from."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medical_fenlei import parallel
from medical_fenlei.config.checks import require_at_least


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which ears and which labels."""

    sample: Literal["ear", "exam"] = "ear"
    """A single ear, or both ears of an exam, each through the same weights."""

    splits_root: Path = Path("artifacts/splits_dual")
    """Folder of the splits, with 1pct/ 20pct/ 100pct/."""

    pct: int = 20
    """Amount of training data in percent."""

    manifest_csv: Path = Path("artifacts/manifest_ears.csv")
    """Manifest, one row per ear."""

    dicom_base: Path = Path("data/medical_data_2")
    """Folder of the extracted DICOM."""

    cache_dir: Path = Path("cache/ears_hu")
    """Folder of the caches, with one folder per preprocessing."""

    label_task: str = "normal_vs_abnormal"
    """Task by its name or Chinese alias; several as `one,two` train together, each with its own head."""

    num_workers: int = field(default=parallel.default_workers())
    """Worker processes."""

    data_on: Literal["auto", "device", "memory", "disk"] = "auto"
    """Where the ears are stored during the run: on the accelerator, in host memory, or on disk; auto takes the first of these
    in which all sets of the run fit and leave room for the network. On a CPU, device means host memory without prefetching."""

    read_workers: int = 4
    """Threads that read ears from disk."""

    limit: int | None = None
    """Use only the first exams of each set, this many, to try things out."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "read_workers")
        require_at_least(self, 0, "num_workers")
        if self.limit is not None:
            require_at_least(self, 1, "limit")
