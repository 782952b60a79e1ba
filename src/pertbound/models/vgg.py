"""VGG-16, a deep network of ordinary parts, for trying out how far a method goes."""

from __future__ import annotations

import torch
from torch import nn

from pertbound.models.initialise import initialise

INPUT_SHAPE = (3, 224, 224)
"""The shape of one input."""

_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and number of convolutions of each block."""


def vgg16(generator: torch.Generator) -> nn.Sequential:
    """VGG-16 with random weights: 3 x 224 x 224 inputs, 1000 classes, 138,357,544 parameters.

    Thirteen 3 x 3 convolutions in five max-pooled blocks, then three linear layers with dropout; a ReLU
    follows all but the last. The weights are He's initialisation from `generator`.

    Source: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2015),
    configuration D.
    """
    with torch.device("meta"):  # no weights yet, so none is drawn twice
        model = _layers()
    model.to_empty(device="cpu")
    initialise(model, generator)
    return model


def _layers() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = INPUT_SHAPE[0]
    for width, depth in _BLOCKS:
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for inputs, outputs in ((512 * 7 * 7, 4096), (4096, 4096)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.Linear(4096, 1000))
