"""Pooling over windows by average or Lp norm; one to three spatial dimensions; windows may overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.environment import kept
from pertbound.layers.base import Layer, Shape, outward, reserve
from pertbound.layers.linear import Linear
from pertbound.numerics import UNIT32, gamma, tiny
from pertbound.sets import Box

_AVERAGE: dict[int, Callable[..., Any]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def windows_per_entry(window: Shape, stride: Shape, dilation: Shape) -> int:
    """The largest number of windows that one input entry lies in.

    In one dimension with q taps at distance d and stride s, an entry at position p lies in the windows o with
    p = o s + j d: the possible j in 0 .. q - 1 differ by multiples of s / gcd(s, d), so there are at most
    ceil(q gcd(s, d) / s) of them. Dimensions multiply.
    """
    return math.prod(-(-q * math.gcd(s, d) // s) for q, s, d in zip(window, stride, dilation, strict=True))


def published_side(output_shape: Shape) -> float:
    """The paper's t, for an output of t x t per channel; the root of the number of positions in general."""
    return math.sqrt(math.prod(output_shape[1:]))


@final
@dataclass(frozen=True, eq=False)
class AveragePool(Linear):
    """The mean of each window: a linear map with non-negative entries.

    Sound: its operator norm, from Schur's test (row sums times column sums), exact where windows do not overlap.
    Published (Theorem 4.4): kappa / t for t x t outputs per channel: correct, and very loose.

    Modulus: norm(A) rho, 1 / q for q x q windows that do not overlap
    Source: Schur's test; Peck et al. (2017), Theorem 4.4, made tight
    """

    window: Shape
    stride: Shape
    padding: Shape
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None

    def forward(self, *inputs: Tensor) -> Tensor:
        """The means."""
        return self.apply(inputs[0])

    def apply(self, x: Tensor) -> Tensor:
        """The means."""
        pool = _AVERAGE[len(self.window)]
        options = (self.window, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return pool(x, *options) if self.divisor is None else pool(x, *options, self.divisor)

    def absolute(self) -> AveragePool:
        """The layer itself: a divisor is positive."""
        return self

    @property
    def terms(self) -> int:
        """The entries of a window, and the division."""
        return math.prod(self.window) + 1

    @property
    def keeps_sign(self) -> bool:
        """True: no entry of the map is negative."""
        return True

    @kept
    def row_norms_upper(self) -> Tensor:
        """sqrt(largest entry * row sum) for each row of non-negative entries; an entry is 1 / divisor."""
        sums = self.apply(torch.ones(1, *self.input_shape, dtype=torch.float64))[0]
        fixed = self.count_include_pad and not self.ceil_mode
        divisor = self.divisor or (math.prod(self.window) if fixed else 1)
        return torch.minimum((sums / divisor).sqrt(), sums) * (1 + 1e-12)

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Theorem 4.4: kappa / t."""
        return kappa / published_side(self.output_shape)


@final
@dataclass(frozen=True, eq=False)
class LpPool(Layer):
    """(sum over the window of abs(x)^p)^(1/p), p >= 1, without padding; a last partial window is left out.

    Sound: abs(norm(u)_p - norm(v)_p) <= norm(u - v)_p <= max(1, n^(1/p - 1/2)) norm(u - v)_2 for windows of n
    entries (Minkowski; for p < 2 Hoelder), and an entry lies in at most m windows:
    omega(rho) = sqrt(m) max(1, n^(1/p - 1/2)) rho.
    Published (Theorem 4.4): kappa / (t q^(2/p)) for q x q windows, t x t outputs: correct, and very loose.

    Modulus: sqrt(m) max(1, n^(1/p - 1/2)) rho for windows of n entries, m of which hold one entry at most
    Source: Minkowski, Hoelder; Peck et al. (2017), Theorem 4.4, made tight
    """

    input_shape: Shape
    p: float
    window: Shape
    stride: Shape

    def __post_init__(self) -> None:
        assert self.p >= 1.0, "the frontends refuse p < 1, where the triangle inequality fails"

    def forward(self, *inputs: Tensor) -> Tensor:
        """The norms."""
        powers = inputs[0].abs().pow(self.p)
        pool = _AVERAGE[len(self.window)]
        mean = pool(powers, self.window, self.stride)
        return (mean * math.prod(self.window)).pow(1 / self.p)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """sqrt(m) max(1, n^(1/p - 1/2)) rho."""
        overlap = windows_per_entry(self.window, self.stride, (1,) * len(self.window))
        n = math.prod(self.window)
        return math.sqrt(overlap) * max(1.0, n ** (1 / self.p - 0.5)) * radii[0]

    def interval(self, *boxes: Box) -> Box:
        """The norms of the smallest and of the largest abs(x); each norm increases in every abs(x_i).

        Evaluated as m (sum (abs(x_i) / m)^p)^(1/p) with m the largest of the window, so that no power overflows and
        what underflows is at most the smallest normal number next to a sum of at least 1. In units of roundoff: the
        division and the last product 1 each; the powers 8 each; the rounding of p at most n / e (t abs(ln t) <= 1
        / e for t <= 1), that of 1 / p at most 2 ln n; the sum n. Together less than 3 n + 32. No error grows by
        the power p, which the root takes back (the norm is homogeneous), nor by the root.
        """
        (box,) = boxes
        zero = box.lower.new_zeros(())
        lower = self._norms(torch.maximum(torch.maximum(box.lower, -box.upper), zero))
        upper = self._norms(torch.maximum(box.lower.abs(), box.upper.abs()))
        q = reserve(3 * math.prod(self.window) + 32, zero.dtype)
        flushed = 2 * torch.finfo(zero.dtype).tiny
        found = outward(lower, upper, q * lower + flushed, q * upper + flushed)
        return Box(found.lower.clamp_min(0.0), found.upper)

    def _norms(self, x: Tensor) -> Tensor:
        """`forward` for non-negative x, without overflow or underflow of a power."""
        for axis, (size, step) in enumerate(zip(self.window, self.stride, strict=True)):
            x = x.unfold(2 + axis, size, step)
        windows = x.flatten(-len(self.window))
        largest = windows.amax(-1)
        ratios = windows / torch.where(largest > 0, largest, 1.0).unsqueeze(-1)
        return largest * ratios.pow(self.p).sum(-1).pow(1 / self.p)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Roundings of two powers and a sum of n terms, and what underflow of abs(x)^p can hide.

        The exponents p and 1 / p are rounded too, which changes a^b by at most abs(ln(a^b)) unit: below 89 units for
        what float32 can hold, below 710 for float64.
        """
        n = math.prod(self.window)
        outputs = self.forward(torch.zeros(1, *self.input_shape)).numel()
        hidden = (2 * n * tiny(unit)) ** (1 / self.p) * math.sqrt(outputs)
        exponents = 2 * (89 if unit == UNIT32 else 710)
        # an overflow here gives +infinity, which no later layer can hide: it makes their norms, hence noise, infinite
        return gamma(n + 24 + exponents, unit) * self.modulus(norms[0]) + hidden

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Theorem 4.4: kappa / (t q^(2/p)), with q^2 read as the number of entries of a window."""
        output = self.forward(torch.zeros(1, *self.input_shape))
        return kappa / (published_side(tuple(output.shape[1:])) * math.prod(self.window) ** (1 / self.p))
