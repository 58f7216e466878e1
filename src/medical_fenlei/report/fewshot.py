"""The files of a few-shot study."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei import tables
from medical_fenlei.analysis.embeddings import Embeddings
from medical_fenlei.analysis.fewshot import FewShot
from medical_fenlei.files import write_json
from medical_fenlei.report.plots import save
from medical_fenlei.runs import versions
from medical_fenlei.tasks import Task


def write_few_shot(found: FewShot, val: Embeddings, folder: Path, *, task: Task, facts: dict[str, Any]) -> list[Path]:
    """`predictions.csv`, `neighbours.csv`, `metrics.json` (with further facts) and `fewshot.png`; returns the files."""
    files = [folder / name for name in ("predictions.csv", "neighbours.csv", "metrics.json", "fewshot.png")]
    tables.FEWSHOT.write(files[0], found.scores)
    tables.NEIGHBOURS.write(files[1], found.neighbours)
    write_json(files[2], {
        "task": task.name, "counts": found.counts, "chosen": found.chosen,
        "metrics": {method: {name: i._asdict() for name, i in intervals.values.items()}
                    for method, intervals in found.intervals.items()},
        "warnings": list(found.warnings), **facts, "versions": versions(),
    })
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    plane, areas = figure.subplots(1, 2, width_ratios=(3, 2))
    _plane(plane, found, val, task)
    for place, intervals in enumerate(found.intervals.values()):
        i = intervals.values["auroc"]
        areas.plot([i.low, i.high], [place, place], color="0.4")
        areas.plot(i.estimate, place, "o", color="C3")
        areas.annotate(f"{i.estimate:.2f} ({i.low:.2f} to {i.high:.2f})", (0.02, place + 0.12))
    areas.axvline(0.5, color="0.8", linewidth=1)
    areas.set_yticks(range(len(found.intervals)), list(found.intervals))
    positives = found.counts["val"]
    areas.set(xlim=(0, 1.02), ylim=(-0.5, len(found.intervals) - 0.3), xlabel="AUROC, 95 % interval by patient",
              title=f"{positives['positive_ears']} positive ears of {positives['positive_patients']} patients")
    save(figure, files[3])
    return files


def _plane(axes: Axes, found: FewShot, val: Embeddings, task: Task) -> None:
    """The first two principal components of the training ears, and where the validation ears lie in them."""
    mean, deviation = found.train.embedding.mean(0), found.train.embedding.std(0)
    deviation[deviation < 1e-9] = np.inf
    train = (found.train.embedding - mean) / deviation
    _, _, axis = np.linalg.svd(train, full_matrices=False)
    val = val[task.targets(val.label_code) >= 0]
    for ears, x, name, style in ((found.train, train, "train", {"alpha": 0.35, "s": 14}),
                                 (val, (val.embedding - mean) / deviation, "val", {"s": 34, "edgecolors": "black"})):
        y, place = task.targets(ears.label_code), x @ axis[:2].T
        for c, colour in ((0, "C0"), (1, "C3")):
            own = place[y == c]
            axes.scatter(own[:, 0], own[:, -1], color=colour, label=f"{name}, {task.class_names[c]} ({len(own)})", **style)
    axes.set(title="embeddings", xlabel="first principal component", ylabel="second")
    axes.legend(frameon=False, fontsize=8)
