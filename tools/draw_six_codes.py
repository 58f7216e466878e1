"""The picture of the README: both ears with each of the six codes, as the synthetic hospital draws them, in the bone window.

    python tools/draw_six_codes.py --out docs/img/six_codes.png
"""
import argparse
import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from medical_fenlei.phantom.anatomy import Pose, draw_person, landmarks
from medical_fenlei.phantom.disease import draw_change
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.phantom.scanner import Scan, acquire
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL, SIDES, Side

matplotlib.use("Agg")

PIXEL_MM, EDGE = 0.25, 200
HEIGHTS_MM = (5.0, -0.5)
"""Above the tympanic centre: the attic with the ossicles, and the middle of the cavity with the ear canal."""
LEVEL, WIDTH = 700, 4000


def tile(code: int, side: Side, height: float, seed: int) -> np.ndarray:
    """HU (EDGE, EDGE) of one axial slice around an ear, as on the usual display: the patient's left is on the right."""
    rng = np.random.default_rng(seed)
    person, pose = draw_person(rng, dict.fromkeys(SIDES, code != NORMAL), age_years=40, aeration=0.45), Pose()
    changes = {s: draw_change(code, np.random.default_rng([seed, s is Side.LEFT])) for s in SIDES}
    centre = np.add(landmarks(person, pose)[f"tympanum_{side}"], [6 * side.sign, 4, height])
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, PIXEL_MM], [0, PIXEL_MM, 0], [0.6, 0, 0]]
    affine[:3, 3] = centre - affine[:3, :3] @ [0, (EDGE - 1) / 2, (EDGE - 1) / 2]
    drawing = draw_head(person, changes, pose, affine, (1, EDGE, EDGE))
    return acquire(drawing.hu, Scan(blur_mm=0.25, noise_hu=50), rng, pixel_mm=PIXEL_MM)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/img/six_codes.png"))
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    figure.suptitle("Synthetic, not clinical evidence. Bone window (level 700, width 4000 HU); patient's right, then left; "
                    f"{HEIGHTS_MM[0]:g} and {HEIGHTS_MM[1]:g} mm from the tympanic centre", fontsize=9)
    rows = figure.subplots(4, 6)
    for column, code in enumerate(DIAGNOSES):
        places = [(side, height) for side in (Side.RIGHT, Side.LEFT) for height in HEIGHTS_MM]
        for axes, (side, height) in zip(rows[:, column], places, strict=True):
            axes.imshow(tile(code, side, height, args.seed), cmap="gray", vmin=LEVEL - WIDTH / 2, vmax=LEVEL + WIDTH / 2)
            axes.set_xticks([])
            axes.set_yticks([])
        rows[0, column].set_title(f"{code} {DIAGNOSES[code].english}", fontsize=6.5)
    for row, side in ((0, "right"), (1, "right"), (2, "left"), (3, "left")):
        rows[row, 0].set_ylabel(side)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=80)
    Image.open(picture).convert("L").quantize(24).save(args.out, optimize=True)      # small in bytes
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
