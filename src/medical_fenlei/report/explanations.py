"""Pictures of what a network looked at."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei.analysis.gradcam import Explanation
from medical_fenlei.files import write_json
from medical_fenlei.report.plots import save
from medical_fenlei.vocabulary import Side

KINDS = ("grey", "heat", "overlay")
OPACITY = 0.45
"""Of the hottest pixel over the grey slice; cold ones let it through."""


def write_explanation(found: Explanation, folder: Path, *, exam_id: str, side: Side, affine: np.ndarray, facts: dict[str, Any]
                      ) -> list[Path]:
    """`slice_<k>_{grey,heat,overlay}.png` of each slice, `overview.png` of all, `gradcam.json`; returns the files.

    affine: (4, 4), (k, row, column, 1) of the ear volume to LPS mm.
    """
    written, told = [], []
    for rank, (k, weight, heat) in enumerate(zip(found.slices, found.weights, found.heat, strict=True)):
        row, column = (int(i) for i in np.unravel_index(heat.argmax(), heat.shape))
        peak = affine[:3] @ np.array([k, row, column, 1.0])
        middle = affine[:3] @ np.array([k, *(np.array(heat.shape) - 1) / 2, 1.0])
        title = f"{side} ear, slice {k}, z {middle[2]:.1f} mm, {found.ranked_by} {weight:.3f}"
        files = [folder / f"slice_{k:03d}_{kind}.png" for kind in KINDS]
        for kind, path in zip(KINDS, files, strict=True):
            figure = Figure(figsize=(5, 5.2), layout="constrained")
            _draw(figure.subplots(), found, rank, kind, title)
            save(figure, path)
        written += files
        told.append({"slice": int(k), "z_mm": round(float(middle[2]), 2), "weight": float(weight), "peak_row": row,
                     "peak_column": column, "peak_lps_mm": peak.round(2).tolist(), "files": [path.name for path in files]})
    overview = Figure(figsize=(3.2 * len(told), 3.4 * len(KINDS)), layout="constrained")
    for axes_of_kind, kind in zip(overview.subplots(len(KINDS), len(told), squeeze=False), KINDS, strict=True):
        for rank, axes in enumerate(axes_of_kind):
            _draw(axes, found, rank, kind, f"slice {told[rank]['slice']}, z {told[rank]['z_mm']:.1f} mm")
    overview.suptitle(f"{side} ear: {found.class_name}, probability {found.probability:.2f}")
    save(overview, folder / "overview.png")
    write_json(folder / "gradcam.json", {
        "exam_id": exam_id, "side": str(side), "class": found.class_name, "probability": found.probability,
        "layer": found.layer, "ranked_by": found.ranked_by, **facts, "slices": told,
    })
    return [*written, folder / "overview.png", folder / "gradcam.json"]


def _draw(axes: Axes, found: Explanation, rank: int, kind: str, title: str) -> None:
    """Rows run front to back, columns from lateral to medial, on both sides alike."""
    heat = found.heat[rank]
    if kind != "heat":
        axes.imshow(found.grey[rank], cmap="gray", vmin=0, vmax=1)
    if kind != "grey":
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=None if kind == "heat" else OPACITY * heat)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([0, heat.shape[1] - 1], ["lateral", "medial"], fontsize=7)
    axes.set_yticks([0, heat.shape[0] - 1], ["front", "back"], fontsize=7)
    axes.tick_params(length=0)
