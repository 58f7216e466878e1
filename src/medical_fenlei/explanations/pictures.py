"""Pictures and tables of what a network looked at.

Of both sides alike, rows run from front to back and columns from lateral (left) to medial.
"""
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from medical_fenlei import tables
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected, UserError
from medical_fenlei.explanations.maps import INTEGRATED, Explanation, Map, check_request, explain
from medical_fenlei.files import read_json, write_json
from medical_fenlei.pages.plots import save
from medical_fenlei.parallel import map_items
from medical_fenlei.tasks import Task
from medical_fenlei.trained.calibration import Fitted
from medical_fenlei.trained.network import Trained
from medical_fenlei.vocabulary import DIAGNOSES, UNLABELLED, Side

KINDS = ("grey", "heat", "overlay")
DEFAULT_METHODS = (INTEGRATED, "hirescam")
"""The finest map, above chance with both networks measured, and of class activation the finest (docs/explanations.md)."""
WARM = LinearSegmentedColormap.from_list("warm", ["#e01818", "#ff7a10", "#ffe14a"])
"""Of heat over a grey slice: from faint to the hottest voxel."""
OPACITY = 0.75
"""Of the hottest voxel over the grey slice; cold ones let it through."""
FAINT = 0.2
"""Heat below this share of the hottest voxel is not laid over a slice."""
SCALE_MM = 10
PAPER, INK, DIM, MARK = "#101418", "#f2f4f6", "#9aa4ae", "#46d4ff"
GREYS, HEATS, UNDER = 80, 9, 16
"""Colours of a PNG: greys, and steps of heat over so many of them."""
TILE = 1.62
"""Edge of a slice in a montage, inches at 100 pixels each."""
NAMES = {INTEGRATED: "integrated\ngradients", "gradcam": "Grad-CAM", "gradcam++": "Grad-CAM++", "hirescam": "HiResCAM",
         "layercam": "LayerCAM", "xgradcam": "XGradCAM"}
LAYOUT = 1
"""Raised when pictures change, so that those of earlier versions are made anew."""


@dataclass(frozen=True)
class ExplainedEars:
    """Of a set of ears."""

    table: pd.DataFrame
    """`tables.EXPLANATIONS`."""

    made: int
    kept: int
    """Ears whose picture was there already, of this network, this volume and these options."""

    rejects: pd.DataFrame
    """`tables.REJECTS`."""


def explain_ears(
    trained: Trained, store: EarStore, ears: pd.DataFrame, task: Task, folder: Path, *,
    methods: Sequence[str] = DEFAULT_METHODS, top: int = 5, target: str = "predicted", layer: str | None = None,
    label: str = "ears", fitted: Fitted | None = None,
) -> ExplainedEars:
    """One montage `<exam_id>_<side>.png` in `folder` for each of these ears, which are in the store, and beside it its rows.

    ears: columns exam_id and side, and where it is known label_code. An ear that cannot be explained is a reject, and the
    others go on; one that was explained before in the same way is kept. fitted: whose temperature the probabilities have.
    Raises UserError where none could be explained: an unknown method, class or layer.
    """
    methods = tuple(methods)
    check_request(trained, task, methods=methods, target=target, layer=layer)
    asked = [trained.fingerprint(), task.name, methods, top, target, layer, LAYOUT, fitted.temperature if fitted else 1.0]
    work = functools.partial(_explain_one, trained, store, task, folder, methods, top, target, layer, asked, fitted)
    codes = ears.label_code if "label_code" in ears else [UNLABELLED] * len(ears)
    items = [(str(exam), Side(side), int(code)) for exam, side, code in zip(ears.exam_id, ears.side, codes, strict=True)]
    rows, kept, made, faults = [], 0, 0, []
    for outcome in map_items(work, items, workers=0, label=label):
        if outcome.value is None:
            exam_id, side, _ = outcome.item
            faults.append({"exam_id": exam_id, "file": f"{exam_id}_{side}", "reason": outcome.reason, "detail": outcome.detail})
            continue
        own, was_there = outcome.value
        rows += own
        kept, made = kept + was_there, made + (not was_there)
    return ExplainedEars(tables.EXPLANATIONS.frame(rows), made, kept, tables.REJECTS.frame(faults))


def _explain_one(
    trained: Trained, store: EarStore, task: Task, folder: Path, methods: tuple[str, ...], top: int, target: str,
    layer: str | None, asked: list[Any], fitted: Fitted | None, ear: tuple[str, Side, int],
) -> tuple[list[dict[str, Any]], bool]:
    """The rows of one ear, and whether they were there."""
    exam_id, side, code = ear
    try:
        volume, facts = np.array(store.read(exam_id, side)), store.read_facts(exam_id, side)
        affine = np.array(facts["affine_lps"])
    except (UserError, OSError, ValueError, KeyError) as error:
        raise Rejected("damaged_entry", f"cannot be read from the cache ({type(error).__name__})") from None
    picture, beside = folder / f"{exam_id}_{side}.png", folder / f"{exam_id}_{side}.json"
    key = hashlib.sha256(json.dumps([*asked, code, facts.get("sha256")]).encode()).hexdigest()
    if picture.is_file() and beside.is_file():
        try:
            before = read_json(beside)
            if before["key"] == key:
                return before["rows"], True
        except (ValueError, KeyError, TypeError):
            pass                                                 # cut short, or of another program: made anew
    found = explain(trained, volume, affine, task, methods=methods, top=top, target=target, layer=layer)
    found = found.calibrated(fitted) if fitted else found
    write_montage(found, picture, exam_id=exam_id, side=side, affine=affine, label_code=code)
    rows = rows_of(found, exam_id=exam_id, side=side, affine=affine, label_code=code, picture=f"{folder.name}/{picture.name}")
    write_json(beside, {"key": key, "rows": rows})
    return rows, False


def rows_of(found: Explanation, *, exam_id: str, side: Side, affine: np.ndarray, label_code: int, picture: str
            ) -> list[dict[str, Any]]:
    """The ear's rows of `tables.EXPLANATIONS`."""
    rows = []
    for one in found.maps:
        peak: Sequence[int | None] = one.peak or [None] * 3
        place: Sequence[float | None] = _place(one, affine) or [None] * 3
        for rank, k in enumerate(found.slices, start=1):
            rows.append({
                "exam_id": exam_id, "side": str(side), "label_code": label_code, "class_name": found.class_name,
                "probability": found.probability, "method": one.method, "layer": one.layer, "rank": rank, "slice": int(k),
                "z_mm": round(_z(found, affine, k), 2), "weight": float(found.weights[k]), "ranked_by": found.ranked_by,
                **dict(zip(("peak_k", "peak_row", "peak_column"), peak, strict=True)),
                **dict(zip(("peak_x_mm", "peak_y_mm", "peak_z_mm"), place, strict=True)), "picture": picture,
            })
    return rows


def _place(one: Map, affine: np.ndarray) -> list[float] | None:
    """Of the hottest voxel, LPS mm."""
    if one.peak is None:
        return None
    place: list[float] = (affine[:3] @ [*one.peak, 1.0]).round(2).tolist()
    return place


def _weight(found: Explanation, k: int) -> str:
    return f"{found.weights[k]:.0%}" if found.ranked_by == "attention" else f"{found.weights[k]:.2g}"


def _z(found: Explanation, affine: np.ndarray, k: int) -> float:
    """Height of the middle of a slice, mm."""
    return float((affine @ [k, *(np.array(found.grey.shape[1:]) - 1) / 2, 1.0])[2])


def write_montage(found: Explanation, path: Path, *, exam_id: str, side: Side, affine: np.ndarray, label_code: int) -> None:
    """The top slices in the bone window, most telling first, plain and below it under each method's map; a ring marks the
    hottest voxel of the volume where it lies in one of them. affine: (4, 4), (k, row, column, 1) of the volume to LPS mm."""
    shown, down = len(found.slices), 1 + len(found.maps)
    left, head, foot, gap = 0.72, 0.52, 0.26, 0.05
    strip = 0.2                                                  # above the plain slices: number, height and weight
    width = max(left + shown * (TILE + gap), 6.4)
    height = head + strip + down * (TILE + gap) + foot
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)

    def write(x: float, y: float, text: str, **more: Any) -> None:
        figure.text(x / width, 1 - y / height, text, **{"color": INK, "fontsize": 8, "va": "top", "parse_math": False, **more})

    known = DIAGNOSES.get(label_code)
    write(0.1, 0.08, f"exam {exam_id}, {side} ear", fontsize=10, weight="bold")
    write(0.1, 0.29, f"{found.class_name}: probability {found.probability:.2f}   ·   "
          + (f"label {known.code}, {known.english}" if known else "no label"))
    for rank, k in enumerate(found.slices):
        x = left + rank * (TILE + gap)
        write(x, head + 0.03, f"slice {k}, z {_z(found, affine, k):.1f} mm, {_weight(found, k)}", fontsize=7, color=DIM)
        for line, one in enumerate((None, *found.maps)):
            y = head + strip + line * (TILE + gap)
            axes = figure.add_axes((x / width, 1 - (y + TILE) / height, TILE / width, TILE / height))
            _overlay(axes, found, int(k), one)
            if rank == 0 and line == 0:
                draw_marks(axes, affine)
    for line, one in enumerate((None, *found.maps)):
        y = head + strip + line * (TILE + gap) + TILE / 2
        write(0.1, y, "bone\nwindow" if one is None else _said(one), va="center", fontsize=7.5, linespacing=1.4)
    write(0.1, height - 0.2, f"slices by {found.ranked_by}, most first; ring: hottest voxel of the volume; "
          f"colour: above {FAINT:.0%} of it", color=DIM, fontsize=7)
    save(figure, path, palette=palette())


@functools.cache
def palette() -> Image.Image:
    """Greys, heat as it is laid over them, and the texts' colours in steps from black."""
    greys = [(level,) * 3 for level in np.linspace(0, 1, GREYS)]
    heats = [tuple((1 - OPACITY * share**0.5) * level + OPACITY * share**0.5 * np.array(WARM(share)[:3]))
             for share in np.linspace(0.02, 1, HEATS) for level in np.linspace(0, 1, UNDER)]
    texts = [tuple(share * np.array(to_rgb(colour))) for colour in (PAPER, DIM, MARK) for share in np.linspace(0.2, 1, 10)]
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(255 * np.array(greys + heats + texts)).astype(np.uint8).tobytes())
    return image


def _said(one: Map) -> str:
    peak = one.peak
    return f"{NAMES[one.method]}\n" + ("nothing\nspeaks for it" if peak is None else f"peak in\nslice {peak[0]}")


def _overlay(axes: Axes, found: Explanation, k: int, one: Map | None) -> None:
    axes.imshow(found.grey[k], cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
    axes.set_axis_off()
    if one is None:
        return
    heat = one.heat[k]
    share = np.clip((heat - FAINT) / (1 - FAINT), 0, 1)
    axes.imshow(share, cmap=WARM, vmin=0, vmax=1, alpha=OPACITY * np.sqrt(share), interpolation="bilinear")
    if one.peak is not None and one.peak[0] == k:
        axes.plot(one.peak[2], one.peak[1], "o", markersize=13, markerfacecolor="none", markeredgecolor=MARK,
                  markeredgewidth=1.2)


def draw_marks(axes: Axes, affine: np.ndarray) -> None:
    """Which way is which, and a bar of SCALE_MM."""
    rows, columns = axes.images[0].get_array().shape[:2]  # type: ignore[union-attr]
    across = float(np.linalg.norm(affine[:3, 2]))
    ground = {"facecolor": "black", "alpha": 0.45, "linewidth": 0, "pad": 0.8}
    style: dict[str, Any] = {"color": INK, "fontsize": 6.5, "transform": axes.transAxes, "bbox": ground}
    axes.text(0.02, 0.5, "lateral", ha="left", va="center", rotation=90, **style)
    axes.text(0.98, 0.5, "medial", ha="right", va="center", rotation=90, **style)
    axes.text(0.5, 0.98, "front", ha="center", va="top", **style)
    axes.text(0.5, 0.02, "back", ha="center", va="bottom", **style)
    length = SCALE_MM / across
    end, y = 0.95 * columns, 0.93 * rows
    axes.plot([end - length, end], [y, y], color=INK, linewidth=1.6, solid_capstyle="butt")
    axes.text(end - length / 2, y - 0.02 * rows, f"{SCALE_MM} mm", color=INK, fontsize=6.5, ha="center", va="bottom")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))


def write_explanation(found: Explanation, folder: Path, *, exam_id: str, side: Side, affine: np.ndarray, label_code: int,
                      facts: dict[str, Any]) -> list[Path]:
    """`slice_<k>_{grey,heat,overlay}.png` of each top slice by the first method, the montage `overview.png`, `gradcam.json`;
    returns the files.

    affine: (4, 4), (k, row, column, 1) of the ear volume to LPS mm.
    """
    written, told, first = [], [], found.maps[0]
    for k in map(int, found.slices):
        heat = first.heat[k]
        row, column = (int(i) for i in np.unravel_index(heat.argmax(), heat.shape))
        title = f"{side} ear, slice {k}, z {_z(found, affine, k):.1f} mm, {found.ranked_by} {found.weights[k]:.3f}"
        files = [folder / f"slice_{k:03d}_{kind}.png" for kind in KINDS]
        for kind, path in zip(KINDS, files, strict=True):
            figure = Figure(figsize=(5, 5.2), layout="constrained")
            _draw(figure.subplots(), found, k, kind, title)
            save(figure, path)
        written += files
        told.append({"slice": k, "z_mm": round(_z(found, affine, k), 2), "weight": float(found.weights[k]),
                     "heat": float(heat.max()), "peak_row": row, "peak_column": column,
                     "peak_lps_mm": (affine[:3] @ [k, row, column, 1.0]).round(2).tolist(),
                     "files": [path.name for path in files]})
    write_montage(found, folder / "overview.png", exam_id=exam_id, side=side, affine=affine, label_code=label_code)
    maps = [{"method": one.method, "layer": one.layer, "peak": one.peak, "peak_lps_mm": _place(one, affine)}
            for one in found.maps]
    write_json(folder / "gradcam.json", {
        "exam_id": exam_id, "side": str(side), "label_code": label_code or None, "class": found.class_name,
        "probability": found.probability, "ranked_by": found.ranked_by, **facts, "maps": maps, "slices": told,
    })
    return [*written, folder / "overview.png", folder / "gradcam.json"]


def _draw(axes: Axes, found: Explanation, k: int, kind: str, title: str) -> None:
    first = found.maps[0]
    if kind == "heat":
        axes.imshow(first.heat[k], cmap="inferno", vmin=0, vmax=1)
    else:
        _overlay(axes, found, k, first if kind == "overlay" else None)
        axes.set_axis_on()
    axes.set_title(title, fontsize=9)
    rows, columns = found.grey.shape[1:]
    axes.set_xticks([0, columns - 1], ["lateral", "medial"], fontsize=7)
    axes.set_yticks([0, rows - 1], ["front", "back"], fontsize=7)
    axes.tick_params(length=0)
