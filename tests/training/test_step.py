"""A step is the same in any parts, and a step that fails leaves no trace."""
import copy
import io

import numpy as np
import pytest
import torch
from helpers.small_net import EARS, Net, loss_sums, random_batch
from torch import nn

from medical_fenlei.errors import CheckFailed
from medical_fenlei.training.step import MAX_SKIPPED, Stepper, moving_average


def setting(norm=False, dropout=0.0, parts=1, decay=0.0, seed=0, scale=None):
    """scale: of the gradients, as with fp16."""
    torch.manual_seed(seed)
    net = Net(norm, dropout)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=scale is not None)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    return net, Stepper(net, optimizer, scaler, clip_norm=1.0, micro_batches=parts, ema=moving_average(net, decay))


def take(net, stepper, steps=3, **kwargs):
    losses = [float(stepper(EARS, loss_sums(net, *random_batch(n), **kwargs), seed=n, describe=lambda: "some"))
              for n in range(steps)]
    return losses, [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("parts", [2, 3, 5, 12])
def test_a_step_in_parts_equals_the_whole_step(parts):
    whole, part = take(*setting()), take(*setting(parts=parts))
    np.testing.assert_allclose(part[0], whole[0], rtol=1e-5)
    for a, b in zip(part[1], whole[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_whole_step_equals_that_of_plain_torch():
    net, stepper = setting()
    plain = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    losses, weights = take(net, stepper)
    for n, own in enumerate(losses):
        x, y, known = random_batch(n)
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
    assert stepper.micro_batches == 2 and np.isfinite(losses).all()
    same, halves = setting(norm=True)
    for n in range(5):
        halves.micro_batches = 1 if n < when else 2
        halves(EARS, loss_sums(same, *random_batch(n)), seed=0, describe=lambda: "some")
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
    assert stepper.micro_batches == 1

    def never(part):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        take(net, stepper, fail=never)
    assert stepper.micro_batches == EARS


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_neither_weights_nor_statistics_nor_the_mean(bad, caplog):
    net, stepper = setting(norm=True, decay=0.9)
    take(net, stepper, steps=2)
    before, averaged = copy.deepcopy(net.state_dict()), copy.deepcopy(stepper.ema.state_dict())
    x, y, known = random_batch(7)
    x[3] = bad
    known[3] = True
    for n in range(MAX_SKIPPED):
        if n == MAX_SKIPPED - 1:
            with pytest.raises(CheckFailed, match="--lr"):
                stepper(EARS, loss_sums(net, x, y, known), seed=0, describe=lambda: "rows 3, 4")
        else:
            assert not np.isfinite(float(stepper(EARS, loss_sums(net, x, y, known), seed=0, describe=lambda: "rows 3, 4")))
    assert "rows 3, 4" in caplog.text
    for own, kept in ((net.state_dict(), before), (stepper.ema.state_dict(), averaged)):
        for a, b in zip(own.values(), kept.values(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_finite_step_in_between_resets_the_count():
    net, stepper = setting()
    x, y, known = random_batch(1)
    known[0] = True
    bad = x.clone()
    bad[0] = float("nan")
    for _ in range(3):
        for _ in range(MAX_SKIPPED - 1):
            stepper(EARS, loss_sums(net, bad, y, known), seed=0, describe=lambda: "some")
        stepper(EARS, loss_sums(net, x, y, known), seed=0, describe=lambda: "some")


def test_the_moving_average_equals_its_formula():
    net, stepper = setting(norm=True, decay=0.8)
    expected = None
    for n in range(4):
        stepper(EARS, loss_sums(net, *random_batch(n)), seed=0, describe=lambda: "some")
        now = [p.detach().clone() for p in net.parameters()]
        keep = min(0.8, (1 + n) / (10 + n))                      # step n replaces the rest
        expected = now if expected is None else [keep * a + (1 - keep) * b for a, b in zip(expected, now, strict=True)]
    for a, b in zip(stepper.ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(a.detach(), b)


def test_a_step_without_any_target_is_a_step_of_zero_loss():
    net, stepper = setting()
    x, y, _ = random_batch(0)
    assert float(stepper(EARS, loss_sums(net, x, y, torch.zeros(EARS, dtype=torch.bool)), seed=0, describe=lambda: "some")) == 0


@pytest.mark.parametrize("parts", [1, 3])
def test_a_step_with_scaled_gradients_is_the_step_without(parts):
    plain, scaled = take(*setting(parts=parts)), take(*setting(parts=parts, scale=2.0**16))
    np.testing.assert_allclose(scaled[0], plain[0], rtol=1e-6)
    for a, b in zip(scaled[1], plain[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_gradients_that_overflow_halve_the_scale_take_no_step_and_do_not_end_the_run():
    net, stepper = setting(norm=True, decay=0.9, scale=2.0**127)
    before, averaged = copy.deepcopy(net.state_dict()), copy.deepcopy(stepper.ema.state_dict())
    sums = loss_sums(net, *random_batch())

    def steep(part):
        loss, count = sums(part)
        return 1e6 * loss, count

    for _ in range(MAX_SKIPPED + 2):
        assert np.isfinite(float(stepper(EARS, steep, seed=0, describe=lambda: "some"))) and stepper.skipped == 0
    assert stepper.scaler.get_scale() == 2.0**127 / 2 ** (MAX_SKIPPED + 2)
    for own, kept in ((net.state_dict(), before), (stepper.ema.state_dict(), averaged)):
        assert all(torch.equal(own[name], value) for name, value in kept.items())
    assert not stepper.optimizer.state


def test_gradients_that_overflow_at_a_scale_of_one_count_as_not_finite():
    net, stepper = setting(scale=2.0)

    def sums(part):
        """A loss of 0, the gradient of which is infinite."""
        weight = net.body[-1].weight.sum()
        return (weight - weight.detach()).sqrt(), torch.tensor(1)

    for _ in range(MAX_SKIPPED):
        assert float(stepper(EARS, sums, seed=0, describe=lambda: "some")) == 0
    assert stepper.skipped == MAX_SKIPPED - 1                      # the first try was at a scale of 2
    with pytest.raises(CheckFailed, match="--lr"):
        stepper(EARS, sums, seed=0, describe=lambda: "some")


@pytest.mark.parametrize("options", [{}, {"decay": 0.8, "norm": True, "dropout": 0.4, "parts": 2}, {"scale": 2.0**10}], ids=str)
def test_steps_resumed_from_a_saved_state_equal_those_without_a_stop(options):
    whole, stopped = setting(**options), setting(**options)
    take(*whole, steps=5)
    take(*stopped, steps=3)
    file = io.BytesIO()
    torch.save({"net": stopped[0].state_dict(), "step": stopped[1].state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    net, stepper = setting(seed=9, **options)
    net.load_state_dict(saved["net"])
    stepper.load_state_dict(saved["step"])
    for n in (3, 4):
        stepper(EARS, loss_sums(net, *random_batch(n)), seed=n, describe=lambda: "some")
    for a, b in zip(net.state_dict().values(), whole[0].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(stepper.state_dict(), whole[1].state_dict(), rtol=0, atol=0)
