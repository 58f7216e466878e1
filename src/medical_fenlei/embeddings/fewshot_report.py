"""The files of a few-shot study: tables, measures and a picture."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from medical_fenlei import tables
from medical_fenlei.embeddings.fewshot import FewShotResult
from medical_fenlei.embeddings.vectors import Embeddings, standardised
from medical_fenlei.files import write_json
from medical_fenlei.metrics.interval_table import interval_words
from medical_fenlei.pages.plots import save
from medical_fenlei.runs import versions
from medical_fenlei.tasks import OUTSIDE, Task
from medical_fenlei.vocabulary import plural

STYLES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"color": "C0", "alpha": 0.25, "s": 10, "linewidths": 0}, {"color": "C0", "s": 16, "linewidths": 0}),
    ({"color": "C1", "marker": "^", "s": 36}, {"color": "C3", "marker": "^", "s": 60, "edgecolors": "black"}),
)
"""Markers of training and validation ears, for the negative and the positive class."""


def write_few_shot(found: FewShotResult, val: Embeddings, folder: Path, *, task: Task, facts: dict[str, Any]) -> list[Path]:
    """Write `predictions.csv`, `neighbors.csv`, `metrics.json` (with further facts) and `fewshot.png`; returns the files."""
    files = [folder / name for name in ("predictions.csv", "neighbors.csv", "metrics.json", "fewshot.png")]
    tables.FEWSHOT.write(files[0], found.scores)
    tables.NEIGHBORS.write(files[1], found.neighbors)
    write_json(files[2], {
        "task": task.name, "counts": found.counts, "chosen": found.chosen,
        "metrics": {method: {name: i._asdict() for name, i in intervals.values.items()}
                    for method, intervals in found.intervals.items()},
        "warnings": list(found.warnings), **facts, "versions": versions(),
    })
    figure = Figure(figsize=(13, 5), layout="constrained")
    plane, areas = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_components(plane, found, val, task)
    _draw_areas(areas, found)
    save(figure, files[3])
    return files


def _draw_components(axes: Axes, found: FewShotResult, val: Embeddings, task: Task) -> None:
    """Draw the ears in the first two principal components of the training ears."""
    val = val[task.targets(val.label_code) != OUTSIDE]
    train, query = standardised(found.train.embedding, val.embedding)
    with np.errstate(invalid="ignore"):                          # if all embeddings are equal
        component = PCA(min(2, *train.shape), svd_solver="full").fit(train)
    of_set = {"training": (found.train, train), "validation": (val, query)}
    for c, name in enumerate(task.class_names):                  # positives last: they are few and must not be hidden
        for (set_name, (ears, x)), style in zip(of_set.items(), STYLES[c], strict=True):
            own = component.transform(x)[task.targets(ears.label_code) == c] if len(x) else np.empty((0, 2))
            axes.scatter(own[:, 0], own[:, -1], label=f"{set_name}: {name.replace('_', ' ')} ({len(own)})", **style)
    share = [f"{100 * value:.0f} % of the variance" for value in np.nan_to_num(component.explained_variance_ratio_)]
    axes.set(title="embeddings of the ears", xlabel=f"first principal component, {share[0]}",
             ylabel=f"second principal component, {share[-1]}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False, fontsize=9)


def _draw_areas(axes: Axes, found: FewShotResult) -> None:
    """Draw each method's AUROC with its interval."""
    for place, intervals in enumerate(found.intervals.values()):
        i = intervals.values["auroc"]
        axes.plot([i.low, i.high], [place, place], color="0.4")
        axes.plot(i.estimate, place, "o", color="C3")
        text = "undefined" if np.isnan(i.estimate) else f"{i.estimate:.2f} ({interval_words(i.low, i.high, 2)})"
        axes.annotate(text, (0.02, place - 0.1))
    axes.axvline(0.5, color="0.8", linewidth=1)
    axes.set_yticks(range(len(found.intervals)), list(found.intervals))
    counts = (f"{name}: {plural(n['positive_ears'], 'positive ear')} of {plural(n['positive_patients'], 'patient')}"
            for name, n in found.counts.items())
    axes.set(xlim=(0, 1.02), ylim=(len(found.intervals) - 0.5, -0.5), xlabel="AUROC in validation, 95 % interval by patient",
             title="\n".join(counts))
