"""Pictures of a run: how training went, and how well scores tell the classes apart."""
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from medical_fenlei.files import atomic
from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Intervals
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import DIAGNOSES

matplotlib.use("Agg")

BINS = 10
"""Of the reliability plot, each with the same number of ears."""


def save(figure: Figure, path: Path, *, palette: Image.Image | None = None) -> None:
    """As PNG; in the colours of a palette image, which makes a file of greys several times smaller."""
    with atomic(path) as file:
        if palette is None:
            figure.savefig(file, format="png", dpi=120)
        else:
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            whole = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            whole.quantize(palette=palette, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)


def plot_training(path: Path, lines: list[dict[str, Any]], *, best_epoch: int) -> None:
    """Loss, measures of the tune set and learning rate by epoch, from the lines of `metrics.jsonl`."""
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


def plot_evaluation(path: Path, predictions: pd.DataFrame, task: Task, intervals: Intervals) -> None:
    """ROC, precision-recall and reliability of each class (the positive one of a binary task), and the scores of each code."""
    known = predictions[predictions.y_true != OUTSIDE]
    each = probabilities(known, task)
    shown = [(1, "positive")] if task.binary else [(c, f"code {name}") for c, name in enumerate(class_codes(task))]
    figure = Figure(figsize=(15, 4), layout="constrained")
    roc, precision_recall, reliability, scores = figure.subplots(1, 4)
    for c, name in shown:
        is_class = (known.y_true == c).to_numpy().astype(float)
        if 0 < is_class.sum() < len(is_class):
            _curves(roc, precision_recall, is_class, each[:, c], name)
            _reliability(reliability, is_class, each[:, c])
    for axes, title in ((roc, "auroc"), (precision_recall, "auprc")):
        found = intervals.values[title]
        axes.set_title(f"{title.upper()} {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    roc.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity")
    precision_recall.set(xlabel="sensitivity", ylabel="precision")
    reliability.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    reliability.set(title="reliability", xlabel="mean predicted probability", ylabel="share of that class")
    if not task.binary:
        roc.legend(frameon=False)
    _scores_by_code(scores, known, each[:, 1] if task.binary else each.max(1))
    save(figure, path)


def _curves(roc: Axes, precision_recall: Axes, is_class: np.ndarray, score: np.ndarray, name: str) -> None:
    true, false = (counts[0] for counts in BinaryMeasures(is_class, score).counts(np.ones((1, len(score)))))
    roc.step(np.append(0, false / false[-1]), np.append(0, true / true[-1]), where="post", label=name)
    precision_recall.step(true / true[-1], true / (true + false), where="pre", label=name)


def _reliability(axes: Axes, is_class: np.ndarray, probability: np.ndarray) -> None:
    bins = np.array_split(np.argsort(probability, kind="stable"), min(BINS, max(1, len(probability) // 5)))
    axes.plot([probability[b].mean() for b in bins], [is_class[b].mean() for b in bins], marker="o")


def _scores_by_code(axes: Axes, known: pd.DataFrame, score: np.ndarray) -> None:
    """Every ear as a point: its score, by its code."""
    scatter = np.random.default_rng(0)
    codes = sorted(known.label_code.unique())
    for place, code in enumerate(codes):
        own = score[(known.label_code == code).to_numpy()]
        axes.plot(own, place + scatter.uniform(-0.3, 0.3, len(own)), ".", alpha=0.6)
    axes.set(title="score of each ear", xlabel="probability", xlim=(-0.02, 1.02))
    axes.set_yticks(range(len(codes)), [f"{code} {DIAGNOSES[int(code)].key}" for code in codes])
