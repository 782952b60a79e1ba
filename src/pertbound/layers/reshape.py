"""Layers that only rearrange entries: flatten, view, squeeze."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.environment import kept
from pertbound.layers.base import Shape
from pertbound.layers.linear import Linear
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class Reshape(Linear):
    """(batch, *input_shape) to (batch, *shape) in row-major order. An isometry: omega(rho) = rho, exact.

    Modulus: rho
    Source: elementary
    """

    shape: Shape

    def __post_init__(self) -> None:
        assert math.prod(self.shape) == math.prod(self.input_shape)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The same entries in another shape."""
        return inputs[0].reshape(-1, *self.shape)

    def apply(self, x: Tensor) -> Tensor:
        """The same as `forward`."""
        return self.forward(x)

    def absolute(self) -> Reshape:
        """The layer itself: its matrix is a permutation."""
        return self

    @property
    def terms(self) -> int:
        """Nothing is computed."""
        return 0

    @kept
    def row_norms_upper(self) -> Tensor:
        """Each output is one input."""
        return torch.ones((), dtype=torch.float64).expand(self.shape)

    def interval(self, *boxes: Box) -> Box:
        """The same ends in another shape; exact."""
        return Box(self.forward(boxes[0].lower), self.forward(boxes[0].upper))

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Not mentioned in the paper, and needs no theorem: kappa."""
        return kappa
