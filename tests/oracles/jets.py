"""Interval arithmetic on Taylor polynomials: enclosures of a function and its first three derivatives over whole boxes.

Numpy, one box for each entry. Every operation is widened by a few units of roundoff, so that what is enclosed is exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ORDER = 3


@dataclass(frozen=True)
class Range:
    """[low, high] for each entry."""

    low: Array
    high: Array

    @staticmethod
    def around(*ends: Array) -> Range:
        """The hull of some computed numbers, widened."""
        low, high = np.min(np.stack(ends), 0), np.max(np.stack(ends), 0)
        room = 8e-16 * np.maximum(np.abs(low), np.abs(high)) + 1e-300
        return Range(low - room, high + room)

    def __add__(self, other: Range | float) -> Range:
        o = _range(other)
        return Range.around(self.low + o.low, self.high + o.high)

    def __mul__(self, other: Range | float) -> Range:
        o = _range(other)
        return Range.around(self.low * o.low, self.low * o.high, self.high * o.low, self.high * o.high)

    def __neg__(self) -> Range:
        return Range(-self.high, -self.low)

    def inverse(self) -> Range:
        """1 / x, x without zero."""
        assert (self.low * self.high > 0).all()
        return Range.around(1 / self.low, 1 / self.high)

    def exp(self) -> Range:
        """e^x."""
        return Range.around(np.exp(self.low), np.exp(self.high))


def _range(value: Range | float) -> Range:
    return value if isinstance(value, Range) else Range(np.asarray(value), np.asarray(value))


@dataclass(frozen=True)
class Jet:
    """Taylor coefficients f, f', f''/2, f'''/6 over boxes."""

    parts: tuple[Range, ...]

    @staticmethod
    def variable(low: Array, high: Array) -> Jet:
        """x itself."""
        nothing = Range(np.zeros_like(low), np.zeros_like(low))
        return Jet((Range(low, high), Range(nothing.low + 1, nothing.high + 1), *(nothing,) * (ORDER - 1)))

    def derivative(self, order: int) -> Range:
        """f^(order)."""
        return self.parts[order] * float(math.factorial(order))

    def __add__(self, other: Jet | float) -> Jet:
        if isinstance(other, Jet):
            return Jet(tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)))
        return Jet((self.parts[0] + other, *self.parts[1:]))

    def __neg__(self) -> Jet:
        return Jet(tuple(-a for a in self.parts))

    def __mul__(self, other: Jet | float) -> Jet:
        if not isinstance(other, Jet):
            return Jet(tuple(a * other for a in self.parts))
        found = []
        for k in range(ORDER + 1):
            total = self.parts[0] * other.parts[k]
            for i in range(1, k + 1):
                total = total + self.parts[i] * other.parts[k - i]
            found.append(total)
        return Jet(tuple(found))

    def inverse(self) -> Jet:
        """1 / f, from f g = 1."""
        first = self.parts[0].inverse()
        found = [first]
        for k in range(1, ORDER + 1):
            total = self.parts[1] * found[k - 1]
            for i in range(2, k + 1):
                total = total + self.parts[i] * found[k - i]
            found.append(-(total * first))
        return Jet(tuple(found))

    def exp(self) -> Jet:
        """e^f, from g' = f' g."""
        found = [self.parts[0].exp()]
        for k in range(1, ORDER + 1):
            total = self.parts[1] * found[k - 1]
            for i in range(2, k + 1):
                total = total + self.parts[i] * found[k - i] * float(i)
            found.append(total * (1.0 / k))
        return Jet(tuple(found))
