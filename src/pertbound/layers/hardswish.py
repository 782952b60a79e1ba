"""Hardswish: a piece of a parabola between two straight ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.layers.smooth import Smooth, unit_of
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class HardSwish(Smooth):
    """z min(max(z + 3, 0), 6) / 6: 0, a parabola, and z. g' is 0, z / 3 + 1 / 2 and 1, and falls by 1/2 at both kinks.

    Slopes from -1/2 to 3/2: omega(rho) = 1.5 rho. g is convex but for its kinks: inf g'' is -infinity, sup g'' 1/3.

    Modulus: 1.5 rho, averaged between linear maps
    Source: elementary; Howard et al. (2019)
    """

    @property
    def slopes(self) -> tuple[float, float]:
        """-1/2 and 3/2, at the kinks."""
        return -0.5, 1.5

    @property
    def kinks(self) -> tuple[float, ...]:
        """-3 and 3."""
        return -3.0, 3.0

    @property
    def bends(self) -> tuple[float, float]:
        """See above."""
        return -math.inf, 1 / 3 * (1 + 1e-15)

    @property
    def image(self) -> tuple[float, float]:
        """From g(-3/2) = -3/8 on."""
        return -0.375, math.inf

    @property
    def valley(self) -> tuple[float, float]:
        """-3/2."""
        return -1.5, -1.5

    def forward(self, *inputs: Tensor) -> Tensor:
        """As PyTorch computes it."""
        return functional.hardswish(inputs[0])

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same; exact to the left of -3 and to the right of 3."""
        info = torch.finfo(z.dtype)
        inner = z * ((z + 3).clamp(0, 6) / 6)
        value = torch.where(z >= 3, z, torch.where(z <= -3, 0.0, inner))
        error = 4 * info.eps * value.abs() + 2 * info.tiny
        value = torch.where(z.isnan(), z, value)
        return value, torch.where((z >= 3) | (z <= -3), 0.0, error)

    def derivative(self, z: Tensor) -> Tensor:
        """z / 3 + 1 / 2 from kink to kink, both included."""
        return torch.where(z < -3, 0.0, torch.where(z > 3, 1.0, z / 3 + 0.5))

    def derivative_error(self, slope: Tensor) -> Tensor:
        """Two roundings of numbers of at most 3/2."""
        return torch.full_like(slope, 4 * unit_of(slope))

    def derivative_upper(self, z: Tensor) -> Tensor:
        """1.5: kinks leave nothing to gain at a point."""
        return torch.full_like(z, self.steepest)

    def undecided(self, box: Box) -> Tensor:
        """Those that reach beyond one piece, or into the parabola."""
        return (box.upper > box.lower) & (box.upper > -3) & (box.lower < 3)

    def line(self, box: Box, falling: Tensor) -> Tensor:
        """Above, the chord over the box; below, the derivative at its middle."""
        return torch.where(falling, super().line(box, falling), self.derivative((box.lower + box.upper) / 2))

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """3 slope - 3/2, between the kinks."""
        return ((3 * slope - 1.5).clamp(-3, 3),)
