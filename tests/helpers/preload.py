"""Imports and plots that the processes of `helpers.processes` inherit from the server from which they are forked.

Nothing here computes with tensors: that would start threads, and threads do not survive a fork.
"""
import tempfile
import threading
from pathlib import Path

from tqdm import tqdm

import helpers.commands  # noqa: F401
import medical_fenlei.evaluation.evaluate
import medical_fenlei.evaluation.write
import medical_fenlei.experiments.study
import medical_fenlei.models.build
import medical_fenlei.training.loop  # noqa: F401
from medical_fenlei import tables
from medical_fenlei.run_report.curves import plot_training

with tempfile.TemporaryDirectory() as folder:
    plot_training(Path(folder) / "curves.png", [{"epoch": 1, "train_loss": 1.0, "tune_loss": 1.0, "lr": 1.0}], best_epoch=1)
    for table in (tables.SPLIT, tables.MANIFEST):
        table.write(Path(folder) / "table.csv", table.empty())
        table.read(Path(folder) / "table.csv")

tqdm.set_lock(threading.RLock())                                 # its own is a semaphore, which a killed process leaves behind
