"""The 3D networks: their tensors and gradients, and the published weights that they start from."""
import pytest
import torch
import torch.nn.functional as F
from helpers.medicalnet import RESNETS, medicalnet, published
from helpers.small_study import SPEC
from safetensors.torch import save_file

from medical_fenlei.config import ModelConfig
from medical_fenlei.errors import UserError
from medical_fenlei.models.build import build_model
from medical_fenlei.models.ear3d import build_encoder

SMALLEST = ("dual_resnet10_3d", "dual_unet_3d", "dual_vit_3d")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(model, *, channels=1, outputs=6, **options):
    return build_model(ModelConfig(model=model, **options), shape=(16, channels, 32, 32), outputs=outputs)


@pytest.mark.parametrize("depth", RESNETS)
def test_a_residual_network_has_the_tensors_of_medicalnet_by_name_and_shape(depth):
    with torch.device("meta"):
        encoder, features = build_encoder(f"dual_resnet{depth}_3d", shape=(16, 1, 32, 32))
        assert encoder(torch.zeros(2, 1, *SPEC.shape)).shape == (2, features)
    assert {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()} == medicalnet(depth)


def test_the_first_convolution_keeps_all_slices_and_halves_rows_and_columns():
    model, shapes = build("dual_resnet10_3d"), []
    model.encoder.conv1.register_forward_hook(lambda _module, _given, out: shapes.append(tuple(out.shape)))
    model.eval()(torch.rand(1, 12, 1, 40, 56))
    assert shapes == [(1, 64, 12, 20, 28)]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("model", [*SMALLEST, "dual_resnet18_3d"])
def test_every_weight_of_a_3d_network_learns(model, channels):
    network = build(model, channels=channels).train()
    F.cross_entropy(network(torch.rand(2, 16, channels, 32, 32) * 2 - 1).logits, torch.tensor([1, 4])).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert not without
    still = [name for name, p in network.named_parameters() if p.ndim > 1 and not p.grad.abs().max() > 0]
    assert not still                                             # a bias before a normalisation may


@pytest.mark.parametrize("model", SMALLEST)
def test_logits_and_embedding_stay_in_float32_under_autocast(model):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = build(model).eval()(torch.rand(2, 16, 1, 32, 32) * 2 - 1)
    assert found.logits.shape == (2, 6) and found.attention is None and len(found.embedding) == 2
    assert found.logits.dtype == found.embedding.dtype == torch.float32


@pytest.mark.parametrize("model", SMALLEST)
def test_one_ear_does_not_depend_on_the_others_of_its_batch(model):
    network, volume = build(model).eval(), torch.rand(3, 16, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        together, alone = network(volume).logits, torch.cat([network(ear[None]).logits for ear in volume])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-4


@pytest.mark.parametrize(("size", "layer"), [((5, 8, 7), 2), ((4, 4, 4), 3), ((1, 3, 2), 4)])
def test_a_shortcut_without_weights_is_pooling_with_a_kernel_of_one_and_channels_of_zero(size, layer):
    encoder, _ = build_encoder("dual_resnet18_3d", shape=(16, 1, 32, 32))
    shortcut = getattr(encoder, f"layer{layer}")[0].downsample
    channels = 64 * 2 ** (layer - 2)
    one = torch.randn(2, channels, *size, requires_grad=True)
    other = one.detach().clone().requires_grad_()
    pooled = F.avg_pool3d(other, kernel_size=1, stride=2)
    expected = torch.cat([pooled, torch.zeros_like(pooled)], 1)
    found = shortcut(one)
    assert torch.equal(found, expected)
    upstream = torch.randn_like(expected)
    found.backward(upstream)
    expected.backward(upstream)
    assert torch.equal(one.grad, other.grad) and one.grad.abs().sum() > 0


def test_a_gradient_reaches_the_first_convolution_through_the_shortcuts_alone():
    network = build("dual_resnet18_3d", dropout=0.0).train()
    for layer in (2, 3, 4):
        for block in getattr(network.encoder, f"layer{layer}"):
            for name in ("bn1", "bn2"):
                torch.nn.init.zeros_(getattr(block, name).weight)                               # nothing comes through a block
    network(torch.randn(2, 16, 1, 32, 32)).logits.square().sum().backward()
    assert network.encoder.conv1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("form", ["state_dict", "plain", "safetensors"])
def test_published_weights_are_taken_whole_and_what_did_not_match_is_named(tmp_path, caplog, form):
    tensors, path = published(10), tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors, "epoch": 20} if form == "state_dict" else tensors, path)
    with caplog.at_level("INFO", logger="medical_fenlei"):
        encoder = build("dual_resnet10_3d", weights=path).encoder
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, tensors[f"module.{name}"]), name
    number = len(medicalnet(10))
    assert f"{number} of the network's {number} tensors matched" in caplog.text
    assert "2 tensors are in the file, but not used: conv_seg.0.bias, conv_seg.0.weight" in caplog.text
    assert "random" not in caplog.text


def test_weights_of_another_depth_fill_what_fits_and_the_rest_is_named(tmp_path, caplog):
    torch.save({"state_dict": published(10)}, tmp_path / "w.pth")
    with caplog.at_level("INFO", logger="medical_fenlei"):
        encoder = build("dual_resnet18_3d", weights=tmp_path / "w.pth").encoder
    own, theirs = medicalnet(18), medicalnet(10)
    assert f"{len(own.keys() & theirs)} of the network's {len(own)} tensors matched" in caplog.text
    assert f"{len(own.keys() - theirs)} tensors are not in the file, so random: layer1.1.bn1.bias" in caplog.text
    assert f"{len(theirs.keys() - own) + 2} tensors are in the file, but not used: conv_seg.0.bias" in caplog.text
    assert encoder.conv1.weight.min() >= 0                                                       # theirs are drawn from 0 to 1


def test_a_file_of_which_nothing_fits_is_refused(tmp_path):
    torch.save({"state_dict": published(10)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"^--weights .*w\.pth: none of its \d+ tensors fits"):
        build("dual_vit_3d", weights=tmp_path / "w.pth")
