"""What every layer says of itself: how it computes, how far its output can move, how much rounding adds.

Notation used in all layer files: a sample's input is perturbed within an L2 ball of radius rho; the *modulus*
omega(rho) is an increasing upper bound on how far, in L2, the layer's output can then be from its output at the
sample. All norms are Euclidean over a sample's entries, all radii are float64 tensors with one row per sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from pertbound.errors import UnsupportedLayerError
from pertbound.numerics import TINY32, UNIT32, gamma, row_norms_upper, spectral_norm_upper

Shape = tuple[int, ...]
"""The shape of one sample, without the batch dimension."""

DENSE_SIDE = 4096
DENSE_ENTRIES = 2**25
"""A linear map is written out as a matrix (float64) when its smaller side and its size are at most these."""


class Layer(ABC):
    """A function of one or more inputs of shape (batch, *sample); a frozen dataclass whose tensors are fields."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor:
        """The layer's output; batch first."""

    @abstractmethod
    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """How far the output can move when each input moves by at most its radius.

        `radii` and the result share one shape; `at` is what `local` returned for the samples, or None for a
        bound that holds everywhere.
        """

    def local(self, *inputs: Tensor) -> Tensor | None:
        """What a tighter modulus needs to know of the samples, shape (batch,); None when nothing helps."""
        del inputs
        return None

    @property
    def rounds(self) -> bool:
        """Whether computing the layer rounds at all; False for layers that only move or select entries."""
        return True

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """How far, in L2, the computed output can be from the exact one, for inputs of at most these norms.

        `unit` is the unit roundoff of the arithmetic.
        """
        if self.rounds:
            raise NotImplementedError(f"{type(self).__name__} rounds, but does not say how much")
        return torch.zeros_like(norms[0])

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Peck et al. (2017): the robustness of this layer's input, given `kappa`, that of its output.

        An estimate, not a bound. Raises `UnsupportedLayerError` for layers that the paper does not treat.
        """
        raise UnsupportedLayerError(
            f"the published formulas do not treat {type(self).__name__}; use pb.Lipschitz(), which does"
        )


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """An affine map y = A x + b. Its modulus is norm(A) rho, exact in the worst case."""

    input_shape: Shape

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """A x, without b, in the dtype of x; shape (batch, *input_shape) to (batch, *output_shape)."""

    @abstractmethod
    def absolute(self) -> Linear:
        """The same map with the absolute values of A's entries and without b."""

    @property
    @abstractmethod
    def terms(self) -> int:
        """The largest number of products summed for one output entry; 0 when nothing is computed."""

    @cached_property
    def bias_norm_upper(self) -> float:
        """An upper bound on norm(b)."""
        return 0.0

    def structural_norm_upper(self) -> float:
        """A bound on norm(A) that uses the map's structure, for maps too large to write out."""
        return math.inf

    @property
    def rounds(self) -> bool:
        """Whether any product is computed."""
        return self.terms > 0

    @final
    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """norm(A (x + r) - A x) = norm(A r) <= norm(A) rho."""
        return self.norm_upper * radii[0]

    def transpose(self, y: Tensor) -> Tensor:
        """A^T y, of shape (batch, *input_shape)."""
        with torch.inference_mode(False), torch.enable_grad():
            start = torch.zeros(len(y), *self.input_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            (result,) = torch.autograd.grad(self.apply(start), start, y.reshape(-1, *self.output_shape))
        return result

    @cached_property
    def output_shape(self) -> Shape:
        """The shape of one output sample."""
        return tuple(self.apply(torch.zeros(1, *self.input_shape, device=self.device)).shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the layer's tensors are."""
        return next((v.device for v in vars(self).values() if isinstance(v, Tensor)), torch.device("cpu"))

    @cached_property
    def norm_upper(self) -> float:
        """An upper bound on the operator norm of A at the layer's true input size."""
        if self.terms == 0:
            return 1.0
        bounds = [self.absolute_norm_upper]
        matrix = self.matrix()
        bounds.append(self.structural_norm_upper() if matrix is None else spectral_norm_upper(matrix))
        return min(bounds)

    @cached_property
    def absolute_norm_upper(self) -> float:
        """An upper bound on the operator norm of abs(A) (entrywise), hence also on that of A.

        Schur's test with a positive vector v: norm(A)^2 <= max_i (B^T B v)_i / v_i for B = abs(A) (Collatz and
        Wielandt). Any v is sound; a few steps of power iteration from ones make it nearly exact.
        """
        if self.terms == 0:
            return 1.0
        positive = self.absolute()
        v = torch.ones(1, *self.input_shape, dtype=torch.float64, device=self.device)
        size = float(positive.apply(v).amax())  # of the entries of B, so that B^T B v / size^2 cannot underflow
        if not 0.0 < size < math.inf:
            return size
        largest = math.inf
        for _ in range(4):
            image = positive.transpose(positive.apply(v) / size) / size
            largest = min(largest, float((image / v).amax()))
            v = image / image.amax() + 1e-6
        outputs = math.prod(self.output_shape)
        return size * math.sqrt(largest) * (1 + gamma(self.terms + outputs + 16))

    @cached_property
    def row_norms_upper(self) -> Tensor:
        """Upper bounds on the Euclidean norms of A's rows, of shape (*output_shape,), float64."""
        matrix = self.matrix(always=True)
        assert matrix is not None
        if matrix.shape[0] != math.prod(self.output_shape) or matrix.shape[1] != math.prod(self.input_shape):
            matrix = matrix.mT
        return row_norms_upper(matrix).reshape(self.output_shape)

    @final
    def matrix(self, *, always: bool = False) -> Tensor | None:
        """A written out in float64, (outputs, inputs) flattened; None when too large (unless `always`)."""
        return matrix_of((self,), always=always)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """gamma_{n+2} (norm(abs(A)) norm(x) + norm(b)), and what flushing small numbers to zero can lose.

        Every partial sum is at most norm(abs(A)) norm(x) + norm(b), so nothing overflows where that is small enough.
        """
        if not self.rounds:
            return torch.zeros_like(norms[0])
        inputs, outputs = math.prod(self.input_shape), math.prod(self.output_shape)
        size = self.absolute_norm_upper * norms[0] + self.bias_norm_upper
        flushed = 2 * (self.terms + 1) * math.sqrt(outputs) + self.absolute_norm_upper * math.sqrt(inputs)
        return unless_overflow(gamma(self.terms + 2, unit) * size + flushed * TINY32, size, unit)


def matrix_of(chain: tuple[Linear, ...], *, always: bool = False) -> Tensor | None:
    """The matrix of a product of linear maps, outermost first, (outputs, inputs) flattened, in float64.

    Each row is a unit vector pulled back, or each column one pushed on, whichever are fewer. None when the
    product is larger than `DENSE_SIDE` and `DENSE_ENTRIES` allow.
    """
    inner, outer = chain[-1], chain[0]
    inputs, outputs = math.prod(inner.input_shape), math.prod(outer.output_shape)
    forward = inputs <= outputs
    side, other = min(inputs, outputs), max(inputs, outputs)
    if not always and (side > DENSE_SIDE or side * other > DENSE_ENTRIES):
        return None
    shape = inner.input_shape if forward else outer.output_shape
    device = next((layer.device for layer in chain if layer.device.type != "cpu"), torch.device("cpu"))
    matrix = torch.empty(side, other, dtype=torch.float64, device=device)
    rows = max(256, 2**25 // other)
    for start in range(0, side, rows):
        stop = min(start + rows, side)
        block = torch.zeros(stop - start, side, dtype=torch.float64, device=device)
        block[torch.arange(stop - start), torch.arange(start, stop)] = 1.0
        value = block.reshape(-1, *shape)
        for layer in reversed(chain) if forward else chain:
            value = layer.apply(value) if forward else layer.transpose(value)
        matrix[start:stop] = value.reshape(stop - start, -1)
    return matrix.mT if forward else matrix


def unless_overflow(noise: Tensor, size: Tensor, unit: float) -> Tensor:
    """`noise` where numbers up to `size` cannot overflow in the arithmetic of that unit roundoff, else infinity."""
    return torch.where(size < (2.0**127 if unit == UNIT32 else 2.0**1023), noise, torch.inf)


def require_finite(owner: Layer, **tensors: Tensor | None) -> None:
    """Raise `UnsupportedLayerError` naming the layer and the tensor that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise UnsupportedLayerError(
                f"{type(owner).__name__}: {bad} of {tensor.numel()} entries of {name} "
                f"(shape {tuple(tensor.shape)}) are NaN or infinite; no bound exists. Was training unstable?"
            )
