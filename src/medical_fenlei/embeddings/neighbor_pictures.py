"""A picture of a query ear beside the training ears that the network finds most similar."""
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medical_fenlei.config import BONE
from medical_fenlei.data.augment import window
from medical_fenlei.ears.store import EarStore
from medical_fenlei.pages.ear_pictures import DIM, INK, PAPER, draw_label, draw_marks, draw_slice, ear_palette
from medical_fenlei.pages.plots import save
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.predict import forward_blocks
from medical_fenlei.vocabulary import DIAGNOSES, Side

SAME_LABEL = "#6fe07a"
"""Colour of the frame of a neighbor with the query ear's label."""
TILE, GAP = 1.9, 0.08
"""Edge of a slice and the space between two, inches at 100 pixels each."""
LEFT, HEAD, STRIP, FOOT = 0.1, 0.34, 0.5, 0.28
"""Margins of the picture, and the lines above the slices, inches."""


class _Tile(NamedTuple):
    """An ear of the picture."""

    exam_id: str
    side: Side
    label_code: int
    title: str
    alike: bool
    """Whether it is a neighbor with the query ear's label."""


def draw_neighbors(path: Path, network: TrainedNetwork, store: EarStore, train_store: EarStore, neighbors: pd.DataFrame
                   ) -> None:
    """Draw the slice with the highest attention of the query ear and of each neighbor, in the bone window.

    neighbors: the rows of one query ear in `tables.NEIGHBORS`; store holds that ear, train_store the training ears. A neighbor
    that is no longer in its store is an empty tile.
    """
    first = neighbors.iloc[0]
    tiles = [_Tile(str(first.exam_id), Side(first.side), int(first.label_code), "this ear", False),
             *map(_neighbor_tile, neighbors.sort_values("rank").to_dict("records"))]
    width, height = LEFT + len(tiles) * (TILE + GAP), HEAD + STRIP + TILE + FOOT
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", parse_math=False, linespacing=1.35,
                    **{"color": INK, "fontsize": 7.5, **style})

    write(LEFT, 0.08, f"exam {first.exam_id}, {first.side} ear, and the training ears most like it", fontsize=10, weight="bold")
    for number, tile in enumerate(tiles):
        x = LEFT + number * (TILE + GAP)
        write(x, HEAD + 0.04, f"{tile.title}\n{_label(tile.label_code)}", color=SAME_LABEL if tile.alike else INK)
        axes = figure.add_axes((x / width, FOOT / height, TILE / width, TILE / height))
        axes.set(xticks=[], yticks=[], facecolor=PAPER)
        axes.spines[:].set(color=SAME_LABEL if tile.alike else DIM, linewidth=2 if tile.alike else 0.5)
        _draw_ear(axes, network, train_store if number else store, tile, marked=number == 0)
    write(LEFT, height - 0.2, "the slice most attended to; cosine distance of the embeddings (0: alike, 1: unrelated); green: "
          "the same label", color=DIM, fontsize=7)
    save(figure, path, palette=ear_palette(SAME_LABEL))


def _neighbor_tile(row: Mapping[Hashable, Any]) -> _Tile:
    code = int(row["neighbor_label_code"])
    title = f"{row['rank']}: exam {row['neighbor_exam_id']}, {row['neighbor_side']}, {row['distance']:.2f}"
    return _Tile(str(row["neighbor_exam_id"]), Side(row["neighbor_side"]), code, title,
                 code in DIAGNOSES and code == int(row["label_code"]))


def _label(code: int) -> str:
    return f"{code} {DIAGNOSES[code].key.replace('_', ' ')}" if code in DIAGNOSES else "no label"


def _draw_ear(axes: Axes, network: TrainedNetwork, store: EarStore, tile: _Tile, *, marked: bool) -> None:
    if not store.has(tile.exam_id, tile.side):
        axes.text(0.5, 0.5, "not in the cache", color=DIM, fontsize=7, ha="center", transform=axes.transAxes)
        return
    k, grey = _most_attended_slice(network, np.array(store.read(tile.exam_id, tile.side)))
    draw_slice(axes, grey)
    draw_label(axes, 0.03, 0.97, f"slice {k}", va="top")
    if marked:
        draw_marks(axes, store.read_affine(tile.exam_id, tile.side))


@torch.inference_mode()
def _most_attended_slice(network: TrainedNetwork, volume: np.ndarray) -> tuple[int, np.ndarray]:
    """The slice k of an int16 HU volume (K, H, W) with the highest attention, the middle one if the network has no attention.

    Returns k, and the slice in the network's bone window, float32 (H, W), 0 to 1.
    """
    config, hu = network.config.augment, torch.from_numpy(volume)[None].to(network.compute.device)
    with network.compute.autocast():
        attention = forward_blocks(network.model, hu, config).attention
    k = len(volume) // 2 if attention is None else int(attention[0].argmax())
    grey: np.ndarray = window(hu[:, k:k + 1], replace(config, windows=(BONE,), slice_context=0))[0, 0, 0].cpu().numpy()
    return k, (grey + 1) / 2
