"""Random choices of odd parameters: zeros, signs, tiny and huge numbers, sizes of one."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import TypeVar, final

import torch
from torch import Tensor

T = TypeVar("T")

ODD = (1e-6, 1e-3, 0.01, 0.1, 0.3, 1 / 3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 7.0, 10.0, 30.0, 100.0)


@final
class Dice:
    """Draws that depend on the name of what is drawn for, and on the number of the draw, alone."""

    def __init__(self, name: str, number: int, dtype: torch.dtype = torch.float64) -> None:
        seed = zlib.crc32(f"{name} {number}".encode())
        self.random, self.generator, self.dtype = random.Random(seed), torch.Generator().manual_seed(seed), dtype

    def of(self, *choices: T) -> T:
        """One of them."""
        return self.random.choice(choices)

    def any(self, choices: Sequence[T]) -> T:
        """One of them."""
        return self.random.choice(choices)

    def chance(self, part: float) -> bool:
        """Whether something happens that does so in this part of all draws."""
        return self.random.random() < part

    def whole(self, first: int, last: int) -> int:
        """A whole number from first to last, both included."""
        return self.random.randint(first, last)

    def positive(self) -> float:
        """An odd number above zero."""
        return self.of(*ODD, self.random.uniform(0.01, 5.0))

    def number(self) -> float:
        """An odd number of either sign, sometimes 0."""
        return self.of(0.0, *((-1.0, 1.0) * 4)) * self.positive()

    def tensor(self, *shape: int) -> Tensor:
        """Normal numbers of an odd size; sometimes of one sign, equal, or with zeros among them."""
        found = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        found = found * self.of(0.1, 1.0, 1.0, 1.0, 3.0, 30.0)
        kind = self.whole(0, 9)
        if kind == 0:
            found = found.abs()
        elif kind == 1:
            found = -found.abs()
        elif kind == 2:
            found = torch.where(torch.rand(shape, generator=self.generator) < 0.5, found, 0.0)
        elif kind == 3:
            found = torch.full(shape, self.number(), dtype=torch.float64)
        return found.to(self.dtype)
