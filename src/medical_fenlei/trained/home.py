"""Where the data of a trained network are: its settings hold paths relative to the folder in which it was trained."""
from dataclasses import replace
from pathlib import Path

from medical_fenlei.config import DataConfig, RunConfig
from medical_fenlei.runs import Run

PATHS = ("splits_root", "manifest_csv", "dicom_base", "cache_dir")


def home_of(run: Run, data: DataConfig) -> Path | None:
    """Return the folder that the relative paths of a run's data settings start from; None for the working folder.

    It is the nearest folder above the run that holds its splits or its manifest, if the run lies outside the working folder.
    """
    folder = run.folder.resolve()
    if folder.is_relative_to(Path.cwd().resolve()):
        return None
    relative = [path for path in (data.splits_root, data.manifest_csv) if not path.is_absolute()]
    return next((above for above in folder.parents if any((above / path).exists() for path in relative)), None)


def at_home(config: RunConfig, run: Run) -> RunConfig:
    """Return the settings of a run with the paths of its data as they are reached from the working folder."""
    home = home_of(run, config.data)
    if home is None:
        return config
    return replace(config, data=replace(config.data, **{name: home / getattr(config.data, name) for name in PATHS}))
