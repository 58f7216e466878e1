"""Do maps point at the lesion? Measured on known lesions, and compared with what the same maps reach by chance.

N ears of one shape (K slices, H rows, W columns), all with column 0 lateral and centred on the ear, so that they overlay.
Lesions of the middle ear lie in much the same place: a map that always pointed there would hit most of them. Chance is
therefore not the lesion's share of the volume, but how well the same map points at the lesions of all other patients.
"""
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from medical_fenlei.metrics.bootstrap import Intervals, PatientBootstrap
from medical_fenlei.models.build import build_model
from medical_fenlei.trained.network import TrainedNetwork

MEASURES = ("hit", "slices", "heat")
"""hit: whether the hottest voxel of the volume lies in the lesion (the pointing game, Zhang 2018,
doi:10.1007/s11263-017-1059-x; 0 if no voxel is hot); slices: the share of the slices' weight on slices through the lesion;
heat: the share of the map's heat in the lesion."""


def pointing_measures(
    heat: Sequence[np.ndarray], weight: np.ndarray, lesion: np.ndarray, patient: np.ndarray, code: np.ndarray
) -> pd.DataFrame:
    """Measure how each ear's map and slice weights point at its lesion: a row per ear, each of MEASURES with its chance.

    Chance is the mean over the lesions of all other patients (`hit_chance`, …), and over those with the same code
    (`hit_same_code`, …). heat: N maps (K, H, W), at least 0. weight: (N, K); negative ones count as 0. lesion: bool
    (N, K, H, W), none empty. patient, code: (N,). A share of a map without heat, and a chance without another patient, is NaN.
    Raises ValueError if the lengths differ.
    """
    if not len(heat) == len(weight) == len(lesion) == len(patient) == len(code):
        raise ValueError(f"lengths differ: {len(heat)} maps, {len(weight)} weights, {len(lesion)} lesions, {len(patient)} "
                         f"patients, {len(code)} codes")
    flat = lesion.reshape(len(lesion), -1)
    voxels = [np.flatnonzero(own) for own in flat]               # lesions are small: only their voxels are summed
    cut = lesion.any((2, 3))
    rows = []
    for n, own in enumerate(heat):
        heat_sum = own.sum(dtype=np.float64)
        ravelled, weights = own.ravel(), np.maximum(weight[n], 0)
        peak = int(ravelled.argmax()) if heat_sum > 0 else None
        with np.errstate(invalid="ignore"):
            against = {
                "hit": np.zeros(len(flat)) if peak is None else flat[:, peak].astype(float),
                "slices": cut @ (weights / weights.sum()),
                "heat": np.array([ravelled[of].sum(dtype=np.float64) for of in voxels]) / heat_sum,
            }
        others = patient != patient[n]
        same = others & (code == code[n])
        rows.append({
            **{name: found[n] for name, found in against.items()},
            **{f"{name}_chance": _mean(found[others]) for name, found in against.items()},
            **{f"{name}_same_code": _mean(found[same]) for name, found in against.items()},
        })
    return pd.DataFrame(rows)


def pointing_intervals(measured: pd.DataFrame, patient: np.ndarray, *, seed: int = 0, n_resamples: int = 2000) -> Intervals:
    """Return the mean over ears of every column of `pointing_measures`, with 95 % intervals by patient.

    Adds the ratio of each measure's mean to the mean of its chance (`hit_ratio`, `hit_ratio_same_code`). An ear whose value is
    NaN is left out of that mean.
    """
    columns = measured.to_dict("series")

    def mean(weight: np.ndarray, values: np.ndarray, known: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return weight[:, known] @ values[known] / weight[:, known].sum(1)

    def measures(weight: np.ndarray) -> dict[str, np.ndarray]:
        found = {}
        for name, column in columns.items():
            values = column.to_numpy(float)
            found[str(name)] = mean(weight, values, ~np.isnan(values))
        for name in MEASURES:
            for ending, ratio in (("_chance", "_ratio"), ("_same_code", "_ratio_same_code")):
                own, chance = (measured[column].to_numpy(float) for column in (name, name + ending))
                known = ~np.isnan(own) & ~np.isnan(chance)
                with np.errstate(invalid="ignore", divide="ignore"):
                    by_chance = mean(weight, chance, known)
                    found[name + ratio] = np.where(by_chance > 0, mean(weight, own, known) / by_chance, np.nan)
        return found

    ratios = [name + ratio for name in MEASURES for ratio in ("_ratio", "_ratio_same_code")]
    bootstrap = PatientBootstrap(patient=patient, observations=measured.fillna(-1).to_numpy(float), seed=seed,
                                 n_resamples=n_resamples)
    found = bootstrap.intervals(measures, scales=dict.fromkeys(ratios, "log"))
    values = {name: i._replace(low=max(i.low, 0.0)) if name in ratios and i.low < 0 else i for name, i in found.values.items()}
    return found._replace(values=values)                         # with few hits the interval reaches below 0


def random_twin(network: TrainedNetwork, *, seed: int) -> TrainedNetwork:
    """Return the same network with new random weights in all layers, as before training.

    Its maps show nothing that was learned (Adebayo 2018, doi:10.48550/arXiv.1810.03292). torch's global generator is left as it
    was.
    """
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    outputs = sum(task.outputs for task in network.tasks)
    config = replace(network.config.model, backbone_weights=None, pretrained=False)
    model = build_model(config, shape=network.config.input_shape, outputs=outputs,
                        scale=network.config.physical_scale, load_pretrained=False)
    torch.set_rng_state(before)
    return replace(network, model=model.to(network.compute.device).eval())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
