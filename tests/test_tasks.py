"""Tasks: which codes each of them concerns, and how logits become probabilities."""
import numpy as np
import pytest
import torch

from medical_fenlei.errors import UserError
from medical_fenlei.tasks import TASKS, find_task

BINARY, SIX = find_task("normal_vs_diseased"), find_task("six_class")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_probabilities_are_those_of_torch_and_sum_to_one(task):
    logits = np.random.default_rng(0).normal(0, 5, (50, 4, task.outputs))
    found, given = task.probabilities(logits), torch.from_numpy(logits)
    expected = torch.cat([(-given).sigmoid(), given.sigmoid()], -1) if task.binary else given.softmax(-1)
    assert found.shape == (50, 4, len(task.classes)) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-14)


def test_probabilities_do_not_depend_on_the_position_in_the_array():
    for task in (BINARY, SIX):
        logits = np.random.default_rng(1).normal(0, 5, (37, task.outputs))
        alone = np.concatenate([task.probabilities(one[None]) for one in logits])
        np.testing.assert_array_equal(task.probabilities(logits), alone)
        np.testing.assert_array_equal(task.probabilities(np.repeat(logits, 2, 0)[::2]), alone)


def test_large_logits_do_not_overflow_and_nan_stays_nan():
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_array_equal(BINARY.probabilities(np.array([[-800.0], [800.0]])), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(SIX.probabilities(np.array([[900.0, 0, 0, 0, 0, -900]])), [[1, 0, 0, 0, 0, 0]])
    assert np.isnan(BINARY.probabilities(np.array([[np.nan]]))).all()


def test_logits_of_fewer_bits_are_widened_first():
    logits = np.array([[1.5], [-0.25]], np.float32)
    np.testing.assert_array_equal(BINARY.probabilities(logits), BINARY.probabilities(logits.astype(np.float64)))
    assert SIX.probabilities(np.zeros((0, 6), np.float32)).shape == (0, 6)


def test_a_task_concerns_only_its_codes():
    assert find_task("normal_vs_abnormal") is find_task("正常vs异常")
    assert TASKS["normal_vs_cholesteatoma"].table.tolist() == [-1, -1, 1, -1, -1, 0, -1]
    assert TASKS["cholesteatoma_vs_other_abnormal"].table.tolist() == [-1, 0, 1, 0, 0, -1, 0]
    assert TASKS["six_class"].table.tolist() == [-1, 0, 1, 2, 3, 4, 5]
    with pytest.raises(UserError, match="six_class"):
        find_task("seven_class")
