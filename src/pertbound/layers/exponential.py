"""ELU, SELU and CELU: an exponential to the left of zero, a line to the right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pertbound.layers.smooth import SLACK, Smooth


@final
@dataclass(frozen=True, eq=False)
class ELU(Smooth):
    """scale z for z > 0, scale alpha (exp(z / width) - 1) otherwise; all three positive.

    ELU has width = scale = 1 (Clevert, Unterthiner and Hochreiter 2016), SELU width 1 and its own scale and alpha
    (Klambauer et al. 2017), CELU width = alpha (Barron 2017). g increases; g' rises to scale alpha / width =: left and
    goes on at scale. Where both are equal, g' is Lipschitz with left / width; where left < scale, g is convex, with a
    kink; where left > scale, the kink is concave, and Taylor's bound holds from above only.

    Modulus: max(left, scale) rho, averaged between linear maps
    At a known input: without a kink, max abs(g'(z)) rho + left / width rho^2 / 2
    Source: elementary; docs/theory.md
    """

    alpha: float
    scale: float
    width: float

    def __post_init__(self) -> None:
        assert all(0.0 < v < math.inf for v in (self.alpha, self.scale, self.width)), "the frontends refuse others"

    @property
    def left(self) -> float:
        """The slope at 0 from the left; exact for CELU, where alpha / width = 1."""
        return self.scale * (self.alpha / self.width)

    @property
    def slopes(self) -> tuple[float, float]:
        """0, and the larger of both slopes at 0."""
        return 0.0, max(self.left * (1 + 1e-15) if self.left != self.scale else self.scale, self.scale)

    @property
    def curvature(self) -> float:
        """left / width, where there is no kink."""
        return self.left / self.width * (1 + 1e-15) if self.left == self.scale else math.inf

    @property
    def bends(self) -> tuple[float, float]:
        """g'' is positive to the left of 0, and a kink counts as infinite."""
        bend = self.left / self.width * (1 + 1e-15)
        if self.left == self.scale:
            return 0.0, bend
        return (0.0, math.inf) if self.left < self.scale else (-math.inf, bend)

    @property
    def kinks(self) -> tuple[float, ...]:
        """0."""
        return (0.0,)

    @property
    def image(self) -> tuple[float, float]:
        """From -scale alpha on, a little below it: the product is rounded."""
        return -self.scale * self.alpha * (1 + 1e-15), math.inf

    def forward(self, *inputs: Tensor) -> Tensor:
        """As PyTorch computes it."""
        compute: Any = torch.ops.aten.elu.default
        return compute(inputs[0], self.alpha, self.scale, 1 / self.width)

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """By expm1: a rounding of its argument costs no more than as much of the value."""
        info = torch.finfo(z.dtype)
        below = (z.clamp_max(0) / self.width).expm1() * (self.scale * self.alpha)
        value = torch.where(z > 0, self.scale * z, below)
        error = 8 * info.eps * value.abs() + 2 * info.tiny * (2 + self.scale * self.alpha + 1 / self.width + self.left)
        return value, error.masked_fill(z == math.inf, 0.0)

    def derivative(self, z: Tensor) -> Tensor:
        """left exp(z / width) up to 0, scale beyond."""
        return torch.where(z > 0, self.scale, self.left * (z.clamp_max(0) / self.width).exp())

    def derivative_upper(self, z: Tensor) -> Tensor:
        """g'(z), a few roundings added; at a kink the larger slope."""
        scaled = (z.clamp_max(0) / self.width) * (1 - 1e-6)
        below = (self.left * scaled.exp()) * (1 + 1e-5) + 1e-30
        most = self.slopes[1] * (1 + 1e-6)
        return torch.where(z >= 0, most, below).clamp_max(most)

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """width log(slope / left), to the left of 0; none for the slopes beyond left."""
        room = 2 * SLACK * self.steepest
        z = (slope.clamp_min(0) / self.left).log().clamp_max(0) * self.width
        return (z.masked_fill(slope > self.left + room, math.nan),)
