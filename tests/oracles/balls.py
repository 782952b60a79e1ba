"""The least of a linear function over a ball and a box: in rationals for p = 1 and inf, in long double for p = 2."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from torch import Tensor

from oracles.exact import Long, long


def true_minimum(p: float, a: Tensor, x: Tensor, low: Tensor, high: Tensor, eps: float) -> tuple[float, float]:
    """Numbers at most and at least min <a, z - x>, for one row of float64 vectors with x inside the box."""
    if p == 2:
        return _least_l2(a, x, low, high, eps)
    steps = [_steps(*(_fraction(float(value)) for value in entry)) for entry in zip(a, x, low, high, strict=True)]
    least = _least_linf(steps, Fraction(eps)) if p == math.inf else _least_l1(steps, Fraction(eps))
    return math.nextafter(_float(least), -math.inf) if least else 0.0, _float(least)


def _fraction(value: float) -> Fraction | float:
    return Fraction(value) if math.isfinite(value) else value


def _float(value: Fraction) -> float:
    """Rounded upwards: nothing proved may be above."""
    near = float(value)
    return math.nextafter(near, math.inf) if Fraction(near) < value else near


def _steps(a, x, low, high) -> tuple[Fraction, Fraction | float]:  # type: ignore[no-untyped-def]
    """How much one unit of movement gains, and how far an entry can move."""
    if a == 0:
        return Fraction(0), Fraction(0)
    end = low if a > 0 else high
    return abs(a), abs(end - x) if isinstance(end, Fraction) else math.inf


def _least_linf(steps: list[tuple[Fraction, Fraction | float]], eps: Fraction) -> Fraction:
    return -sum((gain * min(room, eps) for gain, room in steps), Fraction(0))  # type: ignore[misc]


def _least_l1(steps: list[tuple[Fraction, Fraction | float]], eps: Fraction) -> Fraction:
    """Vertices of the dual: the least over lam in {0, gains} of lam eps + sum room max(gain - lam, 0)."""
    if all(room < math.inf for _, room in steps):
        candidates = {gain for gain, _ in steps} | {Fraction(0)}
    else:  # below the largest gain without an end the sum is infinite
        least = max(gain for gain, room in steps if room == math.inf)
        candidates = {gain for gain, _ in steps if gain >= least}

    def price(lam: Fraction) -> Fraction:
        return lam * eps + sum((room * (gain - lam) for gain, room in steps if gain > lam), Fraction(0))  # type: ignore[misc]

    return -min(price(lam) for lam in candidates)


def _least_l2(a: Tensor, x: Tensor, low: Tensor, high: Tensor, eps: float) -> tuple[float, float]:
    """A Lagrangian dual value and the value of a feasible point, at the multiplier that bisection finds."""
    gain = np.abs(long(a))
    with np.errstate(invalid="ignore"):
        room = np.where(gain > 0, np.where(long(a) > 0, long(x) - long(low), long(high) - long(x)), 0)
    budget, reserve = np.longdouble(eps), 2 * (len(a) + 4) * float(np.finfo(np.longdouble).eps)
    wide = np.sqrt((room**2).sum()) <= budget
    if wide or not gain.any() or eps == 0:
        value = -(gain * room).sum() if wide else np.longdouble(0)
        return float(value) * (1 + 1e-15), _upwards(value * (1 - reserve))

    def point(inverse: Long | np.longdouble) -> Long:
        return np.minimum(inverse * gain, room)

    few = many = budget / np.sqrt((gain**2).sum())  # 1 / lam: too little, too much
    while np.sqrt((point(many) ** 2).sum()) < budget:
        many = many * 2
    for _ in range(100):
        middle = (few + many) / 2
        few, many = (middle, many) if np.sqrt((point(middle) ** 2).sum()) <= budget else (few, middle)
    s = point(few)
    attained = -(gain * s).sum()
    dual = -(gain * s - s**2 / (2 * few)).sum() - budget**2 / (2 * few)
    assert dual <= attained * (1 - 1e-15), "the oracle's own bounds are the wrong way round"
    assert dual >= attained * (1 + 1e-15), "the oracle has not converged"
    return float(dual) * (1 + 1e-15), _upwards(attained * (1 - reserve))


def _upwards(value: np.longdouble) -> float:
    near = float(value)
    return math.nextafter(near, math.inf) if np.longdouble(near) < value else near
