"""The anatomy network learns from drawn ears, and an interrupted training ends with the same weights."""
import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from medical_fenlei.anatomy import pretrain
from medical_fenlei.anatomy.drawn_ears import DrawnEar
from medical_fenlei.anatomy.pretrain import anatomy_loss, measure
from medical_fenlei.anatomy.spec import PretrainSpec
from medical_fenlei.errors import Stopped, UserError
from medical_fenlei.models.anatomy_net import AnatomyNet, AnatomyOutput
from medical_fenlei.vocabulary import EarPoint, Structure

SHAPE = (16, 24, 24)


class StopAt:
    """A request to stop that comes after a number of steps."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        return contextlib.nullcontext(self)

    on_signals = __call__

    @property
    def received(self):
        self.left -= 1
        return self.left == 0


def blocks(seed, number, code=None):
    """A dense block in a soft volume instead of an ear: learnt in a few steps."""
    rng = np.random.default_rng([seed, number])
    hu, structures = rng.normal(0, 30, SHAPE), np.zeros(SHAPE, np.uint8)
    row = int(rng.integers(0, 8))
    hu[4:12, row:row + 12, 6:18] += 1500
    structures[4:12, row:row + 12, 6:18] = Structure.OTIC_CAPSULE
    landmarks = np.array([[8, row + 6, 12], [8, row, 12], [-3, 0, 0]], np.float32)       # the last lies beyond
    return DrawnEar(hu.astype(np.int16), structures, landmarks)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pretrain, "draw_ear", blocks)


def test_it_learns_what_it_is_shown(small, tmp_path):
    model = pretrain.pretrain(PretrainSpec(steps=60), tmp_path / "w.safetensors", workers=0)
    measured = measure(model, pretrain.held_out_ears(4))
    assert measured.dice[Structure.OTIC_CAPSULE] > 0.9
    assert len(measured.off_mm[EarPoint.VESTIBULE]) == 0
    assert not [*tmp_path.glob("*.resume.pt")]


def test_the_weights_on_disk_are_those_of_the_network_to_the_precision_of_float16(small, tmp_path):
    model = pretrain.pretrain(PretrainSpec(steps=2), tmp_path / "w.safetensors", workers=0)
    for name, tensor in load_file(tmp_path / "w.safetensors").items():
        assert torch.equal(tensor, model.state_dict()[name].half())


def test_an_interrupted_training_ends_with_the_same_weights(small, tmp_path, monkeypatch):
    spec, whole, parts = PretrainSpec(steps=6), tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    pretrain.pretrain(spec, whole, workers=0)
    for after, done in ((2, 2), (3, 5)):
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"saved after {done} of 6 steps"):
            patch.setattr(pretrain, "StopRequest", lambda after=after: StopAt(after))
            pretrain.pretrain(spec, parts, workers=0)
    assert not parts.exists()
    pretrain.pretrain(spec, parts, workers=0)
    assert whole.read_bytes() == parts.read_bytes()


def test_a_training_begun_with_other_settings_is_refused(small, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(pretrain, "StopRequest", lambda: StopAt(1))
        pretrain.pretrain(PretrainSpec(steps=3), tmp_path / "w.safetensors", workers=0)
    with pytest.raises(UserError, match=r"w\.resume\.pt: got the beginning of a training with other settings"):
        pretrain.pretrain(PretrainSpec(steps=4), tmp_path / "w.safetensors", workers=0)


def test_a_damaged_beginning_is_refused_in_one_line(small, tmp_path):
    (tmp_path / "w.resume.pt").write_bytes(b"not what torch wrote")
    with pytest.raises(UserError, match=r"w\.resume\.pt: cannot be read as the beginning of a training .*; remove it$"):
        pretrain.pretrain(PretrainSpec(steps=2), tmp_path / "w.safetensors", workers=0)


def test_no_training_sees_an_ear_on_which_the_network_is_measured():
    with pytest.raises(ValueError, match="seed"):
        PretrainSpec(seed=pretrain.HELD_OUT_SEED)


def test_a_batch_without_any_structure_has_a_finite_loss():
    nothing = AnatomyOutput(torch.zeros(1, 8, *SHAPE), torch.zeros(1, 3, 3))
    beyond = torch.full((1, 3, 3), -1.0)
    assert anatomy_loss(nothing, torch.zeros(1, *SHAPE, dtype=torch.int64), beyond).isfinite()


def test_the_loss_is_cross_entropy_and_what_the_mean_dice_lacks_to_one():
    """Against the formula, structure by structure (Milletari 2016, arXiv:1606.04797, with sums instead of squares)."""
    rng = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(2, 8, *SHAPE, generator=rng), torch.randint(0, 3, (2, *SHAPE), generator=rng)
    p, dice = logits.softmax(1), []
    for structure in (1, 2):                                     # the others are not in the batch
        t = (truth == structure).float()
        dice.append((2 * (p[:, structure] * t).sum() + 1) / (p[:, structure].sum() + t.sum() + 1))
    expected = functional.cross_entropy(logits, truth) + 1 - torch.stack(dice).mean()
    places = torch.full((2, 3, 3), 4.0)
    assert anatomy_loss(AnatomyOutput(logits, places), truth, places).item() == pytest.approx(expected.item(), rel=1e-5)
    moved = places.clone()
    moved[0, 1, 2] += 10                                         # one of six landmarks, by 7 mm along a row
    found = anatomy_loss(AnatomyOutput(logits, places), truth, moved)
    assert found.item() == pytest.approx(expected.item() + 0.05 * (7 - 0.5) / 6, rel=1e-5)      # smooth L1 beyond 1 mm: d - 1/2


def test_a_landmark_beyond_the_volume_does_not_count():
    logits, truth, places = torch.zeros(1, 8, *SHAPE), torch.zeros(1, *SHAPE, dtype=torch.int64), torch.full((1, 3, 3), 4.0)
    beyond = places.clone()
    beyond[0, 2] = torch.tensor([4.0, -1.0, 4.0])
    output = AnatomyOutput(logits, places)
    assert anatomy_loss(output, truth, beyond) == anatomy_loss(output, truth, places)


def test_the_network_gives_a_logit_for_each_structure_of_each_voxel_and_a_place_for_each_landmark():
    output = AnatomyNet()(torch.zeros(2, 16, 24, 32))
    assert output.logits.shape == (2, len(Structure), 16, 24, 32)
    assert output.landmarks.shape == (2, len(EarPoint), 3)


def test_a_landmark_is_found_where_the_heat_is():
    model = AnatomyNet()
    hot = torch.zeros(1, 8, 8, 16, 24)
    hot[0, 0, 3, 5, 20] = 1000
    model.features = lambda hu: hot
    with torch.no_grad():
        model.heat.weight.fill_(1.0)
        places = model(torch.zeros(1, 8, 16, 24)).landmarks
    torch.testing.assert_close(places[0], torch.tensor([3.0, 5, 20]).expand(3, 3))

