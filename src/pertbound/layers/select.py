"""Layers whose outputs are entries of the input, or zero: slices, permutations, padding, repetition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.environment import kept
from pertbound.layers.linear import Linear
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class Select(Linear):
    """Output i is the input's entry number index[i], counted in row-major order, or 0 where index[i] is -1.

    `index` is an int64 tensor of the output's shape, without batch. Slices, permutations, padding with zeros or with
    other entries, repetition, index lists and unfolding are all of this kind.

    Sound: omega(rho) = sqrt(m) rho with m the largest number of outputs that read one entry. Exact: A^T A is diagonal,
    and its entries are those numbers.

    Modulus: sqrt(m) rho, m the most outputs that read one entry
    Source: elementary
    """

    index: Tensor

    def __post_init__(self) -> None:
        assert self.index.dtype == torch.int64
        inside = (self.index >= -1) & (self.index < math.prod(self.input_shape))
        assert bool(inside.all()), "the frontends make indices within the input"

    def forward(self, *inputs: Tensor) -> Tensor:
        """The entries."""
        return self.apply(inputs[0])

    def apply(self, x: Tensor) -> Tensor:
        """The same as `forward`."""
        flat = x.flatten(1)
        if self._pads:
            flat = torch.cat([flat, flat.new_zeros(len(flat), 1)], 1)  # which is where -1 points
        return flat[:, self.index.flatten()].reshape(-1, *self.index.shape)

    def transpose(self, y: Tensor) -> Tensor:
        """Each entry's sum over the outputs that read it."""
        entries = math.prod(self.input_shape)
        target = torch.where(self.index < 0, entries, self.index).flatten()
        flat = y.new_zeros(len(y), entries + 1).index_add(1, target, y.reshape(len(y), -1))
        return flat[:, :entries].reshape(-1, *self.input_shape)

    @kept
    def _pads(self) -> bool:
        return bool((self.index < 0).any())

    def absolute(self) -> Select:
        """The layer itself: its entries are 0 and 1."""
        return self

    @kept
    def _reads(self) -> Tensor:
        """By how many outputs each entry is read, (entries,)."""
        used = self.index[self.index >= 0].flatten()
        return torch.bincount(used, minlength=math.prod(self.input_shape))

    @property
    def terms(self) -> int:
        """0 for a permutation, which is an isometry; otherwise 1, though nothing is computed."""
        return 0 if self._permutes else 1

    @kept
    def _permutes(self) -> bool:
        return not self._pads and bool((self._reads == 1).all())

    @property
    def rounds(self) -> bool:
        """Entries are only moved."""
        return False

    @kept
    def norm_upper(self) -> float:
        """sqrt(m), exact but for the root's rounding."""
        most = int(self._reads.max()) if self._reads.numel() else 0
        root = math.isqrt(most)
        return float(root) if root * root == most else math.sqrt(most) * (1 + 1e-15)

    @kept
    def absolute_norm_upper(self) -> float:
        """The same."""
        return self.norm_upper

    @kept
    def row_norms_upper(self) -> Tensor:
        """1, or 0 for what is zero."""
        return (self.index >= 0).to(torch.float64)

    def interval(self, *boxes: Box) -> Box:
        """The ends of the entries that are read; exact."""
        return Box(self.apply(boxes[0].lower), self.apply(boxes[0].upper))
