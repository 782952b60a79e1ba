"""Layers with several inputs: addition (residual connections) and concatenation (inception)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Form, Pulled, Region
from pertbound.forms import norms as norms_of
from pertbound.layers.base import Layer, outward, reserve, unless_overflow
from pertbound.numerics import UNIT32, tiny
from pertbound.sets import Box

MOST_ENTRIES = 2**32
"""More entries than a sample's value can have here: a sum does not know its inputs' shape."""


@final
@dataclass(frozen=True, eq=False)
class Add(Layer):
    """The sum of all inputs, which have one shape. omega = sum of the radii (triangle inequality), exact.

    Modulus: rho_1 + ... + rho_k
    Source: triangle inequality; Cauchy and Schwarz
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """x_1 + ... + x_k."""
        total = inputs[0]
        for value in inputs[1:]:
            total = total + value
        return total

    @property
    def keeps_sign(self) -> bool:
        """True."""
        return True

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """rho_1 + ... + rho_k."""
        return torch.stack(torch.broadcast_tensors(*radii)).sum(0)

    def interval(self, *boxes: Box) -> Box:
        """The sums of the ends; k - 1 additions each, in the sum and in the sum of its absolute values."""
        dtype, count = boxes[0].lower.dtype, len(boxes)
        lowers, uppers = [box.lower for box in boxes], [box.upper for box in boxes]
        q, flushed = reserve(count + 4, dtype), count * torch.finfo(dtype).tiny
        below = q * self.forward(*(end.abs() for end in lowers)) + flushed
        above = q * self.forward(*(end.abs() for end in uppers)) + flushed
        return outward(self.forward(*lowers), self.forward(*uppers), below, above)

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """<a, sum d_i> = sum <a, d_i>, and norm(sum d_i)^2 <= k sum norm(d_i)^2 (Cauchy and Schwarz).

        In float64, what the computed sum was rounded by (`noise`) is taken off, as in `Linear.pull_back`.
        """
        del duals
        q, count = form.curvature, len(inputs)
        constant = torch.zeros_like(output.radius)
        if form.linear.dtype == torch.float64:
            size = norms_of(form.linear) * (1 + 1e-9) + form.linear[0].numel() * 2.0**-500
            constant = constant - size * output.noise
            if q is not None:
                constant = constant - q * 1e9 * output.noise * output.noise
                q = q * (1 + 1e-8)
        return Pulled((Form(form.linear, None if q is None else q * count),) * count, constant)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Each of the k - 1 additions is off by one unit roundoff of a partial sum at most, and by what is flushed."""
        total = torch.stack(norms).sum(0)
        flushed = 3 * len(norms) * math.sqrt(MOST_ENTRIES) * tiny(unit)
        return unless_overflow(len(norms) * unit * total + flushed, total, unit)


@final
@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """All inputs side by side along `dim` (counted with the batch dimension, so at least 1).

    omega = root of the sum of the squared radii: squared norms add over disjoint entries. Exact.

    Modulus: sqrt(rho_1^2 + ... + rho_k^2)
    Source: elementary
    """

    dim: int

    @property
    def rounds(self) -> bool:
        """Entries are only moved."""
        return False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The concatenation."""
        return torch.cat(inputs, self.dim)

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """Each input's part of the form; exact, because squared norms add."""
        del duals
        sizes = [region.value.shape[self.dim] for region in inputs]
        parts = form.linear.split(sizes, self.dim)
        return Pulled(tuple(Form(part, form.curvature) for part in parts), torch.zeros_like(output.radius))

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """sqrt(rho_1^2 + ... + rho_k^2)."""
        return torch.linalg.vector_norm(torch.stack(torch.broadcast_tensors(*radii)), dim=0)

    def interval(self, *boxes: Box) -> Box:
        """The ends side by side; exact."""
        return Box(self.forward(*(box.lower for box in boxes)), self.forward(*(box.upper for box in boxes)))
