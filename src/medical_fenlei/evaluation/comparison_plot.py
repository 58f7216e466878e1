"""The plot of a comparison: how two networks differ in each measure."""
import math
import re
import textwrap
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medical_fenlei.metrics.bootstrap import UNRELIABLE
from medical_fenlei.metrics.support import fewest_patients
from medical_fenlei.pages.html import measure_name, number
from medical_fenlei.pages.plots import save

BLUE, GREY = "#30638e", "0.55"
"""Colours of a reliable interval without 0, and of every other difference; without an interval its square is hollow."""
UNBOUNDED = ("calibration_slope", "calibration_intercept")
"""Measures that are not between 0 and 1."""
PANEL, ROW, AROUND = 8.6, 0.26, 0.75
"""Width of a panel, height of a row, and of what stands above and below the rows; inches."""
LETTERS = 14
"""Letters of the title in an inch."""


def plot_differences(path: Path, rows: pd.DataFrame, *, title: str) -> None:
    """Draw the difference of each row of `tables.COMPARISON` with its interval, both values and p; right of 0 the second is
    higher.

    Measures that rest on too few patients are named instead. Measures without bounds, such as the calibration slope, have axes
    of their own; so has each class, in a second column.
    """
    drawn = rows[rows.difference.notna() & (rows.support >= rows.metric.map(fewest_patients))]
    panels = [own for _, own in drawn.groupby(drawn.metric.map(_panel), sort=False)]
    columns = 2 if len(panels) > 1 + len(UNBOUNDED) else 1
    grid = [panels[first:first + columns] for first in range(0, len(panels), columns)]
    heights = [ROW * max(map(len, line)) + AROUND for line in grid] or [1]
    missing = [measure_name(name) for name in rows.metric if name not in set(drawn.metric)]
    left_out = f"undefined, or on too few patients: {', '.join(missing)}" if missing else ""
    heading = [part for line in (*title.split("\n"), left_out) for part in textwrap.wrap(line, int(columns * PANEL * LETTERS))]
    figure = Figure(figsize=(columns * PANEL, sum(heights) + 0.3 + 0.17 * len(heading)), layout="constrained")
    all_axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes, own in zip(all_axes.flat, panels, strict=False):
        _draw_differences(axes, own)
    for axes in all_axes.flat[len(panels):]:
        axes.remove()
    figure.suptitle("\n".join(heading), fontsize=8, parse_math=False)
    save(figure, path)


def _panel(name: str) -> str:
    """What the measures of one panel share: their class, or that they are between 0 and 1."""
    of_class = re.search(r"_(\d+(_\d+)*)$", name)
    return name if name in UNBOUNDED else of_class.group(1) if of_class else ""


def _draw_differences(axes: Axes, rows: pd.DataFrame) -> None:
    row, bounded = np.arange(len(rows)), rows.low.notna().to_numpy()
    beyond = ((rows.low > 0) | (rows.high < 0)).to_numpy() & ~rows.note.str.contains(UNRELIABLE).to_numpy()
    axes.axvline(0, color="0.6", linewidth=1, zorder=0)
    for chosen, colour, filling in ((beyond, BLUE, BLUE), (bounded & ~beyond, GREY, GREY), (~bounded, GREY, "white")):
        axes.hlines(row[chosen], rows.low[chosen], rows.high[chosen], color=colour)
        axes.plot(rows.difference[chosen], row[chosen], "s", color=colour, markerfacecolor=filling, markersize=4)
    axes.set_yticks(row, [measure_name(name) for name in rows.metric], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    values = axes.secondary_yaxis("right")
    values.set_yticks(row, [_in_words(own) for own in rows.to_dict("records")], fontsize=8)
    values.tick_params(length=0)
    values.spines["right"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("difference, second minus first (95 %, patients resampled; blue: reliable and without 0)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _in_words(row: Mapping[Hashable, Any]) -> str:
    """The values of both networks, the difference with its interval, and p, which an unreliable difference has not."""
    interval = "no interval" if math.isnan(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
    p = (f", {UNRELIABLE}" if UNRELIABLE in row["note"] else "" if math.isnan(row["p"]) else
         ", p < 0.001" if row["p"] < 0.001 else f", p = {number(row['p'])}")
    return f"{number(row['first'])} → {number(row['second'])}: {row['difference']:+.3f} ({interval}){p}"
