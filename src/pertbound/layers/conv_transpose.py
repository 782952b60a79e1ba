"""Transposed convolutions of one, two or three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.environment import kept
from pertbound.layers.base import require_finite
from pertbound.layers.conv import Conv
from pertbound.layers.linear import Linear
from pertbound.numerics import frobenius_norm_upper, gamma

_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


@final
@dataclass(frozen=True, eq=False)
class ConvTranspose(Linear):
    """The adjoint of a convolution, plus a bias; weight is (in, out / groups, *window), bias (out,) or None.

    Sound: A^T is the convolution with the same kernel, stride, padding, dilation and groups from this layer's output
    shape to its input shape (`adjoint`), and norm(A) = norm(A^T), so that all that `Conv` proves of norms holds here.
    `output_padding` only says which of the convolution's input sizes that have this output size is meant: the last
    entries of such an input are read by no window, and the transposed convolution leaves them at the bias.

    Modulus: norm(A^T) rho, A^T the convolution that it transposes
    Source: as for convolutions
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __post_init__(self) -> None:
        require_finite(self, weight=self.weight, bias=self.bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The transposed convolution with its bias."""
        return self._convolve(inputs[0], self.weight, self.bias)

    def apply(self, x: Tensor) -> Tensor:
        """The transposed convolution without its bias."""
        return self._convolve(x, self.weight.to(x.dtype), None)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Any = _TRANSPOSED[len(self.stride)]
        return convolve(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)

    @kept
    def adjoint(self) -> Conv:
        """The convolution whose transpose this is."""
        shape = self.output_shape
        return Conv(shape, self.weight, None, self.stride, self.padding, self.dilation, self.groups)

    def transpose(self, y: Tensor) -> Tensor:
        """The convolution of y."""
        return self.adjoint.apply(y.reshape(-1, *self.output_shape))

    def absolute(self) -> ConvTranspose:
        """The layer with abs(weight) and no bias."""
        return self._with(self.weight.abs())

    def _with(self, weight: Tensor) -> ConvTranspose:
        geometry = (self.stride, self.padding, self.output_padding, self.dilation, self.groups)
        return ConvTranspose(self.input_shape, weight, None, *geometry)

    @property
    def terms(self) -> int:
        """The input channels of a group, times the taps that can meet at one output."""
        return self.weight.shape[0] // self.groups * math.prod(self.weight.shape[2:])

    def bias_in(self, dtype: torch.dtype) -> Tensor | None:
        """b, once for each channel."""
        return None if self.bias is None else self.bias.to(dtype).reshape(-1, *(1 for _ in self.stride))

    @kept
    def bias_norm_upper(self) -> float:
        """norm(b), once for every output position."""
        if self.bias is None:
            return 0.0
        return frobenius_norm_upper(self.bias) * math.sqrt(math.prod(self.output_shape[1:]))

    def structural_norm_upper(self) -> float:
        """That of the convolution."""
        return self.adjoint.structural_norm_upper()

    @kept
    def row_norms_upper(self) -> Tensor:
        """The roots of what the layer with squared weights makes of ones: entry by entry, exact but for rounding.

        Squares of weights below 1e-150 may underflow: they are scaled by the largest weight, and what is lost then is
        less than 1e-150 of that.
        """
        weight = self.weight.detach().to(torch.float64)
        size = float(weight.abs().max()) if weight.numel() else 0.0
        if size == 0.0:
            return torch.zeros(self.output_shape, dtype=torch.float64)
        ones = torch.ones(1, *self.input_shape, dtype=torch.float64, device=weight.device)
        sums = self._with((weight / size).square()).apply(ones)[0].clamp_min(0.0)
        return (sums.sqrt() * (1 + gamma(self.terms + 8)) + 1e-150) * size
