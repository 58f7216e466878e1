"""The peers of the training benchmark: loops as usually written with MONAI, and with torch and torchvision only.

Both read the same NPY files, int16 HU (K, H, W), window and augment each sample on the CPU as `data.augment` does, and train in
float32. The K slices are the channels of one image, so all have the same random geometry.
"""
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medical_fenlei.config import AugmentConfig
from medical_fenlei.models.ear2d import Ear2d
from medical_fenlei.models.network import Network

Sample = dict[str, Any]
"""A sample; `image`: the path of a file, or its values; `label`: 0.0 or 1.0."""
Loader = Callable[..., Iterable[Sample]]
"""Makes a DataLoader with these options."""
SIGMA = 0.5
"""Standard deviation of the strongest blur in pixels, that of the mean of an image and its 3 × 3 binomial blur."""


class PlainEars(Dataset[Sample]):
    """Ears read and augmented with torch and torchvision."""

    def __init__(self, samples: Sequence[Sample], config: AugmentConfig) -> None:
        from torchvision.transforms import InterpolationMode, v2  # type: ignore[import-untyped]

        self.samples, self.config = samples, config
        self.transform = v2.Compose([
            v2.RandomAffine(config.rotate_deg, (config.shift, config.shift), (1 - config.scale, 1 + config.scale),
                            interpolation=InterpolationMode.BILINEAR, fill=-1),
            v2.GaussianBlur(3, (SIGMA / 5, SIGMA)), v2.GaussianNoise(sigma=config.noise, clip=False),
        ])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, n: int) -> Sample:
        config, (more, wider) = self.config, torch.empty(2).uniform_(-1, 1).tolist()
        level, width = config.wl + config.jitter_level * more, config.ww * (1 + config.jitter_width * wider)
        hu = torch.from_numpy(np.load(self.samples[n]["image"])).float()
        image = self.transform(((hu - level) / (width / 2)).clamp(-1, 1))
        return {"image": image.clamp(-1, 1), "label": torch.tensor(self.samples[n]["label"])}


def plain(samples: Sequence[Sample], config: AugmentConfig) -> Loader:
    """Return the loader of torch and torchvision."""
    return partial(DataLoader, PlainEars(samples, config))


def monai(samples: Sequence[Sample], config: AugmentConfig) -> Loader:
    """Return the loader of MONAI, which computes deterministic transforms once before the first epoch."""
    from monai import data
    from monai import transforms as t

    low, high = config.wl - config.ww / 2, config.wl + config.ww / 2
    edge = np.load(samples[0]["image"], mmap_mode="r").shape[-1]
    transform = t.Compose([
        t.LoadImaged("image"), t.EnsureChannelFirstd("image", channel_dim=0),
        t.ScaleIntensityRanged("image", low, high, -1, 1),
        t.RandShiftIntensityd("image", 2 * config.jitter_level / config.ww, prob=1),
        t.RandScaleIntensityd("image", config.jitter_width, prob=1),
        t.RandAffined("image", prob=1, rotate_range=math.radians(config.rotate_deg), translate_range=config.shift * edge,
                      scale_range=config.scale, padding_mode="border"),
        t.RandGaussianSmoothd("image", (SIGMA / 5, SIGMA), (SIGMA / 5, SIGMA), prob=1),
        t.RandGaussianNoised("image", prob=1, std=config.noise),
        t.ScaleIntensityRanged("image", -1, 1, -1, 1, clip=True),
        t.EnsureTyped("image", track_meta=False),                # a MetaTensor would route each operation through Python
    ])
    return partial(data.DataLoader, data.CacheDataset(samples, transform, progress=False))


class Usual(nn.Module):
    """Our network in torch's default memory format (NCHW), for binary tasks."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net
        for parameter in net.parameters():                       # `net.to` keeps the strides of weights with one channel
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Return the logits (N,) of volumes (N, K, H, W)."""
        if isinstance(self.net, Ear2d):
            vectors = self.net.backbone(volume.flatten(0, 1).unsqueeze(1)).unflatten(0, volume.shape[:2])
            return self.net.head(self.net.dropout(self.net.pooling(vectors)[0]))[:, 0]
        return self.net(volume.unsqueeze(2)).logits[:, 0]


def train(model: nn.Module, batches: Iterable[Sample], optimizer: torch.optim.Optimizer, *, clip_norm: float) -> float:
    """Train for one epoch; return the sum of the losses."""
    device, criterion, total = next(model.parameters()).device, nn.BCEWithLogitsLoss(), 0.0
    model.train()
    for batch in batches:
        image, label = (batch[name].to(device, torch.float32, non_blocking=True) for name in ("image", "label"))
        optimizer.zero_grad()
        loss = criterion(model(image), label)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        total += loss.item()
    return total
