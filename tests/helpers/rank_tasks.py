"""What each process of a company does in tests/training/test_distributed.py."""
import copy

import numpy as np
import torch
from torch import nn

from helpers.small_net import EARS, Net, data
from medical_fenlei.errors import UserError
from medical_fenlei.training.step import MAX_SKIPPED, Stepper, moving_average


def stepper_of(net, ranks, ema=None):
    return Stepper(net, torch.optim.SGD(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", enabled=False), clip_norm=1.0,
                   ema=ema, ranks=ranks)


def talk(ranks):
    summed = [torch.full((2, 3), float(ranks.rank + 1)), torch.tensor(10.0 * ranks.rank)]
    ranks.sum(summed)
    own = nn.Linear(2, 2)
    nn.init.constant_(own.weight, ranks.rank + 7)
    ranks.broadcast_weights(own)
    return {"sum": [tensor.tolist() for tensor in summed], "any": [ranks.any(ranks.rank == 1), ranks.any(False)],
            "gather": ranks.gather(f"of {ranks.rank}"), "first": ranks.on_first(lambda: f"by {ranks.rank}"),
            "weights": own.weight.tolist()}


def refuse(ranks):
    def work():
        raise UserError(f"refused by {ranks.rank}")

    return ranks.on_first(work)


def leave(ranks):
    if ranks.rank == 1:
        raise SystemExit(9)
    return ranks.any(False)


def steps(ranks, norm, harm):
    """Three steps, each on the data of its number; `harm` befalls the second process in the second step."""
    torch.manual_seed(0)
    net = Net(norm)
    stepper = stepper_of(net, ranks, ema=moving_average(net, 0.9))
    losses = []
    for n in range(3):
        x, y, known = data(n)
        known[: EARS // 2] &= n != 0                             # in the first step only the second process has targets
        own = torch.from_numpy(ranks.share(np.arange(EARS)))
        x, y, known = x[own], y[own], known[own]
        harmed = harm if n == 1 and ranks.rank == ranks.world_size - 1 else None

        def sums(part, x=x, y=y, known=known, harmed=harmed):
            if harmed == "memory" and part.stop - part.start > 3:
                raise torch.OutOfMemoryError("out of memory")
            z = net(x[part])
            loss = nn.functional.binary_cross_entropy_with_logits(z, y[part], reduction="none")
            loss = loss * (float("nan") if harmed == "nan" else 1)
            return (loss * known[part]).sum(), known[part].sum()

        losses.append(float(stepper(len(own), sums, seed=n, describe=lambda: "some")))
    return losses, copy.deepcopy(net.state_dict()), stepper.ema.state_dict(), stepper.micro_batches


def first_statistics(ranks):
    torch.manual_seed(0)
    net = Net(True)
    stepper = stepper_of(net, ranks)
    own = torch.from_numpy(ranks.share(np.arange(EARS)))
    x = data(0)[0][own]
    stepper(len(own), lambda part: (net(x[part]).sum(), torch.tensor(part.stop - part.start)), seed=0, describe=lambda: "some")
    return net.body[1].running_mean.numpy()


def nothing_but_nan(ranks):
    net = Net(False)
    stepper = stepper_of(net, ranks)
    bad = float("nan") if ranks.rank == 1 else 1.0
    x = data(0)[0]
    for _ in range(MAX_SKIPPED):
        stepper(EARS, lambda part: (net(x[part]).sum() * bad, torch.tensor(1)), seed=0, describe=lambda: "some")
