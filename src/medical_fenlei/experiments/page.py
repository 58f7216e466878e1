"""The page of a study: what its seeds come to, in one file beside the runs."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from medical_fenlei.files import write_text
from medical_fenlei.pages.html import as_png, template

SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "macro_f1", "macro_recall", "accuracy", "brier")
"""Measures of the page, those of them that a task has."""


def write_study_page(path: Path, runs: pd.DataFrame, summary: pd.DataFrame, warnings: Sequence[str]) -> None:
    """runs: `tables.RUNS`; summary: `tables.SUMMARY`. The page links to that of each run below it."""
    shown = summary[summary.metric.isin(SHOWN)]
    pictures = {task: as_png(_draw(runs[runs.task == task], own)) for task, own in shown.groupby("task", sort=False)}
    write_text(path, template("experiments", "study.html").render(
        title=path.resolve().parent.name, runs=runs.astype(object).where(runs.notna(), None).to_dict("records"),
        rows=shown.astype(object).where(shown.notna(), None).to_dict("records"), pictures=pictures, warnings=warnings,
        measures=[name for name in SHOWN if name in runs]))


def _draw(runs: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Each seed as a point, their mean and the ensemble with intervals; a panel a measure, a line a network and amount."""
    names = [name for name in SHOWN if name in set(summary.metric)]
    lines = list(dict.fromkeys(zip(summary.pct, summary.model, strict=True)))
    figure = Figure(figsize=(2 + 2.4 * len(names), 1.3 + 0.7 * len(lines)), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        for place, (pct, model) in enumerate(lines):
            own = summary[(summary.pct == pct) & (summary.model == model) & (summary.metric == name)].iloc[0]
            seeds = runs[(runs.pct == pct) & (runs.model == model)].get(name, pd.Series(dtype=float)).dropna()
            for height, colour, value, low, high in ((0.0, "#30638e", own["mean"], own.low, own.high),
                                                     (0.28, "#d1495b", own.ensemble, own.ensemble_low, own.ensemble_high)):
                axes.hlines(place + height, low, high, color=colour)
                axes.plot(value, place + height, "s", color=colour, markersize=5)
            axes.plot(seeds, np.full(len(seeds), place - 0.25), "o", color="0.55", markersize=4)
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    first.set_yticks(range(len(lines)), [f"{model}, {pct} %" for pct, model in lines], fontsize=9)
    first.set_ylim(len(lines) - 0.4, -0.6)
    figure.suptitle("grey: each seed; blue: their mean; red: the ensemble (95 %, patients resampled)", fontsize=9)
    return figure
