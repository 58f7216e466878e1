"""Which ears a run works on, and where they come from."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medical_fenlei import parallel
from medical_fenlei.config.checks import at_least


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which ears, which labels."""

    sample: Literal["ear", "exam"] = "ear"
    """Each ear by itself, or both ears of an exam, each through the same weights."""

    splits_root: Path = Path("artifacts/splits_dual")
    """Holds 1pct/ 20pct/ 100pct/."""

    pct: int = 20
    """Which amount of training data, percent."""

    manifest_csv: Path = Path("artifacts/manifest_ears.csv")
    """One row an ear."""

    dicom_base: Path = Path("data/medical_data_2")
    """The extracted DICOM; read only for ears that the cache lacks."""

    cache_dir: Path = Path("cache/ears_hu")
    """Holds one folder a preprocessing."""

    label_task: str = "normal_vs_abnormal"
    """What to tell apart: a task's name or its Chinese alias; or several at once, `one,two`, each with a head of its own."""

    num_workers: int = field(default=parallel.default_workers())
    """Processes that prepare ears which the cache lacks."""

    data_on: Literal["auto", "device", "memory", "disk"] = "auto"
    """Where the ears live: on the accelerator, in host memory, or read from disk; auto takes the first of these in which all
    sets of the run fit and leave room for the network. On a CPU, device is memory without a thread that works ahead."""

    read_workers: int = 4
    """Threads that read ears from disk."""

    limit: int | None = None
    """Only the first N ears (on the dual route exams) of each set, to try things out."""

    def __post_init__(self) -> None:
        at_least(self, 1, "read_workers")
        if self.limit is not None:
            at_least(self, 1, "limit")
