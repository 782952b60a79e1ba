"""The search for the largest certified radius: on margins of every shape, and broken searches."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contracts.search import Margin, check_search
from mutants.search import SEARCHES
from pertbound.numerics import SLACK
from pertbound.search import LARGEST, largest_certified


def _of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


EDGES = _of(1e-9, 1e-4, 0.03, 0.999999, 1.0, 1.000001, 7.3, 512.0, 1e5, 3.3e8)
TIES = _of(0.0, 0.0, 0.5)


def _scaled(shape: Callable[[Tensor], Tensor], edge: Tensor) -> Margin:
    """A margin that is `shape` of radius / edge."""
    return lambda radius: shape(radius / edge)


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "affine": lambda t: 1 - t,
    "affine, large": lambda t: 1e30 * (1 - t),
    "affine, small": lambda t: 1e-30 * (1 - t),
    "concave": lambda t: 1 - t - t * t,
    "quadratic": lambda t: 1 - t * t,
    "steep end": lambda t: (1 - t).clamp_min(0).sqrt() - (t - 1).clamp_min(0),
    "tenth power": lambda t: 1 - t**10,
    "piecewise affine, concave": lambda t: torch.minimum(1 - 0.1 * t, 9 * (1 - t)),
    "convex": lambda t: (1 - t) / (1 + 9 * t),
    "exponential": lambda t: torch.exp(-20 * t) - math.exp(-20),
    "flat end": lambda t: (1 - t) ** 3,
    "stepwise": lambda t: torch.ceil(4 * (1 - t)).clamp(-1, 3),
    "one step": lambda t: torch.where(t < 1, 1.0, -1.0).to(torch.float64),
    "one step, endless": lambda t: torch.where(t < 1, 1.0, -torch.inf).to(torch.float64),
    "NaN beyond the edge": lambda t: torch.where(t < 1, 1 - t, torch.nan),
    "NaN beyond a jump": lambda t: torch.where(t < 1, 2 - t, torch.nan),
    "minus infinity beyond a jump": lambda t: torch.where(t < 1, 2 - t, -torch.inf),
    "infinite at 0": lambda t: 1 / t - 1,
    "constant, then falling": lambda t: torch.minimum(torch.ones_like(t) * 0.5, 1 - t),
}


def _edge_of(shape: Callable[[Tensor], Tensor]) -> float:
    """Where the shape crosses 0, by bisection in t."""
    low, high = 0.0, 4.0
    for _ in range(200):
        mid = (low + high) / 2
        if float(shape(_of(mid))) > 0:
            low = mid
        else:
            high = mid
    return high


@pytest.mark.parametrize("name", SHAPES)
def test_margins(name: str) -> None:
    shape = SHAPES[name]
    check_search(_scaled(shape, EDGES), EDGES * _edge_of(shape) * (1 + 1e-14))


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_tolerance(tolerance: float) -> None:
    for shape in (SHAPES["affine"], SHAPES["convex"], SHAPES["one step"]):
        check_search(_scaled(shape, EDGES), EDGES * (1 + 1e-14), tolerance=tolerance)


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4, 1e8])
def test_affine_margins_cost_few_evaluations(scale: float) -> None:
    edges = scale * torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert check_search(_scaled(SHAPES["affine"], edges), edges * (1 + 1e-14)) <= 8


@pytest.mark.parametrize("name", ["quadratic", "piecewise affine, concave", "convex"])
def test_other_margins_cost_not_many(name: str) -> None:
    edge = _of(0.37)
    assert check_search(_scaled(SHAPES[name], edge), edge * _edge_of(SHAPES[name]) * (1 + 1e-14)) <= 40


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, -math.inf])
def test_no_margin_at_zero_gives_zero(value: float) -> None:
    for later in (value, 1.0):

        def margin(radius: Tensor, later: float = later) -> Tensor:
            return torch.where(radius > 0, later, value).to(torch.float64)

        assert float(largest_certified(margin, _of(1.0))) == 0.0


def test_margins_only_at_zero_give_zero() -> None:
    found = largest_certified(lambda r: torch.where(r > 0, -1.0, 1.0).to(torch.float64), _of(1.0))
    assert float(found) == 0.0


def test_what_never_fails_gets_the_largest_radius() -> None:
    for margin in (
        torch.ones_like,
        lambda r: 1 / (1 + r),
        lambda r: torch.full_like(r, torch.inf),
        lambda r: 1 - 1e-300 * r,
    ):
        check_search(margin, _of(math.inf))
        assert float(largest_certified(margin, _of(0.0))) == LARGEST * (1 - SLACK)


def test_samples_do_not_disturb_each_other() -> None:
    kinds = [SHAPES["affine"], SHAPES["one step"], SHAPES["NaN beyond a jump"], SHAPES["exponential"]]

    def margin(radius: Tensor) -> Tensor:
        parts = [kind(radius[i : i + 1] / (i + 1)) for i, kind in enumerate(kinds)]
        rest = [torch.full((1,), v, dtype=torch.float64) for v in (-1.0, math.nan, 1.0)]
        return torch.cat(parts + rest)

    edges = torch.cat([(torch.arange(4) + 1) * (1 + 1e-14), _of(0.0, 0.0, math.inf)])
    check_search(margin, edges.to(torch.float64))


def test_the_shape_and_dtype_of_like_do_not_matter() -> None:
    found = largest_certified(lambda r: 1 - r, torch.zeros(2, 3, dtype=torch.float32))
    assert found.shape == (2, 3)
    assert found.dtype == torch.float64
    assert largest_certified(lambda r: 1 - r, torch.zeros(0)).shape == (0,)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    slopes=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6),
    gaps=st.lists(st.floats(1e-3, 1e3), min_size=6, max_size=6),
    bend=st.floats(0, 100),
    noise=st.floats(0, 1e-3),
)
def test_the_least_of_several_margins(slopes: list[float], gaps: list[float], bend: float, noise: float) -> None:
    """As `Lipschitz` has them: gaps minus something increasing, affine or curved upwards."""

    def margin(radius: Tensor) -> Tensor:
        parts = [
            gap - noise - slope * radius - bend * radius.square() for slope, gap in zip(slopes, gaps, strict=False)
        ]
        return torch.stack(parts).amin(0)

    if float(margin(_of(0.0))) <= 0:
        assert float(largest_certified(margin, _of(0.0))) == 0.0
        return
    low, high = 0.0, 1e7
    for _ in range(300):
        middle = (low + high) / 2
        low, high = (middle, high) if float(margin(_of(middle))) > 0 else (low, middle)
    check_search(margin, _of(high * (1 + 1e-12)))


@pytest.mark.parametrize("search", SEARCHES, ids=lambda s: s.__name__)
def test_mutant_is_caught(search: Callable[..., Tensor]) -> None:
    def everything(run: Callable[..., Tensor]) -> None:
        for shape in (SHAPES["affine"], SHAPES["one step"], SHAPES["NaN beyond a jump"]):
            check_search(_scaled(shape, EDGES), EDGES * (1 + 1e-14), search=run)
        check_search(lambda r: TIES - r, TIES * (1 + 1e-14), search=run)
        check_search(torch.ones_like, _of(math.inf), search=run)

    everything(largest_certified)
    with pytest.raises(AssertionError):
        everything(search)
