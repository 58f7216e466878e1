"""The training curves of a run."""
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medical_fenlei.pages.html import measure_name
from medical_fenlei.pages.plots import save

PANELS = {
    "loss": {"train_loss": "train", "tune_loss": "tune"},
    "tune set": {f"tune_{name}": measure_name(name) for name in ("auroc", "auprc", "macro_f1")},
    "learning rate": {"lr": "learning rate"},
}
"""The names in `metrics.jsonl` that each panel shows, and their labels."""


def plot_training(path: Path, lines: list[dict[str, Any]], *, best_epoch: int) -> None:
    """Draw loss, measures of the tune set and learning rate by epoch. lines: `metrics.jsonl`."""
    frame = pd.DataFrame(lines).drop_duplicates("epoch", keep="last").set_index("epoch")
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (title, labels) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, label in labels.items():
            if name in frame:
                axes.plot(frame.index, frame[name], marker=".", label=label)
        axes.axvline(best_epoch, color="0.7", linestyle=":", label="best epoch")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    save(figure, path)
