"""The learning rate of each step, and the share of ears that each epoch drops."""
import numpy as np
import pytest
import torch

from medical_fenlei.config import EPOCHS, TrainConfig
from medical_fenlei.training.schedule import Schedule, drop_share, warmup_cosine


def rates(*, steps, warmup, peak=0.01):
    return np.array([warmup_cosine(step, steps=steps, warmup=warmup, peak=peak) for step in range(steps)])


@pytest.mark.parametrize(("steps", "warmup"), [(200, 20), (300, 10), (50, 0), (40, 7.5), (30, 30)])
def test_the_rate_rises_in_equal_steps_while_it_warms_up_then_falls(steps, warmup):
    found = rates(steps=steps, warmup=warmup)
    first = int(np.ceil(warmup))
    np.testing.assert_allclose(np.diff(found[:first], prepend=0), 0.01 / (warmup + 1))
    assert (np.diff(found[first:]) < 0).all()
    assert (found > 0).all() and found.max() <= 0.01


@pytest.mark.parametrize("warmup", [0, 1, 20])
def test_the_peak_is_reached_right_after_the_warm_up(warmup):
    found = rates(steps=200, warmup=warmup)
    assert found.argmax() == warmup and found.max() == pytest.approx(0.01)


def test_after_the_warm_up_it_is_the_cosine_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=180)
    expected = []
    for _ in range(180):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    np.testing.assert_allclose(rates(steps=200, warmup=20)[20:], expected, rtol=1e-6)


def test_the_last_step_is_nearly_zero_and_beyond_the_end_it_stays_at_zero():
    assert 0 < rates(steps=200, warmup=20)[-1] < 1e-3 * 0.01
    for step in range(200, 600):
        assert 0 <= warmup_cosine(step, steps=200, warmup=20, peak=0.01) < 1e-12


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (1, 5), (2, 1), (5, 100)])
def test_the_shortest_runs_have_a_positive_rate(steps, warmup):
    found = rates(steps=steps, warmup=warmup)
    assert np.isfinite(found).all() and (found > 0).all() and (found <= 0.01).all()


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(5, 7, 1), (3, 1, 0), (4, 10, 1.5), (2, 3, 2)])
def test_the_rate_of_a_step_follows_from_its_position_in_the_whole_run(epochs, steps, warmup):
    plan = TrainConfig(epochs=epochs, warmup_epochs=warmup, lr=0.02)
    run = Schedule(epochs, 1, steps)
    found = [run.learning_rate(plan, epoch, step) for epoch in range(1, epochs + 1) for step in range(steps)]
    np.testing.assert_allclose(found, rates(steps=epochs * steps, warmup=warmup * steps, peak=0.02), rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 5, 31, 34, 480, 481, 5000])
@pytest.mark.parametrize("batch_size", [1, 8, 16])
def test_a_run_without_a_number_of_epochs_takes_the_least_number_of_steps_in_as_few_passes_as_possible(samples, batch_size):
    found = Schedule.of(TrainConfig(batch_size=batch_size, min_steps=600), samples)
    assert found.epochs == EPOCHS == 30 and found.steps == -(-samples * found.passes // batch_size) >= 20
    assert found.passes == 1 or -(-samples * (found.passes - 1) // batch_size) < 20
    assert (found.stops_from - 1) * found.steps < 600 <= found.stops_from * found.steps and found.stops_from <= found.epochs
    assert found.chosen_from == 1 or (found.chosen_from - 1) * found.steps < 300 <= found.chosen_from * found.steps


def test_patience_does_not_end_a_run_before_its_least_number_of_steps():
    plan = TrainConfig(batch_size=8, min_steps=100, patience=2)
    run = Schedule.of(plan, 40)
    assert (run.steps, run.stops_from) == (5, 20)
    assert [run.out_of_patience(plan, epoch=epoch, best=3) for epoch in (5, 19, 20)] == [False, False, True]
    assert not run.out_of_patience(plan, epoch=20, best=19)
    assert not run.out_of_patience(TrainConfig(batch_size=8, patience=0), epoch=30, best=1)
    assert Schedule.of(TrainConfig(epochs=30, batch_size=8), 40).out_of_patience(plan, epoch=5, best=3)


def test_a_number_of_epochs_that_is_given_is_kept_with_one_pass_each():
    assert Schedule.of(TrainConfig(epochs=2, batch_size=8), 34) == Schedule(epochs=2, passes=1, steps=5)
    assert Schedule.of(TrainConfig(min_steps=0, batch_size=8), 34) == Schedule(epochs=30, passes=1, steps=5)


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("min_steps", -1)])
def test_a_schedule_without_an_epoch_or_with_fewer_than_no_steps_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name.replace('_', '-')}: got {value}"):
        TrainConfig(**{name: value})


def test_nothing_is_dropped_at_first_then_linearly_up_to_the_share_over_as_many_epochs():
    found = [drop_share(epoch, share=0.3, warmup=3) for epoch in range(1, 9)]
    np.testing.assert_allclose(found, [0, 0, 0, 0.1, 0.2, 0.3, 0.3, 0.3])
    assert found[0] == 0 and found[-1] == 0.3


def test_without_a_warm_up_the_share_is_dropped_from_the_first_epoch_and_a_share_of_zero_never():
    assert [drop_share(epoch, share=0.3, warmup=0) for epoch in (1, 2)] == [0.3, 0.3]
    assert [drop_share(epoch, share=0.0, warmup=2) for epoch in range(1, 9)] == [0] * 8
