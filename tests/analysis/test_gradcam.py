"""A class activation map is that of the formula, on the slices that matter, for the class that was asked for."""
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medical_fenlei.analysis.gradcam import METHODS, explain
from medical_fenlei.analysis.trained import Trained
from medical_fenlei.data.augment import window
from medical_fenlei.errors import UserError
from medical_fenlei.models.build import build_model
from medical_fenlei.runs import Run
from medical_fenlei.tasks import find_task, find_tasks
from medical_fenlei.training.config import EAR_ROUTE, AugmentConfig, ModelConfig
from medical_fenlei.training.device import Arithmetic

CPU = Arithmetic(torch.device("cpu"), torch.float32)


def trained(tasks="normal_vs_abnormal", backbone="resnet10t", size=64, pooling="attention", seed=0, **options):
    torch.manual_seed(seed)
    config, augment, tasks = ModelConfig(backbone=backbone, pooling=pooling), AugmentConfig(**options), find_tasks(tasks)
    model = build_model(config, shape=(6, augment.channels, size, size), outputs=sum(task.outputs for task in tasks)).eval()
    return Trained(SimpleNamespace(config=replace(EAR_ROUTE, augment=augment)), Run(Path("none")), tasks, model, CPU)


def explained(known, volume, **options):
    """Of a network with one task."""
    task, = known.tasks
    return explain(known, volume, task, **options)


def ear(size=64, seed=0):
    return np.random.default_rng(seed).integers(-1000, 2000, (6, size, size)).astype(np.int16)


@pytest.mark.parametrize(("backbone", "size"), [
    ("resnet10t", 64), ("resnet10t", 96), ("convnext_atto", 64), ("vit_tiny_patch16_224", 112), ("test_vit", 64),
    ("swin_tiny_patch4_window7_224", 224), ("efficientnet_b0", 64),
])
def test_backbones_that_convolve_and_that_attend_give_a_map_of_each_slice(backbone, size):
    found = explained(trained(backbone=backbone, size=size), ear(size), top=3)
    assert found.heat.shape == found.grey.shape == (3, size, size) and found.ranked_by == "attention"
    assert found.heat.min() >= 0 and found.heat.max() <= 1 and found.heat.std() > 0
    assert list(found.weights) == sorted(found.weights, reverse=True) and len({*found.slices.tolist()}) == 3


@pytest.mark.parametrize(("task", "target"), [
    ("normal_vs_abnormal", "abnormal"), ("normal_vs_abnormal", "normal"), ("six_class", "otitis media with effusion")])
def test_a_map_is_that_of_the_formula(task, target):
    """Selvaraju 2017 (arXiv:1610.02391), equations 1 and 2, by hand."""
    known, volume = trained(task), ear()
    found = explained(known, volume, target=target, top=6)
    model, kept = known.model, {}
    layer = model.backbone.get_submodule(found.layer)
    hook = layer.register_forward_hook(lambda module, given, out: kept.update(a=out) or out.retain_grad())
    logits = model(window(torch.from_numpy(volume)[None], known.config.augment)).logits[0]
    hook.remove()
    wanted = known.tasks[0].class_names.index(target)
    score = logits[wanted] if task == "six_class" else logits[0] * (1 if wanted else -1)
    score.backward()
    weight = kept["a"].grad.mean((2, 3), keepdim=True)
    cam = F.relu((weight * kept["a"]).sum(1)).detach().numpy()
    for k, heat in zip(found.slices, found.heat, strict=True):
        if cam[k].max() > 0:
            row, column = np.unravel_index(cam[k].argmax(), cam[k].shape)
            step = 64 // cam.shape[-1]
            own = heat[row * step:(row + 1) * step, column * step:(column + 1) * step]
            assert own.max() > 0.9                               # the hottest cell is the hottest place
            small = F.adaptive_avg_pool2d(torch.from_numpy(heat)[None, None], cam.shape[-1])[0, 0].numpy()
            assert np.corrcoef(small.ravel(), cam[k].ravel())[0, 1] > 0.95
        else:
            assert heat.max() == 0
    expected = logits.softmax(0)[wanted] if task == "six_class" else torch.sigmoid(score)
    assert found.probability == pytest.approx(float(expected.detach()), abs=1e-5)


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
    row, column = np.unravel_index(found.heat[0].argmax(), (64, 64))
    assert list(found.slices) == [4] and found.ranked_by == "gradient × features"
    assert 10 <= row < 20 and 40 <= column < 50 and found.heat[0][30:, :30].max() == 0
    against = explained(known, volume, target="normal", method="gradcam", top=6)
    assert against.heat.max() == 0                               # nothing that is bright speaks for normal


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_an_ear_seen_in_blocks_is_explained_as_the_mean_of_its_blocks_each_by_itself(pooling):
    known, volume = trained(pooling=pooling, windows=("soft", "bone"), slice_context=1, model_slices=4), ear()
    found = explained(known, volume, target="abnormal", top=6)
    whole = replace(known, checkpoint=SimpleNamespace(config=replace(
        known.config, augment=replace(known.config.augment, model_slices=None))))
    heat, weight, seen, logits = np.zeros((6, 64, 64)), np.zeros(6), np.zeros(6), []
    for start in (0, 2):
        part = explained(whole, volume[start:start + 4], target="abnormal", top=4)
        heat[start + part.slices] += part.heat
        weight[start + part.slices] += part.weights
        seen[start:start + 4] += 1
        logits.append(np.log(part.probability / (1 - part.probability)))
    weight /= seen
    weight *= 1 / weight.sum() if pooling == "attention" else 1 / 2              # each block is half of the mean
    np.testing.assert_allclose(found.weights, weight[found.slices], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.heat, (heat / seen[:, None, None])[found.slices], atol=1e-3)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-np.mean(logits))), abs=1e-5)
    np.testing.assert_allclose(found.grey, np.clip((volume[found.slices] + 1000) / 3000, 0, 1), atol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "mean"])
@pytest.mark.parametrize(("name", "rows"), [("six_class", slice(6)), ("normal_vs_ome", slice(6, 7)),
                                            ("normal_vs_abnormal", slice(7, 8))])
def test_of_several_tasks_each_is_explained_as_by_a_network_that_has_it_alone(name, rows, pooling):
    known, alone = (trained(tasks, pooling=pooling) for tasks in ("six_class,normal_vs_ome,normal_vs_abnormal", name))
    head = {f"head.{part}": getattr(known.model.head, part)[rows] for part in ("weight", "bias")}
    alone.model.load_state_dict({**known.model.state_dict(), **head})
    task, seen = find_task(name), set()
    for target in ("predicted", *task.class_names):
        found, expected = explain(known, ear(), task, target=target, top=6), explain(alone, ear(), task, target=target, top=6)
        assert found.class_name == expected.class_name and found.probability == pytest.approx(expected.probability, abs=1e-6)
        assert found.slices.tolist() == expected.slices.tolist()
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-6)
        np.testing.assert_allclose(found.heat, expected.heat, atol=1e-4)
        seen.add(found.heat.tobytes())
    assert len(seen) == len(task.classes)                        # each class has a map of its own


def test_looking_leaves_the_network_as_it_was():
    known = trained()
    before = {name: tensor.clone() for name, tensor in known.model.state_dict().items()}
    one, two = explained(known, ear(), top=2), explained(known, ear(), top=2)
    np.testing.assert_array_equal(one.heat, two.heat)
    assert all(torch.equal(tensor, before[name]) for name, tensor in known.model.state_dict().items())
    assert not known.model.training and all(p.grad is None for p in known.model.parameters())


def test_an_unknown_class_or_method_is_refused():
    with pytest.raises(UserError, match="--target: got 'ill'"):
        explained(trained(), ear(), target="ill", top=1)
    with pytest.raises(UserError, match="--method: got 'guess'"):
        explained(trained(), ear(), method="guess", top=1)
