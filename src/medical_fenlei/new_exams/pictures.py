"""Pictures of an answer: where the ears were cropped from the scan, and the slices that a prediction rests on."""
import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from medical_fenlei.explanations.maps import Explanation
from medical_fenlei.files import atomic
from medical_fenlei.new_exams.answers import EarAnswer, TaskAnswer
from medical_fenlei.new_exams.cropping import EarOverview
from medical_fenlei.pages.ear_pictures import INK, SIDE_COLOURS, bone_grey
from medical_fenlei.vocabulary import Side

TILE, SCAN_EDGE, CAPTION = 224, 448, 48
"""Edge of a slice, height of the overview, height of the caption; pixels."""
GAP, OVERVIEW_GAP = 3, 4
"""Space between two slices and between two overviews, pixels."""
OPACITY, COLD = 0.55, 0.25
"""Opacity of the hottest voxel over the grey slice; heat below which nothing is drawn."""
GROUND = (16, 20, 24)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG."""
    with atomic(path) as file:
        picture.save(file, format="PNG")


def draw_overviews(overviews: Sequence[EarOverview]) -> Image.Image:
    """Draw the slice through the ears of each series, side by side with the patient's right on the left.

    The cropped volumes are outlined and their centres marked.
    """
    drawn = [_draw_overview(overview) for overview in sorted(overviews, key=lambda own: own.view.affine.origin[0])]
    sheet = Image.new("RGB", (sum(one.width for one in drawn) + OVERVIEW_GAP * (len(drawn) - 1), SCAN_EDGE))
    left = 0
    for one in drawn:
        sheet.paste(one, (left, 0))
        left += one.width + OVERVIEW_GAP
    return sheet


def draw_explained_slices(found: Explanation, ear: EarAnswer, task: TaskAnswer) -> Image.Image:
    """Draw the slices with the highest weights, and below each the same slice with the map over it.

    The lateral side is drawn outwards, as on an axial display: volumes have it at column 0 on both sides, so that left ears are
    mirrored.
    """
    count = len(found.slices)
    sheet = Image.new("RGB", (count * (TILE + GAP) - GAP, 2 * TILE + GAP + CAPTION), GROUND)
    pen = ImageDraw.Draw(sheet)
    mirrored = ear.side is Side.LEFT
    centre_z = ear.facts["ear_centre_lps_mm"][2]
    for n, (k, shown) in enumerate(zip(found.slices, task.slices, strict=True)):
        left = n * (TILE + GAP)
        for row, image in enumerate(_plain_and_overlay(found.grey[k], found.maps[0].heat[k])):
            sheet.paste(_tile(image[:, ::-1] if mirrored else image), (left, row * (TILE + GAP)))
        where = f"{_signed(shown.z_mm - centre_z)} mm, slice {shown.k}\n{shown.source}"
        pen.multiline_text((left + TILE / 2, 2 * TILE + GAP + CAPTION / 2), where, INK, _font(16), anchor="mm", align="center")
    ends = ("medial", "lateral") if mirrored else ("lateral", "medial")
    for x, y, anchor, text in ((5, TILE - 4, "ld", ends[0]), (TILE - 5, TILE - 4, "rd", ends[1]), (TILE / 2, 4, "ma", "front")):
        pen.text((x, y), text, INK, _font(17), anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    return sheet


def _draw_overview(overview: EarOverview) -> Image.Image:
    rows, columns = overview.view.image.shape
    down = SCAN_EDGE / rows
    across = down / overview.view.aspect
    grey = Image.fromarray(bone_grey(overview.view.image))
    picture = grey.resize((round(columns * across), SCAN_EDGE), Image.Resampling.BILINEAR).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for side, polygon in overview.outlines.items():
        colour = ImageColor.getrgb(SIDE_COLOURS[side])
        pen.polygon([((column + 0.5) * across, (row + 0.5) * down) for row, column in polygon], outline=colour, width=2)
        row, column = overview.centres[side]
        x, y = (column + 0.5) * across, (row + 0.5) * down
        pen.line([(x - 6, y), (x + 6, y)], colour, 2)
        pen.line([(x, y - 6), (x, y + 6)], colour, 2)
    for side, x, anchor in ((Side.RIGHT, 10, "lm"), (Side.LEFT, picture.width - 10, "rm")):
        pen.text((x, SCAN_EDGE / 2), side[0].upper(), SIDE_COLOURS[side], _font(32), anchor=anchor)
    return picture


def _plain_and_overlay(grey: np.ndarray, heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A slice without and with heat over it, (H, W, 3), 0 to 255; grey, heat: (H, W), 0 to 1."""
    plain = np.repeat(255 * grey[..., None], 3, axis=2)
    opacity = OPACITY * np.clip((heat[..., None] - COLD) / (1 - COLD), 0, 1)
    return plain, (1 - opacity) * plain + opacity * 255 * matplotlib.colormaps["inferno"](heat)[..., :3]


def _tile(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(image.round().clip(0, 255).astype(np.uint8))
    return picture.resize((TILE, TILE), Image.Resampling.BILINEAR)


def _signed(number: float) -> str:
    return f"{round(number):+d}" if round(number) else "0"


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
