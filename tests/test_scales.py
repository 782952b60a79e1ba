"""Networks whose layers have scales from 1e-38 to 1e30: every certificate is sound, and none crashes."""

from __future__ import annotations

import itertools

import pytest
import torch

import pertbound as pb
from contracts.scales import CERTIFICATES, KINDS, SCALES, check_scales, check_verdicts, network
from pertbound import balance
from pertbound.balance import balanced
from pertbound.graph import INPUT, Graph, Node, in_float64
from pertbound.layers import Dense, ReLU

QUICK = ((1e25, 1e-25), (1e-20, 1e20), (1e30, 1e8), (1e-38, 1.0), (1e-30, 1e-8))


@pytest.mark.parametrize(("first", "last"), QUICK)
def test_certificates_at_some_scales(first: float, last: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "STEPS", 5)
    check_scales("two layers", first, last, (pb.Lipschitz(), pb.QuadraticRelaxation(steps=2)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_certificates_at_all_scales(kind: str) -> None:
    seen = sum(check_scales(kind, *scales, CERTIFICATES) for scales in itertools.product(SCALES, SCALES))
    assert seen > 100


@pytest.mark.slow
@pytest.mark.parametrize("scales", [*QUICK, (1.0, 1.0)])
def test_branch_and_bound_and_verdicts(scales: tuple[float, float]) -> None:
    for kind in KINDS:
        check_scales(kind, *scales, (pb.BranchAndBound(seconds=0.1, root_steps=5), pb.Auto(seconds=0.1)))
        check_verdicts(kind, *scales, seconds=3.0)


def _radii(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What is proved of one function at ordinary and at extreme scales of its layers."""
    monkeypatch.setattr(balance, "STEPS", 5)
    graphs = network("two layers", 1.0, 1.0), network("two layers", 2.0**90, 2.0**-90)
    asked = pb.QuadraticRelaxation(steps=5)
    return [float(pb.certify(graph, torch.tensor([[0.25]]), asked).radius) for graph in graphs if graph is not None]


def test_extreme_scales_are_taken_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary, extreme = _radii(monkeypatch)
    assert ordinary > 0
    assert extreme == pytest.approx(ordinary, rel=0.02)


def test_scales_that_are_left_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: searches in float32 overflow, and what is left is Lipschitz's radius."""
    monkeypatch.setattr(balance, "_powers", lambda graph, found: [0] * len(found))
    ordinary, extreme = _radii(monkeypatch)
    assert 0 < extreme < 0.98 * ordinary


def test_the_function_stays_where_extreme_scales_are_taken_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "STEPS", 5)
    graph = network("two layers", 2.0**90, 2.0**-90)
    assert graph is not None
    better = graph.derive(balanced)
    assert better.rounded
    z = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None]
    torch.testing.assert_close(better(z), graph.derive(in_float64)(z), rtol=1e-12, atol=1e-12)


def _beyond(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a weight of 1e50 comes of taking the first layer's 1e30 to a last layer of 1e20."""
    monkeypatch.setattr(balance, "STEPS", 5)
    weights = torch.tensor([[1e30], [-1e30]]), torch.tensor([[1e20, 0.0], [0.0, 1e20]])
    nodes = [
        Node("first", Dense((1,), weights[0], None), (INPUT,)),
        Node("relu", ReLU((2,)), ("first",)),
        Node("last", Dense((2,), weights[1], None), ("relu",)),
    ]
    graph = Graph(nodes, (1,))
    assert float(pb.certify(graph, torch.tensor([[0.5]]), pb.QuadraticRelaxation(steps=2)).radius) <= 0.5
    last = graph.derive(balanced).output.layer
    assert isinstance(last, Dense)
    return not bool(torch.isfinite(last.weight.to(torch.float32)).all())


def test_weights_that_would_not_be_finite_are_not_rescaled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _beyond(monkeypatch)


def test_rescaling_without_a_look_at_the_range_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant: everything is taken to be finite."""
    with monkeypatch.context() as patch:
        patch.setattr(balance, "_whole", lambda *tensors: True)
        assert _beyond(patch)
