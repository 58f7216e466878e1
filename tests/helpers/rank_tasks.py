"""Work of each process of a group in tests/training/test_distributed.py; all of it takes `Ranks` first."""
import copy

import numpy as np
import torch
from torch import nn

from helpers.small_net import EARS, Net, random_batch
from medical_fenlei.errors import UserError
from medical_fenlei.training.step import MAX_SKIPPED, Stepper, moving_average


def stepper_of(net, ranks, ema=None):
    """Return a `Stepper` with plain gradient descent."""
    return Stepper(net, torch.optim.SGD(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", enabled=False), clip_norm=1.0,
                   ema=ema, ranks=ranks)


def exchange(ranks):
    """Return what a process receives from each kind of message."""
    summed = [torch.full((2, 3), float(ranks.rank + 1)), torch.tensor(10.0 * ranks.rank)]
    ranks.sum(summed)
    own = nn.Linear(2, 2)
    nn.init.constant_(own.weight, ranks.rank + 7)
    ranks.broadcast_weights(own)
    return {"sum": [tensor.tolist() for tensor in summed], "any": [ranks.any(ranks.rank == 1), ranks.any(False)],
            "gather": ranks.gather(f"of {ranks.rank}"), "first": ranks.on_first(lambda: f"by {ranks.rank}"),
            "weights": own.weight.tolist()}


def refuse_on_first(ranks):
    """Raise UserError on the first process."""
    def work():
        raise UserError(f"refused by {ranks.rank}")

    return ranks.on_first(work)


def exit_on_second(ranks):
    """Exit the second process while the others wait for its message."""
    if ranks.rank == 1:
        raise SystemExit(9)
    return ranks.any(False)


def three_steps(ranks, norm, fault):
    """Take three steps; return losses, weights, their mean, and number of micro-batches.

    fault: `memory` or `nan` on the last process in the second step, or None.
    """
    torch.manual_seed(0)
    net = Net(norm)
    stepper = stepper_of(net, ranks, ema=moving_average(net, 0.9))
    losses = []
    for n in range(3):
        x, y, known = random_batch(n)
        known[: EARS // 2] &= n != 0                             # in the first step only the second process has targets
        own = torch.from_numpy(ranks.share(np.arange(EARS)))
        x, y, known = x[own], y[own], known[own]
        own_fault = fault if n == 1 and ranks.rank == ranks.world_size - 1 else None

        def sums(part, x=x, y=y, known=known, own_fault=own_fault):
            if own_fault == "memory" and part.stop - part.start > 3:
                raise torch.OutOfMemoryError("out of memory")
            z = net(x[part])
            loss = nn.functional.binary_cross_entropy_with_logits(z, y[part], reduction="none")
            loss = loss * (float("nan") if own_fault == "nan" else 1)
            return (loss * known[part]).sum(), known[part].sum()

        losses.append(float(stepper(len(own), sums, seed=n, describe=lambda: "some")))
    return losses, copy.deepcopy(net.state_dict()), stepper.ema.state_dict(), stepper.micro_batches


def statistics_after_one_step(ranks):
    """Return the running mean of BatchNorm after one step."""
    torch.manual_seed(0)
    net = Net(True)
    stepper = stepper_of(net, ranks)
    own = torch.from_numpy(ranks.share(np.arange(EARS)))
    x = random_batch(0)[0][own]
    stepper(len(own), lambda part: (net(x[part]).sum(), torch.tensor(part.stop - part.start)), seed=0, describe=lambda: "some")
    return net.body[1].running_mean.numpy()


def steps_with_nan_on_second(ranks):
    """Take as many steps without a finite loss on the second process as may be skipped."""
    net = Net(False)
    stepper = stepper_of(net, ranks)
    bad = float("nan") if ranks.rank == 1 else 1.0
    x = random_batch(0)[0]
    for _ in range(MAX_SKIPPED):
        stepper(EARS, lambda part: (net(x[part]).sum() * bad, torch.tensor(1)), seed=0, describe=lambda: "some")
