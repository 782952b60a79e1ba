"""Convolutions of one, two or three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional, grad

from pertbound.environment import kept
from pertbound.layers.base import require_finite
from pertbound.layers.linear import Linear
from pertbound.numerics import convolution_norm_upper, frobenius_norm_upper, row_norms_upper

_CONVOLVE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: grad.conv1d_input, 2: grad.conv2d_input, 3: grad.conv3d_input}


@final
@dataclass(frozen=True, eq=False)
class Conv(Linear):
    """Cross-correlation with zero padding; weight is (out, in / groups, *window), bias (out,) or None.

    Sound: omega(rho) = norm(A) rho with A the convolution at its true input size: from its matrix when that is
    small, otherwise from `numerics.convolution_norm_upper` (frequencies of the circular convolution).

    Published (Theorem 4.2): kappa / norm(W)_F with the *kernel's* Frobenius norm. False in general: a kernel
    of 5 x 5 ones on a 28 x 28 input has operator norm 24.3 and kernel Frobenius norm 5.

    Modulus: norm(A) rho, A the convolution at its true size
    Source: the matrix, or the symbol of the circular convolution with what lies between its frequencies (`numerics.py`)
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def __post_init__(self) -> None:
        require_finite(self, weight=self.weight, bias=self.bias)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The convolution with its bias."""
        return self._convolve(inputs[0], self.weight, self.bias)

    def apply(self, x: Tensor) -> Tensor:
        """The convolution without its bias."""
        return self._convolve(x, self.weight.to(x.dtype), None)

    def transpose(self, y: Tensor) -> Tensor:
        """The derivative of the convolution by its input, without computing the convolution first.

        For few input channels, a matrix product whose windows are then added up: up to six times as fast in float32.
        """
        shape = (len(y), *self.input_shape)
        y = y.reshape(-1, *self.output_shape)
        if len(self.stride) == 2 and self.groups == 1 and self.input_shape[0] <= 4 and y.dtype == torch.float32:
            windows = self.weight.to(y.dtype).flatten(1).mT @ y.flatten(2)
            high, wide = self.input_shape[1:]
            kernel = (self.weight.shape[2], self.weight.shape[3])
            options: Any = {"dilation": self.dilation, "padding": self.padding, "stride": self.stride}
            return functional.fold(windows, (high, wide), kernel, **options)
        pull: Any = _TRANSPOSE[len(self.stride)]
        return pull(shape, self.weight.to(y.dtype), y, self.stride, self.padding, self.dilation, self.groups)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Any = _CONVOLVE[len(self.stride)]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def absolute(self) -> Conv:
        """The convolution with abs(weight) and no bias."""
        return self._with(self.weight.abs())

    def _with(self, weight: Tensor) -> Conv:
        return Conv(self.input_shape, weight, None, self.stride, self.padding, self.dilation, self.groups)

    @property
    def terms(self) -> int:
        """The kernel's number of entries for one output channel."""
        return self.weight[0].numel()

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
        """The bound from the symbol of the convolution."""
        padded = [n + 2 * p for n, p in zip(self.input_shape[1:], self.padding, strict=True)]
        return convolution_norm_upper(self.weight, padded, self.stride, self.dilation, self.groups)

    @kept
    def row_norms_upper(self) -> Tensor:
        """The norm of each output channel's kernel (padding only drops entries), broadcast over positions."""
        norms = row_norms_upper(self.weight.flatten(1))
        return norms.reshape(-1, *(1 for _ in self.stride)).expand(self.output_shape)

    def scaled(self, scale: Tensor) -> Conv | None:
        """The layer whose output is `scale` times this one's, in float64; None unless one scale per channel."""
        dims = len(self.stride)
        wide = scale.to(torch.float64).reshape((1,) * (dims + 1 - scale.dim()) + tuple(scale.shape))
        if wide.dim() != dims + 1 or any(n != 1 for n in wide.shape[1:]):
            return None
        per_channel = wide.expand(self.weight.shape[0], *wide.shape[1:]).unsqueeze(1)
        return self._with(self.weight.to(torch.float64) * per_channel)

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Theorem 4.2: kappa / norm(W)_F."""
        return kappa / torch.linalg.vector_norm(self.weight.to(torch.float64))
