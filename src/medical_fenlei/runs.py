"""One folder a training run: its configuration, its metrics, its log, its checkpoints."""
import contextlib
import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medical_fenlei import __version__
from medical_fenlei.errors import UserError
from medical_fenlei.files import write_json, write_text
from medical_fenlei.log import log_to

LIBRARIES = ("torch", "torchvision", "timm", "monai", "numpy", "scipy", "pandas", "scikit-learn", "pydicom")


@dataclass(frozen=True)
class Run:
    """Paths of a run. Nothing is made until it is written."""

    folder: Path

    @classmethod
    def new(cls, output_dir: Path | None, name: str) -> "Run":
        """The folder named, or a new one under outputs/. Raises UserError if it holds a run already."""
        if output_dir is None:
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            output_dir = Path("outputs") / f"{name}-{stamp}"
            taken = 1
            while output_dir.exists():
                taken += 1
                output_dir = Path("outputs") / f"{name}-{stamp}-{taken}"
        run = cls(output_dir)
        if run.config_json.exists():
            raise UserError(f"--output-dir {output_dir}: holds a run already; name another folder or remove it")
        run.reports.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "Run":
        """The run a checkpoint stands in (`<run>/checkpoints/best.pt`)."""
        return cls(checkpoint.resolve().parent.parent)

    @property
    def config_json(self) -> Path:
        return self.folder / "config.json"

    @property
    def metrics_jsonl(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def reports(self) -> Path:
        return self.folder / "reports"

    @property
    def answers(self) -> Path:
        return self.folder / "answers"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    def checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"{name}.pt"

    def write_config(self, settings: dict[str, Any], facts: dict[str, Any]) -> None:
        """The settings as they were, and beside them what else a repetition needs to know (data hashes, versions)."""
        write_json(self.config_json, {"settings": settings, **facts})

    def read_settings(self) -> Any:
        return self._read("settings")

    def read_hashes(self) -> Any:
        """SHA-256 of each table that it read, by name."""
        return self._read("data")

    def read_versions(self) -> Any:
        return self._read("versions")

    def _read(self, part: str) -> Any:
        try:
            return json.loads(self.config_json.read_text(encoding="utf-8"))[part]
        except FileNotFoundError:
            raise UserError(f"{self.config_json}: no such file; is {self.folder} a run?") from None
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{self.config_json}: is not a run's configuration") from None

    def discard(self) -> None:
        """Take back what was written of a run that could not begin, and nothing else; of one that has begun nothing."""
        if self.metrics_jsonl.exists() or self.checkpoint("last").exists():
            return
        for file in (self.config_json, self.folder / "train.log"):
            file.unlink(missing_ok=True)
        for folder in (self.reports, self.folder):
            with contextlib.suppress(OSError):                   # somebody else's files stay
                folder.rmdir()

    def add_metrics(self, line: dict[str, Any]) -> None:
        with open(self.metrics_jsonl, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=True) + "\n")

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        if self.metrics_jsonl.exists():
            for line in self.metrics_jsonl.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):                         # else a kill cut it short
                    yield json.loads(line)

    def keep_metrics(self, *, until: int) -> None:
        """Drop the lines of epochs after `until`: they will be written again."""
        lines = [line for line in self.read_metrics() if line["epoch"] <= until]
        write_text(self.metrics_jsonl, "".join(json.dumps(line, allow_nan=True) + "\n" for line in lines))

    def open_log(self) -> None:
        """Send the package's log to `train.log` and to the terminal."""
        log_to(self.folder / "train.log")


def versions() -> dict[str, str]:
    """Of the code, of Python and of the libraries that decide a result."""
    def installed(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {"medical_fenlei": __version__, "code": _commit(), "python": platform.python_version(),
            **{name: installed(name) for name in LIBRARIES}}


def _commit() -> str:
    """The commit of the source tree, `+` behind it when files differ from it; "unknown" outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        said = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],
                              capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()
