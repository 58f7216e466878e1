"""Losses equal scikit-learn, torchvision and slow versions; masks, weights, priors and dropping do what they state."""
import argparse
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.commands import run
from helpers.small_study import CACHE, codes_in_turn, write_study
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from medical_fenlei import settings
from medical_fenlei.config import EAR_ROUTE, LONG_TAIL, DataConfig, EarSpec, RunConfig, TrainConfig
from medical_fenlei.errors import UserError
from medical_fenlei.runs import Run
from medical_fenlei.tasks import BINARY_TASKS, OUTSIDE, TASKS, find_task
from medical_fenlei.training.losses import TaskLoss, class_weights, effective_weights, prior_shift, small_losses, training_loss

SIX, ABNORMAL, OME = TASKS["six_class"], TASKS["normal_vs_abnormal"], TASKS["normal_vs_ome"]
LOSSES = settings.choices(TrainConfig, "loss")
N = 80


@pytest.fixture
def codes():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 7, N))              # 0: no label


def logits(outputs, seed=0):
    return torch.randn(N, outputs, generator=torch.Generator().manual_seed(seed)) * 2


def loss_of(*tasks, smoothing=0.0, weights=None):
    return TaskLoss(tasks, weights=weights or [None] * len(tasks), smoothing=smoothing)


@pytest.mark.parametrize("task", BINARY_TASKS, ids=lambda task: task.name)
def test_a_binary_loss_equals_scikit_learn(task, codes):
    loss, z = loss_of(task), logits(1)
    y = task.targets(codes.numpy())
    inside = y != OUTSIDE
    expected = log_loss(y[inside], torch.sigmoid(z[:, 0].double()).numpy()[inside], labels=[0, 1])
    assert 0 < inside.sum() < N
    assert loss(z, loss.targets(codes)).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_of_six_classes_equals_scikit_learn(codes):
    loss, z = loss_of(SIX), logits(6)
    inside = (codes > 0).numpy()
    expected = log_loss(codes.numpy()[inside] - 1, z.double().softmax(1).numpy()[inside], labels=range(6))
    assert loss(z, loss.targets(codes)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("name", ["six_class", "normal_vs_abnormal", "normal_vs_ome"])
def test_smoothing_equals_that_of_torch(name, smoothing, codes):
    task = find_task(name)
    loss, z = loss_of(task, smoothing=smoothing), logits(task.outputs)
    target, classes = loss.targets(codes)[:, 0], len(task.classes)
    both = torch.cat([torch.zeros(N, 1), z], 1) if task.binary else z
    expected = F.cross_entropy(both, target, ignore_index=OUTSIDE, label_smoothing=smoothing * classes / (classes - 1))
    torch.testing.assert_close(loss(z, target[:, None]), expected)


def test_targets_are_those_of_each_task_for_codes_of_any_shape(codes):
    tasks = (SIX, *BINARY_TASKS)
    found = loss_of(*tasks).targets(codes.reshape(-1, 2).to(torch.int8))
    assert found.shape == (N // 2, 2, len(tasks)) and found.dtype == torch.int64
    for t, task in enumerate(tasks):
        np.testing.assert_array_equal(found[..., t].ravel(), task.targets(codes.numpy()), err_msg=task.name)


def test_masked_ears_contribute_nothing(codes):
    task = find_task("normal_vs_ome")
    loss, z = loss_of(task, smoothing=0.05), logits(1).requires_grad_()
    target = loss.targets(codes)
    masked = target[:, 0] == OUTSIDE
    value = loss(z, target)
    value.backward()
    assert masked.any() and (z.grad[masked] == 0).all() and (z.grad[~masked] != 0).all()
    torch.testing.assert_close(loss(z.detach() + 100 * masked[:, None], target), value.detach())
    torch.testing.assert_close(loss(z.detach()[~masked], target[~masked]), value.detach())


def test_several_tasks_are_averaged_over_all_targets_that_are_not_masked(codes):
    tasks = (find_task("normal_vs_ome"), SIX, find_task("cholesteatoma_vs_csoma"))
    z, loss = logits(8), loss_of(*tasks, smoothing=0.05)
    total, count = 0.0, 0
    for task, own in zip(tasks, z.split([1, 6, 1], 1), strict=True):
        alone = loss_of(task, smoothing=0.05)
        valid = int((alone.targets(codes) != OUTSIDE).sum())
        total, count = total + alone(own, alone.targets(codes)).item() * valid, count + valid
    assert loss(z, loss.targets(codes)).item() == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("name", ["six_class", "normal_vs_abnormal"])
def test_class_weights_equal_scikit_learn_and_have_mean_one_per_ear(name, codes):
    task = find_task(name)
    y = task.targets(codes.numpy().reshape(-1, 2))
    weights, inside = class_weights(y, len(task.classes)), y[y != OUTSIDE]
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.unique(inside), y=inside), rtol=1e-6)
    assert weights.dtype == np.float32 and weights[inside].mean() == pytest.approx(1, rel=1e-6)
    totals = np.bincount(inside) * weights
    np.testing.assert_allclose(totals, totals[0], rtol=1e-6)


def test_a_class_that_does_not_occur_changes_no_other_weight():
    weights = class_weights(np.array([[0], [0], [0], [2], [OUTSIDE]]), 4)
    np.testing.assert_allclose(weights[[0, 2]], [4 / (2 * 3), 4 / (2 * 1)])
    assert np.isfinite(weights).all() and np.isfinite(class_weights(np.full((3, 1), OUTSIDE), 4)).all()


@pytest.mark.parametrize("name", ["six_class", "normal_vs_abnormal"])
def test_a_weighted_loss_equals_scikit_learn_with_sample_weights(name, codes):
    task = find_task(name)
    y = task.targets(codes.numpy())
    weights, inside = class_weights(y, len(task.classes)), y != OUTSIDE
    loss, z = loss_of(task, weights=[weights]), logits(task.outputs)
    probability = (torch.sigmoid(z[:, 0].double()) if task.binary else z.double().softmax(1)).numpy()[inside]
    expected = log_loss(y[inside], probability, sample_weight=weights[y[inside]], labels=range(len(task.classes)))
    assert loss(z, loss.targets(codes)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("code", [[], [0, 0, 0], [1, 2, 6]], ids=["no_ears", "no_labels", "outside_the_task"])
def test_a_batch_without_targets_gives_zero_and_no_gradient(code):
    loss = loss_of(find_task("normal_vs_ome"))
    z = torch.randn(len(code), 1, requires_grad=True)
    value = loss(z, loss.targets(torch.tensor(code, dtype=torch.int8)))
    value.backward()
    assert value.item() == 0 and (z.grad == 0).all()


# The kinds of loss

def planned(loss, *tasks, codes, smoothing=0.0, **more):
    plan = TrainConfig(loss=loss, balance="none", label_smoothing=smoothing, **more)
    return training_loss(plan, tasks, codes.numpy(), balancing="none")


def slowly(loss, z, code, task, *, codes, smoothing, gamma=2.0, beta=0.999, tau=1.0):
    """Loss of one ear by the books, in plain Python; None where masked."""
    classes = [set(c) for c in task.classes]
    y = next((i for i, c in enumerate(classes) if code in c), None)
    if y is None:
        return None
    count = [sum(int(k) in c for k in codes) for c in classes]
    total = sum(count)
    z = [0.0, *map(float, z)] if task.binary else list(map(float, z))
    if loss == "logit_adjusted":
        z = [a + tau * math.log(n / total) for a, n in zip(z, count, strict=True)]
    top = max(z)
    log_p = [a - top - math.log(sum(math.exp(b - top) for b in z)) for a in z]
    q = [1 - smoothing if c == y else smoothing / (len(z) - 1) for c in range(len(z))]
    if loss == "logit_adjusted":
        pull, share = smoothing * len(z) / (len(z) - 1), [n**tau for n in count]
        q = [(1 - pull) * (c == y) + pull * share[c] / sum(share) for c in range(len(z))]
    factor = [(1 - math.exp(a)) ** gamma if loss == "focal" else 1.0 for a in log_p]
    weight = 1.0
    if loss == "class_balanced":
        effective = [(1 - beta) / (1 - beta**n) for n in count]
        weight = effective[y] * total / sum(e * n for e, n in zip(effective, count, strict=True))
    return -weight * sum(map(math.prod, zip(q, factor, log_p, strict=True)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("task", [SIX, ABNORMAL, OME], ids=lambda task: task.name)
def test_each_loss_equals_a_slow_one(task, loss, smoothing, codes):
    found, z = planned(loss, task, codes=codes, smoothing=smoothing), logits(task.outputs)
    each = [slowly(loss, row, code, task, codes=codes.tolist(), smoothing=smoothing)
            for row, code in zip(z.tolist(), codes.tolist(), strict=True)]
    inside = [value for value in each if value is not None]
    total, count = found.sum_and_count(z, found.targets(codes))
    assert count == len(inside) > 0 and total.item() == pytest.approx(sum(inside), rel=1e-5)
    torch.testing.assert_close(found(z, found.targets(codes)), total / count, rtol=0, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_the_binary_focal_loss_equals_that_of_torchvision(gamma, codes):
    loss, z = planned("focal", ABNORMAL, codes=codes, focal_gamma=gamma), logits(1)
    target = loss.targets(codes)
    inside = target != OUTSIDE
    expected = sigmoid_focal_loss(z[inside], target[inside].float(), alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(loss(z, target), expected)


@pytest.mark.parametrize("task", [SIX, ABNORMAL], ids=lambda task: task.name)
def test_each_loss_has_cross_entropy_as_its_limit(task, codes):
    ce, z = planned("ce", task, codes=codes, smoothing=0.1), logits(task.outputs)
    target = ce.targets(codes)
    for loss, factor in (("focal", "focal_gamma"), ("class_balanced", "balanced_beta"), ("logit_adjusted", "adjust_tau")):
        limit = planned(loss, task, codes=codes, smoothing=0.1, **{factor: 0})
        torch.testing.assert_close(limit(z, target), ce(z, target), msg=loss)


@pytest.mark.parametrize("task", [SIX, OME], ids=lambda task: task.name)
def test_with_equally_frequent_classes_nothing_is_corrected(task):
    codes = torch.arange(1, 7).repeat(5)
    z, ce = logits(task.outputs)[:30], planned("ce", task, codes=codes)
    for loss in LONG_TAIL:
        torch.testing.assert_close(planned(loss, task, codes=codes)(z, ce.targets(codes)), ce(z, ce.targets(codes)))


def test_effective_weights_lie_between_equal_ones_and_those_by_frequency_with_mean_one_per_ear():
    y = np.repeat([0, 1, 3], [1000, 100, 10])
    found = {beta: effective_weights(y, 4, beta=beta) for beta in (0, 0.9, 0.999, 1 - 1e-9)}
    for weights in found.values():
        assert weights.dtype == np.float32 and weights[2] == 1 and weights[y].mean() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(found[0], 1)
    np.testing.assert_allclose(found[1 - 1e-9], class_weights(y, 4), rtol=1e-5)
    ratio = [w[3] / w[0] for w in found.values()]
    assert ratio == sorted(ratio) and ratio[2] == pytest.approx((1 - 0.999**1000) / (1 - 0.999**10), rel=1e-5)


def test_the_shift_is_finite_for_a_class_that_does_not_occur_and_without_any_ear():
    lacks = np.repeat([0, 2], [30, 10])
    np.testing.assert_allclose(prior_shift(lacks, 3, tau=2), 2 * np.log([3 / 4, 1 / 40, 1 / 4]), rtol=1e-6)
    np.testing.assert_allclose(prior_shift(np.repeat([0, 1, OUTSIDE], [30, 10, 9]), 2, tau=1), np.log([1 / 3]), rtol=1e-6)
    for classes in (2, 6):
        for y in (np.full(3, OUTSIDE), np.zeros(5, int)):
            assert np.isfinite(prior_shift(y, classes, tau=1)).all()
            assert np.isfinite(effective_weights(y, classes, beta=0.99)).all()


def minimise(value, table):
    optimizer = torch.optim.LBFGS([table], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14,
                                  line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        found = value()
        found.backward()
        return found

    optimizer.step(closure)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("task", [SIX, ABNORMAL], ids=lambda task: task.name)
def test_logits_that_minimise_the_adjusted_loss_are_log_posterior_minus_tau_log_prior(task, tau):
    rng = np.random.default_rng(3)
    code, place = rng.choice(range(1, 7), 4000, p=[0.3, 0.1, 0.2, 0.05, 0.3, 0.05]), rng.integers(0, 3, 4000)
    code[place == 0] = np.where(rng.random(sum(place == 0)) < 0.3, 4, code[place == 0])      # so that x tells something of y
    y, classes = task.targets(code), len(task.classes)
    loss = training_loss(TrainConfig(loss="logit_adjusted", adjust_tau=tau, label_smoothing=0), [task], code,
                         balancing="none")
    table = torch.zeros(3, task.outputs, dtype=torch.float64, requires_grad=True)            # a logit for each x and class
    minimise(lambda: loss(table[place], loss.targets(torch.from_numpy(code))), table)
    joint = np.array([[np.sum((place == x) & (y == c)) for c in range(classes)] for x in range(3)])
    expected = np.log(joint / joint.sum(1, keepdims=True)) - tau * np.log(joint.sum(0) / joint.sum())
    found = table.detach().numpy()
    if task.binary:
        np.testing.assert_allclose(found[:, 0], expected[:, 1] - expected[:, 0], atol=1e-4)
    else:
        np.testing.assert_allclose(found - found.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.05, 0.4])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("task", [SIX, ABNORMAL], ids=lambda task: task.name)
def test_however_rare_a_class_smoothing_never_gives_it_the_confident_ears_of_another(task, loss, smoothing):
    codes = torch.arange(1, 7).repeat_interleave(torch.tensor([4, 2, 3, 2, 400, 1]))
    found, target = planned(loss, task, codes=codes, smoothing=smoothing), task.targets(codes.numpy())
    table = torch.zeros(len(task.classes), task.outputs, dtype=torch.float64, requires_grad=True)       # logits of each class
    minimise(lambda: found(table[target], found.targets(codes)), table)
    z = F.pad(table.detach(), (1, 0)) if task.binary else table.detach()
    assert z.argmax(1).tolist() == list(range(len(task.classes)))


@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_finite_differences(loss, drop, codes):
    found = planned(loss, SIX, OME, codes=codes, smoothing=0.1)
    z, target = logits(7)[:12].double().requires_grad_(), found.targets(codes[:12])
    assert (target == OUTSIDE).any()
    assert torch.autograd.gradcheck(lambda z: found(z, target, drop=drop), (z,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("loss", "more"), [*((loss, {}) for loss in LOSSES), ("focal", {"focal_gamma": 0.1})])
@pytest.mark.parametrize("size", [100, -100])
def test_large_logits_give_the_same_loss_in_float32_as_in_float64_and_a_finite_gradient(size, loss, more, smoothing, codes):
    found = planned(loss, SIX, ABNORMAL, codes=codes, smoothing=smoothing, **more)
    z = torch.full((N, 7), -float(size))
    z[:, [2, 6]] = float(size)
    target, value, slope = found.targets(codes), {}, {}
    for dtype in (torch.float32, torch.float64):
        own = z.to(dtype).requires_grad_()
        value[dtype] = found(own, target, drop=0.1)
        slope[dtype], = torch.autograd.grad(value[dtype], own)
    assert value[torch.float32].isfinite() and slope[torch.float32].isfinite().all()
    torch.testing.assert_close(value[torch.float32].double(), value[torch.float64], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(slope[torch.float32].double(), slope[torch.float64], rtol=1e-5, atol=1e-6)


def test_logits_of_half_precision_are_summed_in_float32(codes):
    loss = planned("ce", SIX, codes=codes)
    z = logits(6).bfloat16()
    assert loss(z, loss.targets(codes)).dtype == torch.float32
    torch.testing.assert_close(loss(z, loss.targets(codes)), loss(z.float(), loss.targets(codes)), rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_masked_ears_change_no_kind_of_loss_even_if_their_logits_are_nan(loss, codes):
    found = planned(loss, OME, SIX, codes=codes, smoothing=0.1)
    target, z = found.targets(codes), logits(7)
    z[codes == 0] = torch.nan
    value = found(z.requires_grad_(), target, drop=0.2)
    value.backward()
    assert (z.grad[codes == 0] == 0).all() and (z.grad[target[:, 0] == OUTSIDE, 0] == 0).all()
    labelled = codes > 0
    torch.testing.assert_close(found(z.detach()[labelled], target[labelled], drop=0.2), value.detach())


@pytest.mark.parametrize("loss", LOSSES)
def test_without_targets_each_kind_gives_zero_with_a_graph(loss, codes):
    found = planned(loss, OME, codes=codes)
    z = torch.randn(3, 1, requires_grad=True)
    total, count = found.sum_and_count(z, found.targets(torch.tensor([0, 1, 2])), drop=0.4)
    found(z, found.targets(torch.tensor([0, 1, 2])), drop=0.4).backward()
    assert total == 0 and count == 0 and (z.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_parts_of_pieces_add_up_to_the_whole_batch(loss, codes):
    found, z = planned(loss, OME, SIX, codes=codes, smoothing=0.05), logits(7)
    target = found.targets(codes)
    pieces = [found.sum_and_count(z[a:b], target[a:b]) for a, b in ((0, 7), (7, 50), (50, N))]
    total, count = (sum(part) for part in zip(*pieces, strict=True))
    assert count.dtype == torch.int64
    torch.testing.assert_close(total / count, found(z, target))


# Dropping against wrong labels

@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.29, 0.3 * 2 / 3, 0.499])
@pytest.mark.parametrize("n", [0, 1, 2, 9, 10, 100])
def test_of_n_valid_ears_the_share_rounded_down_is_dropped_and_never_all(n, share):
    losses, valid = torch.rand(n + 5, generator=torch.Generator().manual_seed(n)), torch.arange(n + 5) < n
    losses[n:] = 9                                                                            # masked ears do not count
    kept = small_losses(losses, valid, share)[:n]
    assert (~kept).sum() == math.floor(round(share * n, 6)) and (n == 0 or kept.any())
    assert kept.all() or losses[:n][kept].max() <= losses[:n][~kept].min()


def test_losses_that_are_not_finite_are_not_dropped_and_ties_are_broken_by_position():
    losses = torch.tensor([1.0, torch.nan, 3, torch.inf, 2])
    assert small_losses(losses, torch.ones(5, dtype=torch.bool), 0.4).tolist() == [True, True, False, True, False]
    assert small_losses(torch.ones(5), torch.ones(5, dtype=torch.bool), 0.4).tolist() == [False, False, True, True, True]
    loss = loss_of(ABNORMAL)
    z, target = torch.tensor([[torch.nan], [1], [2], [-5]]), torch.ones(4, 1, dtype=torch.int64)
    assert loss(z, target, drop=0.4).isnan()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("task", [SIX, ABNORMAL], ids=lambda task: task.name)
def test_the_ears_that_are_kept_have_the_most_likely_labels_whatever_the_loss(loss, task, codes):
    found, z = planned(loss, task, codes=codes, smoothing=0.1), logits(task.outputs)
    target = found.targets(codes)
    valid = np.flatnonzero(target[:, 0] != OUTSIDE)
    chance = [slowly("logit_adjusted" if loss == "logit_adjusted" else "ce", z[i].tolist(), int(codes[i]), task,
                     codes=codes.tolist(), smoothing=0) for i in valid]
    kept = valid[np.argsort(chance)][: len(valid) - int(0.2 * len(valid))]
    total, count = found.sum_and_count(z, target, drop=0.2)
    alone, n = found.sum_and_count(z[kept], target[kept])
    assert count == n == len(kept) < len(valid)
    torch.testing.assert_close(total, alone)


def test_an_ear_is_dropped_from_all_its_tasks_by_its_mean_nll():
    loss = loss_of(OME, ABNORMAL)
    target = loss.targets(torch.tensor([3, 3, 1, 5, 5, 0]))                                   # code 1: masked in the first task
    z = torch.tensor([[9.0, 9], [-5, 9], [-99, -4], [-9, -9], [-9, -9], [-99, -99]])          # nll 0, 2.5, 4, 0, 0, -
    total, count = loss.sum_and_count(z, target, drop=0.2)
    kept = [0, 1, 3, 4, 5]
    assert count == 8
    torch.testing.assert_close(total, loss.sum_and_count(z[kept], target[kept])[0])
    assert loss.sum_and_count(z, target, drop=0.4)[1] == 6


# Settings

@pytest.mark.parametrize("loss", LONG_TAIL)
@pytest.mark.parametrize("balance", ["sampler", "loss"])
def test_correcting_twice_is_refused_with_both_flags_named(loss, balance):
    with pytest.raises(ValueError, match=rf"^loss: {loss} and --balance {balance} .* --balance none .* --loss ce"):
        TrainConfig(loss=loss, balance=balance)
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, RunConfig)
    with pytest.raises(UserError, match=f"^--loss: {loss} and --balance {balance}"):
        settings.from_flags(RunConfig, parser.parse_args(["--loss", loss, "--balance", balance]), base=EAR_ROUTE)


@pytest.mark.parametrize("loss", LOSSES)
def test_flags_and_json_give_the_loss_back_and_auto_balances_once(loss):
    parser = argparse.ArgumentParser()
    settings.add_flags(parser, RunConfig)
    words = ["--loss", loss, "--focal-gamma", "1.5", "--balanced-beta", "0.99", "--adjust-tau", "0.5",
             "--drop-high-loss", "0.2", "--drop-warmup-epochs", "4"]
    config = settings.from_flags(RunConfig, parser.parse_args(words), base=EAR_ROUTE)
    assert config.training == TrainConfig(loss=loss, focal_gamma=1.5, balanced_beta=0.99, adjust_tau=0.5, drop_high_loss=0.2,
                                          drop_warmup_epochs=4)
    assert settings.from_json(RunConfig, settings.to_json(config)) == config
    assert settings.from_flags(RunConfig, parser.parse_args(settings.to_flags(config))) == config
    assert config.balancing == ("none" if loss in LONG_TAIL else "sampler")


def test_the_defaults_are_cross_entropy_and_the_sampler_with_nothing_dropped(codes):
    plan, balancing = TrainConfig(), RunConfig().balancing
    assert (plan.loss, balancing, plan.drop_high_loss) == ("ce", "sampler", 0)
    loss = training_loss(plan, [SIX], codes.numpy(), balancing=balancing)
    expected, z = loss_of(SIX, smoothing=plan.label_smoothing), logits(6)
    torch.testing.assert_close(loss(z, loss.targets(codes)), expected(z, loss.targets(codes)), rtol=0, atol=0)


@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_balance_loss_weighs_by_frequency(loss, codes):
    config = RunConfig(data=DataConfig(label_task=f"{SIX.name},{OME.name}"), training=TrainConfig(loss=loss))
    found = training_loss(config.training, [SIX, OME], codes.numpy(), balancing=config.balancing)
    for task, weights in zip((SIX, OME), found.weights, strict=True):
        np.testing.assert_array_equal(weights, class_weights(task.targets(codes.numpy()), len(task.classes)))
    assert found.gamma == (2.0 if loss == "focal" else 0)


@pytest.mark.parametrize("value", [{"focal_gamma": -1}, {"balanced_beta": 1}, {"balanced_beta": -0.1}, {"adjust_tau": -1},
                                   {"drop_high_loss": 0.5}, {"drop_high_loss": -0.1}, {"drop_high_loss": math.nan},
                                   {"drop_warmup_epochs": -1}], ids=str)
def test_an_invalid_value_is_refused_by_its_flag(value):
    with pytest.raises(ValueError, match=f"^{next(iter(value)).replace('_', '-')}: got"):
        TrainConfig(**value)


# Learning

def toy(counts, seed, wrong=0.0):
    """Codes with so many ears each, and points around the corners of a hexagon; a share of the codes in x is another's."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(1, 7), counts)
    angle = code * np.pi / 3
    x = np.stack([np.cos(angle), np.sin(angle)], 1) * 2 + rng.normal(size=(len(code), 2)) * 0.5
    given = np.where(rng.random(len(code)) < wrong, rng.integers(1, 7, len(code)), code)
    return torch.from_numpy(x).float(), torch.from_numpy(code), torch.from_numpy(given)


def learn(plan, task, x, codes, epochs=30):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, task.outputs))
    loss, optimizer = training_loss(plan, [task], codes.numpy(), balancing="none"), torch.optim.Adam(net.parameters(), lr=0.03)
    for epoch in range(epochs):
        drop = plan.drop_high_loss if epoch >= 5 else 0.0
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss(net(x[rows]), loss.targets(codes[rows]), drop=drop).backward()
            optimizer.step()
    return net


def recall(net, task, x, codes):
    with torch.no_grad():
        z = net(x)
    found = (z[:, 0] > 0).long() if task.binary else z.argmax(1)
    y = task.targets(codes.numpy())
    return balanced_accuracy_score(y[y != OUTSIDE], found[y != OUTSIDE])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("task", [SIX, ABNORMAL, OME], ids=lambda task: task.name)
def test_a_small_network_learns_with_each_loss(task, loss):
    x, codes, _ = toy([60] * 6, seed=0)
    net = learn(TrainConfig(loss=loss), task, x, codes)
    assert recall(net, task, *toy([200] * 6, seed=1)[:2]) > 0.9


def test_on_a_long_tail_the_two_losses_for_it_have_a_higher_mean_recall():
    x, codes, _ = toy([600, 300, 100, 30, 10, 6], seed=0)
    x = x * 0.5                                                                               # corners that overlap
    x += torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) * 0.5
    held, true, _ = toy([300] * 6, seed=1)
    held = held * 0.5 + torch.randn(held.shape, generator=torch.Generator().manual_seed(1)) * 0.5
    found = {loss: recall(learn(TrainConfig(loss=loss), SIX, x, codes), SIX, held, true) for loss in LOSSES}
    assert found["class_balanced"] > found["ce"] + 0.05 and found["logit_adjusted"] > found["ce"] + 0.05, found


def test_dropping_high_losses_leaves_out_mostly_wrong_labels():
    x, true, given = toy([60] * 6, seed=0, wrong=0.3)
    plan = TrainConfig(drop_high_loss=0.2)
    net = learn(plan, SIX, x, given)
    loss = training_loss(plan, [SIX], given.numpy(), balancing="none")
    with torch.no_grad():
        nll = loss.per_target(net(x), loss.targets(given))[1][:, 0]
    dropped = ~small_losses(nll, torch.ones(len(x), dtype=torch.bool), 0.2)
    assert dropped.sum() == 72 and (true != given)[dropped].float().mean() > 0.9


def test_a_run_drops_by_epoch_and_keeps_the_loss_in_its_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path, {"train": codes_in_turn("abcdefg"), "tune": codes_in_turn("xyz", seed=1)},
                EarSpec(num_slices=4, image_size=32))
    seen, parts = [], TaskLoss.sum_and_count
    monkeypatch.setattr(TaskLoss, "sum_and_count", lambda *args, drop: (seen.append(drop), parts(*args, drop=drop))[1])
    words = ("--pct", 100, "--backbone", "test_resnet", "--batch-size", 64, "--epochs", 4, "--device", "cpu", "--num-slices", 4,
             "--image-size", 32, "--cache-dir", CACHE, "--label-task", "six_class", "--loss", "logit_adjusted",
             "--drop-high-loss", 0.4, "--drop-warmup-epochs", 2)
    assert run("train_ear2d", *words, "--output-dir", tmp_path / "run") == 0
    assert seen == [0, 0, 0.2, 0.4]
    plan = settings.from_json(RunConfig, Run(tmp_path / "run").read_settings()).training
    assert (plan.loss, plan.drop_high_loss, plan.drop_warmup_epochs) == ("logit_adjusted", 0.4, 2)
