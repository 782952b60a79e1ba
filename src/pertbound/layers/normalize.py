"""Entrywise affine maps: batch normalisation at inference, and scaling or shifting by constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.environment import kept
from pertbound.layers.base import Shape, outward, require_finite
from pertbound.layers.linear import Linear
from pertbound.numerics import TINY32, UNIT32, UNIT64, frobenius_norm_upper, gamma
from pertbound.rational import batch_norm_constants
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class Diagonal(Linear):
    """y = scale * x + shift, each broadcast over the sample.

    Batch normalisation at inference is this with scale = gamma / sqrt(variance + eps) and shift = beta - mean *
    scale (Ioffe and Szegedy 2015, Algorithm 2). Sound: omega(rho) = max abs(scale) rho. The paper leaves it as
    future work. Behind a dense or convolutional layer it is folded into that layer's norm (`folded`), which is
    tighter than the product of the two norms.

    What a model stores is kept as it is. What is computed from it (`rational.py`) is float64, within one rounding of
    the exact number, also in a float32 network, whose forward pass rounds it once more. All bounds take that off.

    Modulus: max abs(scale) rho; folded into the layer before it where that is tighter
    Source: elementary; batch normalisation at inference is Ioffe and Szegedy (2015), Algorithm 2
    """

    scale: Tensor
    shift: Tensor

    def __post_init__(self) -> None:
        require_finite(self, scale=self.scale, shift=self.shift)

    @staticmethod
    def from_batch_norm(
        shape: Shape, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Diagonal:
        """Batch normalisation at inference over the first dimension of a sample of the given shape.

        Scale and shift are float64, each next to the exact number.
        """
        view = (-1, *(1 for _ in shape[1:]))
        scale, shift = batch_norm_constants(mean, variance, weight, bias, eps)
        return Diagonal(shape, scale.reshape(view), shift.reshape(view))

    def forward(self, *inputs: Tensor) -> Tensor:
        """scale * x + shift."""
        (x,) = inputs
        return (x * self.scale.to(x.dtype)).add_(self.shift.to(x.dtype))

    def apply(self, x: Tensor) -> Tensor:
        """scale * x."""
        return x * self.scale.to(x.dtype)

    def absolute(self) -> Diagonal:
        """The map with abs(scale) and no shift."""
        return Diagonal(self.input_shape, self.scale.abs(), torch.zeros_like(self.shift))

    @property
    def terms(self) -> int:
        """One product for each output."""
        return 1

    @property
    def keeps_sign(self) -> bool:
        """Where no scale and no shift is negative."""
        return bool((self.scale >= 0).all() and (self.shift >= 0).all())

    def bias_in(self, dtype: torch.dtype) -> Tensor | None:
        """The shift."""
        return self.shift.to(dtype)

    def interval(self, *boxes: Box) -> Box:
        """Each end where the scale's sign sends it; tighter than the general form where an end is infinite.

        scale * x + shift is off by six roundings (of scale and shift, when they were made and to the dtype, of product
        and sum), and by what flushing to zero can lose: the smallest normal number for each of shift, product and sum,
        and that times x for scale.
        """
        (box,) = boxes
        falling, zero = self.scale < 0, self.scale == 0

        def end(rising_end: Tensor, falling_end: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.where(falling, falling_end, rising_end)
            x = x.masked_fill(zero & x.isinf(), 0.0)
            product, shift = self.apply(x), self.shift.to(x.dtype)
            info = torch.finfo(x.dtype)
            return product + shift, 4 * info.eps * (product.abs() + shift.abs()) + 4 * info.tiny * (1 + x.abs())

        (lower, below), (upper, above) = end(box.lower, box.upper), end(box.upper, box.lower)
        return outward(lower, upper, below, above)

    @kept
    def bias_norm_upper(self) -> float:
        """norm(shift) over the whole sample."""
        repeats = math.prod(self.input_shape) / max(self.shift.numel(), 1)
        return frobenius_norm_upper(self.shift) * math.sqrt(repeats)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """As for all linear layers, with the rounding that scale and shift were made with, and what float32 flushes."""
        found = super().noise(*norms, unit=unit)
        size = self.norm_upper * norms[0] + self.bias_norm_upper
        return found + gamma(4) * size + (TINY32 * norms[0] if unit == UNIT32 else 0.0)

    @kept
    def norm_upper(self) -> float:
        """max abs(scale), and its rounding."""
        return float(self.scale.abs().max()) * (1 + 4 * UNIT64)

    @kept
    def absolute_norm_upper(self) -> float:
        """The same."""
        return self.norm_upper

    @kept
    def row_norms_upper(self) -> Tensor:
        """abs(scale) for each output, and its rounding."""
        return (self.scale.abs().to(torch.float64) * (1 + 4 * UNIT64)).expand(self.output_shape)
