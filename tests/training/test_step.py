"""A step is the same however it is cut up, and leaves nothing behind where it fails."""
import copy

import numpy as np
import pytest
import torch
from torch import nn

from medical_fenlei.errors import CheckFailed
from medical_fenlei.training.step import PATIENCE, Stepper, running_mean

EARS = 12


class Net(nn.Module):
    """Small, with BatchNorm or without, and dropout."""

    def __init__(self, norm: bool, dropout: float = 0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.Flatten(),
                                  nn.Dropout(dropout), nn.Linear(4 * 36, 1))

    def forward(self, x):
        return self.body(x)[:, 0]


def setting(norm=False, dropout=0.0, parts=1, decay=0.0, seed=0):
    torch.manual_seed(seed)
    net = Net(norm, dropout)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    return net, Stepper(net, optimizer, torch.amp.GradScaler("cpu", enabled=False), clip_norm=1.0, parts=parts,
                        average=running_mean(net, decay))


def data(seed=0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(EARS, 1, 8, 8)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, 2, EARS).astype(np.float32))
    known = torch.from_numpy(rng.random(EARS) < 0.7)
    return x, y, known


def sums_of(net, x, y, known, fail=lambda part: None):
    def sums(part):
        fail(part)
        loss = nn.functional.binary_cross_entropy_with_logits(net(x[part]), y[part], reduction="none")
        return (loss * known[part]).sum(), known[part].sum()
    return sums


def take(net, stepper, steps=3, **kwargs):
    losses = [float(stepper(EARS, sums_of(net, *data(n), **kwargs), names=lambda: "some")) for n in range(steps)]
    return losses, [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("parts", [2, 3, 5, 12])
def test_a_step_in_parts_is_the_step_as_a_whole(parts):
    whole, part = take(*setting()), take(*setting(parts=parts))
    np.testing.assert_allclose(part[0], whole[0], rtol=1e-5)
    for a, b in zip(part[1], whole[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_whole_step_is_that_of_plain_torch():
    net, stepper = setting()
    plain = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    losses, weights = take(net, stepper)
    for n, own in enumerate(losses):
        x, y, known = data(n)
        loss = nn.functional.binary_cross_entropy_with_logits(plain(x)[known], y[known])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        assert own == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(weights, plain.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate 2 GiB", "allocator: can't allocate memory"])
@pytest.mark.parametrize("when", [0, 1, 2])
def test_running_out_of_memory_halves_the_parts_and_the_run_goes_on_as_with_that_many(when, message):
    """With dropout and BatchNorm: nothing that the failed try drew or counted stays."""
    calls = 0

    def fail(part):
        nonlocal calls
        calls += 1
        if part.stop - part.start > EARS // 2 and calls > when:
            raise RuntimeError(message)

    net, stepper = setting(norm=True)
    losses, _ = take(net, stepper, steps=5, fail=fail)
    assert stepper.parts == 2 and np.isfinite(losses).all()
    same, halves = setting(norm=True)
    for n in range(5):
        halves.parts = 1 if n < when else 2
        halves(EARS, sums_of(same, *data(n)), names=lambda: "some")
    for a, b in zip(net.state_dict().values(), same.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_failed_try_leaves_the_random_state_as_it_was():
    def fail(part, tries=[]):  # noqa: B006 (it shall remember)
        tries.append(part)
        if len(tries) == 2:
            raise torch.OutOfMemoryError("out of memory")

    net, stepper = setting(dropout=0.5, parts=2)
    take(net, stepper, steps=1, fail=fail)
    same, quarters = setting(dropout=0.5, parts=4)
    take(same, quarters, steps=1)
    for a, b in zip(net.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_other_errors_pass_through_and_so_does_one_ear_that_does_not_fit():
    def broken(part):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    net, stepper = setting()
    with pytest.raises(RuntimeError, match="mat1"):
        take(net, stepper, fail=broken)
    assert stepper.parts == 1

    def never(part):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        take(net, stepper, fail=never)
    assert stepper.parts == EARS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_neither_weights_nor_statistics_nor_the_mean(bad, caplog):
    net, stepper = setting(norm=True, decay=0.9)
    take(net, stepper, steps=2)
    before, averaged = copy.deepcopy(net.state_dict()), copy.deepcopy(stepper.average.state_dict())
    x, y, known = data(7)
    x[3] = bad
    known[3] = True
    for n in range(PATIENCE):
        if n == PATIENCE - 1:
            with pytest.raises(CheckFailed, match="--lr"):
                stepper(EARS, sums_of(net, x, y, known), names=lambda: "rows 3, 4")
        else:
            assert not np.isfinite(float(stepper(EARS, sums_of(net, x, y, known), names=lambda: "rows 3, 4")))
    assert "rows 3, 4" in caplog.text
    for own, kept in ((net.state_dict(), before), (stepper.average.state_dict(), averaged)):
        for a, b in zip(own.values(), kept.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_finite_step_between_starts_the_count_anew():
    net, stepper = setting()
    x, y, known = data(1)
    known[0] = True
    bad = x.clone()
    bad[0] = float("nan")
    for _ in range(3):
        for _ in range(PATIENCE - 1):
            stepper(EARS, sums_of(net, bad, y, known), names=lambda: "some")
        stepper(EARS, sums_of(net, x, y, known), names=lambda: "some")


def test_the_running_mean_is_that_of_its_formula():
    net, stepper = setting(norm=True, decay=0.8)
    expected = None
    for n in range(4):
        stepper(EARS, sums_of(net, *data(n)), names=lambda: "some")
        now = [p.detach().clone() for p in net.parameters()]
        keep = min(0.8, (1 + n) / (10 + n))                      # step n replaces the rest
        expected = now if expected is None else [keep * a + (1 - keep) * b for a, b in zip(expected, now, strict=True)]
    for a, b in zip(stepper.average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(a.detach(), b)


def test_a_step_without_any_target_is_a_step_of_zero_loss():
    net, stepper = setting()
    x, y, _ = data(0)
    assert float(stepper(EARS, sums_of(net, x, y, torch.zeros(EARS, dtype=torch.bool)), names=lambda: "some")) == 0
