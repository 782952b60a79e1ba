"""GoogLeNet: nine inception modules, each of four branches side by side."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

import torch
from torch import Tensor, nn

from pertbound.models.initialise import built
from pertbound.models.scale import channels

_INCEPTIONS: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""The columns #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5 and pool proj of Table 1."""


@final
class Inception(nn.Module):
    """Figure 2 (b): 1 x 1, 3 x 3 and 5 x 5 convolutions and a max pooling of one input, concatenated.

    `counts` is a row of Table 1; (batch, before, H, W) to (batch, #1x1 + #3x3 + #5x5 + pool proj, H, W).
    """

    def __init__(self, before: int, counts: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = counts
        self.branches = nn.ModuleList(
            (
                nn.Sequential(*_convolution(before, one, 1)),
                nn.Sequential(*_convolution(before, reduce3, 1), *_convolution(reduce3, three, 3)),
                nn.Sequential(*_convolution(before, reduce5, 1), *_convolution(reduce5, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), *_convolution(before, pooled, 1)),
            )
        )
        self.channels = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        """The branches side by side."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet(generator: torch.Generator | None = None, *, classes: int = 1000, width: float = 1.0) -> nn.Sequential:
    """GoogLeNet for 3 x 224 x 224 inputs (any other size from 32 up as well): 6,998,552 parameters with 1000 classes.

    As in the paper there is no batch normalisation, but local response normalisation behind the first pooling and
    before the second, and max poolings round up (so that 224 gives 112, 56, 28, 14, 7). The paper does not state the
    normalisation's constants; these are the Caffe model's: five channels, alpha 1e-4, beta 0.75, k 1. The two
    auxiliary classifiers are left out: they add to the loss in training only and are "discarded at inference time"
    (section 5). `width`, a multiple of 1 / 8, multiplies all channels. Weights: see `built`.

    Source: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015), Table 1 (6.8 million weights, biases not
    counted) and Figure 3.
    """
    return built(lambda: _layers(classes, width), generator)


def _layers(classes: int, width: float) -> nn.Sequential:
    first, second = channels(64, width), channels(192, width)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Sequential(*_convolution(3, first, 7, stride=2)),
        pool1=nn.Sequential(_halve(), nn.LocalResponseNorm(5)),
        conv2=nn.Sequential(*_convolution(first, first, 1), *_convolution(first, second, 3), nn.LocalResponseNorm(5)),
        pool2=_halve(),
    )
    before = second
    for name, counts in _INCEPTIONS.items():
        block = Inception(before, tuple(channels(count, width) for count in counts))
        parts[f"inception_{name}"] = block
        before = block.channels
        if name in ("3b", "4e"):
            parts[f"pool{name[0]}"] = _halve()
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4))
    return nn.Sequential(parts | {"average": nn.Sequential(*head), "linear": nn.Linear(before, classes)})


def _convolution(before: int, after: int, window: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, window, stride, padding=window // 2), nn.ReLU()


def _halve() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)
