"""Plots of an evaluation: how well the scores separate the classes, and how two networks differ."""
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei.metrics.binary import BinaryMeasures
from medical_fenlei.metrics.confusion import confusion
from medical_fenlei.metrics.predictions import class_codes, probabilities
from medical_fenlei.metrics.reliability import net_benefit
from medical_fenlei.metrics.support import fewest_patients, lack_of_support
from medical_fenlei.pages.html import measure_name
from medical_fenlei.pages.plots import save
from medical_fenlei.tasks import Task
from medical_fenlei.vocabulary import DIAGNOSES

if TYPE_CHECKING:
    from medical_fenlei.evaluation.evaluate import Evaluation

BINS = 10
"""Bins of the reliability plot, each with the same number of ears."""
BLUE, RED = "#30638e", "#d1495b"
UNBOUNDED = ("calibration_slope", "calibration_intercept")
"""Measures that are not between 0 and 1."""


def plot_evaluation(path: Path, result: "Evaluation") -> None:
    """Draw ROC, precision-recall, reliability and decision curves, the confusion matrix, and the scores by code.

    A binary task has the curves of its positive class, with the operating points; another task those of every class. Classes
    whose AUROC rests on too few patients have no curves; the legend says so.
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
            for axes in (roc, reliability, decision):
                axes.plot([], [], " ", color="none", label=f"{name}: no curve,\n{lack}")
        else:
            _draw_curves(roc, precision_recall, is_class, each[:, c], name)
            _draw_reliability(reliability, is_class, each[:, c])
            _draw_decision(decision, is_class, each[:, c], name, only_class=task.binary)
    if task.binary:
        _mark_points(roc, result)
    for axes, measure in ((roc, "auroc"), (precision_recall, "auprc")):
        found = intervals.values[measure]
        lack = lack_of_support(measure, found)
        axes.set_title(f"{measure.upper()} " + (f"left out:\n{lack}" if lack else
                                                f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})"))
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axes in (roc, reliability):
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity")
    precision_recall.set(xlabel="sensitivity", ylabel="precision")
    reliability.set(title="reliability", xlabel="mean predicted probability", ylabel="share of that class")
    decision.axhline(0, color="0.6", linewidth=1, label="treat none")
    decision.set(title="decision curve", xlabel="threshold probability", ylabel="net benefit", xlim=(0, 1))
    for axes in (roc, reliability, decision):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    _draw_confusion(matrix, known, task)
    _draw_scores(scores, known, each[:, 1] if task.binary else each.max(1))
    save(figure, path, evaluation=result.id)


def _draw_curves(roc: Axes, precision_recall: Axes, is_class: np.ndarray, score: np.ndarray, name: str) -> None:
    true, false = (counts[0] for counts in BinaryMeasures(is_class, score).counts(np.ones((1, len(score)))))
    roc.step(np.append(0, false / false[-1]), np.append(0, true / true[-1]), where="post", label=name)
    precision_recall.step(true / true[-1], true / (true + false), where="pre", label=name)


def _mark_points(roc: Axes, result: "Evaluation") -> None:
    """Mark each operating point on the curve; the one that decides is filled."""
    for (name, measured), marker in zip(result.operating_points.items(), "osD^", strict=False):
        at = {measure: interval for measure, interval in measured.items() if not lack_of_support(measure, interval)}
        if {"sensitivity", "specificity"} <= at.keys():
            roc.plot(1 - at["specificity"].estimate, at["sensitivity"].estimate, marker, color=RED, linestyle="none",
                     label=f"{name} ({result.calibration.points[name]:.2f})",
                     markerfacecolor=RED if name == result.calibration.point else "white")


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
    """Draw the difference and interval of each row of `tables.COMPARISON`; right of 0 the second network is higher.

    Measures that rest on too few patients are named instead. Measures without bounds, such as the calibration slope, have axes
    of their own.
    """
    drawn = rows[rows.difference.notna() & (rows.support >= rows.metric.map(fewest_patients))]
    unbounded = [name for name in UNBOUNDED if name in set(drawn.metric)]
    panels = [drawn[~drawn.metric.isin(UNBOUNDED)], *(drawn[drawn.metric == name] for name in unbounded)]
    panels = [own for own in panels if len(own)]
    heights = [len(own) + 2.2 for own in panels] or [1]
    figure = Figure(figsize=(8, 1.2 + 0.28 * sum(heights)), layout="constrained")
    for axes, own in zip(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0], panels, strict=False):
        _draw_differences(axes, own)
    missing = [measure_name(name) for name in rows.metric if name not in set(drawn.metric)]
    left_out = textwrap.wrap(f"undefined, or on too few patients: {', '.join(missing)}", 110) if missing else []
    figure.suptitle("\n".join([title, *left_out]), fontsize=8)
    save(figure, path)


def _draw_differences(axes: Axes, rows: pd.DataFrame) -> None:
    row = np.arange(len(rows))
    axes.axvline(0, color="0.8", zorder=0)
    axes.hlines(row, rows.low, rows.high, color=BLUE)
    axes.plot(rows.difference, row, "s", color=BLUE, markersize=4)
    axes.set_yticks(row, [measure_name(name) for name in rows.metric], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("difference (95 %, patients resampled)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
