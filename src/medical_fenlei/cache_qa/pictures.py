"""Draw cached ears: a picture per exam with its scan, slices and histograms, and an overview of the outliers."""
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from medical_fenlei.cache_qa.outliers import BIN_CENTRES, CachedEar
from medical_fenlei.ears.scan_view import ScanView, box_corners, open_view, outline, plane_line
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected
from medical_fenlei.pages.ear_pictures import DIM, DISPLAY_ORDER, INK, PAPER, SIDE_COLOURS, bone_grey
from medical_fenlei.pages.plots import save
from medical_fenlei.vocabulary import Side

UNUSUAL = 3.0
"""Score from which on an ear counts as unusual."""

WHY = {"confidence": "low confidence", "padding": "much padding", "histogram": "unusual HU",
       "plane": "ears at unequal distance from the midsagittal plane", "height": "ears at unequal height"}
"""Meaning of each part of the score."""

PLANE_COLOUR = "#6fe07a"
TILES = (2, 4)
"""Rows and columns of slices of an ear in the picture of an exam."""
OVERVIEW_TILES = (4, 6)
"""Rows and columns of ears in the overview."""
PNG_PIXELS = (1148, 820)
"""Width and height of the picture of an exam."""
SCAN_BOX, HISTOGRAM_BOX = (16, 44, 440, 440), (66, 560, 390, 222)
SLICES_BOX = {Side.RIGHT: (496, 72, 640, 322), Side.LEFT: (496, 478, 640, 322)}
"""Left, top, width and height of the parts of an exam's picture, pixels."""
GREYS = 72


@dataclass(frozen=True)
class ExamRecord:
    """What the picture of an exam shows."""

    exam_id: str
    ears: dict[Side, CachedEar]
    """The ears that could be read."""

    rows: dict[Side, dict[str, Any]]
    """The row of each ear in `tables.QA_EARS`."""

    absent: str
    """Reason code why the other ear, if any, could not be read."""


def reason_of(score: float, part: str) -> str:
    """Return in words what makes an ear unusual, by its score and the part that decides it."""
    return WHY[part] if score >= UNUSUAL else f"nothing unusual (largest part: {part})"


def draw_exam(store: EarStore, dicom_base: Path, median: np.ndarray, folder: Path, exam: ExamRecord) -> str:
    """Write the picture `<exam_id>.png` of an exam; return why it does not show the scan, or "".

    median (bins,): the median histogram of all ears.
    """
    width, height = PNG_PIXELS
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER)

    def axes(left: float, top: float, wide: float, high: float) -> Axes:
        made = figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height), facecolor=PAPER)
        made.tick_params(colors=DIM, labelsize=7)
        made.spines[:].set_visible(False)
        return made

    def write(left: float, top: float, text: str, colour: str = INK, size: float = 8, **more: Any) -> None:
        figure.text(left / width, 1 - top / height, text, color=colour, fontsize=size, va="top", parse_math=False, **more)

    left, top, wide, high = SCAN_BOX
    write(left, 12, f"exam {exam.exam_id}", size=12, weight="bold")
    views, why_not = _views(dicom_base, exam)
    for number, (ears, view) in enumerate(views):
        share = wide / len(views)
        _draw_scan(axes(left + number * share, top, share - 4, high), view, ears)
    if why_not:
        write(left, top + high / 2, f"The scan cannot be shown ({why_not}), only the cached volumes.", DIM)
    else:
        numbers = " and ".join(str(view.k + 1) for _, view in views)
        write(left, top + high + 6, f"Slice {numbers} of the scan, counted from below, nearest to the ears' centres (+).\n"
              "Solid: the volume cut out; dotted: the same where it misses this slice.\nDashed: the midsagittal plane.", DIM, 7)
    _draw_histograms(axes(*HISTOGRAM_BOX), median, exam)
    for side, box in SLICES_BOX.items():
        left, top = box[0], box[1] - 60
        write(left, top, f"{side.upper()} EAR", SIDE_COLOURS[side], 10, weight="bold")
        if side not in exam.ears:
            write(left, top + 22, f"no volume to show: {exam.absent}", DIM)
            continue
        ear, row = exam.ears[side], exam.rows[side]
        write(left + 98, top + 1, f"score {row['score']:.1f}: {reason_of(row['score'], row['why'])}")
        write(left, top + 17, _facts(ear, row), DIM, 7.5, linespacing=1.3)
        write(left, top + 44, "; ".join(ear.reasons)[:120], SIDE_COLOURS[side], 7.5)
        _draw_slices(axes(*box), store.read(exam.exam_id, side), ear)
    save(figure, folder / f"{exam.exam_id}.png", palette=_palette())
    return why_not


def _facts(ear: CachedEar, row: dict[str, Any]) -> str:
    return (f"confidence {ear.confidence:.2f}, padded {ear.padded_share:.1%}, HU histogram {row['histogram_distance']:.0f} HU "
            f"from the median of all ears\ncentre {ear.lateral:.1f} mm from the midsagittal plane; the other ear differs by "
            f"{row['plane_difference_mm']:.1f} mm, and by {row['height_difference_mm']:.1f} mm in height").replace("nan", "?")


def _views(dicom_base: Path, exam: ExamRecord) -> tuple[list[tuple[list[CachedEar], ScanView]], str]:
    """Return a slice of each series with the ears cut from it, or why there is none."""
    of_series: dict[str, list[CachedEar]] = {}
    for side in DISPLAY_ORDER:
        if side in exam.ears:
            of_series.setdefault(exam.ears[side].series_relpath, []).append(exam.ears[side])
    if not all(of_series):
        return [], "its series is not named"
    try:
        return [(ears, open_view(dicom_base, relpath, [ear.centre for ear in ears]))
                for relpath, ears in of_series.items()], ""
    except Rejected as rejected:                                 # the volumes are shown without it
        return [], rejected.reason


def _draw_scan(axes: Axes, view: ScanView, ears: Sequence[CachedEar]) -> None:
    axes.imshow(bone_grey(view.image), cmap="gray", vmin=0, vmax=255, aspect=view.aspect)
    axes.set_axis_off()
    for ear in ears:
        box = box_corners(ear.affine, ear.shape, view.affine)
        reached = box[..., 0].min() <= view.k <= box[..., 0].max()
        rows, columns = outline(box, view.k).T
        axes.fill(columns, rows, fill=False, edgecolor=SIDE_COLOURS[ear.side], linewidth=1.2, linestyle="-" if reached else ":")
        _, row, column = view.affine.inverse.apply(ear.centre)
        axes.plot(column, row, "+", color=SIDE_COLOURS[ear.side], markersize=11, markeredgewidth=1.4)
    rows, columns = plane_line(ears[0].plane_point, ears[0].plane_normal, view).T
    axes.plot(columns, rows, color=PLANE_COLOUR, linewidth=1, linestyle="--")
    high, wide = view.image.shape
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
    for edge, side in ((0.02, Side.RIGHT), (0.98, Side.LEFT)):
        axes.text(edge, 0.5, side[0].upper(), color=SIDE_COLOURS[side], fontsize=13, weight="bold", transform=axes.transAxes,
                  ha="left" if side is Side.RIGHT else "right", va="center")


def _draw_slices(axes: Axes, volume: np.ndarray, ear: CachedEar) -> None:
    """Draw slices spread over a volume, from below, each with its height relative to the centre of the ear."""
    available, rows, columns = volume.shape
    count = min(available, TILES[0] * TILES[1])
    chosen = ((np.arange(count) + 0.5) * available / count).astype(int)
    gap = max(1, columns // 60)
    sheet = np.full((TILES[0] * (rows + gap) - gap, TILES[1] * (columns + gap) - gap), 30, np.uint8)
    centre_k, centre_row, centre_column = ear.affine.inverse.apply(ear.centre)
    nearest, slice_mm = int(np.abs(chosen - centre_k).argmin()), ear.affine.step(0)[2]
    for number, k in enumerate(chosen):
        top, left = (number // TILES[1]) * (rows + gap), (number % TILES[1]) * (columns + gap)
        sheet[top:top + rows, left:left + columns] = bone_grey(volume[k])
        axes.text(left + 0.03 * columns, top + 0.03 * rows, f"{(k - centre_k) * slice_mm:+.0f} mm", color=INK,
                  fontsize=7, va="top", bbox={"facecolor": "black", "alpha": 0.5, "linewidth": 0, "pad": 1})
        if number == nearest:
            axes.plot(left + centre_column, top + centre_row, "+", color=SIDE_COLOURS[ear.side], markersize=9,
                      markeredgewidth=1)
    _, down, across = ear.affine.spacing
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, aspect=down / across)
    axes.set(xlim=(-0.5, sheet.shape[1] - 0.5), ylim=(sheet.shape[0] - 0.5, -0.5))
    axes.set_xticks([0.12 * columns, 0.88 * columns], ["lateral", "medial"])
    axes.set_yticks([0.12 * rows, 0.88 * rows], ["front", "back"], rotation=90, va="center")
    axes.tick_params(length=0, pad=2)


def _draw_histograms(axes: Axes, median: np.ndarray, exam: ExamRecord) -> None:
    least = 1e-4
    axes.fill_between(BIN_CENTRES, least, np.maximum(median, least), step="mid", color="#59626b", linewidth=0,
                      label="all ears (median)")
    for side in filter(exam.ears.get, DISPLAY_ORDER):
        shares = np.maximum(exam.ears[side].histogram, least)
        axes.step(BIN_CENTRES, shares, where="mid", color=SIDE_COLOURS[side], linewidth=1, label=f"{side} ear")
    axes.set(yscale="log", xlim=(BIN_CENTRES[0], BIN_CENTRES[-1]), ylim=(least, 1))
    axes.set_xlabel("HU", color=DIM, fontsize=7)
    axes.set_ylabel("share of the voxels", color=DIM, fontsize=7)
    axes.legend(frameon=False, fontsize=7, labelcolor=INK)


def draw_overview(path: Path, store: EarStore, ranked: pd.DataFrame) -> None:
    """Write a picture of the middle slices of the first ears of `tables.QA_EARS`, those with the largest scores."""
    down, across = OVERVIEW_TILES
    shown = ranked.head(down * across)
    down = -(-len(shown) // across)
    figure = Figure(figsize=(2 * across, 2.3 * down + 0.4), dpi=100, facecolor=PAPER)
    grid = figure.subplots(down, across, squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.75 / (2.3 * down + 0.4), wspace=0.03, hspace=0.2)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, row in zip(grid.flat, shown.itertuples(), strict=False):
        side = Side(str(row.side))
        volume = store.read(str(row.exam_id), side)
        axes.imshow(bone_grey(volume[len(volume) // 2]), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{row.exam_id} {side}\n{row.score:.1f} {row.why}", fontsize=8, color=SIDE_COLOURS[side],
                       parse_math=False)
    title = f"The {len(shown)} most unusual ears: middle slice, lateral on the left; score and the part that decides it"
    figure.text(0.005, 0.99, title, color=INK, fontsize=9, va="top")
    save(figure, path, palette=_palette())


@functools.cache
def _palette() -> Image.Image:
    """Return a palette of greys and of each colour in steps from black and from white, so that smooth lines stay smooth."""
    greys = [(level,) * 3 for level in np.linspace(0, 1, GREYS)]
    steps = [tuple(share * np.array(colors.to_rgb(colour)) + (1 - share) * ground)
             for colour in (*SIDE_COLOURS.values(), PLANE_COLOUR, PAPER, DIM, INK) for ground in (0.0, 1.0)
             for share in np.linspace(1 / 12, 1, 12)]
    flat = np.rint(255 * np.array(greys + steps)).astype(np.uint8)
    image = Image.new("P", (1, 1))
    image.putpalette(flat.tobytes())
    return image
