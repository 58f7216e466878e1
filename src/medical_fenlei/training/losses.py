"""From logits and targets to one number. N ears, T tasks, O outputs (those of the tasks side by side)."""
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from medical_fenlei.tasks import OUTSIDE, Task


def class_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """float32 (classes,): n / (C n_c) for each of the C classes that occur in targets, OUTSIDE not counted.

    So each class weighs alike, and the mean weight over ears is 1.
    """
    count = np.bincount(targets[targets != OUTSIDE].ravel(), minlength=classes)
    occurs = count > 0
    weights = np.divide(count.sum(), occurs.sum() * count, out=np.ones(classes), where=occurs)
    return weights.astype(np.float32)


class TaskLoss:
    """Cross entropy of one task or several: the sum over targets that are not masked, divided by how many there are.

    weights: one array (classes,) a task, or None for equal ones. A smoothed target is 1 - s for the true class and s / (C - 1)
    for each other. A binary task has one logit, of its positive class.
    """

    def __init__(self, tasks: Sequence[Task], *, weights: Sequence[np.ndarray | None], smoothing: float = 0.0) -> None:
        self.tasks, self.smoothing = tuple(tasks), smoothing
        self.table = torch.from_numpy(np.stack([task.table for task in tasks])).long()            # (T, 7)
        self.weights = [torch.from_numpy(np.ones(len(task.classes), np.float32) if w is None else w)
                        for task, w in zip(tasks, weights, strict=True)]

    def to(self, device: torch.device) -> "TaskLoss":
        self.table, self.weights = self.table.to(device), [w.to(device) for w in self.weights]
        return self

    def targets(self, code: torch.Tensor) -> torch.Tensor:
        """int64 (..., T), OUTSIDE where masked, for codes of any shape."""
        return self.table.T[code.long()]

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """logits (N, O), targets (N, T) from `targets`. A batch without any valid target gives 0."""
        total, count = logits.new_zeros(()), logits.new_zeros(())
        parts = logits.float().split([task.outputs for task in self.tasks], 1)
        for task, weight, own, target in zip(self.tasks, self.weights, parts, targets.unbind(1), strict=True):
            valid = target != OUTSIDE
            own, target = own[valid], target[valid]
            total = total + (weight[target] * self._cross_entropy(own, target, len(task.classes))).sum()
            count = count + valid.sum()
        return total / count.clamp(min=1)

    def _cross_entropy(self, logits: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
        if classes == 2:
            positive = target.float() * (1 - 2 * self.smoothing) + self.smoothing
            return F.binary_cross_entropy_with_logits(logits[:, 0], positive, reduction="none")
        soft = torch.full_like(logits, self.smoothing / (classes - 1)).scatter_(1, target[:, None], 1 - self.smoothing)
        return -(soft * logits.log_softmax(1)).sum(1)
