"""A network of a few weights, with data for its steps."""
import numpy as np
import torch
from torch import nn

EARS = 12
"""Number of images of a batch."""


class Net(nn.Module):
    """One logit per image; with BatchNorm or without, and with dropout."""

    def __init__(self, norm: bool, dropout: float = 0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.Flatten(),
                                  nn.Dropout(dropout), nn.Linear(4 * 36, 1))

    def forward(self, x):
        """Return logits (N,) of images (N, 1, 8, 8)."""
        return self.body(x)[:, 0]


def random_batch(seed=0):
    """Return images (EARS, 1, 8, 8), targets (EARS,) and a mask of the targets that are known (EARS,)."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(EARS, 1, 8, 8)).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, 2, EARS).astype(np.float32))
    known = torch.from_numpy(rng.random(EARS) < 0.7)
    return x, y, known


def loss_sums(net, x, y, known, fail=lambda part: None):
    """Return the function that a `Stepper` takes: sum of losses and number of targets of a part. fail: called with the part."""
    def sums(part):
        fail(part)
        loss = nn.functional.binary_cross_entropy_with_logits(net(x[part]), y[part], reduction="none")
        return (loss * known[part]).sum(), known[part].sum()
    return sums
