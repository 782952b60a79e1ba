"""Bounds of inputs while a property is read; a box is stored by what distinguishes it from the one that all share."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast, final

from pertbound.errors import PropertyError

Pair = tuple[Fraction | None, Fraction | None]
"""Lower and upper bound of an input, None where there is none."""


@final
@dataclass(frozen=True)
class Bounds:
    """The bounds that were given of some inputs, None where there is none; `base` are those that hold anyway."""

    base: dict[int, Pair] = field(default_factory=dict[int, Pair])
    ends: dict[int, Pair] = field(default_factory=dict[int, Pair])

    def bound(self, index: int, factor: Fraction, bound: Fraction) -> None:
        """factor * X_index <= bound."""
        end = bound / factor
        low, high = self.ends.get(index) or self.base.get(index, (None, None))
        if factor > 0:
            high = end if high is None else min(high, end)
        else:
            low = end if low is None else max(low, end)
        self.ends[index] = low, high

    @property
    def crossed(self) -> bool:
        """Whether it is empty."""
        return any(low is not None and high is not None and low > high for low, high in self.ends.values())

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for boxes that are equal."""
        return tuple(sorted((index, ends) for index, ends in self.ends.items() if ends != self.base.get(index)))


@final
@dataclass(frozen=True)
class Shared:
    """The box of all inputs that every disjunct shares."""

    lower: list[Fraction | None]
    upper: list[Fraction | None]
    open: tuple[int, ...]
    """The inputs that lack a bound."""
    crossed: bool

    @staticmethod
    def of(box: Bounds, count: int) -> Shared:
        """Of so many inputs."""
        ends = [box.ends.get(index, (None, None)) for index in range(count)]
        lacking = tuple(index for index, pair in enumerate(ends) if None in pair)
        return Shared([low for low, _ in ends], [high for _, high in ends], lacking, box.crossed)

    def require_bounds(self, box: Bounds) -> None:
        """Raise `PropertyError` for an input that has no bound in this box either."""
        for index in self.open:
            if None in box.ends.get(index, (None, None)):
                raise PropertyError(f"X_{index} has no lower or no upper bound; every input needs both")

    def within(self, box: Bounds) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]]:
        """Lower and upper ends of all inputs in a box that has them."""
        lower, upper = list(self.lower), list(self.upper)
        for index, (low, high) in box.ends.items():
            lower[index], upper[index] = low, high
        return cast("tuple[Fraction, ...]", tuple(lower)), cast("tuple[Fraction, ...]", tuple(upper))
