"""Every cached ear to look at: a picture an exam, the oddest ears together, and a page that lists all, the oddest first."""
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from medical_fenlei import tables
from medical_fenlei.cache_qa.outliers import BIN_CENTRES, DAMAGED, NOT_CACHED, Ear, median_histogram
from medical_fenlei.ears.scan_view import ScanView, box_corners, open_view, outline, place, plane_line
from medical_fenlei.ears.store import EarStore
from medical_fenlei.errors import Rejected
from medical_fenlei.files import write_text
from medical_fenlei.pages.html import template
from medical_fenlei.pages.plots import save
from medical_fenlei.parallel import map_items
from medical_fenlei.vocabulary import Side

LEVEL_HU, WIDTH_HU = 700, 4000
"""Bone window."""

LOW_CONFIDENCE, PADDED, ODD = 0.5, 0.01, 3.0
"""What the page counts: confidence below, padded share above, score from here on; reasons to doubt the place always count."""

WHY = {"confidence": "low confidence", "padding": "much padding", "histogram": "unusual HU",
       "plane": "ears at unequal distance from the midsagittal plane", "height": "ears at unequal height"}
"""What the parts of the score mean, where it is odd."""

COLOURS = {Side.RIGHT: "#ffa028", Side.LEFT: "#46b4ff"}
PAPER, INK, DIM, PLANE_COLOUR = "#101418", "#f2f4f6", "#9aa4ae", "#6fe07a"
AS_SEEN = (Side.RIGHT, Side.LEFT)
"""The patient's right stands at the left of a picture, as radiologists look at axial slices."""

TILES = (2, 4)
"""Rows and columns of slices of an ear in an exam's picture."""
WORST_TILES = (4, 6)
"""Of ears in the overview."""
PNG_PIXELS = (1148, 820)
SCAN_BOX, HISTOGRAM_BOX = (16, 44, 440, 440), (66, 560, 390, 222)
SLICES_BOX = {Side.RIGHT: (496, 72, 640, 322), Side.LEFT: (496, 478, 640, 322)}
"""Left, top, width and height of the parts of an exam's picture, pixels."""
GREYS = 72


@dataclass(frozen=True)
class _Exam:
    """What a picture shows: the sound ears, their rows of `tables.QA_EARS`, and why the other ear is not there."""

    exam_id: str
    ears: dict[Side, Ear]
    rows: dict[Side, dict[str, Any]]
    absent: str


@dataclass(frozen=True)
class Written:
    """What a report holds."""

    ranked: pd.DataFrame
    """`tables.QA_EARS`, with the picture of each ear that has one."""

    pictures: int
    without_scan: dict[str, str]
    """Exams whose picture shows the cached volumes alone, and why."""

    rejects: pd.DataFrame
    """`tables.REJECTS`: what was left out before, and exams that could not be drawn."""


def write_ear_qa(
    folder: Path, store: EarStore, ears: Sequence[Ear], ranked: pd.DataFrame, rejects: pd.DataFrame,
    *, dicom_base: Path, worst: int, workers: int,
) -> Written:
    """`exams/<exam_id>.png` of the `worst` exams (0: all), `overview.png`, `qa_ears.csv`, `index.html`."""
    exams = _exams(ears, ranked, rejects)[:worst or None]
    draw = functools.partial(_draw_exam, store, dicom_base, median_histogram(ears), folder / "exams")
    drawn, without_scan, faults = {}, {}, []
    for outcome in map_items(draw, exams, workers=workers, label="pictures"):
        exam_id = outcome.item.exam_id
        if outcome.value is None:
            faults.append({"exam_id": exam_id, "file": "", "reason": outcome.reason, "detail": outcome.detail})
            continue
        drawn[exam_id] = f"exams/{exam_id}.png"
        if outcome.value:
            without_scan[exam_id] = outcome.value
    ranked = ranked.assign(picture=ranked.exam_id.map(drawn).fillna("").astype("str"))
    rejects = tables.REJECTS.frame(pd.concat([rejects, tables.REJECTS.frame(faults)], ignore_index=True))
    _draw_overview(folder / "overview.png", store, ranked)
    tables.QA_EARS.write(folder / "qa_ears.csv", ranked)
    _write_page(folder / "index.html", store, ranked, rejects)
    return Written(ranked, len(drawn), without_scan, rejects)


def _exams(ears: Sequence[Ear], ranked: pd.DataFrame, rejects: pd.DataFrame) -> list[_Exam]:
    """Of every exam with a sound ear, that with the oddest ear first."""
    reason = dict(zip(rejects.exam_id, rejects.reason, strict=True))     # of two ears one is sound: there is one reason at most
    exams = {str(exam): _Exam(str(exam), {}, {}, str(reason.get(exam, NOT_CACHED))) for exam in ranked.exam_id}
    for ear in ears:
        exams[ear.exam_id].ears[ear.side] = ear
    for row in ranked.to_dict("records"):
        exams[row["exam_id"]].rows[Side(row["side"])] = {str(name): value for name, value in row.items()}
    return list(exams.values())


def _draw_exam(store: EarStore, dicom_base: Path, median: np.ndarray, folder: Path, exam: _Exam) -> str:
    """Write the picture of an exam; returns why the scan is not in it, or nothing."""
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
    for number, (shown, view) in enumerate(views):
        share = wide / len(views)
        _draw_scan(axes(left + number * share, top, share - 4, high), view, shown)
    if why_not:
        write(left, top + high / 2, f"The scan cannot be shown ({why_not}): only the cached volumes are.", DIM)
    else:
        numbers = " and ".join(str(view.k + 1) for _, view in views)
        write(left, top + high + 6, f"Slice {numbers} of the scan, counted from below, nearest to the ears' centres (+).\n"
              "Solid: what was cut out; dotted: the same, where it does not reach this slice.\nDashed: the midsagittal plane.",
              DIM, 7)
    _draw_histograms(axes(*HISTOGRAM_BOX), median, exam)
    for side, box in SLICES_BOX.items():
        left, top = box[0], box[1] - 60
        write(left, top, f"{side.upper()} EAR", COLOURS[side], 10, weight="bold")
        if side not in exam.ears:
            write(left, top + 22, f"no volume to show: {exam.absent}", DIM)
            continue
        ear, row = exam.ears[side], exam.rows[side]
        write(left + 98, top + 1, f"score {row['score']:.1f}: {_why(row['score'], row['why'])}")
        write(left, top + 17, _facts(ear, row), DIM, 7.5, linespacing=1.3)
        write(left, top + 44, "; ".join(ear.reasons)[:120], COLOURS[side], 7.5)
        _draw_slices(axes(*box), store.read(exam.exam_id, side), ear)
    save(figure, folder / f"{exam.exam_id}.png", palette=_palette())
    return why_not


def _why(score: float, part: str) -> str:
    return WHY[part] if score >= ODD else f"nothing odd (most: {part})"


def _facts(ear: Ear, row: dict[str, Any]) -> str:
    return (f"confidence {ear.confidence:.2f}, padded {ear.padded_share:.1%}, HU histogram {row['histogram_distance']:.0f} HU "
            f"from the median of all ears\ncentre {ear.lateral:.1f} mm from the midsagittal plane; the other ear differs by "
            f"{row['plane_difference_mm']:.1f} mm, and by {row['height_difference_mm']:.1f} mm in height").replace("nan", "?")


def _views(dicom_base: Path, exam: _Exam) -> tuple[list[tuple[list[Ear], ScanView]], str]:
    """A slice of each series that the ears come from, with those ears; or why there is none."""
    of_series: dict[str, list[Ear]] = {}
    for side in AS_SEEN:
        if side in exam.ears:
            of_series.setdefault(exam.ears[side].series_relpath, []).append(exam.ears[side])
    if not all(of_series):
        return [], "its series is not named"
    try:
        return [(ears, open_view(dicom_base, relpath, [ear.centre for ear in ears]))
                for relpath, ears in of_series.items()], ""
    except Rejected as rejected:                                 # the volumes are still worth a look
        return [], rejected.reason


def _draw_scan(axes: Axes, view: ScanView, ears: Sequence[Ear]) -> None:
    axes.imshow(_grey(view.image), cmap="gray", vmin=0, vmax=255, aspect=view.aspect)
    axes.set_axis_off()
    for ear in ears:
        corners = box_corners(ear.affine, ear.shape, view.affine)
        reached = corners[..., 0].min() <= view.k <= corners[..., 0].max()
        rows, columns = outline(corners, view.k).T
        axes.fill(columns, rows, fill=False, edgecolor=COLOURS[ear.side], linewidth=1.2, linestyle="-" if reached else ":")
        _, row, column = place(ear.centre, view.affine)
        axes.plot(column, row, "+", color=COLOURS[ear.side], markersize=11, markeredgewidth=1.4)
    rows, columns = plane_line(ears[0].plane_point, ears[0].plane_normal, view).T
    axes.plot(columns, rows, color=PLANE_COLOUR, linewidth=1, linestyle="--")
    high, wide = view.image.shape
    axes.set(xlim=(-0.5, wide - 0.5), ylim=(high - 0.5, -0.5))
    for edge, side in ((0.02, Side.RIGHT), (0.98, Side.LEFT)):
        axes.text(edge, 0.5, side[0].upper(), color=COLOURS[side], fontsize=13, weight="bold", transform=axes.transAxes,
                  ha="left" if side is Side.RIGHT else "right", va="center")


def _draw_slices(axes: Axes, volume: np.ndarray, ear: Ear) -> None:
    """Slices spread over a volume, from below, each with its height beside the ear's centre."""
    available, rows, columns = volume.shape
    count = min(available, TILES[0] * TILES[1])
    chosen = ((np.arange(count) + 0.5) * available / count).astype(int)
    gap = max(1, columns // 60)
    sheet = np.full((TILES[0] * (rows + gap) - gap, TILES[1] * (columns + gap) - gap), 30, np.uint8)
    centre = place(ear.centre, ear.affine)
    nearest = int(np.abs(chosen - centre[0]).argmin())
    for number, k in enumerate(chosen):
        top, left = (number // TILES[1]) * (rows + gap), (number % TILES[1]) * (columns + gap)
        sheet[top:top + rows, left:left + columns] = _grey(volume[k])
        axes.text(left + 0.03 * columns, top + 0.03 * rows, f"{(k - centre[0]) * ear.affine[2, 0]:+.0f} mm", color=INK,
                  fontsize=7, va="top", bbox={"facecolor": "black", "alpha": 0.5, "linewidth": 0, "pad": 1})
        if number == nearest:
            axes.plot(left + centre[2], top + centre[1], "+", color=COLOURS[ear.side], markersize=9, markeredgewidth=1)
    down, across = np.linalg.norm(ear.affine[:3, 1:3], axis=0)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, aspect=down / across)
    axes.set(xlim=(-0.5, sheet.shape[1] - 0.5), ylim=(sheet.shape[0] - 0.5, -0.5))
    axes.set_xticks([0.12 * columns, 0.88 * columns], ["lateral", "medial"])
    axes.set_yticks([0.12 * rows, 0.88 * rows], ["front", "back"], rotation=90, va="center")
    axes.tick_params(length=0, pad=2)


def _draw_histograms(axes: Axes, median: np.ndarray, exam: _Exam) -> None:
    least = 1e-4
    axes.fill_between(BIN_CENTRES, least, np.maximum(median, least), step="mid", color="#59626b", linewidth=0,
                      label="all ears (median)")
    for side in filter(exam.ears.get, AS_SEEN):
        shares = np.maximum(exam.ears[side].histogram, least)
        axes.step(BIN_CENTRES, shares, where="mid", color=COLOURS[side], linewidth=1, label=f"{side} ear")
    axes.set(yscale="log", xlim=(BIN_CENTRES[0], BIN_CENTRES[-1]), ylim=(least, 1))
    axes.set_xlabel("HU", color=DIM, fontsize=7)
    axes.set_ylabel("share of the voxels", color=DIM, fontsize=7)
    axes.legend(frameon=False, fontsize=7, labelcolor=INK)


def _draw_overview(path: Path, store: EarStore, ranked: pd.DataFrame) -> None:
    """The middle slices of the oddest ears."""
    down, across = WORST_TILES
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
        axes.imshow(_grey(volume[len(volume) // 2]), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{row.exam_id} {side}\n{row.score:.1f} {row.why}", fontsize=8, color=COLOURS[side], parse_math=False)
    title = f"The {len(shown)} oddest ears: middle slice, lateral at the left; score and the part that makes it"
    figure.text(0.005, 0.99, title, color=INK, fontsize=9, va="top")
    save(figure, path, palette=_palette())


def _grey(hu: np.ndarray) -> np.ndarray:
    """uint8 of int16 HU through the bone window."""
    share = (hu.astype(np.float32) - (LEVEL_HU - WIDTH_HU / 2)) / WIDTH_HU
    return (np.clip(share, 0, 1) * 255).astype(np.uint8)


@functools.cache
def _palette() -> Image.Image:
    """Greys, and each colour in steps from black and from white, so that smooth lines stay smooth."""
    greys = [(level,) * 3 for level in np.linspace(0, 1, GREYS)]
    steps = [tuple(share * np.array(colors.to_rgb(colour)) + (1 - share) * ground)
             for colour in (*COLOURS.values(), PLANE_COLOUR, PAPER, DIM, INK) for ground in (0.0, 1.0)
             for share in np.linspace(1 / 12, 1, 12)]
    flat = np.rint(255 * np.array(greys + steps)).astype(np.uint8)
    image = Image.new("P", (1, 1))
    image.putpalette(flat.tobytes())
    return image


def _write_page(path: Path, store: EarStore, ranked: pd.DataFrame, rejects: pd.DataFrame) -> None:
    counts = {
        "ears": len(ranked), "exams": ranked.exam_id.nunique(),
        "low confidence": int(((ranked.confidence < LOW_CONFIDENCE) | (ranked.reasons != "")).sum()),
        f"odd, score {ODD:.0f} or more": int((ranked.score >= ODD).sum()),
        f"padded, over {PADDED:.0%}": int((ranked.padded_share > PADDED).sum()),
        "not in the cache": int((rejects.reason == NOT_CACHED).sum()),
        "damaged": int((rejects.reason == DAMAGED).sum()),
        "not drawn": int((~rejects.reason.isin([DAMAGED, NOT_CACHED])).sum()),
    }
    page = template("cache_qa", "ear_qa.html", link=quote)                   # a file's name may hold what a URL may not
    write_text(path, page.render(
        key=store.folder.name, counts=counts, rows=ranked.to_dict("records"), odd=ODD, why=_why,
        picture_width=PNG_PIXELS[0], boxes={"scan": SCAN_BOX, **SLICES_BOX},
        rejects=rejects[rejects.reason != NOT_CACHED].to_dict("records"),
        rejects_csv=tables.rejects_path(Path("qa_ears.csv")).name,
        level=LEVEL_HU, width=WIDTH_HU,
    ))
