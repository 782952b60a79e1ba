"""From what holds at one radius to the largest radius that was itself certified, per sample, in a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pertbound.numerics import SLACK

LARGEST = 1e9
"""No radius above this is ever tried: a classifier that cannot change its mind gets this one, not infinity."""


def largest_certified(margin: Callable[[Tensor], Tensor], like: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """The largest radius found with a positive margin, within `tolerance` relatively; shape of `like`, float64.

    `margin(radius)` must be non-increasing for each sample; NaN counts as not certified. Every radius returned
    was evaluated and had margin > 0, then shrunk by `SLACK` for the float64 arithmetic of the margin itself;
    samples without margin at 0 get 0. Steps aim in turn a little below the root of the chord, a little above the root
    that the last two certified radii extrapolate to (for a concave margin, such as the least of several affine ones,
    the true root lies between), and at the middle; so an affine margin costs four evaluations, a concave one few more,
    and any other one converges as well.
    """
    low = torch.zeros_like(like, dtype=torch.float64)
    margin_start = margin_low = margin(low)
    alive = margin_low > 0
    high = torch.ones_like(low)
    margin_high = margin(high)
    for _ in range(64):  # widen until the upper end fails
        grows = alive & (margin_high > 0) & (high < LARGEST)
        if not bool(grows.any()):
            break
        slope = (margin_low - margin_high).clamp_min(1e-300) / (high - low)
        next_high = torch.where(grows, (high + (2 * margin_high / slope).nan_to_num(nan=0.0)).clamp(max=LARGEST), high)
        next_high = torch.where(grows, torch.maximum(next_high, (2 * high).clamp_max(LARGEST)), next_high)
        low, margin_low = torch.where(grows, high, low), torch.where(grows, margin_high, margin_low)
        high = next_high
        margin_high = torch.where(grows, margin(high), margin_high)
    done = alive & (margin_high > 0)
    before, margin_before = torch.zeros_like(low), margin_start
    low = torch.where(done, high, low)
    for step in range(200):
        open_ = alive & ~done & (high - low > tolerance * high)
        if not bool(open_.any()):
            break
        chord = low + margin_low * (high - low) / (margin_low - margin_high)
        extrapolated = low + margin_low * (low - before) / (margin_before - margin_low)
        above = torch.where(low > before, extrapolated, chord) * (1 + tolerance / 3)
        middle = torch.where(low > 0, (low * high).sqrt(), high / 1024)
        aim = (chord * (1 - tolerance / 3), above, middle)[step % 3]
        trial = torch.where((aim > low) & (aim < high), aim, (low + high) / 2)
        value = margin(torch.where(open_, trial, low))
        passed = open_ & (value > 0)
        failed = open_ & ~(value > 0)
        before, margin_before = (
            torch.where(passed, low, before),
            torch.where(passed, margin_low, margin_before),
        )
        low, margin_low = torch.where(passed, trial, low), torch.where(passed, value, margin_low)
        high, margin_high = torch.where(failed, trial, high), torch.where(failed, value, margin_high)
        margin_high = torch.nan_to_num(margin_high, nan=-1.0, neginf=-1e300)
    return torch.where(alive, low * (1 - SLACK), torch.zeros_like(low))


def best_reach(
    certified: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    passes: int = 8,
    tolerance: float = 1e-2,
    upper: Tensor | None = None,
) -> Tensor:
    """The largest radius that `certified` gives for any reach that is tried; (samples,) float64.

    `certified(rows, reach)` builds bounds that hold up to `reach` for the samples `rows` and returns radii at most that
    large which these bounds prove. A larger reach allows more and proves less at each radius, so the best one is
    where the radius that is proved falls below the reach: it is bracketed by doubling, then sought by secants of
    log(proved / reach). `start` (samples,) is the first reach; none is larger than `upper` (samples,), where it is
    given. Samples that are within `tolerance` leave.
    """
    best = torch.zeros_like(start, dtype=torch.float64)
    low, high = torch.zeros_like(best), torch.full_like(best, torch.inf)
    most = torch.full_like(best, LARGEST) if upper is None else upper.to(torch.float64).clamp_max(LARGEST)
    reach = torch.minimum(start.to(torch.float64), most)
    # the logarithms of the last two reaches that were too large, and by how much what they proved fell short
    logs, shorts = torch.zeros_like(best), torch.zeros_like(best)
    open_ = reach > 0
    for _ in range(passes):
        rows = open_.nonzero().flatten()
        if len(rows) == 0:
            break
        tried = reach[rows]
        proved = torch.minimum(torch.nan_to_num(certified(rows, tried), nan=0.0), tried)
        best[rows] = torch.maximum(best[rows], proved)
        whole = proved >= tried * (1 - 1e-6)
        low[rows] = torch.where(whole, tried, torch.maximum(low[rows], proved))
        high[rows] = torch.where(whole, high[rows], tried)
        log, short = tried.log(), (proved / tried).log()
        slope = (short - shorts[rows]) / (log - logs[rows])
        secant = torch.where((shorts[rows] < 0) & (slope < 0), log - short / slope, log + short / 2).exp()
        tells = ~whole & torch.isfinite(short)
        logs[rows], shorts[rows] = torch.where(tells, log, logs[rows]), torch.where(tells, short, shorts[rows])
        below, above = low[rows], high[rows]
        bounded = torch.isfinite(above)
        fits = (secant > below * (1 + tolerance / 2)) & (secant < above * (1 - tolerance / 2)) & tells
        between = torch.where(below > 0, (below * above).sqrt(), above / 3)
        reach[rows] = torch.minimum(torch.where(bounded, torch.where(fits, secant, between), 2 * tried), most[rows])
        open_[rows] = ~(bounded & (above <= below * (1 + tolerance))) & (below < most[rows])
    return best
