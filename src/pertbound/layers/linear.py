"""Affine layers: everything that they share."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from torch import Tensor

from pertbound.environment import kept
from pertbound.forms import Duals, Form, Pulled, Region, norms, total, wide
from pertbound.layers.base import Layer, Shape, outward, reserve, unless_overflow
from pertbound.numerics import UNIT32, UNIT64, gamma, row_norms_upper, spectral_norm_upper, tiny
from pertbound.sets import Box

DENSE_SIDE = 4096
DENSE_ENTRIES = 2**25
"""A linear map is written out as a matrix (float64) when its smaller side and its size are at most these."""


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

    @kept
    def magnitude(self) -> Linear:
        """`absolute`, made once."""
        return self.absolute()

    def bias_in(self, dtype: torch.dtype) -> Tensor | None:
        """b in that dtype, of a shape that broadcasts over the output; None for zero."""
        del dtype
        return None

    @final
    def bias_term(self, a: Tensor) -> Tensor:
        """<a, b> for each form a, (batch, *output_shape) to (batch,), in the dtype of a."""
        b = self.bias_in(a.dtype)
        return a.new_zeros(len(a)) if b is None else (a * b).flatten(1).sum(1)

    @kept
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

    def interval(self, *boxes: Box) -> Box:
        """A c + b +- abs(A) r for boxes of centre c and radius r: the smallest box, but for rounding.

        With n = `terms`, u the unit roundoff and t the smallest normal number of the dtype, g = gamma(n + 16) and
        q = g / (1 - g). The computed centre is off by at most gamma(n + 2) (abs(A) abs(c) + abs(b)): n products
        and their sum, A and b rounded to the dtype, b added. Instead of r, s = r + q (abs(c) + r) is passed
        through abs(A): the at most n + 12 roundings from the ends of the box to the radius leave at least
        (1 - g) abs(A) s = abs(A) (r + g abs(c)). The same holds of q abs(b) and g abs(b).

        Underflow, and flushing to zero: a product, a sum or an entry of b loses at most t; an entry of A at most t
        times an entry of abs(c) + r; an entry of c what t, added to s, restores. Where a number overflows, the
        end is infinite. Entries that are themselves unbounded count as zero, and open every output that reads
        them with a weight other than zero.
        """
        (box,) = boxes
        dtype, dims = box.lower.dtype, tuple(range(1, box.lower.dim()))
        least, q = torch.finfo(dtype).tiny, reserve(self.terms + 16, dtype)
        unbounded = box.lower.isinf() | box.upper.isinf()
        lower, upper = box.lower.masked_fill(unbounded, 0.0), box.upper.masked_fill(unbounded, 0.0)
        centre = lower / 2 + upper / 2  # any number will do, and this one does not overflow
        radius = torch.maximum(upper - centre, centre - lower)
        size = centre.abs() + radius
        out, spread = self.apply(centre), self.magnitude.apply(radius + q * size + least)
        bias = self.bias_in(dtype)
        if bias is not None:
            out, spread = out + bias, spread + q * bias.abs()
        lost = 4 * (self.terms + 4) * least * (1 + size.amax(dims))
        spread = spread + lost.reshape(-1, *(1 for _ in self.output_shape))
        if bool(unbounded.any()):
            # in float64, so that no weight of float32 underflows
            reads = self.magnitude.apply(unbounded.to(torch.float64) * 2.0**1000) > 0
            spread = spread.masked_fill(reads, math.inf)
        return outward(out, out, spread, spread)

    @property
    def broadcasts(self) -> bool:
        """They do."""
        return True

    @final
    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """A centre of 0, where there is curvature to pass on."""
        del curvature
        if form.curvature is None or self.terms == 0:
            return Duals()
        return Duals(centre=torch.zeros_like(inputs[0].value))

    @final
    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """<a, A d> = <A^T a, d>, and norm(A d)^2 from above by norm(A)^2 norm(d)^2, exactly so at d = `centre`.

        Q = norm(A)^2 - A^T A is positive semidefinite, so d^T Q d >= 2 s^T Q d - s^T Q s for every s (the tangent plane
        at s of a convex function): with curvature q,

            <a, A d> - q/2 norm(A d)^2 >= <A^T a + q Q s, d> - q/2 norm(A)^2 norm(d)^2 - q/2 s^T Q s.

        In float64 the roundings of A^T a and Q s, times the input's radius, are taken off, and what the computed values
        at both ends differ by (`noise`, e): norm(A d + e)^2 <= (1 + h) norm(A d)^2 + (1 + 1/h) norm(e)^2, h = 1e-9.
        Denormals are not flushed where float64 proves (`environment.py`).
        """
        (region,) = inputs
        a, q, s = form.linear, form.curvature, duals.centre
        back = self.transposed(a)
        constant = torch.zeros_like(region.radius)
        proof = a.dtype == torch.float64
        if proof:
            lost = gamma(math.prod(self.output_shape) + self.terms + 4) * self.absolute_norm_upper * (self.terms > 0)
            constant = constant - _size(a) * (lost * region.radius + output.noise)
            constant = constant - math.prod(self.output_shape) * 2.0**-900 * (1 + region.radius)  # underflow
        if q is None:
            return Pulled((Form(back),), constant)
        norm = self.norm_upper
        square = norm * norm
        if s is not None:
            bent = wide(q, s) * (square * s - self.transposed(self.apply(s)))  # q Q s
            back = back + bent
            constant = constant + total(-bent * s) / 2
            if proof:
                lost = gamma(math.prod(self.output_shape) + self.terms + 8) * (self.absolute_norm_upper**2 + square)
                constant = constant - lost * q * _size(s) * (region.radius + _size(s))
        if proof:
            constant = constant - q * 1e9 * output.noise * output.noise
            square = square * (1 + 1e-9) * (1 + 8 * UNIT64)
        return Pulled((Form(back, q * square),), constant)

    @final
    def transposed(self, y: Tensor) -> Tensor:
        """A^T y, with derivatives in y."""
        result = _Transposed.apply(y.reshape(-1, *self.output_shape), self)
        assert isinstance(result, Tensor)
        return result

    def transpose(self, y: Tensor) -> Tensor:
        """A^T y, of shape (batch, *input_shape), without derivatives."""
        with torch.inference_mode(False), torch.enable_grad():
            start = torch.zeros(len(y), *self.input_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            (result,) = torch.autograd.grad(self.apply(start), start, y.reshape(-1, *self.output_shape))
        return result

    @kept
    def output_shape(self) -> Shape:
        """The shape of one output sample."""
        return tuple(self.apply(torch.zeros(1, *self.input_shape, device=self.device)).shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the layer's tensors are."""
        return next((v.device for v in vars(self).values() if isinstance(v, Tensor)), torch.device("cpu"))

    @kept
    def norm_upper(self) -> float:
        """An upper bound on the operator norm of A at the layer's true input size."""
        if self.terms == 0:
            return 1.0
        bounds = [self.absolute_norm_upper]
        matrix = self.matrix()
        bounds.append(self.structural_norm_upper() if matrix is None else spectral_norm_upper(matrix))
        return min(bounds)

    @kept
    def absolute_norm_upper(self) -> float:
        """An upper bound on the operator norm of abs(A) (entrywise), hence also on that of A.

        Schur's test with a positive vector v: norm(A)^2 <= max_i (B^T B v)_i / v_i for B = abs(A) (Collatz and
        Wielandt). Any v is sound; a few steps of power iteration from ones make it nearly exact.
        """
        if self.terms == 0:
            return 1.0
        positive = _in_float64(self.absolute())  # here once, and not at every application
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

    @kept
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

        With t the smallest normal number, flushing loses, for each output, at most t for each of n products, n sums and
        the bias; t times the sum of abs(A)'s row for entries of x; and t times the sum of the n entries of x that the
        row reads, at most t sqrt(n) norm(x), for entries of A. In L2 over m outputs these are 2 (n + 1) t sqrt(m), t
        norm(abs(A)) sqrt(inputs), and t sqrt(m n) norm(x).
        Every partial sum is at most norm(abs(A)) norm(x) + norm(b), so nothing overflows where that is small enough.
        """
        if not self.rounds:
            return torch.zeros_like(norms[0])
        inputs, outputs = math.prod(self.input_shape), math.prod(self.output_shape)
        size = self.absolute_norm_upper * norms[0] + self.bias_norm_upper
        flushed = 2 * (self.terms + 1) * math.sqrt(outputs) + self.absolute_norm_upper * math.sqrt(inputs)
        flushed = flushed + math.sqrt(outputs * self.terms) * norms[0]
        return unless_overflow(gamma(self.terms + 2, unit) * size + flushed * tiny(unit), size, unit)


def _size(a: Tensor) -> Tensor:
    """The norm of each row, (items,), in float64 from above."""
    return norms(a) * (1 + 1e-9) + a[0].numel() * 2.0**-500


def _in_float64(layer: Linear) -> Linear:
    """The same map, its tensors converted exactly."""
    own = ((f.name, getattr(layer, f.name)) for f in fields(layer))
    floats = {name: v.to(torch.float64) for name, v in own if isinstance(v, Tensor) and v.is_floating_point()}
    return replace(layer, **floats)


@final
class _Transposed(torch.autograd.Function):
    """The adjoint of a linear layer, whose derivative is the layer again."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, layer: Linear) -> Tensor:
        """A^T y."""
        ctx.layer = layer
        return layer.transpose(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """A times the incoming derivative."""
        return ctx.layer.apply(grads[0]), None


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
