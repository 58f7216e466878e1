"""Where the data of a trained network are: its settings hold paths relative to the folder in which it was trained."""
from dataclasses import replace
from pathlib import Path

from medical_fenlei.config import DataConfig, RunConfig
from medical_fenlei.runs import Run

PATHS = ("splits_root", "manifest_csv", "dicom_base", "cache_dir")


def home_of(run: Run, data: DataConfig) -> Path | None:
    """Return the folder that the relative paths of a run's data settings start from; None for the working folder.

    It is the nearest folder above the run that holds its splits or its manifest (where these are absolute, its DICOM or its
    cache), unless the run lies in the working folder, and they are there.
    """
    folder, here = run.folder.resolve(), Path.cwd().resolve()
    pairs = (data.splits_root, data.manifest_csv), (data.dicom_base, data.cache_dir)
    relative = next(filter(None, ([path for path in pair if not path.is_absolute()] for pair in pairs)), [])

    def holds_data(of_run: Path) -> bool:
        return any((of_run / path).exists() for path in relative)

    if folder.is_relative_to(here) and holds_data(here):
        return None
    home = next(filter(holds_data, folder.parents), None)
    return None if home == here else home


def at_home(config: RunConfig, run: Run) -> RunConfig:
    """Return the settings of a run with the paths of its data as they are reached from the working folder."""
    home = home_of(run, config.data)
    if home is None:
        return config
    return replace(config, data=replace(config.data, **{name: home / getattr(config.data, name) for name in PATHS}))
