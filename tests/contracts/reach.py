"""What a search for the best reach must keep, and closed forms to try it on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pertbound.search import LARGEST, best_reach

Proved = Callable[[Tensor], Tensor]
"""What bounds that hold up to a reach prove, for reaches (samples,), each sample by itself."""
Search = Callable[..., Tensor]


@dataclass
class Asked:
    """Answers like a certificate for some of the samples, and keeps the questions."""

    proved: Proved
    count: int
    reaches: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """Rows, what was tried for them, and what they were told."""

    def __call__(self, rows: Tensor, reach: Tensor) -> Tensor:
        every = torch.ones(self.count, dtype=torch.float64)
        every[rows] = reach
        answer = self.proved(every)[rows]
        self.reaches.append((rows.clone(), reach.clone(), answer.clone()))
        return answer


def check_best_reach(
    proved: Proved,
    start: Tensor,
    best: Tensor | None = None,
    *,
    upper: Tensor | None = None,
    passes: int = 8,
    short: float = 0.02,
    search: Search = best_reach,
) -> int:
    """Each radius was proved by a reach that was tried, and is the best of those; at most `short` below `best`.

    Returns how often was asked.
    """
    asked = Asked(proved, len(start))
    found = search(asked, start, passes=passes, upper=upper)
    assert found.shape == start.shape
    assert found.dtype == torch.float64
    assert bool(torch.isfinite(found).all()), f"not finite: {found.tolist()}"
    assert len(asked.reaches) <= passes
    told = torch.zeros_like(found)
    for rows, reach, answer in asked.reaches:
        assert len(rows.unique()) == len(rows) > 0
        assert bool((reach > 0).all()), f"a reach of {reach.tolist()} says nothing"
        assert bool((reach <= LARGEST).all()), f"{reach.tolist()} is beyond what is ever tried"
        if upper is not None:
            assert bool((reach <= upper[rows]).all()), f"{reach.tolist()} is more than {upper[rows].tolist()}"
        told[rows] = torch.maximum(told[rows], torch.minimum(torch.nan_to_num(answer, nan=0.0), reach))
    assert bool((found <= told).all()), f"{found.tolist()} found, proved was {told.tolist()}"
    assert bool((found == told).all()), f"{found.tolist()} found, although {told.tolist()} was proved"
    if best is not None:
        assert bool((found >= best * (1 - short)).all()), f"{found.tolist()} found, {best.tolist()} was to be had"
    return len(asked.reaches)


def _rational(c: float) -> Proved:
    return lambda reach: c / (1 + reach)


CURVES: dict[str, tuple[Proved, float]] = {
    "all of it up to 0.7, then nothing": (lambda r: torch.where(r <= 0.7, r, 0.0), 0.7),
    "all of it up to 0.7, then half": (lambda r: torch.where(r <= 0.7, r, 0.35), 0.7),
    "all of it up to 0.7, then NaN": (lambda r: torch.where(r <= 0.7, r, torch.nan), 0.7),
    "more than the reach up to 0.7": (lambda r: torch.where(r <= 0.7, torch.inf, 0.1), 0.7),
    "falling: 2 / (1 + reach)": (_rational(2.0), 1.0),
    "falling: 1e-4 / (1 + reach)": (_rational(1e-4), 1e-4 / (1 + 1e-4)),
    "falling linearly": (lambda r: (1.5 - r).clamp_min(0.0), 0.75),
    "falling fast": (lambda r: torch.exp(-10 * r), 0.1745),
    "falling as a power": (lambda r: 0.2 / r.square(), 0.2 ** (1 / 3)),
    "stairs": (lambda r: torch.where(r < 0.3, r, torch.where(r < 2.0, 0.6, 0.05)), 0.6),
}
"""What is proved, and the largest radius that any reach proves."""


def scaled(curve: Proved, scale: Tensor) -> Proved:
    """The same in other units, for each sample its own."""
    return lambda reach: curve(reach / scale) * scale


def check_curves(search: Search = best_reach) -> None:
    """All curves, from starts that are far too small, about right, and too large; four samples of different scale."""
    scale = torch.tensor([1e-6, 1.0, 30.0, 1e4], dtype=torch.float64)
    for curve, best in CURVES.values():
        for start in (0.05, 0.5, 1.0, 3.0):
            check_best_reach(scaled(curve, scale), start * scale, best * scale, passes=14, search=search)


def check_limits(search: Search = best_reach) -> None:
    """Nothing to prove gives 0; what never fails stops at `upper`, else at `LARGEST`, or when the passes are over."""
    ones = torch.ones(3, dtype=torch.float64)
    for value in (0.0, -1.0, math.nan, -math.inf):
        check_best_reach(lambda r, value=value: torch.full_like(r, value), ones, 0 * ones, search=search)
    check_best_reach(lambda r: r, ones, LARGEST * ones, passes=60, short=0.0, search=search)
    check_best_reach(lambda r: r + torch.inf, ones, LARGEST * ones, passes=60, short=0.0, search=search)
    check_best_reach(lambda r: r, ones, 2.0**5 * ones, passes=6, short=0.0, search=search)
    upper = torch.tensor([0.25, 3.0, 1e300], dtype=torch.float64)
    best = torch.tensor([0.25, 3.0, LARGEST], dtype=torch.float64)
    check_best_reach(lambda r: r, ones, best, upper=upper, passes=60, short=0.0, search=search)
    check_best_reach(_rational(2.0), ones, torch.minimum(upper, ones), upper=upper, passes=14, search=search)
