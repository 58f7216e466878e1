"""Draw the picture of the README: both ears with each of the six codes of the synthetic hospital, in the bone window.

    python tools/draw_six_codes.py --out-png docs/img/six_codes.png
"""
import argparse
import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from medical_fenlei.phantom.anatomy import Pose, landmarks, sample_person
from medical_fenlei.phantom.disease import sample_change
from medical_fenlei.phantom.head import draw_head
from medical_fenlei.phantom.scanner import Scan, acquire
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import DIAGNOSES, NORMAL, SIDES, Side

matplotlib.use("Agg")

PIXEL_MM, EDGE = 0.25, 200
HEIGHTS_MM = (5.0, -0.5)
"""Heights above the tympanic centre: the attic with the ossicles, and the middle of the cavity with the ear canal."""
LEVEL, WIDTH = 700, 4000


def tile(code: int, side: Side, height: float, seed: int) -> np.ndarray:
    """Return HU (EDGE, EDGE) of one axial slice around an ear, with the patient's left on the right."""
    rng = np.random.default_rng(seed)
    person, pose = sample_person(rng, dict.fromkeys(SIDES, code != NORMAL), age_years=40, aeration=0.45), Pose()
    changes = {s: sample_change(code, np.random.default_rng([seed, s is Side.LEFT])) for s in SIDES}
    centre = np.add(landmarks(person, pose)[f"tympanum_{side}"], [6 * side.sign, 4, height])
    shape = (1, EDGE, EDGE)
    affine = Affine.centred([[0, 0, 0.6], [0, PIXEL_MM, 0], [PIXEL_MM, 0, 0]], shape, centre)
    drawing = draw_head(person, changes, pose, affine, shape)
    return acquire(drawing.hu, Scan(blur_mm=0.25, noise_hu=50), rng, pixel_mm=PIXEL_MM)[0]


def main() -> None:
    """Draw and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out-png", type=Path, default=Path("docs/img/six_codes.png"))
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    figure.suptitle("Synthetic, not clinical evidence. Bone window (level 700, width 4000 HU); patient's right, then left; "
                    f"{HEIGHTS_MM[0]:g} and {HEIGHTS_MM[1]:g} mm from the tympanic centre", fontsize=9)
    rows = figure.subplots(4, 6)
    for column, code in enumerate(DIAGNOSES):
        tiles = [(side, height) for side in (Side.RIGHT, Side.LEFT) for height in HEIGHTS_MM]
        for axes, (side, height) in zip(rows[:, column], tiles, strict=True):
            axes.imshow(tile(code, side, height, args.seed), cmap="gray", vmin=LEVEL - WIDTH / 2, vmax=LEVEL + WIDTH / 2)
            axes.set_xticks([])
            axes.set_yticks([])
        rows[0, column].set_title(f"{code} {DIAGNOSES[code].english}", fontsize=6.5)
    for row, name in enumerate(("right", "right", "left", "left")):
        rows[row, 0].set_ylabel(name)
    args.out_png.parent.mkdir(parents=True, exist_ok=True)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=80)
    Image.open(picture).convert("L").quantize(24).save(args.out_png, optimize=True)      # a small file
    print(f"wrote {args.out_png}")


if __name__ == "__main__":
    main()
