"""Plots that several rooms share, and writing a figure to a file."""
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from medical_fenlei.files import atomic
from medical_fenlei.metrics.interval_table import has_interval
from medical_fenlei.metrics.support import fewest_patients
from medical_fenlei.pages.html import measure_name
from medical_fenlei.vocabulary import plural

matplotlib.use("Agg")


EVALUATION = "evaluation"
"""Name of the text in a PNG that holds the id of the evaluation that it was drawn from."""


def save(figure: Figure, path: Path, *, palette: Image.Image | None = None, evaluation: str = "") -> None:
    """Write a figure as PNG, atomically.

    palette: an image with a palette of colours to use; a grey picture becomes several times smaller. evaluation: id of the
    evaluation that it shows.
    """
    with atomic(path) as file:
        if palette is None:
            figure.savefig(file, format="png", dpi=120, metadata={EVALUATION: evaluation} if evaluation else None)
        else:
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            whole = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
            whole.quantize(palette=palette, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)


def evaluation_of(path: Path) -> str:
    """Return the id of the evaluation that a PNG shows; "" if it holds none. Raises OSError if it cannot be read."""
    with Image.open(path) as image:
        return str(image.info.get(EVALUATION, ""))


def plot_forest(path: Path, rows: pd.DataFrame, *, title: str = "", evaluation: str = "") -> None:
    """Draw a forest plot of a `tables.SUBGROUPS`: a panel per measure, a row per subgroup.

    Measures that rest on too few patients are not drawn; the row says so. evaluation: as for `save`.
    """
    measures = list(dict.fromkeys(rows.metric))
    enough = rows.support.isna() | (rows.support >= rows.metric.map(fewest_patients))
    rows = rows.assign(**{name: rows[name].where(enough) for name in ("estimate", "low", "high")}, few=~enough)
    lines = rows.drop_duplicates(["by", "value"])
    figure = Figure(figsize=(3.4 + 3.2 * len(measures), 1.2 + 0.27 * len(lines)), layout="constrained")
    all_axes = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, name in zip(all_axes, measures, strict=True):
        own = lines[["by", "value"]].merge(rows[rows.metric == name], on=["by", "value"], how="left")
        row, reliable = np.arange(len(own)), (own.note == "").to_numpy()
        bounded = np.array([has_interval(low, high) for low, high in zip(own.low, own.high, strict=True)])
        for chosen, colour in ((reliable, "#30638e"), (~reliable, "0.6")):
            axes.hlines(row[chosen], own.low[chosen], own.high[chosen], color=colour)
            for filling, filled in ((colour, bounded), ("white", ~bounded)):
                axes.plot(own.estimate[chosen & filled], row[chosen & filled], "s", markersize=4, color=colour,
                          markerfacecolor=filling)
        axes.axvline(own.estimate.iloc[0], color="0.8", linewidth=1, zorder=0)
        for line in np.flatnonzero(own.few):
            axes.text(0.03, line, f"{plural(own.support[line], 'patient')}: too few", color="0.5", fontsize=7, va="center",
                      bbox={"facecolor": "white", "linewidth": 0, "pad": 1}, transform=axes.get_yaxis_transform())
        lowest = own.low.fillna(own.estimate).min()
        axes.set(title=measure_name(name), xlim=(max(-0.02, np.nan_to_num(lowest) - 0.05), 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    names = [(f"{by}: {value}" if by != value else value) + f" ({ears})"
             for by, value, ears in zip(lines["by"].astype(str), lines.value.astype(str), lines.ears, strict=True)]
    all_axes[0].set_yticks(range(len(lines)), names, fontsize=8, parse_math=False)
    all_axes[0].set_ylim(len(lines) - 0.4, -0.6)
    figure.suptitle(title or "in brackets: ears; grey: too few for a reliable interval; hollow: no interval", fontsize=9)
    save(figure, path, evaluation=evaluation)
