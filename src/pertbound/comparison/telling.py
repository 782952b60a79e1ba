"""What it would cost to tell two models apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import numpy as np
from numpy.typing import NDArray

from pertbound.comparison.answers import MoreSamples, Tighten

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

POWER = 0.8
"""The probability with which the number of samples that is named would tell."""


@final
@dataclass(frozen=True, eq=False)
class Side:
    """The brackets that would have to give way on one side: one model's from below, the other's from above.

    `widths` (samples,) is how far they can give way at most; `rate` how fast they did, on average over the samples, per
    second and sample; None where that was not observed.
    """

    widths: Floats
    rate: float | None


def rate(rungs: Sequence[tuple[float, float]]) -> float | None:
    """How much the dearest method that gained something gained per second, on top of the cheaper ones.

    `rungs` are (seconds per sample, mean bound) of each method, bounds counted so that larger is tighter.

    >>> rate([(0.001, 0.2), (1.0, 0.5), (3.0, 0.5)]), rate([(1.0, 0.5)])
    (0.3, None)
    """
    best, found = -math.inf, None
    for seconds, value in sorted(rung for rung in rungs if not math.isnan(rung[0])):
        if value > best and best > -math.inf and seconds > 0:
            found = (value - best) / seconds
        best = max(best, value)
    return found


def tighten(towards: str, by: float, sides: tuple[Side, Side], samples: Integers) -> Tighten:
    """How brackets have to change so that the mean of one model's lower less the other's upper bounds gains `by`."""
    widths = sides[0].widths + sides[1].widths
    count, room = len(widths), float(widths.mean())
    order = np.argsort(-widths, kind="stable")
    gained = np.cumsum(widths[order]) / count
    enough = int(np.searchsorted(gained, by, side="right")) + 1
    chosen = order[: min(enough, count)]
    chosen = chosen[widths[chosen] > 0]
    share = by / room if room > 0 else math.inf
    return Tighten(towards, by, share, tuple(samples[chosen].tolist()) if share < 1 else (), _seconds(by, sides, count))


def more_samples(towards: str, values: Floats, limit: float, tail: float, floor: float, cost: float) -> MoreSamples:
    """How many more samples would show that the mean of `values` (samples,) is positive, as it is on these.

    `limit` is the lower confidence limit for it, which is not positive; `tail` the probability that it may fail with;
    `floor` the least that a value can be; `cost` the seconds that a sample takes.
    """
    count, mean, error = len(values), float(values.mean()), float(values.std()) / math.sqrt(len(values))
    if error > 1e-12 * mean:
        normal = NormalDist()
        far = max((mean - limit) / error if limit > floor else 0.0, normal.inv_cdf(1 - tail))
        needed = count * ((far + normal.inv_cdf(POWER)) * error / mean) ** 2
    else:  # all the same: so many that what they can have missed is too little, see `intervals.bootstrap`
        needed = math.log(tail) / math.log1p(-mean / (mean - floor))
    more = max(math.ceil(needed) - count, 1)
    return MoreSamples(towards, more, more * cost if math.isfinite(cost) else None)


def _seconds(by: float, sides: tuple[Side, Side], count: int) -> float | None:
    """The faster side first, for as long as it has room."""
    total, left = 0.0, by
    known = [(side.rate, float(side.widths.mean())) for side in sides if side.rate is not None]
    for speed, room in sorted(known, reverse=True):
        step = min(left, room)
        total, left = total + step / speed, left - step
        if left <= 0:
            return total * count
    return None
