"""ResNet-18 and ResNet-50: blocks that add what they compute to their input."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol, final

import torch
from torch import Tensor, nn

from pertbound.models.initialise import built
from pertbound.models.scale import channels


@final
class Basic(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (Figure 5, left); (batch, before, H, W) to (batch, count, H / s, W / s).

    The shortcut is the identity, or a 1 x 1 convolution where the shape changes (the paper's option B); batch
    normalisation follows each convolution, ReLU the first and the sum.
    """

    def __init__(self, before: int, count: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _normalised(before, count, 3, stride)
        self.conv2, self.bn2 = _normalised(count, count, 3)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(before, count, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The rectified sum."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


@final
class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut (Figure 5, right), the last with 4 `count` channels."""

    def __init__(self, before: int, count: int, stride: int, *, stride_first: bool = False) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        self.conv1, self.bn1 = _normalised(before, count, 1, first)
        self.conv2, self.bn2 = _normalised(count, count, 3, second)
        self.conv3, self.bn3 = _normalised(count, 4 * count, 1)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(before, 4 * count, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The rectified sum."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def resnet18(generator: torch.Generator | None = None, *, classes: int = 1000, width: float = 1.0) -> nn.Sequential:
    """ResNet-18 for 3 x 224 x 224 inputs (any other size as well): 11,689,512 parameters with 1000 classes.

    `width`, a multiple of 1 / 64, multiplies all channels. Weights: see `built`. Their names are torchvision's.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), Table 1.
    """

    def block(before: int, count: int, stride: int) -> nn.Module:
        return Basic(before, count, stride)

    return built(lambda: _layers(block, 1, (2, 2, 2, 2), classes, width), generator)


def resnet50(
    generator: torch.Generator | None = None, *, classes: int = 1000, width: float = 1.0, stride_first: bool = False
) -> nn.Sequential:
    """ResNet-50 for 3 x 224 x 224 inputs (any other size as well): 25,557,032 parameters with 1000 classes.

    The paper does not say which convolution of a bottleneck has the stride. In its authors' Caffe models it is the
    first (`stride_first`); in the weights that are most in use, torchvision's and timm's, it is the 3 x 3 one. Weights
    do not tell the two apart. `width` and weights are as in `resnet18`.

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), Table 1.
    """

    def block(before: int, count: int, stride: int) -> nn.Module:
        return Bottleneck(before, count, stride, stride_first=stride_first)

    return built(lambda: _layers(block, 4, (3, 4, 6, 3), classes, width), generator)


class _Block(Protocol):
    def __call__(self, before: int, count: int, stride: int) -> nn.Module: ...


def _layers(block: _Block, expansion: int, depths: tuple[int, ...], classes: int, width: float) -> nn.Sequential:
    before = channels(64, width)
    first, norm = _normalised(3, before, 7, 2)
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=first, bn1=norm, relu=nn.ReLU(), maxpool=nn.MaxPool2d(3, 2, 1)
    )
    for stage, depth in enumerate(depths):
        count, blocks = channels(64 * 2**stage, width), list[nn.Module]()
        for index in range(depth):
            blocks.append(block(before, count, 2 if stage and not index else 1))
            before = expansion * count
        parts[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    head = {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(before, classes)}
    return nn.Sequential(parts | head)


def _normalised(before: int, after: int, window: int, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(before, after, window, stride, padding=window // 2, bias=False), nn.BatchNorm2d(after)


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential:
    """The identity, of no layers, or a projection."""
    return nn.Sequential() if stride == 1 and before == after else nn.Sequential(*_normalised(before, after, 1, stride))
