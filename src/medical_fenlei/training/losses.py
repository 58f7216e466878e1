"""Losses from logits and targets. N ears, T tasks, C classes of a task, O outputs (the logits of all tasks side by side)."""
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from medical_fenlei.config import TrainConfig
from medical_fenlei.tasks import OUTSIDE, Task


def class_counts(targets: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each class occurs in targets of any shape, int64 (C,); OUTSIDE is not counted."""
    return np.bincount(targets[targets != OUTSIDE].ravel(), minlength=classes)


def class_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """Return float32 (C,): n / (C n_c), where C counts the classes that occur in the targets; 1 for a class that does not.

    All classes then have the same total weight, and the mean weight over ears is 1.
    """
    count = class_counts(targets, classes)
    return _scale_to_mean_one(np.divide(1, count, out=np.zeros(classes), where=count > 0), count)


def effective_weights(targets: np.ndarray, classes: int, *, beta: float) -> np.ndarray:
    """Return float32 (C,): (1 - β) / (1 - β^n_c), scaled to mean 1 over ears; 1 for a class that does not occur.

    Cui et al. 2019. β = 0 gives every ear the same weight; towards β = 1 the weights approach those of `class_weights`.
    """
    count = class_counts(targets, classes)
    return _scale_to_mean_one(np.divide(1 - beta, 1 - beta**count, out=np.zeros(classes), where=count > 0), count)


def _scale_to_mean_one(weights: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, weights * count.sum() / max(1e-300, weights @ count), 1).astype(np.float32)


def prior_shift(targets: np.ndarray, classes: int, *, tau: float) -> np.ndarray:
    """Return float32 (outputs,) to add to logits in training: τ log π_c, or τ (log π_1 - log π_0) for a single logit.

    Menon et al. 2021, eq. 10. A class that does not occur counts as one ear, so that the logarithm stays finite.
    """
    log_count = np.log(np.maximum(1, class_counts(targets, classes)))
    shift = log_count[1:] - log_count[:1] if classes == 2 else log_count - np.log(max(1, np.sum(targets != OUTSIDE)))
    return (tau * shift).astype(np.float32)


def small_losses(losses: torch.Tensor, valid: torch.Tensor, drop: float) -> torch.Tensor:
    """Return bool (N,): False for the ⌊drop · valid ears⌋ of highest loss. losses, valid: (N,).

    Small-loss selection against wrong labels (Han et al. 2018, co-teaching, algorithm 1). A loss that is not finite is never
    dropped, so that it does not go unnoticed.
    """
    ranked = losses.where(valid & losses.isfinite(), -torch.inf)
    rank = ranked.argsort(descending=True, stable=True).argsort()
    return rank >= (drop * valid.sum().double() + 1e-9).floor()         # 0.29 * 100 is 29, but 28.999… in floats


class TaskLoss:
    """The loss of one or several tasks: the mean over all targets that are not masked.

    The loss of a target is -Σ_c w_y q_c (1 - p_c)^γ log p_c. p is the softmax of the shifted logits (a binary task has one
    logit, of its positive class, against 0), q the smoothed target: 1 - s for the true class y, s / (C - 1) for each other.
    γ = 0 is cross entropy, s = 0 the focal loss of Lin et al. 2017, eq. 4. With shifts, smoothing spreads its mass over the
    classes like the softmax of the shifts, which pulls the unshifted logits towards equal ones; spread evenly, it would give a
    confident ear of a frequent class to a rare one.

    weights: w, one array (C,) per task, or None for equal ones; shifts: one array (outputs,) per task, or None; gamma: γ;
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
        self.spreads = [_log_softmax(shift[None])[0].exp() for shift in self.shifts]             # (C,) each

    def to(self, device: torch.device) -> "TaskLoss":
        """Move all tensors to a device and return the loss."""
        self.table = self.table.to(device)
        self.weights, self.shifts, self.spreads = ([tensor.to(device) for tensor in tensors]
                                                   for tensors in (self.weights, self.shifts, self.spreads))
        return self

    def targets(self, code: torch.Tensor) -> torch.Tensor:
        """Return int64 (..., T), OUTSIDE where masked, for codes of any shape."""
        return self.table.T[code.long()]

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor, *, drop: float = 0.0) -> torch.Tensor:
        """Return the mean loss, (). A batch without a valid target gives 0. See `sum_and_count`."""
        total, count = self.sum_and_count(logits, targets, drop=drop)
        return total / count.clamp(min=1)

    def sum_and_count(self, logits: torch.Tensor, targets: torch.Tensor, *, drop: float = 0.0
                      ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the loss, and the number of targets in it (int64), to add up over the micro-batches of a step.

        logits (N, O), targets (N, T) from `targets`. drop: share of the ears to leave out, those of highest loss (see
        `small_losses`); an ear is dropped with all its targets, since they come from one code.
        """
        loss, nll = self.per_target(logits, targets)
        counted = targets != OUTSIDE
        if drop:
            valid = counted.any(1)
            counted = counted & small_losses(nll.sum(1) / counted.sum(1).clamp(min=1), valid, drop)[:, None]
        return loss.where(counted, 0).sum(), counted.sum()

    def per_target(self, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the loss of each target, and its negative log-likelihood -log p_y (no gradient); both (N, T), 0 where masked.

        The negative log-likelihood ranks ears by how badly their label fits. The loss would not: weights raise it for every ear
        of a rare class, and smoothing for the most confident ones.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses, nlls = [], []
        parts = logits.split([task.outputs for task in self.tasks], 1)
        each = zip(self.weights, self.shifts, self.spreads, parts, targets.unbind(1), strict=True)
        for weight, shift, spread, own, target in each:
            valid, target = target != OUTSIDE, target.clamp(min=0)
            own = own.where(valid[:, None], 0)                # first, so that no gradient of a masked ear is NaN
            log_p = term = _log_softmax(own + shift)
            if self.gamma:
                miss = -torch.expm1(log_p)                    # 1 - p
                term = log_p * miss.clamp(min=torch.finfo(miss.dtype).tiny) ** self.gamma      # for γ < 1 the slope at 0 is ∞
            taken = self.smoothing * len(weight) / (len(weight) - 1)          # from the true class, which gets 1 / C of it back
            loss = (1 - taken) * term.gather(1, target[:, None])[:, 0] + taken * (term * spread).sum(1)
            losses.append((-weight[target] * loss).where(valid, 0))
            nlls.append((-log_p.detach().gather(1, target[:, None])[:, 0]).where(valid, 0))
        return torch.stack(losses, 1), torch.stack(nlls, 1)


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities (N, C) of logits (N, outputs); a single logit is compared with 0."""
    if logits.shape[1] > 1:
        return logits.log_softmax(1)
    return torch.cat([F.logsigmoid(-logits), F.logsigmoid(logits)], 1)


def training_loss(plan: TrainConfig, tasks: Sequence[Task], code: np.ndarray, *, balancing: str) -> TaskLoss:
    """Build the loss that the settings describe. code: codes of the training set, any shape, for the class frequencies.

    balancing: see `RunConfig.balancing`.
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
