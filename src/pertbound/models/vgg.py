"""VGG-16, a deep network of ordinary parts, for trying out how far a method goes."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from pertbound.errors import InputError
from pertbound.models.initialise import built
from pertbound.models.scale import channels

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions of each block."""


def vgg16(
    generator: torch.Generator | None = None, *, classes: int = 1000, size: int = 224, width: float = 1.0
) -> nn.Sequential:
    """VGG-16 for 3 x `size` x `size` inputs: 138,357,544 parameters at size 224 with 1000 classes.

    Thirteen 3 x 3 convolutions in five max-pooled blocks, then three linear layers with dropout; a ReLU
    follows all but the last. `size` is a multiple of 32; `width`, a multiple of 1 / 64, multiplies all channels.
    Weights: see `built`. Their names are torchvision's.

    Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (ICLR 2015),
    configuration D of Table 1 (138 million parameters in Table 2).
    """
    if size < 32 or size % 32:
        raise InputError(f"VGG-16 takes images whose side is a multiple of 32, got {size}; crop or resize")
    return built(lambda: _layers(classes, size // 32, width), generator)


def _layers(classes: int, side: int, width: float) -> nn.Sequential:
    features: list[nn.Module] = []
    before = 3
    for count, depth in _BLOCKS:
        for _ in range(depth):
            after = channels(count, width)
            features += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            before = after
        features.append(nn.MaxPool2d(2))
    hidden = channels(4096, width)
    classifier = nn.Sequential(
        *(nn.Linear(before * side * side, hidden), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()),
        nn.Linear(hidden, classes),
    )
    return nn.Sequential(OrderedDict(features=nn.Sequential(*features), flatten=nn.Flatten(), classifier=classifier))
