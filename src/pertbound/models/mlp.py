"""Fully connected ReLU networks: small enough that their smallest adversarial perturbations can be found exactly."""

from __future__ import annotations

import math

from torch import nn


def mlp(shape: tuple[int, ...] = (1, 28, 28), widths: tuple[int, ...] = (50, 50), classes: int = 10) -> nn.Sequential:
    """Inputs of `shape`, flattened, through hidden layers of these widths with a ReLU after each, to logits."""
    layers: list[nn.Module] = [nn.Flatten()]
    before = math.prod(shape)
    for width in widths:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, classes))
