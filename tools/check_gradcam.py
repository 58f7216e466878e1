"""Compare the explanation maps of a network with the true lesions of a synthetic hospital.

    python tools/check_gradcam.py --demo data/demo --checkpoint data/demo/outputs/demo_seed0/checkpoints/best.pt

For every abnormal ear of the set with a lesion, from the map of the volume for the abnormal class: whether the hottest voxel
lies in the lesion, the share of the slice weights on slices through it, and the share of the heat within it. Chance is the
score of the same map with the lesions of all other patients, so a map that always points at the middle scores at chance. Each
map is also computed with random weights, which has to score at chance. Two maps without a network give upper bounds: `lesion`
points at the depth of the true lesion, `place` at the mean position of the lesions of the others. Means over ears, 95 %
intervals by patient.

Whether the network depends on lesions at all is measured first: the fall of its logit when the lesion is filled with air, and
when the lesion of another patient is. Some 10 minutes on a CPU. Synthetic, not clinical evidence.
"""
import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medical_fenlei import cli
from medical_fenlei.spatial import Affine
from medical_fenlei.vocabulary import Side

if TYPE_CHECKING:
    import pandas as pd

    from medical_fenlei.ears.store import EarStore
    from medical_fenlei.explanations.maps import Explanation, ExplanationRequest
    from medical_fenlei.metrics.bootstrap import Interval
    from medical_fenlei.tasks import Task
    from medical_fenlei.trained.network import TrainedNetwork

AIR_HU = -1000
BIT = {Side.LEFT: 1, Side.RIGHT: 2}
"""Bit of each side in the true lesion masks."""


def lesion_in(
    shape: tuple[int, ...], affine: Affine, truth: np.ndarray, truth_affine: Affine, side: Side
) -> np.ndarray:
    """Return the voxels of an ear volume that lie in the lesion of its side, bool (K, H, W)."""
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    index = np.rint((truth_affine.inverse @ affine).apply(voxels)).astype(int)
    inside = ((index >= 0) & (index < truth.shape)).all(-1)
    found = np.zeros(shape, bool)
    found[inside] = truth[tuple(index[inside].T)] & BIT[side] > 0
    return found


def lesions_of(ears: "pd.DataFrame", store: "EarStore") -> tuple["pd.DataFrame", np.ndarray]:
    """Return the ears with a lesion in their volume, and the lesions, bool (N, K, H, W)."""
    kept, lesions = [], []
    for row, ear in ears.iterrows():
        path = Path("truth") / f"{ear.exam_id}_lesion.npz"
        if path.is_file():
            with np.load(path) as truth:
                side = Side(ear.side)
                affine = store.read_affine(ear.exam_id, side)
                lesion = lesion_in(store.spec.shape, affine, truth["lesion"], Affine(truth["affine_lps"]), side)
            if lesion.any():
                kept.append(row)
                lesions.append(lesion)
    return ears.loc[kept], np.array(lesions)


def falls(logit: Callable[[int, np.ndarray], float], lesions: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """Return the fall of each ear's logit (N, 2) when its own lesion, or that of the next patient, is filled with air.

    The other lesion is filled without its overlap with the own. logit: of ear n with the voxels of a mask filled.
    """
    nothing, found = np.zeros(lesions.shape[1:], bool), []
    for n, own in enumerate(lesions):
        others = np.flatnonzero(patient != patient[n])
        other = lesions[others[np.searchsorted(others, n) % len(others)]] & ~own
        before = logit(n, nothing)
        found.append([before - logit(n, own), before - logit(n, other)])
    return np.array(found)


def falls_in_air(
    network: "TrainedNetwork", ears: "pd.DataFrame", store: "EarStore", lesions: np.ndarray, task: "Task"
) -> np.ndarray:
    """Return the `falls` of a network's logit of the positive class."""
    from medical_fenlei.explanations.kept_pass import look

    names = [(str(exam), Side(str(side))) for exam, side in zip(ears.exam_id, ears.side, strict=True)]

    def logit(n: int, filled: np.ndarray) -> float:
        volume = np.array(store.read(*names[n]))
        volume[filled] = AIR_HU
        p = task.probabilities(look(network, volume[None]).result.logits[0, network.columns(task)])[1]
        return float(np.log(p / max(1 - p, 1e-7)))

    return falls(logit, lesions, ears.patient_key.to_numpy())


def explain_all(
    network: "TrainedNetwork", ears: "pd.DataFrame", store: "EarStore", task: "Task", request: "ExplanationRequest"
) -> "list[Explanation]":
    """Return the maps of all ears."""
    from tqdm import tqdm

    from medical_fenlei.explanations.maps import explain

    names = [(str(exam), Side(str(side))) for exam, side in zip(ears.exam_id, ears.side, strict=True)]
    return [explain(network, np.array(store.read(*name)), store.read_affine(*name), task, request)
            for name in tqdm(names, desc="maps", leave=False, disable=None)]


def shown(name: str, values: dict[str, "Interval"], measure: str) -> str:
    """Return the line of a map in the table of a measure."""
    own, ratio, same = (values[measure + ending] for ending in ("", "_ratio", "_ratio_same_code"))
    chance = values[measure + "_chance"].estimate
    return (f"  {name:27s} {own.estimate:.3f} ({own.low:.3f} to {own.high:.3f})   {chance:.3f}   "
            + "       ".join(f"{i.estimate:.2f} ({i.low:.2f} to {i.high:.2f})" for i in (ratio, same)))


def flags(argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags; a relative --json is relative to the current folder."""
    parser = cli.parser(__doc__)
    cli.add_shared_flags(parser, "checkpoint", "device", "resamples")
    parser.add_argument("--max-ears", type=cli.int_at_least(1), metavar="N",
                        help="only the first N positive ears (default: all)")
    parser.add_argument("--demo", type=Path, default=Path("data/demo"), help="the synthetic hospital, with its truth/")
    parser.add_argument("--label-task", help="one of the network's tasks (default: its first)")
    parser.add_argument("--split", default="val", help="set of the split (default: val)")
    parser.add_argument("--methods", default="integrated,hirescam,gradcam", help="kinds of map, separated by commas "
                        "(default: integrated,hirescam,gradcam)")
    parser.add_argument("--layer", help="stage of the network for class activation maps (default: see gradcam_ear2d.py)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights and of the intervals (default: 0)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(argv)
    if args.json:
        args.json = args.json.resolve()
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the checks; return the exit status."""
    args = flags(argv)

    from scipy.ndimage import distance_transform_edt

    from medical_fenlei.data.sources import find_ears
    from medical_fenlei.explanations.maps import ExplanationRequest
    from medical_fenlei.explanations.pointing import MEASURES, pointing_intervals, pointing_measures, random_twin
    from medical_fenlei.files import write_json
    from medical_fenlei.metrics.bootstrap import PatientBootstrap
    from medical_fenlei.tasks import find_task
    from medical_fenlei.trained.network import open_network

    trained = open_network(args.checkpoint.resolve(), kind=None, device=args.device)
    task = find_task(args.label_task or trained.tasks[0].name, among=trained.tasks)
    os.chdir(args.demo)
    store = trained.store(trained.config.data)
    ears = find_ears(trained.config.data, store, (task,), (args.split,)).ears[args.split]
    ears, lesions = lesions_of(ears[task.targets(ears.label_code.to_numpy()) == 1][:args.max_ears], store)
    methods, positive = tuple(args.methods.split(",")), task.class_names[1]
    request = ExplanationRequest(methods=methods, top=1, target=positive, layer=args.layer)
    patient, code, cut = ears.patient_key.to_numpy(), ears.label_code.to_numpy(), lesions.any((2, 3)).astype(float)

    fall = falls_in_air(trained, ears, store, lesions, task)
    bootstrap = PatientBootstrap(patient=patient, observations=fall, seed=args.seed, n_resamples=args.resamples)
    air = bootstrap.intervals(lambda w: {"lesion": w @ fall[:, 0] / w.sum(1), "elsewhere": w @ fall[:, 1] / w.sum(1)},
                              scales={"lesion": "identity", "elsewhere": "identity"}).values

    heat = {"lesion": [distance_transform_edt(own) for own in lesions],
            "place": [lesions[patient != own].mean(0) for own in patient]}
    weight = {"lesion": cut, "place": np.array([cut[patient != own].mean(0) for own in patient])}
    probability = {}
    for ending, network in (("", trained), (", random weights", random_twin(trained, seed=args.seed))):
        explained = explain_all(network, ears, store, task, request)
        probability[ending] = np.mean([one.probability for one in explained])
        for m, method in enumerate(methods):
            heat[method + ending] = [one.maps[m].heat for one in explained]
            weight[method + ending] = np.array([one.weights for one in explained])

    cli.say(f"{len(ears)} ears with a lesion, {len(set(patient))} patients; lesions fill {lesions.mean():.1%} of the voxels "
            f"and lie on {cut.mean():.1%} of the slices; mean probability of {positive}: {probability['']:.2f}")
    cli.say("filled with air, the logit falls by: " + ", ".join(
        f"{name} {i.estimate:.2f} ({i.low:.2f} to {i.high:.2f})" for name, i in air.items()))
    found = {name: pointing_intervals(pointing_measures(heat[name], weight[name], lesions, patient, code), patient,
                                      seed=args.seed, n_resamples=args.resamples) for name in heat}
    for measure, heading in zip(MEASURES, ("hottest voxel in the lesion", "weight on slices through it", "heat within it"),
                                strict=True):
        cli.say(f"{heading}\n  {'':27s} share (95 %)              chance  ratio (95 %)          ratio, same code (95 %)")
        for name, intervals in found.items():
            cli.say(shown(name, intervals.values, measure))
    for text in found["lesion"].warnings:
        cli.warn(text)
    if args.json:
        write_json(args.json, {"note": "synthetic, not clinical evidence", "ears": len(ears), "patients": len(set(patient)),
                               "fall_in_air": {name: i._asdict() for name, i in air.items()},
                               "maps": {name: {measure: i._asdict() for measure, i in intervals.values.items()}
                                        for name, intervals in found.items()}})
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
