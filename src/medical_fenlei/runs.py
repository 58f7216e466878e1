"""The folder of a training run: its configuration, metrics, log and checkpoints."""
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
from medical_fenlei.exclusive import LOCK, exclusive
from medical_fenlei.files import write_json, write_text
from medical_fenlei.json_files import JsonFile, checked
from medical_fenlei.log import log_to_file
from medical_fenlei.own_files import LEDGER, OwnFiles

OUTPUTS = Path("outputs")
"""Folder of new runs, below the working folder."""
MOST_LISTED = 5
"""How many runs an error lists."""
LIBRARIES = ("torch", "torchvision", "timm", "monai", "numpy", "scipy", "pandas", "scikit-learn", "pydicom")
EPOCH_FIELDS = ("epoch", "seconds", "best_epoch", "train_loss", "lr")
"""Fields that every line of the metrics has, among other numbers and CHOSEN_BY."""
CHOSEN_BY = "chosen_by"
"""Field of the metrics that says what chooses the epoch, in a word."""
CONFIG = JsonFile[dict[str, dict[str, Any]]](
    "configuration of a run", dict[str, dict[str, Any]], "restore it from a copy, or train the run again")
CONTENT = ("config.json", "metrics.jsonl", "train.log", "reports", "answers", "checkpoints", "tensorboard")
"""Names of the files and folders in the folder of a run."""


@dataclass(frozen=True)
class Run:
    """A run on disk: its paths, and reading and writing its files."""

    folder: Path
    """Folder of the run."""

    @classmethod
    def new(cls, output_dir: Path | None, name: str) -> "Run":
        """Make the folder of a new run, by default below outputs/.

        Two runs that begin at once get folders of their own. Raises UserError if the folder contains a run already, or files
        where those of the run would be.
        """
        if output_dir is None:
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            output_dir = _new_folder(f"{name}-{stamp}")
        run = cls(output_dir)
        run.refuse_if_taken()
        try:
            OwnFiles(output_dir, "--output-dir").claim(*CONTENT)
        except BaseException:
            with contextlib.suppress(OSError):                   # not empty: the files of others stay
                output_dir.rmdir()
            raise
        run.reports.mkdir(parents=True, exist_ok=True)
        return run

    def refuse_if_taken(self) -> None:
        """Raise UserError if the folder contains a run already, or other runs, or is none."""
        if self.config_json.exists():
            raise UserError(f"--output-dir {self.folder}: contains a run already; name another folder or remove it")
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--output-dir {self.folder}: is a file, expected a folder")
        if self.folder.resolve() == OUTPUTS.resolve() or any(any(self.folder.glob(f"{depth}/{self.config_json.name}"))
                                                             for depth in ("*", "*/*", "*/*/*")):
            raise UserError(f"--output-dir {self.folder}: is a folder of several runs, expected that of one run, such as "
                            f"{self.folder / 'NAME'}")

    def refuse_others_files(self) -> None:
        """Raise UserError if the folder has no configuration, but files where those of a new run would be."""
        if not self.config_json.exists():
            OwnFiles(self.folder, "--output-dir").refuse_others(CONTENT)

    @contextlib.contextmanager
    def exclusive(self, *, is_new: bool) -> Iterator[None]:
        """Exclude a second process from training in this folder; the lock ends with its process.

        Raises UserError if another one trains there, or, for a new run, has begun one since the folder was made.
        """
        with exclusive(self.folder / LOCK, busy=f"{self.folder}: another process is training in it",
                       remedy="wait for it, or name another folder with --output-dir"):
            if is_new and self.config_json.exists():
                raise UserError(f"--output-dir {self.folder}: contains a run already; name another folder or remove it")
            yield

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "Run":
        """The run of a checkpoint, `<run>/checkpoints/best.pt`."""
        return cls(checkpoint.resolve().parent.parent)

    @property
    def config_json(self) -> Path:
        """The settings of the run, and the hashes and versions they were used with."""
        return self.folder / "config.json"

    @property
    def metrics_jsonl(self) -> Path:
        """The metrics, one line per epoch."""
        return self.folder / "metrics.jsonl"

    @property
    def reports(self) -> Path:
        """Folder of evaluations, audits, pictures and the page of the run."""
        return self.folder / "reports"

    @property
    def training_dynamics(self) -> Path:
        """Folder with the predictions for each training ear, epoch by epoch."""
        return self.folder / "answers"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard events."""
        return self.folder / "tensorboard"

    @property
    def train_log(self) -> Path:
        """The log of the run."""
        return self.folder / "train.log"

    def checkpoint(self, name: str) -> Path:
        """The checkpoint of this name, such as best or last."""
        return self.folder / "checkpoints" / f"{name}.pt"

    def write_config(self, settings: dict[str, Any], facts: dict[str, Any]) -> None:
        """Write the settings, and the facts beside them that a repetition needs: `data` (hashes), `versions`, `schedule`."""
        write_json(self.config_json, {"settings": settings, **facts})

    def read_settings(self) -> Any:
        """The settings of the run as plain values. Raises UserError."""
        return self._read("settings")

    def read_hashes(self) -> Any:
        """SHA-256 of each table that the run read, by name. Raises UserError."""
        return self._read("data")

    def read_versions(self) -> Any:
        """Versions of the code, of Python and of libraries, as `versions` gives them. Raises UserError."""
        return self._read("versions")

    def read_schedule(self) -> Any:
        """The most epochs of the run, and the passes and the steps of each (`training.schedule.Schedule`). Raises UserError."""
        return self._read("schedule")

    def _read(self, part: str) -> Any:
        try:
            content = CONFIG.read(self.config_json)
        except FileNotFoundError:
            raise UserError(f"{self.config_json}: no such file; is {self.folder} a run? {listed_runs(self.config_json.name)}"
                            ) from None
        if part not in content:
            raise UserError(f"{self.config_json}: field {part} is missing ({CONFIG.name}); {CONFIG.remedy}")
        return content[part]

    def discard(self) -> None:
        """Remove the files of a run that could not start, and nothing else. A run that has started is left alone."""
        if self.metrics_jsonl.exists() or self.checkpoint("last").exists():
            return
        for file in (self.config_json, self.train_log):
            file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.reports.rmdir()
        if not any((self.folder / name).exists() for name in CONTENT):
            for name in (LEDGER, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            for folder in (self.folder, *([self.folder.parent] if self.folder.parent == OUTPUTS else [])):
                with contextlib.suppress(OSError):               # not empty: other files stay
                    folder.rmdir()

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Append a line to the metrics."""
        with open(self.metrics_jsonl, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=True) + "\n")

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the metrics, without a last one that a kill cut short. Raises UserError for a damaged one."""
        if self.metrics_jsonl.exists():
            text = self.metrics_jsonl.read_text(encoding="utf-8", errors="replace")
            for number, line in enumerate(text.splitlines(keepends=True), 1):
                if line.endswith("\n"):
                    yield self._epoch_of(line, number)

    def _epoch_of(self, line: str, number: int) -> dict[str, Any]:
        try:
            plain = json.loads(line)
        except (ValueError, RecursionError):
            plain = None
        chosen = {CHOSEN_BY: plain.pop(CHOSEN_BY)} if isinstance(plain, dict) and CHOSEN_BY in plain else {}
        figures, fault = checked(plain, dict[str, int | float], nan=True)
        fault = fault or checked(chosen, dict[str, str])[1]
        missing = [name for name in EPOCH_FIELDS if not fault and name not in figures]
        fault = "is not JSON" if plain is None else f"field {missing[0]} is missing" if missing else fault
        if fault:
            raise UserError(f"{self.metrics_jsonl}: line {number}: {fault}; remove that line: only curves use it")
        return {**figures, **chosen}

    def keep_metrics(self, *, until: int) -> None:
        """Remove the lines of epochs after `until`, which will be written again."""
        lines = [line for line in self.read_metrics() if line["epoch"] <= until]
        write_text(self.metrics_jsonl, "".join(json.dumps(line, allow_nan=True) + "\n" for line in lines))

    def open_log(self) -> None:
        """Send the package's log to `train.log` and to the terminal."""
        log_to_file(self.train_log)


def listed_runs(file: str) -> str:
    """Return the newest runs under outputs/ that hold a file, such as `checkpoints/best.pt`, as text for an error."""
    found = [path for depth in ("*", "*/*/*") for path in OUTPUTS.glob(f"{depth}/{file}")]
    newest = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    listed = ", ".join(str(path if "/" in file else path.parent) for path in newest[:MOST_LISTED])
    if not newest:
        return f"there is no outputs/<run>/{file} below {Path.cwd()}; train_ear2d and train_dual make runs"
    return f"there are: {listed}" + (f" and {len(newest) - MOST_LISTED} more" if len(newest) > MOST_LISTED else "")


def _new_folder(name: str) -> Path:
    """Make a folder of this name below outputs/, with a number behind if there is one."""
    folder, taken = OUTPUTS / name, 1
    while True:
        try:
            folder.mkdir(parents=True)                           # only one of two processes makes it
            return folder
        except FileExistsError:
            taken += 1
            folder = OUTPUTS / f"{name}-{taken}"


def versions() -> dict[str, str]:
    """Versions of the code, of Python and of the libraries that affect results."""
    def installed(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {"medical_fenlei": __version__, "code": _commit(), "python": platform.python_version(),
            **{name: installed(name) for name in LIBRARIES}}


def _commit() -> str:
    """The commit of the source tree, followed by `+` if files differ from it; "unknown" outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        said = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],
                              capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said.stdout.strip()
