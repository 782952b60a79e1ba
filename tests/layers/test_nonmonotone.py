"""The numbers in `Hump.profile`, proved: by interval arithmetic where there is no closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import erfc

from oracles.jets import Jet, Range
from pertbound.layers import GELU, Mish, SiLU, TanhGELU
from pertbound.layers.nonmonotone import Hump

FAR = 12.0
"""Beyond, g'' is z e^-abs(z) times a factor that no longer changes its sign, and abs(g'') is below 1e-3."""


def _logistic(w: Jet) -> Jet:
    return ((-w).exp() + 1.0).inverse()


def _silu(z: Jet) -> Jet:
    return z * _logistic(z)


def _tanh_gelu(z: Jet) -> Jet:
    return z * _logistic((z + z * z * z * 0.044715) * (2 * math.sqrt(2 / math.pi)))


def _mish(z: Jet) -> Jet:
    """z (1 - 2 / (e^2 + 2 e + 2)) with e = exp(z)."""
    e = z.exp()
    return z * ((e * e + e * 2.0 + 2.0).inverse() * -2.0 + 1.0)


FORMULAS: dict[type[Hump], Callable[[Jet], Jet]] = {SiLU: _silu, TanhGELU: _tanh_gelu, Mish: _mish}


def _boxes(first: float, last: float, near: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """[first, last] in pieces, finer towards the points `near`."""
    ends = [np.linspace(first, last, 6001)]
    for point in near:
        away = np.concatenate([[0.0], np.logspace(-8, -2, 241)])
        ends += [point - away, point + away]
    cuts = np.unique(np.clip(np.concatenate(ends), first, last))
    return cuts[:-1], cuts[1:]


def _centred(f: Callable[[Jet], Jet], order: int, low: np.ndarray, high: np.ndarray) -> Range:
    """f^(order) over boxes in mean value form: its value in the middle, the next derivative times half the width."""
    middle = (low + high) / 2
    half = (high - low) / 2 * (1 + 1e-15)
    slope = f(Jet.variable(low, high)).derivative(order + 1)
    return f(Jet.variable(middle, middle)).derivative(order) + slope * Range(-half, half)


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_second_derivative_changes_its_sign_where_the_stretches_end(kind: type[Hump]) -> None:
    """So g' falls, rises and falls."""
    f, (left, right) = FORMULAS[kind], kind((1,)).profile.stretches
    room = 1e-3
    for first, last, sign in ((-FAR, left - room, -1), (left + room, right - room, 1), (right + room, FAR, -1)):
        low, high = _boxes(first, last, (first, last))
        found = _centred(f, 2, low, high)
        assert (found.low > 0).all() if sign > 0 else (found.high < 0).all()
    for end, sign in ((left, 1), (right, -1)):
        third = f(Jet.variable(np.array([end - room]), np.array([end + room]))).derivative(3)
        assert (sign * third.low > 0).all()
        assert (sign * third.high > 0).all()
        at = [
            float(f(Jet.variable(np.array([end + d]), np.array([end + d]))).derivative(2).high[0])
            for d in (-1e-9, 1e-9)
        ]
        assert at[0] * at[1] < 0


@pytest.mark.parametrize("kind", FORMULAS)
def test_slopes_bends_and_the_least_value_are_bounds_and_close(kind: type[Hump]) -> None:
    f, profile = FORMULAS[kind], kind((1,)).profile
    places = (*profile.stretches, *profile.turn)
    for order, (below, above) in ((1, profile.slopes), (2, profile.bends)):
        grid = np.linspace(-FAR, FAR, 120001)
        values = f(Jet.variable(grid, grid)).derivative(order)
        extremes = (float(grid[values.low.argmin()]), float(grid[values.high.argmax()]))
        low, high = _boxes(-FAR, FAR, (*places, *extremes, 0.0))
        for _ in range(30):  # what is not decided is cut in two
            found = _centred(f, order, low, high)
            open_ = (found.low < below) | (found.high > above)
            if not open_.any():
                break
            middle = (low[open_] + high[open_]) / 2
            low, high = np.concatenate([low[open_], middle]), np.concatenate([middle, high[open_]])
        assert not open_.any(), kind
        assert values.low.min() < below + 1e-8
        assert values.high.max() > above - 1e-8
    turn = [float(f(Jet.variable(np.array([z]), np.array([z]))).derivative(1).high[0]) for z in profile.turn]
    assert turn[0] < 0 < turn[1]
    around = f(Jet.variable(*(np.array([z]) for z in profile.turn)))
    assert around.parts[0].low[0] > profile.least > around.parts[0].high[0] - 1e-10


def test_the_numbers_of_gelu_in_closed_form() -> None:
    """g'' = phi (2 - z^2), g''' = phi z (z^2 - 4)."""
    profile = GELU((1,)).profile

    def density(z: float) -> float:
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    def slope(z: float) -> float:
        return float(erfc(-z / math.sqrt(2))) / 2 + z * density(z)

    root = math.sqrt(2)
    assert profile.stretches == (-root, root)
    assert slope(-root) - 2e-12 < profile.slopes[0] < slope(-root) - 1e-15
    assert slope(root) + 1e-15 < profile.slopes[1] < slope(root) + 2e-12
    assert -2 * density(2) - 2e-12 < profile.bends[0] < -2 * density(2) - 1e-15
    assert 2 * density(0) + 1e-15 < profile.bends[1] < 2 * density(0) + 2e-12
    assert slope(profile.turn[0]) < -1e-15
    assert slope(profile.turn[1]) > 1e-15
    least = profile.turn[0] * float(erfc(-profile.turn[0] / root)) / 2
    assert least - 2e-12 < profile.least < least - 1e-15
