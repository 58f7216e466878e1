"""Pictures of what a prediction rests on: a montage of the top slices under every map, and each top slice by itself."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei.explanations.explained_ear import ExplainedEar
from medical_fenlei.explanations.maps import GRADIENT, Explanation, Map
from medical_fenlei.explanations.methods import INTEGRATED
from medical_fenlei.pages.ear_pictures import DIM, FAINT, INK, MARK, PAPER, draw_heat, draw_marks, draw_slice, ear_palette
from medical_fenlei.pages.plots import save
from medical_fenlei.vocabulary import DIAGNOSES

KINDS = ("grey", "heat", "overlay")
"""Pictures of a single slice."""
METHOD_NAMES = {INTEGRATED: "integrated\ngradients", "gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM",
                "layercam": "LayerCAM", "xgradcam": "XGradCAM"}
LAYOUT = 2
"""Raised when montages change, so that those of earlier versions are drawn again."""
TILE, GAP = 1.62, 0.05
"""Edge of a slice in a montage, and the space between two, inches at 100 pixels each."""
LEFT, HEAD, FOOT, STRIP, MIN_WIDTH = 0.78, 0.52, 0.4, 0.34, 6.4
"""Margins of a montage, the two lines above the slices, and the least width, inches."""


def write_montage(ear: ExplainedEar, path: Path) -> None:
    """Draw the top slices in the bone window, the highest weight first; below each the same slice under every map.

    A ring marks the hottest voxel of a map in the slice that holds it.
    """
    found = ear.explanation
    lines: tuple[Map | None, ...] = (None, *found.maps)
    width = max(LEFT + len(found.slices) * (TILE + GAP), MIN_WIDTH)
    height = HEAD + STRIP + len(lines) * (TILE + GAP) + FOOT
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text,
                    **{"color": INK, "fontsize": 8, "va": "top", "parse_math": False, **style})

    write(0.1, 0.08, f"exam {ear.exam_id}, {ear.side} ear", fontsize=10, weight="bold")
    write(0.1, 0.29, f"{found.class_name}: probability {found.probability:.2f}   ·   {_label(ear.label_code)}")
    for column, k in enumerate(map(int, found.slices)):
        x = LEFT + column * (TILE + GAP)
        write(x, HEAD + 0.03, f"slice {k}, {_weight(found, k)}\n{_place(ear, k)}", fontsize=7, color=DIM, linespacing=1.3)
        for line, one in enumerate(lines):
            y = HEAD + STRIP + line * (TILE + GAP)
            axes = figure.add_axes((x / width, 1 - (y + TILE) / height, TILE / width, TILE / height))
            _draw_overlay(axes, found, k, one)
            if column == 0 and line == 0:
                draw_marks(axes, ear.affine)
    for line, one in enumerate(lines):
        y = HEAD + STRIP + line * (TILE + GAP) + TILE / 2
        write(0.1, y, _line_title(ear, one), va="center", fontsize=7.5, linespacing=1.4)
    write(0.1, height - 0.35, f"slices by {found.ranked_by}, most first; ring: hottest voxel of the volume; "
          f"colour: above {FAINT:.0%} of it\nimage: the nearest of the scan, by InstanceNumber and z of ImagePositionPatient",
          color=DIM, fontsize=7, linespacing=1.4)
    save(figure, path, palette=ear_palette())


def _label(code: int) -> str:
    known = DIAGNOSES.get(code)
    return f"label {known.code}, {known.english}" if known else "no label"


def _weight(found: Explanation, k: int) -> str:
    return f"{found.weights[k]:.2g}" if found.ranked_by == GRADIENT else f"{found.weights[k]:.0%}"


def _place(ear: ExplainedEar, k: int) -> str:
    """Where a slice is found in the scan: its image, or without one its own height."""
    return str(ear.images[k]) or f"z {ear.z_mm(k):.1f} mm"


def _line_title(ear: ExplainedEar, one: Map | None) -> str:
    if one is None:
        return "bone\nwindow"
    peak = "nothing\nspeaks for it"
    if one.peak is not None:
        number = ear.images[one.peak[0]].number
        peak = f"peak in\nslice {one.peak[0]}" + (f",\nimage {number}" if number is not None else "")
    return f"{METHOD_NAMES[one.method]}\n{peak}"


def _draw_overlay(axes: Axes, found: Explanation, k: int, one: Map | None) -> None:
    """Draw a slice, the heat of a map over it, and a ring around the peak; the slice alone without a map."""
    draw_slice(axes, found.grey[k])
    axes.set_axis_off()
    if one is None:
        return
    draw_heat(axes, one.heat[k])
    if one.peak is not None and one.peak[0] == k:
        axes.plot(one.peak[2], one.peak[1], "o", markersize=13, markerfacecolor="none", markeredgecolor=MARK,
                  markeredgewidth=1.2)


def write_slice_pictures(ear: ExplainedEar, k: int, paths: Sequence[Path]) -> None:
    """Draw one slice as each of KINDS, with the first map of the explanation, to a path for each."""
    found = ear.explanation
    title = f"{ear.side} ear, slice {k}, {_place(ear, k)}\n{found.ranked_by} {found.weights[k]:.3f}"
    for kind, path in zip(KINDS, paths, strict=True):
        figure = Figure(figsize=(5, 5.2), layout="constrained")
        _draw_kind(figure.subplots(), found, k, kind)
        figure.axes[0].set_title(title, fontsize=9)
        save(figure, path)


def _draw_kind(axes: Axes, found: Explanation, k: int, kind: str) -> None:
    first = found.maps[0]
    if kind == "heat":
        axes.imshow(first.heat[k], cmap="inferno", vmin=0, vmax=1)
    else:
        _draw_overlay(axes, found, k, first if kind == "overlay" else None)
        axes.set_axis_on()
    rows, columns = found.grey.shape[1:]
    axes.set_xticks([0, columns - 1], ["lateral", "medial"], fontsize=7)
    axes.set_yticks([0, rows - 1], ["front", "back"], fontsize=7)
    axes.tick_params(length=0)
