"""Pictures of an ear beside the training cases that the network finds most alike."""
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from medical_fenlei.ears.store import EarStore
from medical_fenlei.embeddings.retrieval import most_attended
from medical_fenlei.explanations.pictures import DIM, INK, PAPER, draw_marks, palette
from medical_fenlei.pages.plots import save
from medical_fenlei.trained.network import Trained
from medical_fenlei.vocabulary import DIAGNOSES, Side

SAME = "#6fe07a"
"""Frames a neighbour with the label of the ear in question."""
TILE, GAP = 1.9, 0.08
"""Edge of a slice and the space between two, inches at 100 pixels each."""


def draw_neighbours(path: Path, trained: Trained, store: EarStore, near: pd.DataFrame) -> None:
    """near: the rows of one ear in `tables.NEIGHBORS`. Of the ear and of each neighbour the slice most attended to, in the
    bone window, column 0 lateral on both sides. A neighbour that the store has lost is an empty tile."""
    first = near.iloc[0]
    asked = int(first.label_code)
    tiles = [(str(first.exam_id), Side(first.side), asked, np.nan), *(
        (row["neighbour_exam_id"], Side(row["neighbour_side"]), int(row["neighbour_label_code"]), float(row["distance"]))
        for row in near.sort_values("rank").to_dict("records"))]
    left, head, strip, foot = 0.1, 0.34, 0.5, 0.28
    width, height = left + len(tiles) * (TILE + GAP), head + strip + TILE + foot
    figure = Figure(figsize=(width, height), dpi=100, facecolor=PAPER)

    def write(x: float, y: float, text: str, colour: str = INK, size: float = 7.5, weight: str = "normal") -> None:
        figure.text(x / width, 1 - y / height, text, color=colour, fontsize=size, weight=weight, va="top", parse_math=False,
                    linespacing=1.35)

    write(left, 0.08, f"exam {first.exam_id}, {first.side} ear, and the training ears most like it", size=10, weight="bold")
    for number, (exam_id, side, code, distance) in enumerate(tiles):
        x = left + number * (TILE + GAP)
        label = DIAGNOSES[code].key.replace("_", " ") if code in DIAGNOSES else "no label"
        told = "this ear" if number == 0 else f"{number}: exam {exam_id}, {side}, {distance:.2f}"
        axes = figure.add_axes((x / width, foot / height, TILE / width, TILE / height))
        axes.set(xticks=[], yticks=[], facecolor=PAPER)
        alike = number > 0 and code == asked and code in DIAGNOSES
        write(x, head + 0.04, f"{told}\n{f'{code} ' if code in DIAGNOSES else ''}{label}", SAME if alike else INK)
        axes.spines[:].set(color=SAME if alike else DIM, linewidth=2 if alike else 0.5)
        if not store.has(exam_id, side):
            axes.text(0.5, 0.5, "not in the cache", color=DIM, fontsize=7, ha="center", transform=axes.transAxes)
            continue
        volume, affine = np.array(store.read(exam_id, side)), np.array(store.read_facts(exam_id, side)["affine_lps"])
        k, grey = most_attended(trained, volume)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="bicubic")
        axes.text(0.03, 0.97, f"slice {k}", color=INK, fontsize=6.5, va="top", transform=axes.transAxes,
                  bbox={"facecolor": "black", "alpha": 0.45, "linewidth": 0, "pad": 0.8})
        if number == 0:
            draw_marks(axes, affine)
    write(left, height - 0.2, "the slice most attended to; cosine distance of the embeddings (0: alike, 1: unrelated); green: "
          "the same label", DIM, 7)
    save(figure, path, palette=palette())
