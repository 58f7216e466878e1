"""Splits on disk: one folder per amount of training data, with a table per set."""
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.tables.contracts import SPLIT
from medical_fenlei.vocabulary import SETS


@dataclass(frozen=True)
class Split:
    """The sets of one amount of training data, read from `<root>/<pct>pct/`."""

    folder: Path
    """Folder of the tables."""

    sets: dict[str, pd.DataFrame] = field(repr=False)
    """`tables.SPLIT` of each set, by its name."""

    by_patient: bool
    """Whether the split keeps each patient in one set."""


def read_split(root: Path, pct: int) -> Split:
    """Read one amount of training data.

    Raises UserError if it is missing, with the amounts that exist, or the folders nearby that hold splits.
    """
    folder = root / f"{pct}pct"
    if not (folder / "train.csv").is_file():
        there = sorted(f.name for pattern in ("*pct", "fold_*") for f in root.glob(pattern)) if root.is_dir() else []
        listed = ", ".join(there) or _elsewhere(root) or "no splits; make_splits_dual makes them"
        raise UserError(f"--splits-root {root} --pct {pct}: no {folder}/train.csv; there are: {listed}")
    sets = {name: SPLIT.read(folder / f"{name}.csv") for name in SETS if (folder / f"{name}.csv").is_file()}
    return Split(folder, sets, by_patient=all((s.patient_key != "").all() for s in sets.values()))


def _elsewhere(root: Path) -> str:
    """Return which folders beside or in one without splits have some, as flags; "" if none has."""
    found = sorted({train.parents[1] for near in (root.parent, root) for train in near.glob("*/*pct/train.csv")})
    return f"no splits in it, but in {', '.join(f'--splits-root {folder}' for folder in found)}" if found else ""


def read_splits(root: Path) -> list[Split]:
    """Read every amount of training data below a splits folder, smallest first, then those of its folds."""
    amounts = sorted(int(f.name[:-3]) for f in root.glob("*pct") if f.name[:-3].isdigit())
    folds = sorted((f for f in root.glob("fold_*") if f.name[5:].isdigit()), key=lambda f: int(f.name[5:]))
    return [read_split(root, pct) for pct in amounts] + [split for fold in folds for split in read_splits(fold)]
