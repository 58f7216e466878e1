"""Plots of an evaluation: how well the scores separate the classes."""
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.confusion import confusion
from medical_fenlei.metrics.interval_table import interval_words
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.metrics.reliability import net_benefit
from medical_fenlei.metrics.support import lack_of_support
from medical_fenlei.pages.plots import save
from medical_fenlei.tasks import Task
from medical_fenlei.vocabulary import DIAGNOSES

if TYPE_CHECKING:
    from medical_fenlei.evaluation.evaluate import Evaluation

BINS = 10
"""Bins of the reliability plot, each with the same number of ears."""
BLUE, RED = "#30638e", "#d1495b"


def plot_evaluation(path: Path, result: "Evaluation") -> None:
    """Draw ROC, precision-recall, reliability and decision curves, the confusion matrix, and the scores by code.

    A binary task has the curves of its positive class, with the operating points; another task those of every class, each in
    the colour of its code, with one legend below. Classes whose AUROC rests on too few patients have no curves; the legend says
    so.
    """
    task, known, intervals = result.task, result.predictions, result.intervals
    each = probabilities(known, task)
    classes = [(1, "positive", "auroc")] if task.binary else [
        (c, f"code {name}", f"auroc_{name}") for c, name in enumerate(class_codes(task))]
    figure = Figure(figsize=(13, 8), layout="constrained")
    (roc, precision_recall, reliability), (decision, matrix, scores) = figure.subplots(2, 3)
    for c, name, measure in classes:
        is_class = (known.y_true == c).to_numpy().astype(float)
        if lack := lack_of_support(measure, intervals.values[measure]):
            roc.plot([], [], " ", color="none", label=f"{name}: no curve,\n{lack}")
        else:
            colour = BLUE if task.binary else f"C{c}"
            _draw_curves(roc, precision_recall, is_class, each[:, c], colour, name)
            _draw_reliability(reliability, is_class, each[:, c], colour)
            _draw_decision(decision, is_class, each[:, c], colour, only_class=task.binary)
    if task.binary:
        _mark_points(roc, result)
    for axes, measure in ((roc, "auroc"), (precision_recall, "auprc")):
        found = intervals.values[measure]
        lack = lack_of_support(measure, found)
        axes.set_title(f"{measure.upper()} " + (f"left out:\n{lack}" if lack else
                                                f"{found.estimate:.3f} ({interval_words(found.low, found.high)})"))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    lack = lack_of_support("auroc", intervals.values["auroc"])
    for axes, name in ((reliability, "reliability"), (decision, "decision curve")):
        axes.set_title(name if axes.lines else f"{name} left out:\n{lack}")
    for axes in (roc, reliability):
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity")
    precision_recall.set(xlabel="sensitivity", ylabel="precision")
    reliability.set(xlabel="mean predicted probability", ylabel="share of that class")
    decision.axhline(0, color="0.6", linewidth=1, label="treat none")
    decision.set(xlabel="threshold probability", ylabel="net benefit", xlim=(0, 1))
    decision.legend(frameon=False, fontsize=8)
    if task.binary:
        roc.legend(frameon=False, fontsize=8, labelspacing=0.9)
    else:
        figure.legend(*roc.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    _draw_confusion(matrix, known, task)
    _draw_scores(scores, known, each[:, 1] if task.binary else each.max(1))
    save(figure, path, evaluation=result.id)


def _draw_curves(roc: Axes, precision_recall: Axes, is_class: np.ndarray, score: np.ndarray, colour: str,
                 name: str) -> None:
    true, false = (counts[0] for counts in BinaryMeasures(is_class, score).counts(np.ones((1, len(score)))))
    roc.step(np.append(0, false / false[-1]), np.append(0, true / true[-1]), where="post", color=colour, label=name)
    precision_recall.step(true / true[-1], true / (true + false), where="pre", color=colour)


def _mark_points(roc: Axes, result: "Evaluation") -> None:
    """Mark each operating point on the curve; the one that decides is filled.

    Points may be at one place: each marker is larger than those before it and lies below them, so that all are seen.
    """
    decides = result.calibration.point
    points = sorted(result.operating_points.items(), key=lambda item: item[0] != decides)
    for n, ((name, measured), marker) in enumerate(zip(points, "osD^", strict=False)):
        at = {measure: interval for measure, interval in measured.items() if not lack_of_support(measure, interval)}
        if {"sensitivity", "specificity"} <= at.keys():
            roc.plot(1 - at["specificity"].estimate, at["sensitivity"].estimate, marker, color=RED, linestyle="none",
                     label=f"{name} ({result.calibration.points[name]:.2f})",
                     markersize=5 + 4 * n, markerfacecolor=RED if name == decides else "none", zorder=5 - n, clip_on=False)


def _draw_reliability(axes: Axes, is_class: np.ndarray, probability: np.ndarray, colour: str) -> None:
    bins = np.array_split(np.argsort(probability, kind="stable"), min(BINS, max(1, len(probability) // 5)))
    axes.plot([probability[b].mean() for b in bins], [is_class[b].mean() for b in bins], marker="o", markersize=5, color=colour)


def _draw_decision(axes: Axes, is_class: np.ndarray, probability: np.ndarray, colour: str, *, only_class: bool) -> None:
    threshold = np.linspace(0, 0.99, 100)
    benefit = net_benefit(is_class, probability, threshold)
    axes.plot(threshold, benefit, color=colour, label="the network" if only_class else None)
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
    """Draw the score of every ear as a point, in a row per code, each in the colour of its code."""
    jitter = np.random.default_rng(0)
    codes = sorted(known.label_code.unique())
    for row, code in enumerate(codes):
        own = score[(known.label_code == code).to_numpy()]
        axes.plot(own, row + jitter.uniform(-0.3, 0.3, len(own)), ".", alpha=0.6, color=f"C{int(code) - 1}")
    axes.set(title="score of each ear", xlabel="probability", xlim=(-0.02, 1.02))
    axes.set_yticks(range(len(codes)), [f"{code} {DIAGNOSES[int(code)].key}".replace("_", "\n") for code in codes])
