"""What a search for the largest certified radius must keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pertbound.numerics import SLACK
from pertbound.search import LARGEST, largest_certified

Margin = Callable[[Tensor], Tensor]
Search = Callable[..., Tensor]


@dataclass
class Recorded:
    """A margin that keeps every radius it was asked at and what it answered."""

    margin: Margin
    asked: list[Tensor] = field(default_factory=list)
    answered: list[Tensor] = field(default_factory=list)

    def __call__(self, radius: Tensor) -> Tensor:
        value = self.margin(radius)
        self.asked.append(radius.clone())
        self.answered.append(value.clone())
        return value


def check_search(margin: Margin, edge: Tensor, *, search: Search = largest_certified, tolerance: float = 1e-6) -> int:
    """Each radius was evaluated, with a positive margin, and lies within `tolerance` below `edge`.

    `edge` (batch,) is where the margin stops being positive: 0 where it never is, infinity where it always is.
    Returns the number of evaluations.
    """
    recorded = Recorded(margin)
    found = search(recorded, edge, tolerance=tolerance)
    assert found.shape == edge.shape
    assert found.dtype == torch.float64
    assert bool(torch.isfinite(found).all()), f"not finite: {found.tolist()}"
    asked, answered = torch.stack(recorded.asked), torch.stack(recorded.answered)
    assert bool((asked >= 0).all())
    assert bool((asked <= LARGEST).all())
    for i, (radius, true) in enumerate(zip(found.tolist(), edge.tolist(), strict=True)):
        if radius == 0.0:
            assert true == 0.0, f"sample {i}: 0 found, {true} possible"
            continue
        before = radius / (1 - SLACK)
        at = (asked[:, i] - before).abs() <= 1e-12 * before
        assert bool(at.any()), f"sample {i}: {radius} was never evaluated"
        assert bool((answered[at, i] > 0).all()), f"sample {i}: the margin at {radius} is {answered[at, i].tolist()}"
        assert radius <= true, f"sample {i}: {radius} found, only {true} is certified"
        reach = min(true, LARGEST)
        assert radius >= reach * (1 - tolerance - 2 * SLACK), f"sample {i}: {radius} found, {reach} possible"
    return len(recorded.asked)
