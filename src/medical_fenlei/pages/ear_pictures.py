"""How pictures of ears look: colours, grey levels, a slice, heat over it, and marks of direction and scale.

Both sides are drawn alike: rows run from front to back, columns from lateral (left) to medial.
"""
import functools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from PIL import Image

from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import Side

PAPER, INK, DIM, MARK = "#101418", "#f2f4f6", "#9aa4ae", "#46d4ff"
"""Colours of the background, of text, of secondary text, and of the ring around a peak."""
DISPLAY_ORDER = (Side.RIGHT, Side.LEFT)
"""The ears from left to right of a page: radiologists see axial slices from below, the patient's right on the left."""
SIDE_COLOURS = {Side.RIGHT: "#ffa028", Side.LEFT: "#46b4ff"}
LEVEL_HU, WIDTH_HU = 700, 4000
"""Bone window of pictures without a network; those of a network use its own."""
HEAT_COLOURS = LinearSegmentedColormap.from_list("warm", ["#e01818", "#ff7a10", "#ffe14a"])
"""Colours of heat over a grey slice, from faint to the hottest voxel."""
OPACITY = 0.75
"""Opacity of the hottest voxel over the grey slice; colder ones are more transparent."""
FAINT = 0.2
"""Share of the hottest voxel below which heat is not drawn."""
SCALE_MM = 10
"""Length of the scale bar in mm."""
COLOURS, GREYS, HEATS, GREYS_UNDER_HEAT = 256, 80, 9, 16
"""Colours of a PNG: all, plain greys, and steps of heat over each of fewer greys; the rest is for texts."""


def bone_grey(hu: np.ndarray) -> np.ndarray:
    """Convert int16 HU to uint8 greys through the bone window."""
    share = (hu.astype(np.float32) - (LEVEL_HU - WIDTH_HU / 2)) / WIDTH_HU
    return (np.clip(share, 0, 1) * 255).astype(np.uint8)


def draw_slice(axes: Axes, grey: np.ndarray) -> None:
    """Draw a slice (H, W) with values 0 to 1."""
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")


def draw_heat(axes: Axes, heat: np.ndarray) -> None:
    """Draw heat (H, W) over a slice; values 0 to 1, where 1 is the hottest voxel of the volume."""
    share = np.clip((heat - FAINT) / (1 - FAINT), 0, 1)
    axes.imshow(share, cmap=HEAT_COLOURS, vmin=0, vmax=1, alpha=OPACITY * np.sqrt(share), interpolation="bilinear")


def draw_label(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Write a small text on a translucent ground; x, y: shares of the axes from the lower left."""
    ground = {"facecolor": "black", "alpha": 0.45, "linewidth": 0, "pad": 0.8}
    axes.text(x, y, text, color=INK, fontsize=6.5, transform=axes.transAxes, bbox=ground, **style)


def draw_marks(axes: Axes, affine: Affine) -> None:
    """Mark lateral, medial, front and back on a slice, and draw a bar of SCALE_MM; affine: voxel index to mm."""
    rows, columns = axes.images[0].get_array().shape[:2]  # type: ignore[union-attr]
    draw_label(axes, 0.02, 0.5, "lateral", ha="left", va="center", rotation=90)
    draw_label(axes, 0.98, 0.5, "medial", ha="right", va="center", rotation=90)
    draw_label(axes, 0.5, 0.98, "front", ha="center", va="top")
    draw_label(axes, 0.5, 0.02, "back", ha="center", va="bottom")
    length = SCALE_MM / float(affine.spacing[2])
    end, y = 0.95 * columns, 0.93 * rows
    axes.plot([end - length, end], [y, y], color=INK, linewidth=1.6, solid_capstyle="butt")
    axes.text(end - length / 2, y - 0.02 * rows, f"{SCALE_MM} mm", color=INK, fontsize=6.5, ha="center", va="bottom")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))


@functools.cache
def ear_palette(*more: str) -> Image.Image:
    """A palette of greys, of heat over greys, and of the texts' colours from black up.

    more: colours of texts beside PAPER, DIM and MARK.
    """
    greys = [(level,) * 3 for level in np.linspace(0, 1, GREYS)]
    heats = [tuple((1 - OPACITY * share**0.5) * level + OPACITY * share**0.5 * np.array(HEAT_COLOURS(share)[:3]))
             for share in np.linspace(0.02, 1, HEATS) for level in np.linspace(0, 1, GREYS_UNDER_HEAT)]
    colours = (PAPER, DIM, MARK, *more)
    shades = np.linspace(0.2, 1, (COLOURS - len(greys) - len(heats)) // len(colours))
    texts = [tuple(share * np.array(to_rgb(colour))) for colour in colours for share in shades]
    image = Image.new("P", (1, 1))
    image.putpalette(np.rint(255 * np.array(greys + heats + texts)).astype(np.uint8).tobytes())
    return image
