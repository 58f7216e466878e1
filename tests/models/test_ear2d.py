"""Pooling over slices, the 2D network of an ear, and the weights that it starts from."""
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import nn

from medical_fenlei.config import ModelConfig
from medical_fenlei.errors import UserError
from medical_fenlei.models.build import build_model
from medical_fenlei.models.pooling import POOLINGS
from medical_fenlei.models.slice_encoder import build_backbone
from medical_fenlei.models.weights import load_weights

N, K, D = 3, 7, 24
WEIGHTED = ("attention", "gated_attention", "transformer")
UNORDERED = ("mean", "max", "attention", "gated_attention")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def slices():
    return torch.randn(N, K, D)


def ear2d(pooling="attention", *, backbone="test_resnet", outputs=1, size=32, channels=1, **options):
    config = ModelConfig(backbone=backbone, pooling=pooling, **options)
    return build_model(config, shape=(4, channels, size, size), outputs=outputs).eval()


@torch.no_grad()
def outcome(model, volume):
    return model(volume)


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_gives_one_vector_an_ear_and_attention_that_sums_to_one(name, slices):
    pooling = POOLINGS[name](D).eval()
    pooled, attention = outcome(pooling, slices)
    assert pooled.shape == (N, pooling.features) and torch.isfinite(pooled).all()
    assert (attention is not None) == (name in WEIGHTED)
    if attention is not None:
        assert attention.shape == (N, K) and (attention >= 0).all()
        torch.testing.assert_close(attention.sum(1), torch.ones(N))


def test_mean_and_max_equal_numpy(slices):
    np.testing.assert_allclose(POOLINGS["mean"](D)(slices)[0], slices.numpy().mean(1), atol=1e-6)
    np.testing.assert_array_equal(POOLINGS["max"](D)(slices)[0], slices.numpy().max(1))


@pytest.mark.parametrize("name", ["attention", "gated_attention"])
def test_attention_equals_the_formula_of_the_paper(name, slices):
    pooling = POOLINGS[name](D)
    given = {key: value.double().numpy() for key, value in pooling.state_dict().items()}
    h = slices.double().numpy()
    hidden = np.tanh(h @ given["content.0.weight"].T + given["content.0.bias"])
    if name == "gated_attention":
        hidden /= 1 + np.exp(-(h @ given["gate.0.weight"].T + given["gate.0.bias"]))
    score = np.exp(hidden @ given["score.weight"][0])
    weight = score / score.sum(1, keepdims=True)
    pooled, attention = outcome(pooling, slices)
    np.testing.assert_allclose(attention, weight, rtol=1e-4)
    np.testing.assert_allclose(pooled, (weight[..., None] * h).sum(1), atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_only_the_transformer_depends_on_the_order_of_slices(name):
    model, volume = ear2d(name), torch.randn(2, K, 1, 32, 32)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    one, other = outcome(model, volume), outcome(model, volume[:, order])
    change = (one.embedding - other.embedding).abs().max() / one.embedding.abs().max()
    assert change < 1e-5 if name in UNORDERED else change > 1e-3
    if name in UNORDERED and name in WEIGHTED:
        torch.testing.assert_close(one.attention[:, order], other.attention)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_efficientnet"])
@pytest.mark.parametrize(("outputs", "channels"), [(1, 1), (6, 1), (1, 6)])
def test_an_ear_is_its_slices_encoded_one_by_one(backbone, outputs, channels):
    model = ear2d("mean", backbone=backbone, outputs=outputs, channels=channels)
    volume = torch.randn(2, 4, channels, 32, 32)
    found = outcome(model, volume)
    with torch.no_grad():
        expected = torch.stack([sum(model.backbone(volume[n, k][None])[0] for k in range(4)) / 4 for n in range(2)])
    torch.testing.assert_close(found.embedding, expected, rtol=1e-4, atol=1e-5)
    assert found.logits.shape == (2, outputs) and found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, found.embedding @ model.head.weight.T + model.head.bias)


def test_pooling_and_head_stay_in_float32_under_autocast():
    model, volume = ear2d("gated_attention"), torch.randn(2, 4, 1, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(model, volume)
    assert {tensor.dtype for tensor in found} == {torch.float32}
    torch.testing.assert_close(found.attention.sum(1), torch.ones(2))


@pytest.mark.parametrize("name", POOLINGS)
def test_one_ear_does_not_depend_on_the_others_of_its_batch(name):
    model, volume = ear2d(name), torch.randn(3, 4, 1, 32, 32)
    together = outcome(model, volume).logits
    torch.testing.assert_close(together, torch.cat([outcome(model, ear[None]).logits for ear in volume]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_every_weight_of_the_network_learns(name):
    model = ear2d(name, backbone="test_vit").train()
    model(torch.randn(2, 4, 1, 32, 32)).logits.square().sum().backward()
    still = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert all(key.endswith("score.bias") for key in still)                          # softmax does not see that bias


def test_an_unknown_backbone_is_refused_with_names_that_are_near():
    with pytest.raises(UserError, match=r"^--backbone: .*'resnet81'.*resnet18"):
        build_backbone("resnet81", image_size=32, pretrained=False)


@pytest.mark.parametrize("size", [30, 33])
def test_a_size_that_a_vit_cannot_take_is_refused_in_one_line(size):
    with pytest.raises(UserError, match=rf"^--backbone test_vit: .*{size} × {size}[^\n]*$"):
        build_backbone("test_vit", image_size=size, pretrained=False)


def three_channels(name="test_resnet"):
    """A network for colour pictures, no tensor of which is as it starts."""
    model = timm.create_model(name, in_chans=3, num_classes=0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor, *((-0.2, 0.2) if tensor.ndim > 1 else (0.5, 1.5)))
    return model.eval()


def write_weights(path, tensors, form):
    if form == "safetensors":
        save_file(tensors, path)
    else:
        held = {"plain": tensors, "model": {"model": tensors, "epoch": 3}, "state_dict": {"state_dict": tensors},
                "parallel": {f"module.{name}": tensor for name, tensor in tensors.items()},
                "of_a_run": {"model": {f"module.backbone.{name}": tensor for name, tensor in tensors.items()}}}
        torch.save(held[form], path)


@pytest.mark.parametrize("form", ["safetensors", "plain", "model", "state_dict", "parallel", "of_a_run"])
def test_weights_for_three_channels_see_a_grey_picture_as_before(form, tmp_path):
    colour, picture = three_channels(), torch.randn(2, 1, 32, 32)
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    write_weights(path, colour.state_dict(), form)
    grey, _ = build_backbone("test_resnet", image_size=32, pretrained=False)
    load_weights(grey, path, flag="--backbone-weights")
    expected = outcome(colour, picture.repeat(1, 3, 1, 1))
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(outcome(grey.eval(), picture), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 9])
def test_weights_for_three_channels_are_fitted_as_timm_fits_published_ones(channels, tmp_path):
    colour = three_channels().state_dict()
    torch.save(colour, tmp_path / "w.pt")
    own, _ = build_backbone("test_resnet", channels=channels, image_size=32, pretrained=False)
    load_weights(own, tmp_path / "w.pt", flag="--backbone-weights", channels=channels)
    expected = adapt_input_conv(channels, colour["conv1.0.weight"].clone())
    torch.testing.assert_close(own.state_dict()["conv1.0.weight"], expected)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_weights_for_one_channel_see_a_picture_in_all_channels_as_before(channels, tmp_path):
    grey, _ = build_backbone("test_resnet", image_size=32, pretrained=False)
    torch.save(grey.state_dict(), tmp_path / "w.pt")
    own, _ = build_backbone("test_resnet", channels=channels, image_size=32, pretrained=False)
    load_weights(own, tmp_path / "w.pt", flag="--backbone-weights", channels=channels)
    picture = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(outcome(own.eval(), picture.repeat(1, channels, 1, 1)), outcome(grey.eval(), picture),
                               rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("channels", "of_the_file"), [(1, 6), (6, 2), (2, 6)])
def test_weights_for_yet_another_number_of_channels_are_refused_and_change_nothing(channels, of_the_file, tmp_path):
    torch.save(timm.create_model("test_resnet", in_chans=of_the_file, num_classes=0).state_dict(), tmp_path / "w.pt")
    own, _ = build_backbone("test_resnet", channels=channels, image_size=32, pretrained=False)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    with pytest.raises(UserError, match=rf"conv1\.0\.weight has {of_the_file} input channels, .* {channels}"):
        load_weights(own, tmp_path / "w.pt", flag="--backbone-weights", channels=channels)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())


def test_build_starts_from_the_weights_named_unless_a_checkpoint_follows(tmp_path):
    given = timm.create_model("test_resnet", in_chans=1, num_classes=0).state_dict()
    save_file(given, tmp_path / "w.safetensors")
    started = ear2d(backbone_weights=tmp_path / "w.safetensors").backbone.state_dict()
    torch.testing.assert_close(dict(started), dict(given), rtol=0, atol=0)
    config = ModelConfig(backbone="test_resnet", backbone_weights=tmp_path / "absent.pt")
    build_model(config, shape=(4, 1, 32, 32), outputs=1, load_pretrained=False)
    with pytest.raises(UserError, match="no such file"):
        build_model(config, shape=(4, 1, 32, 32), outputs=1)


def test_tensors_that_fit_are_taken_and_counted_and_the_others_left(tmp_path, caplog):
    own, _ = build_backbone("test_resnet", image_size=32, pretrained=False)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    fits, misfits = "layer1.0.conv1.weight", "layer2.0.conv1.weight"
    torch.save({fits: torch.zeros_like(before[fits]), misfits: torch.zeros(1, 2, 3, 3), "fc.weight": torch.zeros(9)},
               tmp_path / "w.pt")
    with caplog.at_level("INFO", logger="medical_fenlei"):
        load_weights(own, tmp_path / "w.pt", flag="--backbone-weights")
    after = own.state_dict()
    assert (after[fits] == 0).all() and f"1 of the network's {len(before)} tensors" in caplog.text
    assert all(torch.equal(after[name], before[name]) for name in before if name != fits)


def not_weights(folder):
    torch.save({"head.weight": torch.zeros(3, 3)}, folder / "nothing_fits.pt")
    torch.save([torch.zeros(3)], folder / "list.pt")
    torch.save({"model": torch.nn.Linear(2, 2)}, folder / "pickled_object.pt")
    (folder / "text.safetensors").write_text("no weights")
    (folder / "text.pt").write_text("no weights")
    return [*sorted(folder.iterdir()), folder / "absent.pt", folder / "absent.safetensors"]


def test_published_weights_that_cannot_be_had_are_refused_at_once_with_the_remedy(monkeypatch):
    asked = []
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *given: None)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")     # where nobody listens
    monkeypatch.setattr(timm, "create_model", lambda *given, **more: asked.append(given))
    said = r"^--pretrained: [^\n]*resnet18[^\n]*127\.0\.0\.1:9[^\n]*--backbone-weights FILE"
    with pytest.raises(UserError, match=said) as caught:
        build_backbone("resnet18", image_size=32, pretrained=True)
    assert not asked and "timm/resnet18" in str(caught.value)


def test_weights_that_are_not_finite_are_refused_and_change_nothing(tmp_path):
    net = nn.Sequential(nn.Linear(3, 2))
    before = net[0].weight.clone()
    torch.save({"0.weight": torch.full((2, 3), torch.inf)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"--backbone-weights .*w\.pt: its weights are not finite \(0\.weight\)"):
        load_weights(net, tmp_path / "w.pt", flag="--backbone-weights")
    assert torch.equal(net[0].weight, before)


def test_a_file_without_weights_that_fit_is_refused_in_one_line_and_changes_nothing(tmp_path):
    own, _ = build_backbone("test_resnet", image_size=32, pretrained=False)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    for path in not_weights(tmp_path):
        with pytest.raises(UserError, match=r"^--backbone-weights [^\n]*$") as caught:
            load_weights(own, path, flag="--backbone-weights")
        assert str(path) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
