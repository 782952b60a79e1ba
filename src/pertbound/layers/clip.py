"""Activations that clip: clamp, hardtanh, ReLU6."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.layers.activation import outside
from pertbound.layers.piecewise import Piece, Pieces
from pertbound.numerics import UNIT32
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class Clip(Pieces):
    """min(max(z, low), high) for numbers low < high, of which one may be infinite: clamp, hardtanh, ReLU6.

    Slopes 0 and 1, hence omega(rho) = rho, where the difference of two ReLUs that it is would have 2 rho.

    Modulus: rho, averaged between linear maps
    Source: as for ReLU
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        assert self.low < self.high, "the frontends refuse to clip to nothing"

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    @property
    def at_zero(self) -> float:
        """0, moved between the ends."""
        return min(max(0.0, self.low), self.high)

    @property
    def image(self) -> tuple[float, float]:
        """The ends."""
        return self.low, self.high

    @property
    def rounds(self) -> bool:
        """Exact, but for ends that float32 cannot hold."""
        return self._off(torch.float32) > 0.0

    def _off(self, dtype: torch.dtype) -> float:
        """How far the dtype rounds the ends, at most."""
        ends = [end for end in (self.low, self.high) if math.isfinite(end)]
        return max(abs(float(torch.tensor(end, dtype=dtype, device="cpu")) - end) for end in ends)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """What the ends are rounded by, for each entry."""
        off = self._off(torch.float32) * (1 + 1e-12) if unit == UNIT32 else 0.0
        return torch.full_like(norms[0], off * math.sqrt(math.prod(self.input_shape)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """min(max(z, low), high)."""
        return inputs[0].clamp(self.low, self.high)

    def interval(self, *boxes: Box) -> Box:
        """Of an increasing function: its values at the ends; exact, for ends rounded outwards."""
        (box,) = boxes
        (a, b), (c, d) = ([outside(end, box.lower.dtype, side) for end in (self.low, self.high)] for side in (-1, 1))
        return Box(box.lower.clamp(a, b), box.upper.clamp(c, d))

    def pieces(self, like: Tensor) -> tuple[Piece, ...]:
        """high, z, low."""
        del like
        found: list[Piece] = [(1.0, 0.0, self.low, self.high)]
        if self.high < math.inf:
            found.insert(0, (0.0, self.high, self.high, math.inf))
        if self.low > -math.inf:
            found.append((0.0, self.low, -math.inf, self.low))
        return tuple(found)

    def undecided(self, box: Box) -> Tensor:
        """Those that hold a kink."""
        below, above = (
            (box.lower < self.low) & (box.upper > self.low),
            (box.lower < self.high) & (box.upper > self.high),
        )
        return below | above

    def line(self, box: Box, falling: Tensor) -> Tensor:
        """The side of the convex hull of g over the box that lies above its middle (falling), or below it.

        With l <= low and high <= u these are the lines from (l, low) to (high, high) and on at high, and from (l, low)
        on at low and from (low, low) to (u, high).
        """
        low, high = box.lower, box.upper
        width = (high - low).clamp_min(torch.finfo(low.dtype).tiny)
        start, end = low.clamp(self.low, self.high), high.clamp(self.low, self.high)
        middle = (low + high) / 2
        up = torch.where(
            middle < self.high, (end - start) / (torch.minimum(high, end) - low).clamp_min(width * 1e-6), 0
        )
        down = torch.where(
            middle > self.low, (end - start) / (high - torch.maximum(low, start)).clamp_min(width * 1e-6), 0
        )
        return torch.where(high > low, torch.where(falling, up, down), (start == low).to(low.dtype)).clamp(0.0, 1.0)
