"""Imports and plots that the processes of `helpers.processes` inherit from the server from which they are forked.

Nothing here computes with tensors: that would start threads, and threads do not survive a fork.
"""
import importlib
import tempfile
import threading
from pathlib import Path

from tqdm import tqdm

import helpers.commands  # noqa: F401
import medical_fenlei.experiments.summary
import medical_fenlei.models.build  # noqa: F401
from medical_fenlei import tables
from medical_fenlei.experiments.one_run import LATE, LATE_2D
from medical_fenlei.run_report.curves import plot_training

for name in (*LATE, *LATE_2D):
    importlib.import_module(name)

with tempfile.TemporaryDirectory() as folder:
    plot_training(Path(folder) / "curves.png", [{"epoch": 1, "train_loss": 1.0, "tune_loss": 1.0, "lr": 1.0}], best_epoch=1)
    for table in (tables.SPLIT, tables.MANIFEST):
        table.write(Path(folder) / "table.csv", table.empty())
        table.read(Path(folder) / "table.csv")

tqdm.set_lock(threading.RLock())                                 # its own is a semaphore, which a killed process leaves behind
