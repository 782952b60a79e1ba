"""Balls, with and without a box: their minima against independent solvers, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import Tensor

from contracts import sets as contracts
from contracts.sets import CONTRACTS, NORMS, Case, cases, check_gradient, check_value, ends
from pertbound import sets
from pertbound.errors import InputError
from pertbound.sets import Ball

NAMES = [case.name for case in cases(torch.Generator().manual_seed(0))]


def _of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("name", CONTRACTS)
def test_contracts(name: str, generator: torch.Generator) -> None:
    CONTRACTS[name](Ball, generator)


def _ordinary(generator: torch.Generator) -> list[Case]:
    return [
        case for case in cases(generator) if not any(w in case.name for w in ("1e", "tiny", "huge", "many", "heavy"))
    ]


@pytest.mark.parametrize("p", [1.0, math.inf])
def test_against_linear_programming(p: float, generator: torch.Generator) -> None:
    for case in _ordinary(generator):
        value = Ball(p=p, box=case.box).minimum(case.a, case.x, case.eps)
        low, high = ends(case)
        for i in range(len(value)):
            a = case.a[i].flatten().numpy()
            down, up = ((end[i] - case.x[i]).flatten().numpy() for end in (low, high))
            eps = float(case.eps[i])
            if 0 < eps < 1e-3:
                continue  # below the solver's tolerance
            if p == math.inf:
                found: Any = linprog(a, bounds=list(zip(np.maximum(down, -eps), np.minimum(up, eps), strict=True)))
            else:  # z - x = forwards - backwards
                found = linprog(
                    np.concatenate([a, -a]),
                    A_ub=np.ones((1, 2 * len(a))),
                    b_ub=[eps],
                    bounds=[(0, end) for end in (*up, *-down)],
                )
            assert found.status == 0
            assert float(value[i]) == pytest.approx(found.fun, rel=1e-7, abs=1e-10), case.name


def test_l2_against_a_general_solver(generator: torch.Generator) -> None:
    for name, eps in (("unit box", 0.7), ("half on the faces", 1.3), ("some ends infinite", 1.3)):
        case = next(case for case in cases(generator) if case.name == name)
        a, x = case.a[:3, :6], case.x[:3, :6]
        low, high = (end[0, :6] for end in ends(case))
        value = Ball(box=(low, high)).minimum(a, x, torch.full((3,), eps, dtype=torch.float64))
        for i in range(3):
            objective = a[i].numpy()
            found: Any = minimize(
                lambda t, objective=objective: objective @ t,
                np.zeros(6),
                jac=lambda _, objective=objective: objective,
                bounds=list(zip((low - x[i]).numpy(), (high - x[i]).numpy(), strict=True)),
                constraints={"type": "ineq", "fun": lambda t, eps=eps: eps**2 - t @ t, "jac": lambda t: -2 * t},
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            assert float(value[i]) == pytest.approx(found.fun, rel=1e-6)


def test_closed_forms() -> None:
    a, x = _of(3, -4, 0).reshape(1, 3), _of(0.5, 0.5, 0.5).reshape(1, 3)
    for p, dual in ((1.0, 4.0), (2.0, 5.0), (math.inf, 7.0)):
        assert float(Ball(p=p).minimum(a, x, _of(0.1))) == pytest.approx(-0.1 * dual, rel=1e-12)
        assert float(Ball(p=p, box=(0.0, 1.0)).minimum(a, x, _of(0.1))) == pytest.approx(-0.1 * dual, rel=1e-12)
        assert float(Ball(p=p, box=(0.0, 1.0)).minimum(a, x, _of(1e9))) == pytest.approx(-3.5, rel=1e-12)
    boxed = Ball(p=1.0, box=(0.0, 1.0)).minimum(a, x, _of(0.8))  # 0.5 on the second entry, 0.3 on the first
    assert float(boxed) == pytest.approx(-2.9, rel=1e-12)
    boxed = Ball(p=2.0, box=(0.0, 1.0)).minimum(a, x, _of(math.sqrt(0.41)))  # 0.5 and 0.4
    assert float(boxed) == pytest.approx(-3.2, rel=1e-12)
    boxed = Ball(p=math.inf, box=(0.0, 0.6)).minimum(a, x, _of(0.2))
    assert float(boxed) == pytest.approx(-1.0, rel=1e-12)


def test_negative_directions_give_the_maximum(generator: torch.Generator) -> None:
    """max <a, z - x> = -min <-a, z - x>, which the other side of the box decides."""
    a, x, eps = _of(1, 1).reshape(1, 2), _of(0.1, 0.1).reshape(1, 2), _of(10)
    ball = Ball(box=(0.0, 1.0))
    assert float(ball.minimum(a, x, eps)) == pytest.approx(-0.2)
    assert float(ball.minimum(-a, x, eps)) == pytest.approx(-1.8)


numbers = st.floats(-100, 100, allow_subnormal=False)
places = st.sampled_from([0.0, 1.0, 0.5, 1e-3, 1 - 1e-3]) | st.floats(0, 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), n=st.integers(1, 7), p=st.sampled_from(NORMS), boxed=st.booleans())
def test_any_small_case(data: st.DataObject, n: int, p: float, boxed: bool) -> None:
    a = data.draw(st.lists(numbers | st.sampled_from([0.0, 1.0, -1.0]), min_size=n, max_size=n))
    x = data.draw(st.lists(places, min_size=n, max_size=n))
    eps = data.draw(st.sampled_from([0.0, 1e-6, 0.5, 1.0, 5.0]) | st.floats(0, 5))
    case = Case("drawn", _of(*a).reshape(1, n), _of(*x).reshape(1, n), _of(eps), (0.0, 1.0) if boxed else None)
    check_value(Ball, p, case)
    if not 0 < eps < 1e-9:  # where difference quotients mean something
        check_gradient(Ball, p, case)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(exponents=st.lists(st.tuples(st.integers(-30, 30), st.integers(-30, 30)), min_size=1, max_size=12),
       eps=st.integers(-30, 30), p=st.sampled_from(NORMS))  # fmt: skip
def test_any_scales(exponents: list[tuple[int, int]], eps: int, p: float) -> None:
    a = _of(*(1.3 * 10.0**k for k, _ in exponents)).reshape(1, -1)
    low = _of(*(-1.7 * 10.0**k for _, k in exponents))
    check_value(Ball, p, Case("drawn", a, torch.zeros_like(a), _of(10.0**eps), (low, math.inf)))


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_gradients_against_finite_differences(
    p: float, box: tuple[float, float] | None, generator: torch.Generator
) -> None:
    a = torch.randn(3, 2, 4, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.rand(3, 2, 4, generator=generator, dtype=torch.float64)
    eps = _of(0.31, 0.83, 1.57).requires_grad_()
    ball = Ball(p=p, box=box)
    torch.autograd.gradcheck(lambda a, eps: ball.minimum(a, x, eps), (a, eps), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("p", NORMS)
def test_gradients_at_nothing(p: float) -> None:
    """At eps = 0 the slope is that of the smallest balls, which see only the faces; at a = 0 nothing moves."""
    x = _of(0, 1, 0.5, 0.5).reshape(1, 4)
    a = _of(9, -7, 3, 4).reshape(1, 4).requires_grad_()
    eps = _of(0).requires_grad_()
    move, slope = torch.autograd.grad(Ball(p=p, box=(0.0, 1.0)).minimum(a, x, eps), (a, eps))
    assert float(slope) == pytest.approx(-{1.0: 4.0, 2.0: 5.0, math.inf: 7.0}[p])
    assert not move.any()
    nothing = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    one = _of(1).requires_grad_()
    for box in (None, (0.0, 1.0)):
        value = Ball(p=p, box=box).minimum(nothing, x, one)
        move, slope = torch.autograd.grad(value, (nothing, one))
        assert float(value.detach()) == 0
        assert float(slope) == 0
        assert bool(torch.isfinite(move).all())


def test_gradients_only_where_asked() -> None:
    a, x, eps = torch.ones(2, 3), torch.zeros(2, 3), torch.ones(2, dtype=torch.float64)
    for p in NORMS:
        ball = Ball(p=p, box=(-1.0, 1.0))
        assert not ball.minimum(a, x, eps).requires_grad
        with torch.no_grad():
            assert not ball.minimum(a.clone().requires_grad_(), x, eps).requires_grad
        leaf = a.clone().requires_grad_()
        ball.minimum(leaf, x, eps).sum().backward()
        assert leaf.grad is not None
        radius = eps.clone().requires_grad_()
        (slope,) = torch.autograd.grad(ball.minimum(a, x, radius).sum(), radius)
        assert slope.dtype == torch.float64


@pytest.mark.parametrize("p", NORMS)
def test_rows_do_not_see_each_other(p: float, generator: torch.Generator) -> None:
    for case in _ordinary(generator):
        together = Ball(p=p, box=case.box).minimum(case.a, case.x, case.eps)
        for i in range(len(together)):
            alone = Ball(p=p, box=case.box).minimum(case.a[i : i + 1], case.x[i : i + 1], case.eps[i : i + 1])
            assert float(alone) == pytest.approx(float(together[i]), rel=1e-12)


def test_an_l1_budget_that_needs_every_entry(generator: torch.Generator) -> None:
    """Beyond `TOP` entries the sort is complete."""
    n = 3 * sets.TOP
    a = torch.randn(3, n, generator=generator, dtype=torch.float64)
    x = torch.rand(3, n, generator=generator, dtype=torch.float64)
    for eps in (sets.TOP / 4, sets.TOP / 1.5, n):
        case = Case("long", a, x, _of(1e-3, eps, eps), (0.0, 1.0))
        check_value(Ball, 1.0, case)
        check_gradient(Ball, 1.0, case)


def test_few_newton_steps(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight are enough for these; a bound that stops early is looser, but still one."""
    a = torch.randn(50, 784, generator=generator, dtype=torch.float64) ** 3
    x = (2 * torch.rand(50, 784, generator=generator, dtype=torch.float64) - 1).clamp_min(0)
    eps = torch.linspace(0.05, 6, 50, dtype=torch.float64)
    ball = Ball(box=(0.0, 1.0))
    full = ball.minimum(a, x, eps)
    for steps, tight in ((0, 0.5), (1, 0.1), (3, 1e-2), (8, 1e-9)):
        monkeypatch.setattr(sets, "STEPS", steps)
        early = ball.minimum(a, x, eps)
        assert bool((early <= full * (1 - 1e-12)).all())
        assert bool((early >= full * (1 + tight)).all()), steps


def test_x_outside_the_box_is_reached(generator: torch.Generator) -> None:
    a = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    x = 1.5 * torch.rand(4, 6, generator=generator, dtype=torch.float64) - 0.2
    eps = _of(0.1, 0.3, 1, 3)
    for p in NORMS:
        one = Ball(p=p, box=(0.0, 1.0))
        for i in range(4):
            row = slice(i, i + 1)
            wider = Ball(p=p, box=(x[i].clamp_max(0), x[i].clamp_min(1)))
            expected = wider.minimum(a[row], x[row], eps[row])
            assert torch.allclose(one.minimum(a[row], x[row], eps[row]), expected, rtol=1e-12)
            mine, theirs = one.bounds(x[row], eps[row]), wider.bounds(x[row], eps[row])
            assert torch.equal(mine.lower, theirs.lower)
            assert torch.equal(mine.upper, theirs.upper)


def test_float32_samples_with_float64_coefficients(generator: torch.Generator) -> None:
    """Also where float32 does not hold the ends of the box: the difference is taken in float64."""
    a = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    x = (0.1 + 0.8 * torch.rand(5, 6, generator=generator)).float()
    eps = _of(0.1, 0.2, 0.5, 1, 3)
    for p in NORMS:
        ball = Ball(p=p, box=(0.1, 0.9))
        assert torch.equal(ball.minimum(a, x, eps), ball.minimum(a, x.double(), eps))


def test_empty_batch() -> None:
    nothing, none = torch.zeros(0, 3), torch.zeros(0)
    for p in NORMS:
        for box in (None, (0.0, 1.0)):
            ball = Ball(p=p, box=box)
            assert ball.minimum(nothing, nothing, none).shape == (0,)
            assert ball.bounds(nothing, none).lower.shape == (0, 3)
            assert ball.contains(nothing, nothing, none).shape == (0,)
            ball.require_inside(nothing)


def test_names() -> None:
    assert [Ball(p=p).norm_name for p in NORMS] == ["L1", "L2", "Linf"]
    assert Ball(p=2).norm_name == "L2"
    assert str(Ball()) == "L2 over all of R^d"
    assert str(Ball(p=math.inf, box=(0, 1))) == "Linf over inputs within [0, 1]"
    assert str(Ball(box=(-math.inf, 0.5))) == "L2 over inputs within [-inf, 0.5]"
    assert str(Ball(box=(torch.tensor(0.0), 1.0))) == "L2 over inputs within [0, 1]"
    assert str(Ball(p=1, box=(torch.zeros(3, 1, 1), 1.0))) == "L1 over inputs within a box given per entry"


@pytest.mark.parametrize("p", [0, 3, 1.5, -1, -math.inf, math.nan, "2", None])
def test_other_norms_are_refused(p: Any) -> None:
    with pytest.raises(InputError, match=r"p must be 1, 2 or math.inf"):
        Ball(p=p)


@pytest.mark.parametrize(
    "box",
    [
        (1.0, 0.0), (0.0, math.nan), (math.nan, 1.0), (math.inf, math.inf), (-math.inf, -math.inf),
        (torch.zeros(3), torch.tensor([1.0, -1.0, 1.0])), (torch.full((2,), math.nan), 1.0),
        (0.0,), 1.0, ("low", "high"), (torch.zeros(2), torch.zeros(3)), (0.0, None),
    ],
)  # fmt: skip
def test_boxes_that_are_none_are_refused(box: Any) -> None:
    with pytest.raises(InputError, match="a box"):
        Ball(box=box)


def test_the_first_crossed_entry_is_named() -> None:
    with pytest.raises(InputError, match=r"in 2 of 6 entries it is not so: the first of them is \[2, 1\]"):
        Ball(box=(torch.tensor([[0.0], [2.0]]), torch.tensor([4.0, 1.0, 1.5])))


def test_samples_outside_are_refused() -> None:
    ball = Ball(box=(0.0, 1.0))
    x = torch.full((5, 2, 3), 0.5)
    ball.require_inside(x)
    ball.require_inside(x.round())
    x[2, 1, 0], x[2, 1, 2], x[4, 0, 0] = 1.25, -0.5, 7.0
    with pytest.raises(InputError, match=r"2 of 5 samples are not within \[0, 1\], the first at position 2: "
                                         r"entry 5 of 6 is -0.5, 0.5 outside. .*box=None"):  # fmt: skip
        ball.require_inside(x)
    x[1, 0, 1] = math.nan
    with pytest.raises(InputError, match=r"3 of 5 samples .* the first at position 1: entry 1 of 6 is nan"):
        ball.require_inside(x)
    Ball().require_inside(torch.full((1, 2), 1e30))
    with pytest.raises(InputError, match="entry 1 of 2 is inf"):
        Ball().require_inside(_of(0, math.inf).reshape(1, 2))
    entries = Ball(box=(torch.zeros(2), _of(1, 2)))
    entries.require_inside(_of(1, 2).reshape(1, 2))
    with pytest.raises(InputError, match="within a box given per entry"):
        entries.require_inside(_of(2, 1).reshape(1, 2))


def test_a_rounded_end_is_outside() -> None:
    """float32's 0.1 is above 0.1; its 0.7 is below 0.7."""
    x = torch.tensor([[0.1, 0.7]])
    Ball(box=(0.1, 0.7)).require_inside(x)
    with pytest.raises(InputError):
        Ball(box=(0.1, 0.7)).require_inside(torch.nextafter(x, torch.tensor(1.0)))


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, eps = torch.zeros(4, 3), torch.zeros(4)
    for ball in (Ball(), Ball(box=(-1.0, 1.0))):
        for wrong in ((x, x[:1], eps), (x[:1], x, eps), (x, x, eps[:1]), (x, x, eps[:, None]), (x[:, 0], x[:, 0], eps),
                      (x[:, :0], x[:, :0], eps)):  # fmt: skip
            with pytest.raises(InputError, match=r"one shape \(batch, \*shape\)"):
                ball.minimum(*wrong)
        with pytest.raises(InputError, match="float32 or float64"):
            ball.minimum(x.half(), x, eps)
        with pytest.raises(InputError, match=r"one shape"):
            ball.bounds(x, eps[:2])
        with pytest.raises(InputError, match=r"one shape"):
            ball.contains(x, x[:2], eps)
    for shape in ((2,), (4, 3), (1, 3)):  # nothing may broadcast over the batch
        with pytest.raises(InputError, match="do not broadcast to samples of shape"):
            Ball(box=(torch.zeros(shape), 1.0)).minimum(x, x, eps)


def test_every_contract_is_named() -> None:
    named = {value for name, value in vars(contracts).items() if name.startswith("check_")}
    assert set(CONTRACTS.values()) | {check_value, check_gradient} == named
    assert len(NAMES) == len(set(NAMES))
