"""A map equals its formula, is brightest on the slices that matter, and belongs to the requested class."""
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medical_fenlei.config import EAR_ROUTE, AugmentConfig, ModelConfig
from medical_fenlei.data.augment import window
from medical_fenlei.errors import UserError
from medical_fenlei.explanations.integrated_gradients import SMOOTH_MM
from medical_fenlei.explanations.maps import ExplanationRequest, explain, explain_pass, look_for
from medical_fenlei.explanations.methods import INTEGRATED, METHODS
from medical_fenlei.models.build import build_model
from medical_fenlei.spatial import Affine
from medical_fenlei.tasks import find_task, find_tasks
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.device import ComputeSettings

CPU = ComputeSettings(torch.device("cpu"), torch.float32)


def trained(tasks="normal_vs_abnormal", backbone="resnet10t", size=64, pooling="attention", seed=0, **options):
    torch.manual_seed(seed)
    config, augment, tasks = ModelConfig(backbone=backbone, pooling=pooling), AugmentConfig(**options), find_tasks(tasks)
    model = build_model(config, shape=(6, augment.channels, size, size), outputs=sum(task.outputs for task in tasks)).eval()
    checkpoint = SimpleNamespace(config=replace(EAR_ROUTE, augment=augment))
    return TrainedNetwork(Path("none/checkpoints/best.pt"), checkpoint, tasks, model, CPU)


SHARP = Affine(np.diag([1e3, 1e3, 1e3, 1]))
"""Voxels so large that smoothing does nothing."""


def explained(known, volume, task=None, method="gradcam", affine=SHARP, top=6, **options):
    """Return the explanation by one method; task: by default the first of the network."""
    task = task or known.tasks[0]
    return explain(known, volume, affine, task, ExplanationRequest(methods=(method,), top=top, **options))


def heat_of(found):
    """In the method's own measure, (K, H, W)."""
    only, = found.maps
    return only.heat * only.scale


def ear(size=64, seed=0):
    return np.random.default_rng(seed).integers(-1000, 2000, (6, size, size)).astype(np.int16)


@pytest.mark.parametrize(("backbone", "size"), [
    ("resnet10t", 64), ("convnext_atto", 64), ("vit_tiny_patch16_224", 64), ("test_vit", 64),
    ("swin_tiny_patch4_window7_224", 64), ("efficientnet_b0", 64),
])
def test_backbones_that_convolve_and_that_attend_give_a_map_of_the_volume(backbone, size):
    methods = (INTEGRATED, "gradcam", "hirescam")
    known = trained(backbone=backbone, size=size)
    found = explain(known, ear(size)[:3], SHARP, known.tasks[0], ExplanationRequest(methods=methods, top=2))
    assert found.grey.shape == (3, size, size) and found.ranked_by == "attention"
    assert tuple(one.method for one in found.maps) == methods
    for one in found.maps:
        assert one.heat.shape == (3, size, size) and one.heat.min() >= 0 and one.heat.std() > 0
        assert one.heat[one.peak] == one.heat.max() == 1
    top = found.weights[found.slices]
    assert list(top) == sorted(found.weights, reverse=True)[:2] and len({*found.slices.tolist()}) == 2


@pytest.mark.parametrize(("task", "target"), [
    ("normal_vs_abnormal", "abnormal"), ("normal_vs_abnormal", "normal"), ("six_class", "otitis media with effusion")])
@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_class_activation_equals_the_formula(task, target, method):
    """Selvaraju 2017 (arXiv:1610.02391), equations 1 and 2, and Draelos 2020 (arXiv:2011.08891), equation 3, by hand."""
    known, volume = trained(task), ear()
    found = explained(known, volume, target=target, method=method)
    model, kept = known.model, {}
    layer = model.backbone.get_submodule(found.maps[0].layer)
    hook = layer.register_forward_hook(lambda module, given, out: kept.update(a=out) or out.retain_grad())
    logits = model(window(torch.from_numpy(volume)[None], known.config.augment)).logits[0]
    hook.remove()
    wanted = known.tasks[0].class_names.index(target)
    score = logits[wanted] if task == "six_class" else logits[0] * (1 if wanted else -1)
    score.backward()
    weight = kept["a"].grad.mean((2, 3), keepdim=True) if method == "gradcam" else kept["a"].grad
    cam = F.relu((weight * kept["a"]).sum(1)).detach()
    expected = F.interpolate(cam[None], size=(64, 64), mode="bilinear", align_corners=False)[0].numpy()
    np.testing.assert_allclose(heat_of(found), expected, atol=1e-4 * expected.max())
    probability = logits.softmax(0)[wanted] if task == "six_class" else torch.sigmoid(score)
    assert found.probability == pytest.approx(float(probability.detach()), abs=1e-5)


def test_integrated_gradients_of_a_linear_network_are_its_weights_times_the_way_from_air():
    known = trained(pooling="mean")
    known.model.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 3))
    known.model.head = nn.Linear(3, 1)
    volume = ear()
    found = explained(known, volume, method=INTEGRATED, target="abnormal")
    weight = (known.model.head.weight @ known.model.backbone[1].weight).detach().numpy().reshape(64, 64) / 6
    way = window(torch.from_numpy(volume)[None], known.config.augment)[0, :, 0].numpy() + 1
    np.testing.assert_allclose(heat_of(found), np.maximum(weight * way, 0), atol=1e-6)
    assert found.maps[0].layer == "input"


def test_the_shares_of_both_classes_differ_by_what_the_logit_gains_from_air_to_the_ear():
    """Completeness (Sundararajan 2017, proposition 1): what speaks for a class, less what speaks for the other."""
    known = trained(windows=("soft", "bone"), slice_context=1, model_slices=4)
    hu = ear()
    each = [heat_of(explained(known, hu, method=INTEGRATED, target=name)) for name in ("abnormal", "normal")]
    with torch.no_grad():
        ends = [explained(known, end, target="abnormal").probability for end in (hu, np.full_like(hu, -1000))]
    gain = np.diff([np.log(p / (1 - p)) for p in ends[::-1]])[0]
    assert each[0].sum() - each[1].sum() == pytest.approx(gain, abs=0.02 * float(np.abs(each).sum()))
    assert not (each[0] * each[1]).any()


def test_integrated_gradients_are_smoothed_by_a_gaussian_of_some_millimetres():
    from scipy.ndimage import gaussian_filter

    known = trained(pooling="mean")
    known.model.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 3))
    known.model.head = nn.Linear(3, 1)
    affine = Affine.from_list([[0, 0, -0.5, 40], [0, 0.5, 0, 10], [2.0, 0, 0, 3], [0, 0, 0, 1]])
    sharp, smooth = (heat_of(explained(known, ear(), method=INTEGRATED, target=name, affine=a)) for name, a in
                     (("abnormal", SHARP), ("abnormal", affine)))
    against = heat_of(explained(known, ear(), method=INTEGRATED, target="normal"))
    sigma = SMOOTH_MM / 2, 2 * SMOOTH_MM, 2 * SMOOTH_MM
    by_hand = gaussian_filter((sharp - against).astype(np.float64), sigma, mode="constant")
    np.testing.assert_allclose(smooth, np.maximum(by_hand, 0), atol=1e-6)


class Bright(nn.Module):
    """Its one feature is how bright a slice is."""

    feature_info = ({"module": "see", "num_chs": 1, "reduction": 1},)

    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.see.weight)

    def forward(self, x):
        return self.see(x + 1).mean((2, 3))


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_sees_brightness_points_at_what_is_bright(method):
    known = trained(pooling="mean")
    known.model.backbone = Bright()
    known.model.head = nn.Linear(1, 1)
    nn.init.ones_(known.model.head.weight)
    volume = np.full((6, 64, 64), -1000, np.int16)
    volume[4, 10:20, 40:50] = 2000
    found = explained(known, volume, target="abnormal", method=method, top=1)
    k, row, column = found.maps[0].peak
    assert list(found.slices) == [4] and found.ranked_by == "gradient × features"
    assert k == 4 and 10 <= row < 20 and 40 <= column < 50 and found.maps[0].heat[:, 30:, :30].max() == 0
    against = explained(known, volume, target="normal", method="gradcam").maps[0]
    assert against.heat.max() == 0 and against.peak is None      # nothing that is bright speaks for normal


@pytest.mark.parametrize("pooling", ["attention", "mean"])
@pytest.mark.parametrize("method", ["gradcam", INTEGRATED])
def test_an_ear_seen_in_blocks_is_explained_as_the_mean_of_its_blocks_each_by_itself(pooling, method):
    known, volume = trained(pooling=pooling, windows=("soft", "bone"), slice_context=1, model_slices=4), ear()
    found = explained(known, volume, target="abnormal", method=method)
    whole = replace(known, checkpoint=SimpleNamespace(config=replace(
        known.config, augment=replace(known.config.augment, model_slices=None))))
    heat, weight, seen, logits = np.zeros((6, 64, 64)), np.zeros(6), np.zeros(6), []
    for start in (0, 2):
        part = explained(whole, volume[start:start + 4], target="abnormal", method=method)
        against = heat_of(explained(whole, volume[start:start + 4], target="normal", method=method))
        heat[start:start + 4] += (heat_of(part) - (against if method == INTEGRATED else 0)) / 2       # half of the mean
        weight[start:start + 4] += part.weights
        seen[start:start + 4] += 1
        logits.append(np.log(part.probability / (1 - part.probability)))
    weight /= seen
    weight *= 1 / weight.sum() if pooling == "attention" else 1 / 2
    np.testing.assert_allclose(found.weights, weight, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(heat_of(found), np.maximum(heat, 0), atol=1e-3 * heat.max())
    assert found.probability == pytest.approx(1 / (1 + np.exp(-np.mean(logits))), abs=1e-5)
    np.testing.assert_allclose(found.grey, np.clip((volume + 1000) / 3000, 0, 1), atol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
@pytest.mark.parametrize(("name", "rows"), [("six_class", slice(6)), ("normal_vs_ome", slice(6, 7)),
                                            ("normal_vs_abnormal", slice(7, 8))])
def test_of_several_tasks_each_is_explained_as_by_a_network_that_has_it_alone(name, rows, pooling):
    known, alone = (trained(tasks, pooling=pooling) for tasks in ("six_class,normal_vs_ome,normal_vs_abnormal", name))
    head = {f"head.{part}": getattr(known.model.head, part)[rows] for part in ("weight", "bias")}
    alone.model.load_state_dict({**known.model.state_dict(), **head})
    task, seen = find_task(name), set()
    for target in ("predicted", *task.class_names):
        found, expected = (explained(one, ear(), task, target=target, method="hirescam") for one in (known, alone))
        assert found.class_name == expected.class_name and found.probability == pytest.approx(expected.probability, abs=1e-6)
        assert found.slices.tolist() == expected.slices.tolist()
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-6)
        np.testing.assert_allclose(heat_of(found), heat_of(expected), atol=1e-4 * expected.maps[0].scale)
        seen.add(found.maps[0].heat.tobytes())
    assert len(seen) == len(task.classes)                        # each class has a map of its own


@pytest.mark.parametrize("method", ["gradcam", INTEGRATED])
def test_explaining_leaves_the_network_unchanged(method):
    known = trained()
    before = {name: tensor.clone() for name, tensor in known.model.state_dict().items()}
    one, two = explained(known, ear(), method=method), explained(known, ear(), method=method)
    np.testing.assert_array_equal(one.maps[0].heat, two.maps[0].heat)
    assert all(torch.equal(tensor, before[name]) for name, tensor in known.model.state_dict().items())
    assert not known.model.training and all(p.grad is None for p in known.model.parameters())


def test_an_unknown_class_method_or_layer_is_refused():
    with pytest.raises(UserError, match="--target: got 'ill'"):
        explained(trained(), ear(), target="ill")
    with pytest.raises(UserError, match="--method: got 'guess'"):
        explained(trained(), ear(), method="guess")
    with pytest.raises(UserError, match="--layer: got 'none', expected one of act1, layer1"):
        explained(trained(), ear(), layer="none")


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_ears_of_one_pass_are_explained_as_each_by_itself_from_a_single_run_of_the_network(pooling):
    known = trained(pooling=pooling, model_slices=4)
    request = ExplanationRequest(methods=("hirescam", "gradcam"), top=3)
    both, task, runs = np.stack([ear(seed=1), ear(seed=2)]), known.tasks[0], []
    hook = known.model.backbone.register_forward_hook(lambda *given: runs.append(1))
    together = explain_pass(look_for(known, both, request), [SHARP, SHARP], task, request, ["abnormal", "normal"])
    hook.remove()
    assert len(runs) == 1
    for volume, name, found in zip(both, ("abnormal", "normal"), together, strict=True):
        alone = explain(known, volume, SHARP, task, replace(request, target=name))
        assert found.class_name == name and found.probability == pytest.approx(alone.probability, abs=1e-6)
        np.testing.assert_allclose(found.weights, alone.weights, atol=1e-6)
        for one, other in zip(found.maps, alone.maps, strict=True):
            np.testing.assert_allclose(one.heat * one.scale, other.heat * other.scale, atol=1e-5 * other.scale)


def test_an_ear_whose_map_is_not_finite_has_none_and_leaves_the_other_as_it_was():
    known, request = trained(), ExplanationRequest(methods=("hirescam",), top=3)
    seen = look_for(known, np.stack([ear(seed=1), ear(seed=2)]), request)
    with torch.no_grad():
        seen.activations["layer1"][:6] = torch.nan               # the slices of the first ear
    broken, whole = explain_pass(seen, [SHARP, SHARP], known.tasks[0], request)
    alone = explained(known, ear(seed=2), method="hirescam", top=3)
    assert broken is None
    np.testing.assert_allclose(whole.maps[0].heat, alone.maps[0].heat, atol=1e-5)
