"""Softplus with a threshold jumps: certificates and verdicts are about the function with the jump."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import pertbound as pb
from contracts.graphs import Builder
from pertbound.certificates.base import Certificate
from pertbound.frontends.vnnlib import parse_vnnlib
from pertbound.layers import Dense, Softplus

CHEAP: tuple[Certificate, ...] = (pb.Lipschitz(floor=0.0), pb.Interval(), pb.LinearRelaxation(passes=4))
DEAR: tuple[Certificate, ...] = (
    pb.QuadraticRelaxation(steps=20),
    pb.BranchAndBound(seconds=0.3),
    pb.Auto(seconds=0.5),
)


def at_the_jump(threshold: float, dtype: torch.dtype) -> tuple[pb.Graph, float, float]:
    """Logits (g(x) + y + t + 3 - (2 t + 3 + j), 0), and t and j: class 0 where g(x) + y > t + j.

    y passes through softplus far beyond its threshold. The jump alone decides where y is between 0 and j.
    """
    jump = math.log1p(math.exp(-threshold))
    b = Builder((2,), 0, dtype)
    eye = torch.eye(2, dtype=dtype)
    b.add(Dense((2,), eye, torch.tensor([0.0, threshold + 3.0], dtype=dtype)))
    b.add(Softplus((2,), 1.0, threshold))
    last = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=dtype)
    b.add(Dense((2,), last, torch.tensor([-(2 * threshold + 3.0 + jump), 0.0], dtype=dtype)))
    return b.graph(), threshold, jump


def _samples(t: float, j: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Inputs of class 0 before the jump, and how far one of class 1 behind it is, at most."""
    before = torch.tensor([t - 1e-3 * j, t - 0.3 * j, t - j], dtype=dtype)
    y = torch.tensor([2.2 * j, 1.4 * j, 1.5 * j], dtype=dtype)
    behind, low = t + 1e-3 * j, 0.97 * j
    distance = torch.hypot(before.double() - behind, y.double() - low)
    return torch.stack([before, y], 1), distance


@pytest.mark.parametrize(("threshold", "dtype"), [(1.0, torch.float32), (20.0, torch.float64)])
def test_no_radius_reaches_behind_the_jump(threshold: float, dtype: torch.dtype) -> None:
    _check(threshold, dtype, CHEAP)


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "dtype"), [(1.0, torch.float32), (5.0, torch.float32), (20.0, torch.float64)])
def test_no_certificate_reaches_behind_the_jump(threshold: float, dtype: torch.dtype) -> None:
    _check(threshold, dtype, DEAR)


def _check(threshold: float, dtype: torch.dtype, certificates: tuple[Certificate, ...]) -> None:
    network, t, j = at_the_jump(threshold, dtype)
    x, distance = _samples(t, j, dtype)
    assert network(x).argmax(1).tolist() == [0, 0, 0]
    witness = torch.tensor([[t + 1e-3 * j, 0.97 * j]], dtype=torch.float64)
    assert int((network if dtype == torch.float64 else pb.graph.in_float64(network))(witness).argmax()) == 1
    for certificate in certificates:
        radius = pb.certify(network, x, certificate).radius
        assert bool((radius <= distance).all()), f"{certificate.name}: {radius.tolist()} above {distance.tolist()}"
    assert bool((pb.certify(network, x, pb.Interval()).radius > 0.3 * distance).all())


def test_a_property_that_the_jump_violates_does_not_hold() -> None:
    network, t, j = at_the_jump(2.0, torch.float32)
    for low, high, bottom, holds in ((0.05, 1e-4, 0.8, False), (0.01, 1e-5, 0.6, False), (0.02, -1e-4, 0.8, True)):
        assertions = "".join(
            f"(assert (>= X_{i} {a}))(assert (<= X_{i} {b}))"
            for i, (a, b) in enumerate([(t - low, t + high), (bottom * j, 2 * j)])
        )
        declared = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
        found = pb.verify(network, parse_vnnlib(f"{declared}{assertions}(assert (<= Y_0 Y_1))"), seconds=0.3, seed=0)
        assert (found.answer.value == "holds") == holds


@pytest.mark.parametrize("certificate", [pb.Lipschitz(), pb.LinearRelaxation(passes=3)], ids=str)
def test_the_usual_threshold_costs_nothing(certificate: Certificate) -> None:
    """The radii are those without one, but for what a jump of 2e-9 can change."""
    networks = []
    for threshold in (20.0, math.inf):
        b = Builder((6,), 1)
        b.dense(12)
        b.add(Softplus((12,), 1.0, threshold))
        b.dense(4)
        networks.append(b.graph())
    x = torch.randn(6, 6, generator=torch.Generator().manual_seed(5))
    usual, without = (pb.certify(network, x, certificate).radius for network in networks)
    torch.testing.assert_close(usual, without, rtol=1e-5, atol=1e-9)
