"""Layers with several inputs: addition (residual connections) and concatenation (inception)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.layers.base import Layer, unless_overflow
from pertbound.numerics import UNIT32


@final
@dataclass(frozen=True, eq=False)
class Add(Layer):
    """The sum of all inputs, which have one shape. omega = sum of the radii (triangle inequality), exact."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """x_1 + ... + x_k."""
        total = inputs[0]
        for value in inputs[1:]:
            total = total + value
        return total

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """rho_1 + ... + rho_k."""
        return torch.stack(torch.broadcast_tensors(*radii)).sum(0)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Each of the k - 1 additions is off by at most one unit roundoff of a partial sum."""
        total = torch.stack(norms).sum(0)
        return unless_overflow(len(norms) * unit * total, total, unit)


@final
@dataclass(frozen=True, eq=False)
class Concat(Layer):
    """All inputs side by side along `dim` (counted with the batch dimension, so at least 1).

    omega = root of the sum of the squared radii: squared norms add over disjoint entries. Exact.
    """

    dim: int

    @property
    def rounds(self) -> bool:
        """Entries are only moved."""
        return False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The concatenation."""
        return torch.cat(inputs, self.dim)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """sqrt(rho_1^2 + ... + rho_k^2)."""
        return torch.linalg.vector_norm(torch.stack(torch.broadcast_tensors(*radii)), dim=0)
