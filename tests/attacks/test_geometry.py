"""Projections and steepest directions, against linear programming, bisection and sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from pertbound.attacks.geometry import DUAL, onto_ball, onto_half_space, sizes, steepest
from pertbound.sets import Ball

NORMS = (1.0, 2.0, math.inf)


def nearest_in_half_space(
    x: np.ndarray, normal: np.ndarray, level: float, p: float, low: np.ndarray, high: np.ndarray
) -> float:
    """min norm(z - x)_p for p = 1 and infinity, by linear programming; infinite where no z suffices."""
    n = len(x)
    sizes_ = n if p == 1 else 1
    which = np.eye(n) if p == 1 else np.ones((n, 1))
    cost = np.concatenate([np.zeros(n), np.ones(sizes_)])
    rows = np.block([[np.eye(n), -which], [-np.eye(n), -which], [-normal[None], np.zeros((1, sizes_))]])
    limits = np.concatenate([np.zeros(2 * n), [-(level - normal @ x)]])
    bounds = [*zip(low - x, high - x, strict=True), *[(0, None)] * sizes_]
    solved = linprog(cost, A_ub=rows, b_ub=limits, bounds=bounds, method="highs")
    return float(solved.fun) if solved.status == 0 else math.inf


@pytest.mark.parametrize("p", [1.0, math.inf])
@pytest.mark.parametrize("boxed", [False, True])
def test_the_nearest_point_of_a_half_space(p: float, boxed: bool) -> None:
    rng = np.random.default_rng(int(boxed))
    for trial in range(60):
        n = int(rng.integers(1, 9))
        low, high = (
            (rng.uniform(-1, 0, n), rng.uniform(0, 1, n)) if boxed else (np.full(n, -np.inf), np.full(n, np.inf))
        )
        x = np.clip(rng.normal(size=n), low, high)
        normal = rng.normal(size=n) * (rng.random(n) < 0.8)
        normal[0] = normal[0] or 1.0
        level = float(normal @ x + rng.uniform(0, 3))
        box = (torch.from_numpy(low), torch.from_numpy(high)) if boxed else None
        arguments = (torch.from_numpy(a)[None] for a in (x, normal))
        z = onto_half_space(*arguments, torch.tensor([level], dtype=torch.float64), Ball(p=p, box=box))[0].numpy()
        assert (z >= low).all()
        assert (z <= high).all()
        expected = nearest_in_half_space(x, normal, level, p, low, high)
        if math.isfinite(expected):
            assert normal @ z >= level - 1e-9 * (1 + abs(level)), trial
            assert np.linalg.norm(z - x, p) == pytest.approx(expected, abs=1e-9), trial
        else:  # as far as the box lets it
            furthest = np.where(normal > 0, high, low)
            assert normal @ z == pytest.approx(float((normal * np.where(normal == 0, 0, furthest)).sum()), rel=1e-9)


@pytest.mark.parametrize("p", NORMS)
def test_flat_and_met_half_spaces_leave_the_point(p: float) -> None:
    x = torch.tensor([[0.2, 0.7], [0.2, 0.7]]).double()
    normal = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()
    for box in (None, (0.0, 1.0)):
        z = onto_half_space(x, normal, torch.tensor([1.0, 0.5]).double(), Ball(p=p, box=box))
        assert torch.equal(z, x)


@pytest.mark.parametrize("p", NORMS)
def test_the_nearest_point_of_a_ball(p: float) -> None:
    """In the ball, unchanged where it was inside, and no sampled point of the ball is nearer."""
    generator = torch.Generator().manual_seed(0)
    r = torch.randn(20, 6, generator=generator).double()
    radius = torch.rand(20, generator=generator).double() * 3
    z = onto_ball(r, radius, p)
    assert bool((sizes(z, p) <= radius * (1 + 1e-12)).all())
    inside = sizes(r, p) <= radius
    assert bool(inside.any())
    assert torch.allclose(z[inside], r[inside])
    others = torch.randn(500, 20, 6, generator=generator).double()
    others = others / torch.linalg.vector_norm(others, p, dim=2, keepdim=True) * radius[:, None]
    assert bool((sizes(r - z, 2) <= torch.linalg.vector_norm(others - r, dim=2).amin(0) + 1e-12).all())
    # what is left of r is a multiple of a normal of the ball: no point of the ball lies farther along it
    left = r - z
    most = radius * sizes(left, DUAL[p])
    assert torch.allclose((left * z).sum(1), torch.where(inside, 0.0, most), atol=1e-9)


@pytest.mark.parametrize("p", NORMS)
def test_the_steepest_direction_gains_the_dual_norm(p: float) -> None:
    gradient = torch.randn(10, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    direction = steepest(gradient, p)
    assert torch.allclose(sizes(direction, p), torch.ones(10).double())
    assert torch.allclose((gradient * direction).flatten(1).sum(1), sizes(gradient, DUAL[p]))
    assert bool((steepest(torch.zeros_like(gradient), p) == 0).all())


def test_a_spread_step_moves_that_part_of_the_entries() -> None:
    gradient = torch.tensor([[3.0, -5.0, 1.0, 0.0]]).double()
    assert steepest(gradient, 1.0, 0.5).tolist() == [[0.5, -0.5, 0.0, 0.0]]
    assert steepest(gradient, 1.0, 1.0)[0].tolist() == pytest.approx([1 / 3, -1 / 3, 1 / 3, 0.0])
