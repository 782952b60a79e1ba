"""Network in network: convolutions with small perceptrons inside, and global averages instead of dense layers."""

from __future__ import annotations

import torch
from torch import nn

from pertbound.models.initialise import built
from pertbound.models.scale import channels

_BLOCKS = ((5, (192, 160, 96)), (5, (192, 192, 192)), (3, (192, 192)))
"""Window of the convolution, then the channels of it and of the 1 x 1 convolutions behind it; the classes end the
last."""


def nin(
    generator: torch.Generator | None = None, *, classes: int = 10, width: float = 1.0, dropout: float = 0.5
) -> nn.Sequential:
    """Network in network for 3 x 32 x 32 inputs: 966,986 parameters with 10 classes.

    Three blocks of a convolution and two 1 x 1 convolutions, a ReLU after each, the last included; 3 x 3 max pooling
    of stride 2 and dropout between the blocks; the global average of the last block's channels are the logits. All
    channels but the classes are multiplied by `width`, a multiple of 1 / 32. `dropout` matters to training only: thin
    networks and short trainings want less than the paper's. Weights: see `built`.

    Source: Lin, Chen, Yan, "Network In Network" (ICLR 2014), sections 3 and 4 and Figure 2. The channels and windows,
    which the paper leaves open, are those of its authors' published CIFAR-10 model (`train_full.prototxt`), which has
    an average in its second pooling, where the paper has a maximum.
    """
    return built(lambda: _layers(classes, width, dropout), generator)


def _layers(classes: int, width: float, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for index, (window, counts) in enumerate(_BLOCKS):
        if index:
            layers += [nn.MaxPool2d(3, 2, ceil_mode=True), nn.Dropout(dropout)]
        after = [channels(count, width) for count in counts] + [classes] * (index == 2)
        for size, count in zip((window, 1, 1), after, strict=True):
            layers += [nn.Conv2d(before, count, size, padding=size // 2), nn.ReLU()]
            before = count
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
