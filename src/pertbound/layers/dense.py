"""Fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.environment import kept
from pertbound.layers.base import require_finite
from pertbound.layers.linear import Linear
from pertbound.numerics import frobenius_norm_upper, row_norms_upper, spectral_norm_upper


@final
@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """y = x W^T + b over the last dimension; W is (out, in), b is (out,) or None, float64 where it was computed.

    Sound: omega(rho) = norm(W)_2 rho; on inputs with further dimensions the map is block-diagonal with equal
    blocks, so its norm is that of one block. Followed by a smooth activation g, at a known input x and with z
    = W x + b, Theorem 4.1 of Peck et al. (2017) in its corrected form: norm(g'(z) W)_2 rho + (1/2)
    norm((M_i)_i)_2 rho^2 with M_i = sup abs(g'') norm(w_i)^2 (Taylor's theorem for each output). That step is
    in `push.py`, because it needs both layers.

    Published (Theorem 4.1): (sqrt(norm(J)^2 + 2 M sqrt(n) kappa) - norm(J)) / (M sqrt(n)), in
    `certificates/published.py`, because J and M belong to a whole block of dense layers.

    Modulus: norm(W) rho, of one block where there are several
    Source: operator norm; Peck et al. (2017), Theorem 4.1, corrected
    """

    weight: Tensor
    bias: Tensor | None

    def __post_init__(self) -> None:
        require_finite(self, weight=self.weight, bias=self.bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        """x W^T + b."""
        x = inputs[0]
        return functional.linear(x, self.weight, None if self.bias is None else self.bias.to(x.dtype))

    def apply(self, x: Tensor) -> Tensor:
        """x W^T."""
        return functional.linear(x, self.weight.to(x.dtype))

    def transpose(self, y: Tensor) -> Tensor:
        """Y W, written out: differentiating would compute x W^T first."""
        return y.reshape(-1, *self.output_shape) @ self.weight.to(y.dtype)

    def absolute(self) -> Dense:
        """The layer with abs(W) and no bias."""
        return Dense(self.input_shape, self.weight.abs(), None)

    @property
    def keeps_sign(self) -> bool:
        """Where no weight and no bias is negative."""
        return bool((self.weight >= 0).all()) and (self.bias is None or bool((self.bias >= 0).all()))

    @property
    def terms(self) -> int:
        """The number of inputs."""
        return self.weight.shape[1]

    def bias_in(self, dtype: torch.dtype) -> Tensor | None:
        """b, over the last dimension."""
        return None if self.bias is None else self.bias.to(dtype)

    @kept
    def bias_norm_upper(self) -> float:
        """norm(b), once for every position that the layer is applied to."""
        if self.bias is None:
            return 0.0
        return frobenius_norm_upper(self.bias.expand(self.output_shape))

    @kept
    def norm_upper(self) -> float:
        """An upper bound on norm(W)_2."""
        return min(spectral_norm_upper(self.weight), self.absolute_norm_upper)

    @kept
    def row_norms_upper(self) -> Tensor:
        """norm(w_i) for each output."""
        return row_norms_upper(self.weight).expand(self.output_shape)

    def scaled(self, scale: Tensor) -> Dense | None:
        """The layer whose output is `scale` times this one's, in float64; None unless one scale per output."""
        if torch.broadcast_shapes(scale.shape, self.output_shape) != self.output_shape or scale.dim() > 1:
            return None
        per_row = scale.to(torch.float64).expand(self.weight.shape[0])
        return Dense(self.input_shape, self.weight.to(torch.float64) * per_row[:, None], None)
