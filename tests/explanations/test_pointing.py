"""Pointing measures equal a slow count, and reward no map that does not follow the ear."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medical_fenlei.config import EAR_ROUTE
from medical_fenlei.explanations.pointing import MEASURES, pointing_intervals, pointing_measures, random_twin
from medical_fenlei.models.build import build_model
from medical_fenlei.tasks import find_tasks
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.device import ComputeSettings

SHAPE = (4, 6, 5)


def ears(count=12, seed=0):
    """Maps, slice weights, lesions, patients (some with both ears) and codes."""
    rng = np.random.default_rng(seed)
    lesion = rng.random((count, *SHAPE)) < 0.15
    lesion[:, 1, 2, 2] = True
    return (list(rng.random((count, *SHAPE)).astype(np.float32)), rng.dirichlet(np.ones(SHAPE[0]), count), lesion,
            np.array([f"p{n // 2}" for n in range(count)]), rng.integers(1, 4, count))


def slow(heat, weight, lesion, patient, code):
    """Voxel by voxel, as the words say it."""
    told = []
    for n, own in enumerate(heat):
        def earned(mask, own=own, n=n):
            peak = max(np.ndindex(SHAPE), key=lambda place: own[place])
            inside = sum(float(own[place]) for place in np.ndindex(SHAPE) if mask[place])
            slices = sum(weight[n][k] for k in range(SHAPE[0]) if mask[k].any())
            return float(mask[peak]), slices / sum(weight[n]), inside / sum(float(own[place]) for place in np.ndindex(SHAPE))

        others = [m for m in range(len(heat)) if patient[m] != patient[n]]
        same = [m for m in others if code[m] == code[n]]
        row = dict(zip(MEASURES, earned(lesion[n]), strict=True))
        for ending, among in (("_chance", others), ("_same_code", same)):
            for number, name in enumerate(MEASURES):
                row[name + ending] = np.mean([earned(lesion[m])[number] for m in among]) if among else np.nan
        told.append(row)
    return told


def test_every_measure_and_its_chance_are_those_of_a_slow_count():
    given = ears()
    found = pointing_measures(*given)
    for n, row in enumerate(slow(*given)):
        for name, value in row.items():
            assert found[name][n] == pytest.approx(value, abs=1e-6, nan_ok=True), (n, name)


def test_a_map_of_the_lesion_hits_always_and_one_that_never_changes_hits_as_chance_does():
    _, weight, lesion, patient, code = ears(60)
    own = pointing_measures(list(lesion.astype(float)), lesion.any((2, 3)).astype(float), lesion, patient, code)
    assert (own[list(MEASURES)] == 1).all(axis=None) and own.hit_chance.mean() < 0.9
    middle = np.zeros(SHAPE)
    middle[1, 2, 2] = 1
    still = pointing_measures([middle] * 60, np.ones_like(weight), lesion, patient, code)
    assert still.hit.tolist() == still.hit_chance.tolist() == [1.0] * 60          # it hits all of them, and earns nothing
    assert pointing_intervals(still, patient, n_resamples=50).values["hit_ratio"].estimate == 1


def test_intervals_are_of_means_over_ears_and_of_their_ratio_by_patient():
    given = ears(40)
    measured = pointing_measures(*given)
    found = pointing_intervals(measured, given[3], n_resamples=200)
    assert found.patients == 20
    for name in MEASURES:
        assert found.values[name].estimate == pytest.approx(measured[name].mean())
        ratio = found.values[f"{name}_ratio"]
        assert ratio.estimate == pytest.approx(measured[name].mean() / measured[f"{name}_chance"].mean())
        assert np.isnan(ratio.low) if name == "slices" else ratio.low <= ratio.estimate <= ratio.high     # all cut each slice
    again = pointing_intervals(measured[::-1].reset_index(drop=True), np.char.add(given[3][::-1], "x"), n_resamples=200)
    assert again.values["hit_ratio"].high == pytest.approx(found.values["hit_ratio"].high)      # neither order nor key matters


def test_a_map_without_heat_misses_and_a_chance_without_others_is_undefined():
    heat, weight, lesion, patient, code = ears(4)
    found = pointing_measures([np.zeros(SHAPE), *heat[1:]], weight, lesion, np.array(["one"] * 4), code)
    assert found.hit[0] == 0 and np.isnan(found.heat[0]) and found.hit_chance.isna().all()
    with pytest.raises(ValueError, match="4 maps, 3 weights"):
        pointing_measures(heat, weight[:3], lesion, patient, code)


def test_a_random_twin_has_other_weights_in_every_layer_and_disturbs_nothing():
    tasks = find_tasks("normal_vs_abnormal")
    torch.manual_seed(3)
    config = SimpleNamespace(model=EAR_ROUTE.model, input_shape=(4, 1, 32, 32))
    model = build_model(config.model, shape=config.input_shape, outputs=1)
    known = TrainedNetwork(Path("none/checkpoints/best.pt"), SimpleNamespace(config=EAR_ROUTE), tasks, model,
                    ComputeSettings(torch.device("cpu"), torch.float32))
    state = torch.get_rng_state()
    one, again, other = (random_twin(known, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state) and known.model is model
    for name, tensor in model.named_parameters():
        assert torch.equal(one[name], again[name])
        if tensor.ndim > 1:
            assert not torch.equal(one[name], tensor) and not torch.equal(one[name], other[name]), name


def test_the_interval_of_a_ratio_of_few_hits_is_missing_with_a_reason():
    rng = np.random.default_rng(1)
    lesion = rng.random((60, 2, 8, 8)) < 0.02
    lesion[:, 0, 0, 0] = True
    heat = [own + 0.0 for own in rng.random((60, 2, 8, 8))]
    heat[0][0, 3, 3] = 2
    lesion[:5, 0, 3, 3] = True
    for own in heat[1:]:
        own[1, 7, 7] = 2
    lesion[:, 1, 7, 7] = False
    one_hit = pointing_measures(heat, np.ones((60, 2)), lesion, np.arange(60), np.ones(60))
    i = pointing_intervals(one_hit, np.arange(60), n_resamples=300).values["hit_ratio"]
    assert i.estimate > 1 and np.isnan(i.low) and i.reason.endswith("no interval: it is the same in every resample")
    one_hit.loc[1:, "hit_chance"] = 0.05
    i = pointing_intervals(one_hit, np.arange(60), n_resamples=300).values["hit_ratio"]
    assert 0 < i.estimate < 1 and i.low == 0 and i.high > i.estimate
