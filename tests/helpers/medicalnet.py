"""Tensors under the names of the published files of MedicalNet (https://github.com/Tencent/MedicalNet), with random values."""
import torch

BASIC, BOTTLENECK = (3, 3), (1, 3, 1)
RESNETS = {10: (BASIC, (1, 1, 1, 1)), 18: (BASIC, (2, 2, 2, 2)), 34: (BASIC, (3, 4, 6, 3)), 50: (BOTTLENECK, (3, 4, 6, 3)),
           101: (BOTTLENECK, (3, 4, 23, 3)), 152: (BOTTLENECK, (3, 8, 36, 3)), 200: (BOTTLENECK, (3, 24, 36, 3))}
"""Kernels of a block, and number of blocks of each of the four layers, by depth (He 2016, arXiv:1512.03385, table 1)."""
WITHOUT_WEIGHTS = (18, 34)
"""Depths whose shortcuts have no weights in the published files."""


def medicalnet(depth):
    """Return the shape by name of each tensor in a published file, without the head for segmentation."""
    kernels, blocks = RESNETS[depth]
    expansion = 4 if kernels == BOTTLENECK else 1
    shapes = {"conv1.weight": (64, 1, 7, 7, 7), **norm("bn1", 64)}
    channels = 64
    for layer, number in enumerate(blocks):
        width = 64 * 2**layer
        for block in range(number):
            at, into = f"layer{layer + 1}.{block}", channels
            channels = width * expansion
            for n, kernel in enumerate(kernels, start=1):
                out = channels if n == len(kernels) else width
                shapes |= {f"{at}.conv{n}.weight": (out, into, kernel, kernel, kernel), **norm(f"{at}.bn{n}", out)}
                into = out
            first = 64 if layer == 0 else 32 * 2**layer * expansion
            if block == 0 and (layer > 0 or first != channels) and depth not in WITHOUT_WEIGHTS:
                shapes |= {f"{at}.downsample.0.weight": (channels, first, 1, 1, 1), **norm(f"{at}.downsample.1", channels)}
    return shapes


def norm(at, channels):
    """Return the shapes by name of the tensors of a batch normalisation."""
    return {**{f"{at}.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")},
            f"{at}.num_batches_tracked": ()}


def published(depth):
    """Return the tensors by name of a published file, with a head for segmentation and random values."""
    tensors = {f"module.{name}": torch.rand(shape) if shape else torch.tensor(7) for name, shape in medicalnet(depth).items()}
    return {**tensors, "module.conv_seg.0.weight": torch.rand(512, 32, 2, 2, 2), "module.conv_seg.0.bias": torch.rand(32)}
