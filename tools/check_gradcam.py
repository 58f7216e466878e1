"""Does a network point at the lesion? Its class activation maps against the true lesions of a synthetic hospital.

    python tools/check_gradcam.py --demo data/demo --checkpoint data/demo/outputs/demo_seed0/checkpoints/best.pt

For every abnormal ear of the set that has a lesion, in its most attended slices that cut the lesion: does the map's hottest
pixel lie in the lesion (the pointing game, Zhang 2018, doi:10.1007/s11263-017-1059-x), and how much of the map does? By chance
both are the lesion's share of the slice. Synthetic, not clinical evidence.
"""
import os
from pathlib import Path

import numpy as np

from medical_fenlei import cli
from medical_fenlei.training.config import EAR2D
from medical_fenlei.vocabulary import Side

BIT = {Side.LEFT: 1, Side.RIGHT: 2}
"""Of each side in the truth's masks."""


def lesion_in(
    shape: tuple[int, ...], affine: np.ndarray, truth: np.ndarray, truth_affine: np.ndarray, side: Side
) -> np.ndarray:
    """bool (K, H, W): which voxels of an ear volume lie in a voxel of its side's lesion."""
    grid = np.stack([*np.indices(shape, dtype=np.float64).reshape(3, -1), np.ones(int(np.prod(shape)))])
    place = np.rint((np.linalg.inv(truth_affine) @ affine @ grid)[:3]).astype(int)
    inside = ((place >= 0) & (place < np.array(truth.shape)[:, None])).all(0)
    found = np.zeros(grid.shape[1], bool)
    found[inside] = truth[tuple(place[:, inside])] & BIT[side] > 0
    return found.reshape(shape)


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "checkpoint", "device")
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="the synthetic hospital, with its truth/")
    parser.add_argument("--label-task", help="one of the network's tasks (default: its first)")
    parser.add_argument("--split", default="val", help="which set (default: val)")
    parser.add_argument("--top", type=int, default=5, help="most attended slices of an ear (default: 5)")
    parser.add_argument("--methods", default="gradcam", help="kinds of map, commas between (default: gradcam)")
    args = parser.parse_args(argv)

    import pandas as pd

    from medical_fenlei.analysis.gradcam import explain
    from medical_fenlei.analysis.trained import open_trained
    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.metrics.bootstrap import patient_intervals
    from medical_fenlei.tasks import find_task

    trained = open_trained(args.checkpoint.resolve(), kind=EAR2D, device=args.device)
    task = find_task(args.label_task or trained.tasks[0].name, among=trained.tasks)
    os.chdir(args.demo)
    store = trained.store(trained.config.data)
    sources = find_ears(trained.config.data, store, (task,), (args.split,))
    ears = sources.ears[args.split]
    ears = ears[task.targets(ears.label_code.to_numpy()) == 1]
    positive = task.class_names[1]
    rows = []
    for ear in ears.itertuples():
        path = Path("truth") / f"{ear.exam_id}_lesion.npz"
        if not path.is_file():
            continue
        truth = np.load(path)
        side = Side(str(ear.side))
        volume = np.array(store.read(str(ear.exam_id), side))
        affine = np.array(store.read_facts(str(ear.exam_id), side)["affine_lps"])
        lesion = lesion_in(volume.shape, affine, truth["lesion"], truth["affine_lps"], side)
        for method in args.methods.split(","):
            found = explain(trained, volume, task, target=positive, method=method, top=args.top)
            for k, heat in zip(found.slices, found.heat, strict=True):
                if lesion[k].any() and heat.max() > 0:
                    hit = lesion[k][np.unravel_index(heat.argmax(), heat.shape)]
                    inside = heat[lesion[k]].sum() / heat.sum()
                    rows.append({"method": method, "code": ear.label_code, "exam_id": ear.exam_id, "side": side,
                                 "patient": ear.patient_key, "hit": float(hit), "heat_inside": inside,
                                 "chance": lesion[k].mean()})
    table = pd.DataFrame(rows)
    for method, own in table.groupby("method", sort=False):
        by_ear = own.groupby(["patient", "exam_id", "side", "code"], as_index=False)[["hit", "heat_inside", "chance"]].mean()

        def means(weight: np.ndarray, by_ear: pd.DataFrame = by_ear) -> dict[str, np.ndarray]:
            return {name: weight @ by_ear[name].to_numpy() / weight.sum(1) for name in ("hit", "heat_inside", "chance")}

        numbers = by_ear[["hit", "heat_inside", "chance"]].to_numpy()
        intervals = patient_intervals(means, by_ear.patient.to_numpy(), numbers, seed=0)
        cli.say(f"{method}: {len(by_ear)} ears with a lesion, {len(own)} slices; mean over ears (95 % by patient)")
        for name, i in intervals.values.items():
            cli.say(f"  {name:12s} {i.estimate:.3f} ({i.low:.3f} to {i.high:.3f})")
        cli.say(by_ear.groupby("code")[["hit", "heat_inside", "chance"]].agg("mean").round(3).join(
            by_ear.groupby("code").size().rename("ears")).to_string())
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
