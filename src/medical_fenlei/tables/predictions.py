"""Predictions of one task, read with what only the task tells about their cells."""
import re
from pathlib import Path

import numpy as np
import pandas as pd

from medical_fenlei.errors import UserError
from medical_fenlei.tables.contracts import PREDICTIONS
from medical_fenlei.tasks import Task

_SLICES, _WEIGHTS = re.compile(r"(\d+(;\d+)*)?"), re.compile(r"([\d.e+-]+(;[\d.e+-]+)*)?")


def read_predictions(path: Path, task: Task) -> pd.DataFrame:
    """Read a `tables.PREDICTIONS` of a task.

    Raises UserError, naming column and row, if a class is not that of the label or none of the task's, if the slices and their
    weights do not go together, or if a probability of a class is missing.
    """
    found, classes = PREDICTIONS.read(path), len(task.classes)
    each = [] if task.binary else [f"prob_{'_'.join(map(str, codes))}" for codes in task.classes]
    if missing := [name for name in each if name not in found]:
        raise UserError(f"{path}: column {missing[0]!r} is missing ({task.name}); do these predictions belong to another task "
                        "(--label-task)?")
    fits = {
        "y_true": (found.y_true == task.targets(found.label_code.to_numpy(np.int64)), f"the class of its label in {task.name}"),
        "y_pred": (found.y_pred.between(0, classes - 1), f"a class of {task.name}, 0 to {classes - 1}"),
        **{name: (found[name].between(0, 1), "0 to 1") for name in each},
        "top_slices": (found.top_slices.map(lambda text: bool(_SLICES.fullmatch(text))), "numbers with ; between"),
        "top_slice_weights": (
            found.top_slice_weights.map(lambda text: bool(_WEIGHTS.fullmatch(text)))
            & (found.top_slice_weights.str.count(";") == found.top_slices.str.count(";")), "a number for each of top_slices"),
    }
    for name, (right, expected) in fits.items():
        if not right.all():
            row = int((~right).to_numpy().argmax())
            raise UserError(f"{path}: column {name!r}, row {row + 2}: got {found[name].tolist()[row]!r}, expected {expected}; "
                            "evaluate again, or name the task of the file with --label-task")
    return found
