"""A small convolutional network for 8 x 8 digits: everything about it can be computed in seconds."""

from __future__ import annotations

from torch import nn


def digits_network() -> nn.Sequential:
    """Two convolutions and a linear layer on 1 x 8 x 8 inputs, with a ReLU after each convolution."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
