"""From logits and targets to one number. N ears, T tasks, C classes of a task, O outputs (those of the tasks side by side)."""
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from medical_fenlei.config import TrainConfig
from medical_fenlei.tasks import OUTSIDE, Task


def class_counts(targets: np.ndarray, classes: int) -> np.ndarray:
    """int64 (C,): how often each class occurs in targets of any shape, OUTSIDE not counted."""
    return np.bincount(targets[targets != OUTSIDE].ravel(), minlength=classes)


def class_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """float32 (C,): n / (C n_c) for each of the C classes that occur in targets, 1 for others.

    So each class weighs alike, and the mean weight over ears is 1.
    """
    count = class_counts(targets, classes)
    return _mean_one(np.divide(1, count, out=np.zeros(classes), where=count > 0), count)


def effective_weights(targets: np.ndarray, classes: int, *, beta: float) -> np.ndarray:
    """float32 (C,): (1 - β) / (1 - β^n_c), with mean 1 over ears; 1 for a class that does not occur. Cui et al. 2019.

    β = 0 weighs every ear alike; towards 1 the weights become those of `class_weights`.
    """
    count = class_counts(targets, classes)
    return _mean_one(np.divide(1 - beta, 1 - beta**count, out=np.zeros(classes), where=count > 0), count)


def _mean_one(weights: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, weights * count.sum() / max(1e-300, weights @ count), 1).astype(np.float32)


def prior_shift(targets: np.ndarray, classes: int, *, tau: float) -> np.ndarray:
    """float32 (outputs,), added to logits in training: τ log π_c (Menon et al. 2021, eq. 10), to one logit τ (log π1 - log π0).

    A class that does not occur counts as one ear, to be finite.
    """
    log_count = np.log(np.maximum(1, class_counts(targets, classes)))
    shift = log_count[1:] - log_count[:1] if classes == 2 else log_count - np.log(max(1, np.sum(targets != OUTSIDE)))
    return (tau * shift).astype(np.float32)


def lowest(losses: torch.Tensor, valid: torch.Tensor, share: float) -> torch.Tensor:
    """bool (N,): False for the ⌊share · valid ears⌋ of highest loss, so that with share < 0.5 most remain. losses (N,).

    Small-loss selection against wrong labels (Han et al. 2018, co-teaching, algorithm 1). A loss that is not finite is never
    left out, which would hide it.
    """
    ranked = losses.where(valid & losses.isfinite(), -torch.inf)
    rank = ranked.argsort(descending=True, stable=True).argsort()
    return rank >= (share * valid.sum().double() + 1e-9).floor()        # 0.29 of 100 is 29, which floats miss by a hair


class TaskLoss:
    """Loss of one task or several: the sum over targets that are not masked, divided by how many there are.

    Of a target -Σ_c w_y q_c (1 - p_c)^γ log p_c, where p is the softmax of the shifted logits (a binary task has one logit, of
    its positive class, against 0) and q the smoothed target: 1 - s for the true class y, s / (C - 1) for each other. γ = 0 is
    cross entropy, s = 0 the focal loss of Lin et al. 2017, eq. 4. With shifts, what smoothing takes is spread over all classes
    as the shifts are, so that the logits alone are pulled towards equal ones; spread evenly it would call a sure ear of a
    frequent class by the name of a rare one.

    weights w: one array (C,) a task, or None for equal ones; shifts: one array (outputs,) a task, or None for none; gamma: γ;
    smoothing: s.
    """

    def __init__(self, tasks: Sequence[Task], *, weights: Sequence[np.ndarray | None] | None = None,
                 shifts: Sequence[np.ndarray | None] | None = None, gamma: float = 0.0, smoothing: float = 0.0) -> None:
        self.tasks, self.gamma, self.smoothing = tuple(tasks), gamma, smoothing
        self.table = torch.from_numpy(np.stack([task.table for task in tasks])).long()            # (T, 7)
        nothing = [None] * len(self.tasks)
        self.weights = [torch.from_numpy(np.ones(len(task.classes), np.float32) if w is None else w)
                        for task, w in zip(tasks, weights or nothing, strict=True)]
        self.shifts = [torch.from_numpy(np.zeros(task.outputs, np.float32) if shift is None else shift)
                       for task, shift in zip(tasks, shifts or nothing, strict=True)]
        self.spreads = [_log_softmax(shift[None])[0].exp() for shift in self.shifts]             # (C,), of what smoothing takes

    def to(self, device: torch.device) -> "TaskLoss":
        self.table = self.table.to(device)
        self.weights, self.shifts, self.spreads = ([own.to(device) for own in each]
                                                   for each in (self.weights, self.shifts, self.spreads))
        return self

    def targets(self, code: torch.Tensor) -> torch.Tensor:
        """int64 (..., T), OUTSIDE where masked, for codes of any shape."""
        return self.table.T[code.long()]

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, *, drop: float = 0.0) -> torch.Tensor:
        """The mean of `parts`. A batch without any valid target gives 0."""
        total, count = self.parts(logits, targets, drop=drop)
        return total / count.clamp(min=1)

    def parts(self, logits: torch.Tensor, targets: torch.Tensor, *, drop: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the loss, and int64 how many targets it holds, to be added up over pieces of a batch.

        logits (N, O), targets (N, T) from `targets`. drop: share of the ears to leave out, see `lowest`; an ear with it all its
        targets, for they come from one code.
        """
        loss, surprise = self.each(logits, targets)
        counted = targets != OUTSIDE
        if drop:
            valid = counted.any(1)
            counted = counted & lowest(surprise.sum(1) / counted.sum(1).clamp(min=1), valid, drop)[:, None]
        return loss.where(counted, 0).sum(), counted.sum()

    def each(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of each target, and its surprise -log p_y (no gradient), both (N, T), 0 where masked.

        Surprise ranks ears by how ill their label fits. The loss would not: weights raise it for every ear of a rare class, and
        smoothing for the surest ones.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses, surprises = [], []
        parts = logits.split([task.outputs for task in self.tasks], 1)
        each = zip(self.weights, self.shifts, self.spreads, parts, targets.unbind(1), strict=True)
        for weight, shift, spread, own, target in each:
            valid, target = target != OUTSIDE, target.clamp(min=0)
            own = own.where(valid[:, None], 0)                # before any arithmetic: no gradient of a masked ear can be NaN
            log_p = term = _log_softmax(own + shift)
            if self.gamma:
                miss = -torch.expm1(log_p)                    # 1 - p
                term = log_p * miss.clamp(min=torch.finfo(miss.dtype).tiny) ** self.gamma      # for γ < 1 the slope at 0 is ∞
            taken = self.smoothing * len(weight) / (len(weight) - 1)          # from the true class, of which 1 / C comes back
            loss = (1 - taken) * term.gather(1, target[:, None])[:, 0] + taken * (term * spread).sum(1)
            losses.append((-weight[target] * loss).where(valid, 0))
            surprises.append((-log_p.detach().gather(1, target[:, None])[:, 0]).where(valid, 0))
        return torch.stack(losses, 1), torch.stack(surprises, 1)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """(N, C) of (N, outputs); a single logit stands against 0."""
    if logits.shape[1] > 1:
        return logits.log_softmax(1)
    return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], 1)


def training_loss(plan: TrainConfig, tasks: Sequence[Task], code: np.ndarray, *, balancing: str) -> TaskLoss:
    """The loss that the settings ask for. code: those of the training set, any shape, from which frequencies are taken.

    balancing: `RunConfig.balancing`.
    """
    targets = [(task.targets(code), len(task.classes)) for task in tasks]
    weights = shifts = None
    if balancing == "loss":
        weights = [class_weights(*own) for own in targets]
    if plan.loss == "class_balanced":
        weights = [effective_weights(*own, beta=plan.balanced_beta) for own in targets]
    if plan.loss == "logit_adjusted":
        shifts = [prior_shift(*own, tau=plan.adjust_tau) for own in targets]
    return TaskLoss(tasks, weights=weights, shifts=shifts, gamma=plan.focal_gamma if plan.loss == "focal" else 0.0,
                    smoothing=plan.label_smoothing)
