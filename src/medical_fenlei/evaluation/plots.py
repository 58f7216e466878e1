"""Plots of an evaluation: how well the scores separate the classes, and how two networks differ."""
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.bootstrap import Intervals
from medical_fenlei.metrics.confusion import confusion
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.metrics.reliability import net_benefit
from medical_fenlei.pages.html import measure_name
from medical_fenlei.pages.plots import save
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.trained.calibration import TaskCalibration
from medical_fenlei.vocabulary import DIAGNOSES

BINS = 10
"""Bins of the reliability plot, each with the same number of ears."""
BLUE, RED = "#30638e", "#d1495b"


def plot_evaluation(
    path: Path, predictions: pd.DataFrame, task: Task, intervals: Intervals, calibration: TaskCalibration
) -> None:
    """Draw ROC, precision-recall, reliability and decision curves, the confusion matrix, and the scores by code.

    A binary task has the curves of its positive class, with the operating points; another task those of every class.
    """
    known = predictions[predictions.y_true != OUTSIDE]
    each = probabilities(known, task)
    classes = [(1, "positive")] if task.binary else [(c, f"code {name}") for c, name in enumerate(class_codes(task))]
    figure = Figure(figsize=(13, 8), layout="constrained")
    (roc, precision_recall, reliability), (decision, matrix, scores) = figure.subplots(2, 3)
    for c, name in classes:
        is_class = (known.y_true == c).to_numpy().astype(float)
        if 0 < is_class.sum() < len(is_class):
            _draw_curves(roc, precision_recall, is_class, each[:, c], name)
            _draw_reliability(reliability, is_class, each[:, c])
            _draw_decision(decision, is_class, each[:, c], name, only_class=task.binary)
    if task.binary:
        _mark_points(roc, known, calibration)
    for axes, measure in ((roc, "auroc"), (precision_recall, "auprc")):
        found = intervals.values[measure]
        axes.set_title(f"{measure.upper()} {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axes in (roc, reliability):
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity")
    precision_recall.set(xlabel="sensitivity", ylabel="precision")
    reliability.set(title="reliability", xlabel="mean predicted probability", ylabel="share of that class")
    decision.axhline(0, color="0.6", linewidth=1, label="treat none")
    decision.set(title="decision curve", xlabel="threshold probability", ylabel="net benefit", xlim=(0, 1))
    for axes in (roc, decision):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    _draw_confusion(matrix, known, task)
    _draw_scores(scores, known, each[:, 1] if task.binary else each.max(1))
    save(figure, path)


def _draw_curves(roc: Axes, precision_recall: Axes, is_class: np.ndarray, score: np.ndarray, name: str) -> None:
    true, false = (counts[0] for counts in BinaryMeasures(is_class, score).counts(np.ones((1, len(score)))))
    roc.step(np.append(0, false / false[-1]), np.append(0, true / true[-1]), where="post", label=name)
    precision_recall.step(true / true[-1], true / (true + false), where="pre", label=name)


def _mark_points(roc: Axes, known: pd.DataFrame, calibration: TaskCalibration) -> None:
    """Mark each operating point on the curve; the one that decides is filled."""
    y, score = known.y_true.to_numpy(), known.y_prob.to_numpy()
    for (name, threshold), marker in zip(calibration.points.items(), "osD^", strict=False):
        at = BinaryMeasures(y, score, score >= threshold).decisions(np.ones((1, len(y))))
        roc.plot(1 - at["specificity"], at["sensitivity"], marker, color=RED, label=f"{name} ({threshold:.2f})",
                 markerfacecolor=RED if name == calibration.point else "white", linestyle="none")


def _draw_reliability(axes: Axes, is_class: np.ndarray, probability: np.ndarray) -> None:
    bins = np.array_split(np.argsort(probability, kind="stable"), min(BINS, max(1, len(probability) // 5)))
    axes.plot([probability[b].mean() for b in bins], [is_class[b].mean() for b in bins], marker="o")


def _draw_decision(axes: Axes, is_class: np.ndarray, probability: np.ndarray, name: str, *, only_class: bool) -> None:
    threshold = np.linspace(0, 0.99, 100)
    axes.plot(threshold, net_benefit(is_class, probability, threshold), label="the network" if only_class else name)
    if only_class:
        treat_all = net_benefit(is_class, np.ones_like(probability), threshold)
        axes.plot(threshold, treat_all, color="0.6", linestyle="--", linewidth=1, label="treat all")
    prevalence = float(is_class.mean())
    axes.set_ylim(-0.1 * prevalence, max(1.1 * prevalence, 0 if only_class else axes.get_ylim()[1]))


def _draw_confusion(axes: Axes, known: pd.DataFrame, task: Task) -> None:
    """Draw the confusion matrix; rows are the labels, colours the share of the row."""
    names = [name.replace("_", " ") for name in task.class_names] if task.binary else class_codes(task)
    table = confusion(np.ones((1, len(known))), known.y_true.to_numpy(), known.y_pred.to_numpy(), classes=len(names))[0]
    axes.imshow(table / np.maximum(table.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(table):
        dark = number > 0.5 * table[row].sum()
        axes.text(column, row, f"{number:.0f}", ha="center", va="center", color="white" if dark else "black")
    axes.set(title="confusion matrix", xlabel="predicted", ylabel="label")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names, rotation=90 if task.binary else 0, va="center")


def _draw_scores(axes: Axes, known: pd.DataFrame, score: np.ndarray) -> None:
    """Draw the score of every ear as a point, in a row per code."""
    jitter = np.random.default_rng(0)
    codes = sorted(known.label_code.unique())
    for row, code in enumerate(codes):
        own = score[(known.label_code == code).to_numpy()]
        axes.plot(own, row + jitter.uniform(-0.3, 0.3, len(own)), ".", alpha=0.6)
    axes.set(title="score of each ear", xlabel="probability", xlim=(-0.02, 1.02))
    axes.set_yticks(range(len(codes)), [f"{code} {DIAGNOSES[int(code)].key}".replace("_", "\n") for code in codes])


def plot_differences(path: Path, rows: pd.DataFrame, *, title: str) -> None:
    """Draw the difference and interval of each row of `tables.COMPARISON`; right of 0 the second network is higher."""
    shown = rows[rows.difference.notna()].reset_index(drop=True)
    figure = Figure(figsize=(8, 1.4 + 0.28 * len(shown)), layout="constrained")
    axes, row = figure.subplots(), np.arange(len(shown))
    axes.axvline(0, color="0.8", zorder=0)
    axes.hlines(row, shown.low, shown.high, color=BLUE)
    axes.plot(shown.difference, row, "s", color=BLUE, markersize=4)
    axes.set_yticks(row, [measure_name(name) for name in shown.metric], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="difference (95 %, patients resampled)")
    axes.set_title(title, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
