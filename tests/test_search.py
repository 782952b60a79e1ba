"""The search for the largest certified radius: on margins of every shape, and broken searches."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contracts.reach import CURVES, check_best_reach, check_curves, check_limits, scaled
from contracts.search import Margin, check_search
from mutants.search import SEARCHES
from pertbound.forms import Form
from pertbound.numerics import SLACK
from pertbound.relaxation import Ground
from pertbound.search import LARGEST, best_reach, largest_certified
from pertbound.sets import Ball


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


# --- the best reach ---------------------------------------------------------------------------------------------------


def test_best_reach_on_curves() -> None:
    check_curves()


def test_best_reach_knows_its_limits() -> None:
    check_limits()


@pytest.mark.parametrize("name", CURVES)
def test_eight_passes_come_close(name: str) -> None:
    """What a certificate spends: near, wherever the start is within a factor of ten, and the fall is no cliff."""
    curve, best = CURVES[name]
    starts = best * torch.logspace(-1, 1, 21, dtype=torch.float64)
    ones = torch.ones(21, dtype=torch.float64)
    check_best_reach(scaled(curve, ones), starts, best * ones, short=0.15 if "up to" in name else 0.05)


def test_best_reach_of_one_sample_does_not_depend_on_the_others() -> None:
    scale = torch.tensor([0.01, 1.0, 50.0, 1.0], dtype=torch.float64)
    curve = CURVES["falling: 2 / (1 + reach)"][0]
    start = _of(0.2, 0.2, 0.2, 0.0)
    whole = best_reach(lambda rows, reach: scaled(curve, scale[rows])(reach), start)
    for i in range(4):
        alone = best_reach(lambda rows, reach, i=i: scaled(curve, scale[i : i + 1])(reach), start[i : i + 1])
        assert alone.tolist() == whole[i : i + 1].tolist()
    assert whole[3] == 0.0, "a start of 0 is no reach"


def test_best_reach_stops_asking() -> None:
    """Near enough is enough, and no samples are no question."""
    curve, best = CURVES["falling: 2 / (1 + reach)"]
    ones = torch.ones(2, dtype=torch.float64)
    assert check_best_reach(curve, 0.9 * best * ones, best * ones, passes=50) <= 8
    assert best_reach(lambda rows, reach: reach, _of()).shape == (0,)
    assert best_reach(lambda rows, reach: reach, torch.ones(1)).dtype == torch.float64


# --- the radius of a ground -------------------------------------------------------------------------------------------


def _ground(linear: Tensor, curvature: Tensor | None = None, constant: Tensor | None = None) -> Ground:
    zeros = torch.zeros(len(linear), dtype=torch.float64)
    return Ground(Form(linear, curvature), zeros if constant is None else constant)


def _proved(ground: Ground, margin: Tensor, ball: Ball, reach: Tensor, groups: Tensor) -> Tensor:
    found = ground.proved(margin, ball, torch.zeros_like(ground.form.linear), reach, groups)
    assert bool((found >= 0).all())
    assert bool((found <= reach).all())
    return found


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_ground_gives_the_root(p: float, generator: torch.Generator) -> None:
    """margin - dual norm(a) e = 0, in rational arithmetic but for the L2 norm: never above, and within 1e-4."""
    a = (
        torch.randn(40, 5, generator=generator, dtype=torch.float64)
        * torch.logspace(-3, 3, 40, dtype=torch.float64)[:, None]
    )
    margin = torch.rand(40, generator=generator, dtype=torch.float64) + 1e-3
    slopes = torch.linalg.vector_norm(a, ord={1.0: math.inf, 2.0: 2, math.inf: 1}[p], dim=1)
    found = _proved(_ground(a), margin, Ball(p=p), 37 * margin / slopes, torch.arange(40))
    for i in range(40):
        entries = [abs(Fraction(v)) for v in a[i].tolist()]
        slope = max(entries) if p == 1 else sum(entries) if p == math.inf else None
        if slope is None:
            assert Fraction(float(found[i])) ** 2 * sum(e * e for e in entries) <= Fraction(float(margin[i])) ** 2
            slope = Fraction(math.sqrt(sum(e * e for e in entries)))
        assert p == 2 or Fraction(float(found[i])) * slope <= Fraction(float(margin[i]))
        assert float(found[i]) >= float(margin[i]) / float(slope) * (1 - 1e-4)


@pytest.mark.parametrize(("p", "room"), [(1.0, 1.0), (2.0, 1.0), (math.inf, 5.0)])
def test_ground_counts_curvature(p: float, room: float, generator: torch.Generator) -> None:
    """margin - dual norm(a) e - q / 2 (L2 norm)^2 = 0; the L2 norm is at most e, times the root of 5 for Linf."""
    a = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    q = 10 ** (4 * torch.rand(40, generator=generator, dtype=torch.float64) - 2)
    margin = torch.rand(40, generator=generator, dtype=torch.float64) + 1e-3
    slope = torch.linalg.vector_norm(a, ord={1.0: math.inf, 2.0: 2, math.inf: 1}[p], dim=1)
    root = 2 * margin / (slope + (slope.square() + 2 * q * room * margin).sqrt())
    found = _proved(_ground(a, q), margin, Ball(p=p), 37 * root, torch.arange(40))
    assert bool((found <= root).all())
    assert bool((found >= root * (1 - 1e-4)).all())


def test_a_group_has_the_radius_of_its_worst_item(generator: torch.Generator) -> None:
    a = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    margin = torch.rand(12, generator=generator, dtype=torch.float64) + 0.1
    far = torch.full((4,), 100.0, dtype=torch.float64)
    groups = torch.tensor([0, 1, 2, 3] * 3)
    alone = _proved(_ground(a), margin, Ball(), far.repeat(3), torch.arange(12))
    together = _proved(_ground(a), margin, Ball(), far, groups)
    torch.testing.assert_close(together, alone.reshape(3, 4).amin(0), rtol=2e-5, atol=0.0)
    order = torch.randperm(12, generator=generator)
    shuffled = _proved(_ground(a[order]), margin[order], Ball(), far, groups[order])
    assert shuffled.tolist() == together.tolist()


def test_ground_never_leaves_the_reach(generator: torch.Generator) -> None:
    """The reach itself where it is proved, also where nothing ever fails; 0 for no reach or no margin."""
    a = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    margin, reach = torch.full((6,), 10.0, dtype=torch.float64), _of(1e-300, 1e-9, 1e-3, 0.1, 0.5, 0.0)
    each = torch.arange(6)
    assert _proved(_ground(a), margin, Ball(), reach, each).tolist() == reach.tolist()
    nothing = _ground(torch.zeros_like(a))
    assert _proved(nothing, margin, Ball(), _of(*[1e9] * 6), each).tolist() == [1e9] * 6
    for bad in (0.0, -1.0, math.nan, -math.inf):
        assert _proved(nothing, torch.full_like(margin, bad), Ball(), reach + 1, each).tolist() == [0.0] * 6
        assert _proved(_ground(a), torch.full_like(margin, bad), Ball(), reach + 1, each).tolist() == [0.0] * 6


def test_what_is_no_number_fails_closed(generator: torch.Generator) -> None:
    a = torch.ones(3, 2, dtype=torch.float64)
    margin, each, reach = torch.ones(3, dtype=torch.float64), torch.arange(3), _of(5.0, 5.0, 5.0)
    for value in (math.nan, math.inf):
        linear = a.clone()
        linear[1, 0] = value
        expected = [0.0 if i == 1 else 1 / math.sqrt(2) for i in range(3)]
        assert _proved(_ground(linear), margin, Ball(), reach, each).tolist() == pytest.approx(expected, rel=1e-4)
        curved = _ground(a, _of(0.0, value, 0.0))
        assert _proved(curved, margin, Ball(), reach, each).tolist() == pytest.approx(expected, rel=1e-4)
    for value in (math.nan, -math.inf):
        lost = _ground(a, constant=_of(0.0, value, 0.0))
        assert _proved(lost, margin, Ball(), reach, each).tolist() == pytest.approx(expected, rel=1e-4)
    one_group = _ground(a, constant=_of(0.0, math.nan, 0.0))
    assert _proved(one_group, margin, Ball(), _of(5.0), torch.zeros(3, dtype=torch.long)).tolist() == [0.0]


def test_ground_uses_the_box() -> None:
    """Entries that cannot move cost nothing; those that can, until they meet their end."""
    box = (torch.tensor([0.0, -1.0]), torch.tensor([0.0, math.inf]))
    ground = _ground(_of(7.0, 2.0)[None].repeat(3, 1))
    found = _proved(ground, _of(1.0, 1.99, 2.5), Ball(p=math.inf, box=box), _of(9.0, 9.0, 9.0), torch.arange(3))
    assert found.tolist() == pytest.approx([0.5, 0.995, 9.0], rel=1e-4)
