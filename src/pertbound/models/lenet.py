"""LeNet in the form of Caffe's example: two plain convolutions, each max-pooled, then two linear layers."""

from __future__ import annotations

from torch import nn

from pertbound.errors import InputError


def lenet(channels: int, size: int) -> nn.Sequential:
    """LeNet for `channels` x `size` x `size` inputs: 1 x 28 x 28 for MNIST, 3 x 32 x 32 for CIFAR-10.

    The only ReLU stands between the two linear layers, as in Caffe's `lenet_train_test.prototxt`.
    `size` must be a multiple of 4 and at least 16, so that both poolings use every pixel.

    >>> lenet(1, 28)[5]
    Linear(in_features=800, out_features=500, bias=True)
    """
    if channels < 1 or size < 16 or size % 4:
        raise InputError(
            f"LeNet takes at least 1 channel and a size that is a multiple of 4 from 16 up, got {channels} "
            f"channels of size {size}; pad or crop the images to such a size"
        )
    last = (size - 12) // 4
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * last * last, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )
