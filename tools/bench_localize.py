"""Accuracy of the localizer on drawn heads, whose landmarks are known.

    python tools/bench_localize.py                         # 300 scans, some 4 minutes of one core
    python tools/bench_localize.py --quick                 # 32 scans, under a minute
    python tools/bench_localize.py --seed 5 --worst 10     # other heads, and list the ten worst ears
    python tools/bench_localize.py --sampling even         # another choice of slices

Whole heads, short scans, heads rotated, tilted and off centre, gantry tilt, feet first, stored backwards, slices of 0.3 to
3 mm, sclerotic, opacified and operated mastoids, children, scans of one ear. For the ears in the scans:
  median_mm, p95_mm, max_mm   3D distance of the found centre from that of the tympanic cavity
  both_inside_pct             ears whose tympanic and mastoid centres lie in the volume cut with --sampling (default: roi)
  side_right_pct              ears whose found centre lies on the correct side of the true midsagittal plane
  slices                      slices of the volume (of 32) through the tympanic cavity (15 mm high), mean over ears
Prints a table by kind of variation. With --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
Synthetic, not clinical evidence.
"""
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from medical_fenlei import cli
from medical_fenlei.config import EarSpec
from medical_fenlei.config.ears import Sampling
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.files import write_json
from medical_fenlei.parallel import map_items
from medical_fenlei.phantom.challenges import sample_challenge

SIZE = 32
"""Rows and columns of the volumes: only the position of the crop matters here."""

CAVITY_MM = 15.0
"""Height of the tympanic cavity in mm."""


def measure(seed: int, sampling: Sampling, number: int) -> list[dict[str, object]]:
    """Return one row for each ear of a scan."""
    drawn = sample_challenge(number, seed)
    spec = EarSpec(sampling=sampling, image_size=SIZE)
    ears = prepare_ears(drawn.series, spec)
    rows: list[dict[str, object]] = []
    plane = np.array(drawn.landmarks_lps["midsagittal_point"]), np.array(drawn.landmarks_lps["midsagittal_normal"])
    for side in drawn.sides:
        found: dict[str, object] = {"scan": number, "side": str(side), "kinds": " ".join(sorted(drawn.kinds)), "mm": np.inf,
                                    "inside": False, "right": False, "confidence": 0.0, "slices": 0}
        if side in ears:
            facts = ears[side].facts
            centre, affine = np.array(facts["localization"]["ear_centre"]), ears[side].affine
            tympanum, mastoid = (np.array(drawn.landmarks_lps[f"{mark}_{side}"]) for mark in ("tympanum", "mastoid"))
            index = affine.inverse.apply([tympanum, mastoid])
            heights = (np.arange(spec.num_slices) - index[0, 0]) * affine.spacing[0]
            found |= {"mm": float(np.linalg.norm(centre - tympanum)), "confidence": facts["localization"]["confidence"],
                      "inside": bool(((index > -0.5) & (index < np.array(spec.shape) - 0.5)).all()),
                      "slices": int((np.abs(heights) < CAVITY_MM / 2).sum()),
                      "right": bool((centre - plane[0]) @ plane[1] * side.sign > 0)}
        rows.append(found)
    return rows + [{"scan": number, "side": str(side), "kinds": "invented"} for side in ears if side not in drawn.sides]


def figures(ears: pd.DataFrame) -> dict[str, float]:
    """Return the figures of a group of ears."""
    return {"median_mm": ears.mm.median(), "p95_mm": ears.mm.quantile(0.95), "max_mm": ears.mm.max(),
            "both_inside_pct": 100 * ears.inside.mean(), "side_right_pct": 100 * ears.right.mean()}


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = cli.parser(__doc__)
    parser.add_argument("--num-scans", type=cli.int_at_least(1), help="number of scans (default: 300; 32 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer scans, under a minute")
    parser.add_argument("--sampling", choices=get_args(Sampling), default="roi", help="how slices are chosen (default: roi)")
    parser.add_argument("--worst", type=cli.int_at_least(0), default=0, help="number of the worst ears to list (default: 0)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    cli.add_shared_flags(parser, "num_workers", seed=0)
    args = parser.parse_args()
    scans = range(args.num_scans or (32 if args.quick else 300))
    rows = []
    for outcome in map_items(partial(measure, args.seed, args.sampling), scans, workers=args.num_workers, label="scans"):
        if outcome.value is None:
            raise RuntimeError(f"scan {outcome.item}: {outcome.reason} {outcome.detail}")
        rows += outcome.value
    ears = pd.DataFrame(rows)
    invented, ears = ears[ears.kinds == "invented"], ears[ears.kinds != "invented"]
    by_kind = ears.assign(kind=ears.kinds.str.split()).explode("kind")
    cli.say(f"{'':18s}{'ears':>6s}" + "".join(f"{name:>17s}" for name in [*figures(ears), "slices"]))
    for kind, group in [("all", ears), *by_kind.groupby("kind")]:
        values = [*figures(group).values(), group.slices.mean()]
        cli.say(f"{kind:18s}{len(group):6d}" + "".join(f"{value:17.2f}" for value in values))
    cli.say(f"ears cut from scans without them: {len(invented)}")
    for ear in ears.sort_values("mm", ascending=False).head(args.worst).itertuples():
        cli.say(f"scan {ear.scan} {ear.side}: {ear.mm:.1f} mm, confidence {ear.confidence:.2f} ({ear.kinds})")
    if args.json:
        spread = float(ears.mm.quantile(0.75) - ears.mm.quantile(0.25))
        units = {name: ("%", "higher", 0.0) if name.endswith("pct") else ("mm", "lower", spread) for name in figures(ears)}
        write_json(args.json, [{"name": name, "value": float(value), "unit": units[name][0], "better": units[name][1],
                                "n": len(ears), "spread": units[name][2]} for name, value in figures(ears).items()])
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
