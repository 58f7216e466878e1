"""Does a network of the demo point at the lesion? Its maps against the true lesions of a synthetic hospital.

    python tools/check_gradcam.py --demo data/demo --checkpoint data/demo/outputs/demo_seed0/checkpoints/best.pt

For every abnormal ear of the set that has a lesion, the map of the whole volume for the abnormal class: does its hottest voxel
lie in the lesion, how much of the attention lies on slices that cut it, how much of the heat within it. Chance is what the same
map earns with the lesions of all other patients, so that pointing at the middle earns nothing. Each map also with random
weights in the same network, which has to fall to chance. Two maps that see no network show what can be had: `lesion` points at
the depth of the true lesion, `place` at where the lesions of the others mostly are. Mean over ears, 95 % interval by patient.
First of all, whether the network looks at lesions at all: by how much its logit falls when the lesion is filled with air, and
when as much as lies outside of another patient's is. Some 10 minutes on a CPU. Synthetic, not clinical evidence.
"""
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medical_fenlei import cli
from medical_fenlei.config import EAR2D
from medical_fenlei.vocabulary import Side

if TYPE_CHECKING:
    import pandas as pd

    from medical_fenlei.metrics.bootstrap import Interval

AIR_HU = -1000
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


def lesions_of(ears: "pd.DataFrame", store: Any) -> tuple["pd.DataFrame", np.ndarray]:
    """The ears that have a lesion in their volume, and it, bool (N, K, H, W)."""
    kept, lesions = [], []
    for row, ear in ears.iterrows():
        path = Path("truth") / f"{ear.exam_id}_lesion.npz"
        if path.is_file():
            with np.load(path) as truth:
                side = Side(ear.side)
                affine = np.array(store.read_facts(ear.exam_id, side)["affine_lps"])
                lesion = lesion_in(store.spec.shape, affine, truth["lesion"], truth["affine_lps"], side)
            if lesion.any():
                kept.append(row)
                lesions.append(lesion)
    return ears.loc[kept], np.array(lesions)


def falls(logit: Callable[[int, np.ndarray], float], lesions: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """(N, 2): by how much each ear's logit falls when its own lesion is filled with air, and when the lesion of the next
    patient is, without what lies in its own. logit: of ear n with the voxels of a mask filled."""
    nothing, found = np.zeros(lesions.shape[1:], bool), []
    for n, own in enumerate(lesions):
        others = np.flatnonzero(patient != patient[n])
        other = lesions[others[np.searchsorted(others, n) % len(others)]] & ~own
        before = logit(n, nothing)
        found.append([before - logit(n, own), before - logit(n, other)])
    return np.array(found)


def shown(name: str, values: dict[str, "Interval"], measure: str) -> str:
    own, ratio, same = (values[measure + ending] for ending in ("", "_ratio", "_ratio_same_code"))
    chance = values[measure + "_chance"].estimate
    return (f"  {name:27s} {own.estimate:.3f} ({own.low:.3f} to {own.high:.3f})   {chance:.3f}   "
            + "       ".join(f"{i.estimate:.2f} ({i.low:.2f} to {i.high:.2f})" for i in (ratio, same)))


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    cli.add(parser, "checkpoint", "device", "limit", "draws")
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="the synthetic hospital, with its truth/")
    parser.add_argument("--label-task", help="one of the network's tasks (default: its first)")
    parser.add_argument("--split", default="val", help="which set (default: val)")
    parser.add_argument("--methods", default="integrated,hirescam,gradcam", help="kinds of map, commas between (default: "
                        "integrated,hirescam,gradcam)")
    parser.add_argument("--layer", help="of class activation: a stage of the backbone (default: see gradcam_ear2d.py)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and of the intervals (default: 0)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args(argv)
    if args.json:
        args.json = args.json.resolve()

    from scipy.ndimage import distance_transform_edt
    from tqdm import tqdm

    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.explanations.maps import explain
    from medical_fenlei.explanations.pointing import MEASURES, pointing, pointing_intervals, random_twin
    from medical_fenlei.files import write_json
    from medical_fenlei.metrics.bootstrap import patient_intervals
    from medical_fenlei.tasks import find_task
    from medical_fenlei.trained.network import open_trained

    trained = open_trained(args.checkpoint.resolve(), kind=EAR2D, device=args.device)
    task = find_task(args.label_task or trained.tasks[0].name, among=trained.tasks)
    os.chdir(args.demo)
    store = trained.store(trained.config.data)
    ears = find_ears(trained.config.data, store, (task,), (args.split,)).ears[args.split]
    ears, lesions = lesions_of(ears[task.targets(ears.label_code.to_numpy()) == 1][:args.limit], store)
    methods, positive = tuple(args.methods.split(",")), task.class_names[1]
    patient, code = ears.patient_key.to_numpy(), ears.label_code.to_numpy()
    cut = lesions.any((2, 3)).astype(float)
    heat = {"lesion": [distance_transform_edt(own) for own in lesions],
            "place": [lesions[patient != own].mean(0) for own in patient]}
    weight = {"lesion": cut, "place": np.array([cut[patient != own].mean(0) for own in patient])}
    names = list(zip(ears.exam_id, map(Side, ears.side), strict=True))

    def logit(n: int, filled: np.ndarray) -> float:
        volume, affine = np.array(store.read(*names[n])), np.array(store.read_facts(*names[n])["affine_lps"])
        volume[filled] = AIR_HU
        p = explain(trained, volume, affine, task, methods=(), top=1, target=positive).probability
        return float(np.log(p / max(1 - p, 1e-7)))

    fall = falls(logit, lesions, patient)
    air = patient_intervals(lambda w: {"lesion": w @ fall[:, 0] / w.sum(1), "elsewhere": w @ fall[:, 1] / w.sum(1)},
                            patient, fall, seed=args.seed, draws=args.draws, unbounded=("lesion", "elsewhere"))
    confident = {}
    for name, network in (("", trained), (", random weights", random_twin(trained, seed=args.seed))):
        found = []
        for ear in tqdm(ears.itertuples(), total=len(ears), desc=f"maps{name}", leave=False, disable=None):
            volume = np.array(store.read(str(ear.exam_id), Side(str(ear.side))))
            affine = np.array(store.read_facts(str(ear.exam_id), Side(str(ear.side)))["affine_lps"])
            found.append(explain(network, volume, affine, task, methods=methods, top=1, target=positive, layer=args.layer))
        confident[name] = np.mean([told.probability for told in found])
        for m, method in enumerate(methods):
            heat[method + name] = [told.maps[m].heat for told in found]
            weight[method + name] = np.array([told.weights for told in found])

    cli.say(f"{len(ears)} ears with a lesion, {len(set(patient))} patients; it fills {lesions.mean():.1%} of their voxels and "
            f"is cut by {cut.mean():.1%} of their slices; mean probability of {positive}: {confident['']:.2f}")
    cli.say("filled with air, the logit falls by: " + ", ".join(
        f"{name} {i.estimate:.2f} ({i.low:.2f} to {i.high:.2f})" for name, i in air.values.items()))
    told = {}
    for name in heat:
        measured = pointing(heat[name], weight[name], lesions, patient, code)
        told[name] = pointing_intervals(measured, patient, seed=args.seed, draws=args.draws)
    for measure, heading in zip(MEASURES, ("hottest voxel in the lesion", "weight on slices that cut it", "heat within it"),
                                strict=True):
        cli.say(f"{heading}\n  {'':27s} share (95 %)              chance  ratio (95 %)          ratio, same code (95 %)")
        for name, found in told.items():
            cli.say(shown(name, found.values, measure))
    for text in told["lesion"].warnings:
        cli.warn(text)
    if args.json:
        write_json(args.json, {"note": "synthetic, not clinical evidence", "ears": len(ears), "patients": len(set(patient)),
                               "fall_in_air": {name: i._asdict() for name, i in air.values.items()},
                               "maps": {name: {measure: i._asdict() for measure, i in found.values.items()}
                                        for name, found in told.items()}})
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
