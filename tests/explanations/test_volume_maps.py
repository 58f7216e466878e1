"""Maps of 3D networks: each equals its formula, finds what was planted, and belongs to one ear and its prediction."""
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medical_fenlei.config import DUAL_ROUTE, AugmentConfig, ModelConfig, PhysicalScale
from medical_fenlei.data.augment import window
from medical_fenlei.errors import UserError
from medical_fenlei.explanations.maps import ExplanationRequest, explain, explain_pass, look_for
from medical_fenlei.explanations.methods import INTEGRATED, METHODS
from medical_fenlei.models.anatomy_ear import GRID_MM, REGIONS, AnatomyEar, regions, tissues
from medical_fenlei.models.build import build_model
from medical_fenlei.models.ear3d import VolumeEncoder
from medical_fenlei.models.network import Network, NetworkOutput, NetworkStage
from medical_fenlei.spatial import Affine
from medical_fenlei.tasks import find_tasks
from medical_fenlei.trained.network import TrainedNetwork
from medical_fenlei.training.device import ComputeSettings

SHAPE = (16, 32, 32)
SHARP = Affine(np.diag([1e3, 1e3, 1e3, 1]))
"""Voxels so large that smoothing does nothing."""
NETWORKS = ("dual_resnet10_3d", "dual_unet_3d", "dual_vit_3d")
PAIR = ("normal", "abnormal")


def with_model(model, tasks, **options):
    checkpoint = SimpleNamespace(config=replace(DUAL_ROUTE, augment=AugmentConfig(**options)))
    compute = ComputeSettings(torch.device("cpu"), torch.float32)
    return TrainedNetwork(Path("none/checkpoints/best.pt"), checkpoint, find_tasks(tasks), model.eval(), compute)


def trained(name="dual_resnet10_3d", tasks="normal_vs_abnormal", seed=0, **options):
    torch.manual_seed(seed)
    slices = options.get("model_slices") or SHAPE[0]
    model = build_model(ModelConfig(model=name), shape=(slices, AugmentConfig(**options).channels, *SHAPE[1:]),
                        outputs=sum(task.outputs for task in find_tasks(tasks)))
    return with_model(model, tasks, **options)


def ear(seed=0):
    return np.random.default_rng(seed).integers(-1000, 2000, SHAPE).astype(np.int16)


def explained(known, volume, method="hirescam", top=5, **options):
    return explain(known, volume, SHARP, known.tasks[0], ExplanationRequest(methods=(method,), top=top, **options))


def heat_of(found):
    """In the method's own measure, (K, H, W)."""
    only, = found.maps
    return only.heat * only.scale


def logits_of(known, volume):
    """The network's own logits, (O,)."""
    with torch.no_grad():
        return known.model(window(torch.from_numpy(volume)[None], known.config.augment)).logits[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_methods_explain_the_prediction_of_a_3d_network(name):
    known, volume = trained(name, "six_class"), ear()
    found = explain(known, volume, SHARP, known.tasks[0], ExplanationRequest(top=3))
    probability = logits_of(known, volume).softmax(0)
    np.testing.assert_allclose([*found.probabilities.values()], probability, atol=1e-6)
    assert found.class_name == known.tasks[0].class_names[int(probability.argmax())]
    for one in found.maps:
        assert one.heat.shape == SHAPE and one.heat.min() >= 0 and one.heat.std() > 0 and one.heat[one.peak] == 1
    first = found.maps[0].heat.sum((1, 2))
    np.testing.assert_allclose(found.weights, first / first.sum(), rtol=1e-4)
    assert found.ranked_by == "share of the heat (integrated)" and found.slices.tolist() == np.argsort(-first)[:3].tolist()


@pytest.mark.parametrize(("method", "layer", "task", "target"), [
    ("hirescam", "layer1", "normal_vs_abnormal", "abnormal"), ("hirescam", "layer1", "normal_vs_abnormal", "normal"),
    ("hirescam", "layer3", "six_class", "otitis media with effusion"), ("gradcam", "layer2", "normal_vs_abnormal", "abnormal"),
    ("gradcam", "layer2", "six_class", "otitis media with effusion")])
def test_class_activation_of_a_volume_equals_the_formula(method, layer, task, target):
    """Selvaraju 2017 (arXiv:1610.02391), equations 1 and 2, and Draelos 2020 (arXiv:2011.08891), equation 3, cell by cell."""
    known, volume, kept = trained(tasks=task), ear(), {}
    found = explained(known, volume, method, target=target, layer=layer)
    hook = known.model.encoder.get_submodule(layer).register_forward_hook(
        lambda module, given, out: kept.update(a=out) or out.retain_grad())
    logits = known.model(window(torch.from_numpy(volume)[None], known.config.augment)).logits[0]
    hook.remove()
    wanted = known.tasks[0].class_names.index(target)
    (logits[wanted] if task == "six_class" else logits[0] * (1 if wanted else -1)).backward()
    activation, gradient = kept["a"][0].detach().double(), kept["a"].grad[0].double()
    cells = torch.zeros(activation.shape[1:], dtype=torch.float64)
    for channel, slope in zip(activation, gradient, strict=True):
        cells += channel * (slope.mean() if method == "gradcam" else slope)
    expected = F.interpolate(cells.clamp(min=0)[None, None], size=SHAPE, mode="trilinear", align_corners=False)[0, 0].numpy()
    assert expected.max() > 0
    np.testing.assert_allclose(heat_of(found), expected, atol=1e-4 * expected.max())
    assert found.maps[0].layer == layer


@pytest.mark.parametrize(("name", "cells"), [
    ("dual_resnet10_3d", (1, 1, 1)), ("dual_unet_3d", SHAPE), ("dual_vit_3d", (4, 2, 2))])
def test_what_the_cells_of_the_last_stage_contribute_adds_up_to_the_logit(name, cells):
    """HiResCAM is exact where a mean over cells and a linear head follow (Draelos 2020, section 3.3)."""
    known, volume = trained(name), ear()
    against, in_favour = (explained(known, volume, target=target, layer=known.model.stages()[-1].name) for target in PAIR)
    shares = (heat_of(in_favour) - heat_of(against)).sum(dtype=np.float64) * np.prod(cells) / np.prod(SHAPE)
    gain = float(logits_of(known, volume)[0] - known.model.head.bias.detach()[0])
    assert shares == pytest.approx(gain, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shares_of_integrated_gradients_add_up_to_the_gain_of_the_logit_from_air(name):
    """Completeness (Sundararajan 2017, proposition 1): what speaks for a class, less what speaks for the other."""
    known, volume = trained(name, windows=("soft", "bone")), ear()
    against, in_favour = (heat_of(explained(known, volume, INTEGRATED, target=target)) for target in PAIR)
    gain = float(logits_of(known, volume)[0] - logits_of(known, np.full_like(volume, -1000))[0])
    assert in_favour.sum() - against.sum() == pytest.approx(gain, abs=0.02 * float((in_favour + against).sum()))
    assert not (in_favour * against).any()


class Bright(VolumeEncoder):
    """Its one feature is how bright a volume is, block of two by four by four by block."""

    def __init__(self):
        super().__init__()
        self.see = nn.Conv3d(1, 1, (2, 4, 4), (2, 4, 4), bias=False)
        nn.init.ones_(self.see.weight)

    def stages(self):
        return NetworkStage("see", self.see, 4),

    def forward(self, x):
        return self.see(x + 1).mean((2, 3, 4))


@pytest.mark.parametrize("method", METHODS)
def test_a_hot_voxel_is_found_in_a_planted_volume(method):
    known = trained()
    known.model.encoder, known.model.head = Bright(), nn.Linear(1, 1)
    nn.init.ones_(known.model.head.weight)
    volume = np.full(SHAPE, -1000, np.int16)
    volume[10, 21, 6] = 2000
    found = explained(known, volume, method, target="abnormal", top=1)
    where = found.maps[0].peak
    assert where == (10, 21, 6) if method == INTEGRATED else np.abs(np.subtract(where, (10, 21, 6))).max() < 4
    assert where[0] in (10, 11) and found.slices[0] in (10, 11) and found.maps[0].heat[:8].max() == 0
    nothing = explained(known, volume, method, target="normal")
    assert nothing.maps[0].peak is None and not nothing.weights.any()


@pytest.mark.parametrize("name", NETWORKS)
def test_two_ears_of_one_pass_do_not_mix_and_the_network_runs_once(name):
    known, runs = trained(name), []
    both, task = np.stack([ear(1), ear(2)]), known.tasks[0]
    request = ExplanationRequest(methods=("hirescam", "gradcam"), top=3)
    hook = known.model.encoder.register_forward_hook(lambda *given: runs.append(1))
    seen = look_for(known, both, request)
    together = explain_pass(seen, [SHARP, SHARP], task, request, PAIR)
    hook.remove()
    assert len(runs) == 1
    np.testing.assert_allclose(seen.result.logits, [logits_of(known, volume).numpy() for volume in both], atol=1e-5)
    for volume, target, found in zip(both, PAIR, together, strict=True):
        alone = explain(known, volume, SHARP, task, replace(request, target=target))
        assert found.class_name == target and found.probability == pytest.approx(alone.probability, abs=1e-6)
        assert found.slices.tolist() == alone.slices.tolist()
        for one, other in zip(found.maps, alone.maps, strict=True):
            np.testing.assert_allclose(heat_of(replace(found, maps=(one,))), heat_of(replace(alone, maps=(other,))),
                                       atol=1e-4 * other.scale)


@pytest.mark.parametrize("method", ["hirescam", INTEGRATED])
def test_an_ear_seen_in_blocks_has_the_mean_of_the_maps_of_its_blocks(method):
    known, volume = trained(model_slices=12), ear()
    found = explained(known, volume, method, target="abnormal")
    whole, heat = with_model(known.model, "normal_vs_abnormal"), np.zeros(SHAPE)
    for start in (0, 4):
        against, in_favour = (heat_of(explained(whole, volume[start:start + 12], method, target=target)) for target in PAIR)
        heat[start:start + 12] += (in_favour - (against if method == INTEGRATED else 0)) / 2
    np.testing.assert_allclose(heat_of(found), np.maximum(heat, 0), atol=1e-3 * heat.max())


def test_the_cells_of_a_transformer_are_its_patches_where_they_lie():
    known = trained("dual_vit_3d")
    stage, = known.model.stages()
    volume = torch.rand(2, 1, *SHAPE)
    embedding = known.model.encoder.patch_embedding
    grid = embedding.patch_embeddings(volume)
    tokens = embedding(volume) - embedding.position_embeddings
    torch.testing.assert_close(stage.to_cells(tokens), grid, rtol=1e-4, atol=1e-5)


def anatomy_ear(voxel_mm):
    torch.manual_seed(0)
    model = AnatomyEar(SHAPE, PhysicalScale(voxel_mm, 500.0, 3000.0, channel=0), dropout=0, outputs=1).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def test_the_cells_of_the_anatomy_network_cover_the_ear_to_half_a_cell():
    """A field that is linear in mm about the middle of the ear: what is left of the grid has the ends of the ear."""
    voxel_mm = (2.0, 0.9, 0.5)
    model = anatomy_ear(voxel_mm)
    stage, = model.stages()
    for axis, (length, own, grid) in enumerate(zip(SHAPE, voxel_mm, GRID_MM, strict=True)):
        cells = [len(to) for to in (model.to_z, model.to_y, model.to_x)]
        place = (torch.arange(cells[axis]) - (cells[axis] - 1) / 2) * grid
        shape = [1] * 5
        shape[axis + 2] = -1
        left = stage.to_cells(place.view(shape).expand(1, 1, *cells)).movedim(axis + 2, 0).flatten(1)[:, 0]
        for end, sign in ((left[0], -1), (left[-1], 1)):
            assert end + sign * grid / 2 == pytest.approx(sign * length * own / 2, abs=grid / 2 + 1e-4)


def test_the_map_of_the_anatomy_network_is_what_each_voxel_adds_to_the_logit():
    """The logit is linear in the contents: their product with its gradient sums to what the shares of tissues add."""
    model = anatomy_ear((1.0, 0.7, 0.7))
    known, volume = with_model(model, "normal_vs_abnormal"), ear()
    found = explain(known, volume, SHARP, known.tasks[0], ExplanationRequest(methods=("hirescam",), target="abnormal"))
    assert found.ranked_by != "attention" and found.maps[0].layer == "contents"
    image = window(torch.from_numpy(volume)[None], known.config.augment)
    with torch.no_grad():
        hu = model.on_grid(image[:, :, 0] * 1500 + 500)
        region = regions(model.anatomy(hu).logits.softmax(1))
        per_measure = (model.head.weight[0] * model.importance * model.normalise.weight
                       / (model.normalise.running_var + model.normalise.eps).sqrt()).unflatten(0, (REGIONS, -1))[:, :-1]
        slope = (per_measure / (region[0].sum((1, 2, 3)) + 1)[:, None]).flatten()
        added = (slope[:, None, None, None] * model.contents(region, tissues(hu))[0]).sum(0)
    expected = model.stages()[0].to_cells(added[None, None])[0, 0].clamp(min=0)
    np.testing.assert_allclose(found.maps[0].heat, expected / expected.max(), atol=1e-4)


class Attending(Network):
    """A network with attention over slices and a map of the volume, as it may come."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv3d(1, 3, 1)
        self.head = nn.Linear(3, 1)

    @property
    def trunk(self):
        return self.features

    def stages(self):
        return NetworkStage("features", self.features, 1),

    def forward(self, volume):
        each = self.features(volume.transpose(1, 2)).mean((3, 4)).transpose(1, 2)
        attention = each.sum(2).softmax(1)
        embedding = (attention[..., None] * each).sum(1)
        return NetworkOutput(self.head(embedding), embedding, attention)


def test_a_network_with_attention_and_a_volume_of_features_needs_no_more_than_to_name_its_stage():
    torch.manual_seed(0)
    known, volume = with_model(Attending(), "normal_vs_abnormal"), ear()
    found = explain(known, volume, SHARP, known.tasks[0], ExplanationRequest())
    with torch.no_grad():
        attention = known.model(window(torch.from_numpy(volume)[None], known.config.augment)).attention[0].numpy()
    assert found.ranked_by == "attention" and [one.heat.shape for one in found.maps] == [SHAPE] * 2
    np.testing.assert_allclose(found.weights, attention, rtol=1e-5)


def test_a_network_without_stages_is_told_which_method_it_has():
    known = with_model(Attending(), "normal_vs_abnormal")
    known.model.stages = tuple
    with pytest.raises(UserError, match=r"does not name its stages; class activation \(gradcam\).*--method integrated can"):
        explained(known, ear(), "gradcam")
    assert explained(known, ear(), INTEGRATED).maps[0].heat.max() == 1


@pytest.mark.parametrize(("name", "stages"), [
    ("dual_resnet10_3d", "layer1, layer2, layer3, layer4"), ("dual_unet_3d", "decoded"), ("dual_vit_3d", "norm")])
def test_an_unknown_layer_is_refused_with_those_that_there_are(name, stages):
    with pytest.raises(UserError, match=f"--layer: got 'none', expected one of {stages}$"):
        explained(trained(name), ear(), layer="none")


def test_without_a_method_there_is_a_prediction_and_the_slices_are_not_ranked():
    known = trained()
    found = explain(known, ear(), SHARP, known.tasks[0], ExplanationRequest(methods=(), target="abnormal", top=3))
    assert found.probability == pytest.approx(float(logits_of(known, ear())[0].sigmoid()), abs=1e-6)
    assert found.ranked_by == "number" and found.slices.tolist() == [0, 1, 2] and not found.maps
