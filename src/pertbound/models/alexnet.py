"""AlexNet: five convolutions, two of them behind local response normalisation, and three dense layers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from pertbound.errors import InputError
from pertbound.models.initialise import built
from pertbound.models.scale import channels


def alexnet(
    generator: torch.Generator | None = None, *, classes: int = 1000, size: int = 227, width: float = 1.0
) -> nn.Sequential:
    """AlexNet for 3 x `size` x `size` inputs: 60,965,224 parameters at size 227 with 1000 classes.

    Grouped convolutions stand for the paper's two halves, which only meet in the third convolution and in the dense
    layers. After the first two ReLUs comes local response normalisation, b = a / (2 + 1e-4 sum a^2)^0.75 over five
    channels (PyTorch divides its alpha by the five), then 3 x 3 max pooling of stride 2, which overlaps. Dropout
    before the first two dense layers. The paper writes 224 for the size; 227 is the one for which its own layer sizes
    come out without padding. `size` is 35 more than a multiple of 32, `width`, a multiple of 1 / 16, multiplies all
    channels. Weights: see `built`; the paper's own initialisation is 0.01 times normal entries.

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks" (NIPS
    2012), sections 3.3 to 3.5, 4.2 and Figure 2 (60 million parameters).
    """
    if size < 67 or (size - 35) % 32:
        raise InputError(f"AlexNet takes images whose side is 67, 99, ..., 227, 259, ..., got {size}; crop or resize")
    return built(lambda: _layers(classes, (size - 35) // 32, width), generator)


def _layers(classes: int, side: int, width: float) -> nn.Sequential:
    first, second, middle, hidden = (channels(count, width) for count in (96, 256, 384, 4096))
    features = nn.Sequential(
        *_normalised(nn.Conv2d(3, first, 11, stride=4)),
        *_normalised(nn.Conv2d(first, second, 5, padding=2, groups=2)),
        *(nn.Conv2d(second, middle, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(middle, middle, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(middle, second, 3, padding=1, groups=2), nn.ReLU()),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
    )
    classifier = nn.Sequential(
        *(nn.Dropout(), nn.Linear(second * side * side, hidden), nn.ReLU()),
        *(nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, classes),
    )
    return nn.Sequential(OrderedDict(features=features, classifier=classifier))


def _normalised(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.ReLU(), nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0), nn.MaxPool2d(3, 2)
