"""How near the middle ear is found, on heads whose answer is known: drawn afresh, with wide variation.

    python tools/bench_localize.py                         # 300 scans, some 4 minutes of one core
    python tools/bench_localize.py --quick                 # 32 scans, under a minute
    python tools/bench_localize.py --seed 5 --worst 10     # other heads; and name the ten worst
    python tools/bench_localize.py --sampling even         # what another choice of slices holds

Whole heads, short scans, heads turned, tilted and off centre, gantry tilt, feet first, stored backwards, slices of 0.3 to 3 mm,
sclerotic, filled and operated mastoids, children, scans of one ear. For each ear that is in the scan:
  median_mm, p95_mm, max_mm   from the centre that was found to that of the tympanic cavity, in 3D
  both_inside_pct             ears whose tympanic and mastoid centres both lie in the volume cut with --sampling (default: roi)
  side_right_pct              ears whose centre lies on their own side of the true midsagittal plane
  slices                      of the 32 of a volume, how many pass through the tympanic cavity (15 mm high); a mean over ears
Prints them by kind of variation too. With --json FILE, writes a list of {"name", "value", "unit", "better", "n", "spread"}.
Synthetic, not clinical evidence.
"""
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from medical_fenlei import cli
from medical_fenlei.config import EarSpec, Sampling
from medical_fenlei.ears.prepare import prepare_ears
from medical_fenlei.files import write_json
from medical_fenlei.parallel import map_items
from medical_fenlei.phantom.drawn import draw_challenge

SIZE = 32
"""Rows and columns: only where the field of the default crop lies matters here."""

CAVITY_MM = 15.0


def examine(seed: int, sampling: Sampling, number: int) -> list[dict[str, object]]:
    """One row an ear of a scan."""
    drawn = draw_challenge(number, seed)
    spec = EarSpec(sampling=sampling, image_size=SIZE)
    ears = prepare_ears(drawn.series, spec)
    rows: list[dict[str, object]] = []
    plane = np.array(drawn.marks["midsagittal_point"]), np.array(drawn.marks["midsagittal_normal"])
    for side in drawn.sides:
        found: dict[str, object] = {"scan": number, "side": str(side), "kinds": " ".join(sorted(drawn.kinds)), "mm": np.inf,
                                    "inside": False, "right": False, "confidence": 0.0, "slices": 0}
        if side in ears:
            facts = ears[side].facts
            centre, into = np.array(facts["localization"]["ear_centre"]), np.linalg.inv(facts["affine_lps"])
            step = float(np.linalg.norm(np.array(facts["affine_lps"])[:3, 0]))
            tympanum, mastoid = (np.array(drawn.marks[f"{mark}_{side}"]) for mark in ("tympanum", "mastoid"))
            places = [into @ np.append(point, 1) for point in (tympanum, mastoid)]
            found |= {"mm": float(np.linalg.norm(centre - tympanum)), "confidence": facts["localization"]["confidence"],
                      "inside": all(((p[:3] > -0.5) & (p[:3] < np.array(spec.shape) - 0.5)).all() for p in places),
                      "slices": int((np.abs(np.arange(spec.num_slices) - places[0][0]) * step < CAVITY_MM / 2).sum()),
                      "right": bool((centre - plane[0]) @ plane[1] * side.sign > 0)}
        rows.append(found)
    return rows + [{"scan": number, "side": str(side), "kinds": "invented"} for side in ears if side not in drawn.sides]


def figures(ears: pd.DataFrame) -> dict[str, float]:
    return {"median_mm": ears.mm.median(), "p95_mm": ears.mm.quantile(0.95), "max_mm": ears.mm.max(),
            "both_inside_pct": 100 * ears.inside.mean(), "side_right_pct": 100 * ears.right.mean()}


def main() -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--num-scans", type=cli.at_least(1), help="scans drawn (default: 300; 32 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer scans, under a minute")
    parser.add_argument("--sampling", choices=get_args(Sampling), default="roi", help="which slices are cut (default: roi)")
    parser.add_argument("--worst", type=cli.at_least(0), default=0, help="name so many of the worst ears (default: 0)")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    cli.add(parser, "num_workers", seed=0)
    args = parser.parse_args()
    scans = range(args.num_scans or (32 if args.quick else 300))
    rows = []
    for outcome in map_items(partial(examine, args.seed, args.sampling), scans, workers=args.num_workers, label="scans"):
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
    cli.say(f"ears cut from scans that do not hold them: {len(invented)}")
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
