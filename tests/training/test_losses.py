"""The loss against scikit-learn and torch, and what masked ears and weights do to it."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from medical_fenlei.tasks import BINARY_TASKS, OUTSIDE, TASKS, find_task
from medical_fenlei.training.losses import TaskLoss, class_weights

SIX = TASKS["six_class"]
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
def test_smoothing_equals_that_of_torch_which_spreads_it_over_all_classes(name, smoothing, codes):
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
