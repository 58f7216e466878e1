"""The page of a study: its measures over the seeds and its runs, in one file beside the runs."""
import math
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medical_fenlei.files import write_text
from medical_fenlei.metrics.interval_table import has_interval
from medical_fenlei.metrics.support import fewest_patients
from medical_fenlei.pages.html import as_png, measure_name, template
from medical_fenlei.vocabulary import plural

PAGE_MEASURES = ("auroc", "auprc", "sensitivity", "specificity", "macro_f1", "macro_recall", "accuracy", "brier")
"""Measures of the page, if a task has them."""
BLUE, RED, GREY = "#30638e", "#d1495b", "0.55"
"""Colours of the mean over the seeds, of the ensemble, and of each seed."""
ACROSS = 4
"""Panels in a row: with more, the page would shrink their texts too much."""
LETTERS = 24
"""Letters of a network's name in a line of the plot."""


def write_study_page(
    path: Path, runs: pd.DataFrame, summary: pd.DataFrame, states: Mapping[str, str], warnings: Sequence[str]
) -> None:
    """Write the page, which links to the page of each run.

    runs: `tables.RUNS`; summary: `tables.SUMMARY`; states: how the networks decide, by task.
    """
    shown = summary[summary.metric.isin(PAGE_MEASURES)]
    pictures = {task: as_png(_draw(runs[runs.task == task], own)) for task, own in shown.groupby("task", sort=False)}
    write_text(path, template("experiments", "study.html").render(
        title=path.resolve().parent.name, runs=_records(runs), rows=_records(shown), pictures=pictures, states=states,
        warnings=warnings, measures=[name for name in PAGE_MEASURES if name in runs]))


def _records(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """The rows of a table, None for a missing value."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _draw(runs: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Draw a panel per measure with a row per group: each seed, their mean and the ensemble with intervals."""
    measures = [name for name in PAGE_MEASURES if name in set(summary.metric)]
    groups = list(dict.fromkeys(zip(summary.pct, summary.model, strict=True)))
    across = min(len(measures), ACROSS)
    down = math.ceil(len(measures) / across)
    figure = Figure(figsize=(2 + 2.4 * across, 0.4 + down * (0.8 + 0.62 * len(groups))), layout="constrained")
    all_axes = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes in all_axes.flat[len(measures):]:
        axes.remove()
    for axes, name in zip(all_axes.flat, measures, strict=False):
        for row, (pct, model) in enumerate(groups):
            of_group = (summary.pct == pct) & (summary.model == model) & (summary.metric == name)
            seeds = runs[(runs.pct == pct) & (runs.model == model)].get(name, pd.Series(dtype=float)).dropna()
            _draw_group(axes, row, seeds, summary[of_group].iloc[0])
        axes.set_title(measure_name(name), fontsize=10)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    first = figure.axes[0]
    names = ["\n".join([*textwrap.wrap(model, LETTERS), f"{pct} %"]) for pct, model in groups]
    first.set_yticks(range(len(groups)), names, fontsize=9)
    first.set_ylim(len(groups) - 0.4, -0.6)
    figure.suptitle("grey: each seed; blue: their mean; red: the ensemble (95 %, patients resampled; hollow: no interval)",
                    fontsize=9)
    return figure


def _draw_group(axes: Axes, row: int, seeds: pd.Series, summary: pd.Series) -> None:
    """Draw a measure of one group, if it rests on enough patients.

    seeds: its value of each seed; summary: a row of `tables.SUMMARY`.
    """
    if summary.support < fewest_patients(summary.metric):
        axes.text(0.5, row, f"{plural(summary.support, 'patient')}:\ntoo few", ha="center", va="center", fontsize=8, color=GREY,
                  transform=axes.get_yaxis_transform())
        return
    axes.plot(seeds, row - np.linspace(0.2, 0.4, len(seeds)), "o", color=GREY, markersize=4)     # equal ones side by side
    for y, colour, value, low, high in (
        (row, BLUE, summary["mean"], summary.low, summary.high),
        (row + 0.25, RED, summary.ensemble, summary.ensemble_low, summary.ensemble_high),
    ):
        bounded = has_interval(low, high)
        axes.hlines(y, low, high, color=colour)
        axes.plot(value, y, "s", color=colour, markerfacecolor=colour if bounded else "white", markersize=5)
