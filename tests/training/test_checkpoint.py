"""Checkpoints come back as they were written, or are refused in one line."""
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from medical_fenlei.config import EAR2D, DataConfig, ModelConfig, RunConfig, TrainConfig
from medical_fenlei.errors import UserError
from medical_fenlei.training.checkpoint import FOOTER, Checkpoint, read_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 1, 3, 3)).sum().backward()
    optimizer.step()
    config = RunConfig(data=DataConfig(manifest_csv=Path("某处/manifest.csv")), training=TrainConfig(lr=3e-4, epochs=7),
                       model=ModelConfig(backbone="test_resnet", backbone_weights=Path("w.pt")))
    state = {"optimizer": optimizer.state_dict(), "progress": {"best": (0.75, -0.5), "epoch": 3}}
    return Checkpoint(kind=EAR2D, config=config, weights=model.state_dict(), epoch=3, metric="auprc", value=0.75, state=state)


@pytest.fixture
def path(tmp_path, checkpoint):
    write_checkpoint(tmp_path / "run" / "best.pt", checkpoint)
    return tmp_path / "run" / "best.pt"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(path, checkpoint, value):
    name = "1.running_var"                                       # of no parameter, and as harmful
    weights = {**checkpoint.weights, name: torch.full_like(checkpoint.weights[name], value)}
    write_checkpoint(path, replace(checkpoint, weights=weights))
    assert f"not finite ({name})" in refusal(path) and "--precision fp32" in refusal(path)


def refusal(path, content=None, *, kind=EAR2D):
    """The line with which a file of this content is refused."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, kind=kind)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_comes_back_as_it_was_written(path, checkpoint):
    found = read_checkpoint(path, kind=EAR2D)
    assert found.config == checkpoint.config
    assert (found.kind, found.epoch, found.metric, found.value) == (EAR2D, 3, "auprc", 0.75)
    assert list(found.weights) == list(checkpoint.weights)
    torch.testing.assert_close(dict(found.weights), dict(checkpoint.weights), rtol=0, atol=0)
    assert found.state["progress"] == checkpoint.state["progress"]
    moments, expected = found.state["optimizer"]["state"], checkpoint.state["optimizer"]["state"]
    torch.testing.assert_close(moments, expected, rtol=0, atol=0)
    assert [p.name for p in path.parent.iterdir()] == ["best.pt"]


def test_torch_reads_it_without_unpickling_objects(path, checkpoint):
    plain = torch.load(path, map_location="cpu", weights_only=True)
    assert plain["config"]["training"]["lr"] == 3e-4 and set(plain["weights"]) == set(checkpoint.weights)


def test_a_flipped_bit_anywhere_is_refused(path):
    content = path.read_bytes()
    size = len(content)
    places = [*range(0, size, size // 60), size - FOOTER - 2, size - FOOTER - 1, *range(size - FOOTER, size, 9), size - 1]
    for number, place in enumerate(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << number % 8
        refusal(path, bytes(damaged))
    path.write_bytes(content)
    assert read_checkpoint(path, kind=EAR2D).epoch == 3


def test_a_bit_flipped_in_a_weight_is_told_as_damage_though_torch_does_not_notice(path, checkpoint):
    content = bytearray(path.read_bytes())
    place = bytes(content).index(checkpoint.weights["3.weight"].numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    assert "damaged" in refusal(path)


def test_a_file_cut_anywhere_is_refused(path):
    content = path.read_bytes()
    for length in (0, 1, FOOTER - 1, FOOTER, len(content) // 2, len(content) - FOOTER, len(content) - 1):
        assert "cut short" in refusal(path, content[:length])
    refusal(path, content + b"\0")
    refusal(path, content[1:])


def test_what_is_no_checkpoint_is_refused(tmp_path):
    assert "not a checkpoint" in refusal(tmp_path / "notes.txt", b"epoch,loss\n1,0.5\n" * 40)
    torch.save({"weights": {}}, tmp_path / "other.pt")
    assert "not a checkpoint" in refusal(tmp_path / "other.pt")
    refusal(tmp_path / "absent.pt")
    refusal(tmp_path)


def test_a_network_of_another_kind_is_refused_and_both_kinds_are_named(path):
    line = refusal(path, kind="volume3d")
    assert EAR2D in line and "volume3d" in line
