"""The training curves of a run."""
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from medical_fenlei.pages.plots import save


def plot_training(path: Path, lines: list[dict[str, Any]], *, best_epoch: int) -> None:
    """Draw loss, measures of the tune set and learning rate by epoch. lines: `metrics.jsonl`."""
    frame = pd.DataFrame(lines).drop_duplicates("epoch", keep="last").set_index("epoch")
    panels = (("loss", ("train_loss", "tune_loss")), ("tune set", ("tune_auroc", "tune_auprc", "tune_macro_f1")),
              ("learning rate", ("lr",)))
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            if name in frame:
                axes.plot(frame.index, frame[name], marker=".", label=name)
        axes.axvline(best_epoch, color="0.7", linestyle=":", label="best epoch")
        axes.set(title=title, xlabel="epoch")
        axes.legend(frameon=False)
    save(figure, path)
