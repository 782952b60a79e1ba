"""Better scales: the same function, smaller norms, and what rounding the weights can change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from contracts.graphs import Builder
from oracles.networks import random_conv_graph, random_relu_graph
from pertbound import balance, regions
from pertbound.attacks import DDN, attack
from pertbound.balance import balanced, links
from pertbound.certificates import BranchAndBound, Interval, LinearRelaxation, QuadraticRelaxation, certify
from pertbound.graph import Graph, in_float64
from pertbound.layers import Add, Dense
from pertbound.numerics import UNIT32
from pertbound.push import Push
from pertbound.regions import Rest
from pertbound.sets import Ball


def _lopsided(generator: torch.Generator, graph: Graph, spread: float = 1.5) -> Graph:
    """The graph with weights of very different size: rows and columns times random factors."""
    nodes = []
    for node in graph.nodes:
        layer = node.layer
        if hasattr(layer, "weight"):
            rows = torch.exp(spread * torch.randn(len(layer.weight), generator=generator))
            weight = layer.weight * rows.reshape(-1, *(1 for _ in layer.weight.shape[1:]))
            layer = replace(layer, weight=weight.to(layer.weight.dtype))
        nodes.append(replace(node, layer=layer))
    return Graph(nodes, graph.input_shape, dtype=graph.dtype)


@pytest.fixture(params=["dense", "convolutions"])
def graph(request: pytest.FixtureRequest, generator: torch.Generator) -> Graph:
    if request.param == "dense":
        return _lopsided(generator, random_relu_graph(generator, (6, 20, 20, 3)))
    return _lopsided(generator, random_conv_graph(generator, (1, 6, 6)))


def test_the_function_stays_and_the_norms_shrink(graph: Graph, generator: torch.Generator) -> None:
    better = graph.derive(balanced)
    assert better is not graph
    assert better.rounded
    assert not graph.rounded
    x = 3 * torch.randn(50, *graph.input_shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(better(x), graph.derive(in_float64)(x), rtol=1e-12, atol=1e-12)
    products = [
        math.prod(
            g.derive(Push)._operator_norm((node.name,)) or 1.0 for node in g.nodes if hasattr(node.layer, "weight")
        )
        for g in (graph, better)
    ]
    assert products[1] < balance.WORTH * products[0]


def test_networks_that_gain_nothing_stay() -> None:
    b = Builder((3,), 4)
    b.dense(4)
    b.add(Add(), b.last, b.last)
    b.activation("Sigmoid")
    b.dense(3)
    assert links(b.graph()) == []
    assert balanced(b.graph()) is not None
    graph = b.graph()
    assert balanced(graph) is graph


def test_links_are_found_through_what_commutes_with_factors(generator: torch.Generator) -> None:
    chain = random_relu_graph(generator, (3, 6, 5, 3))
    dense = [node.name for node in chain.nodes if isinstance(node.layer, Dense)]
    assert [(link.above, link.below, link.channels) for link in links(chain)] == [
        (dense[0], dense[1], 6),
        (dense[1], dense[2], 5),
    ]


def _points(graph: Graph, x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    move = torch.randn(200, *graph.input_shape, generator=generator, dtype=torch.float64)
    return x + eps * move / torch.linalg.vector_norm(move.flatten(1), dim=1).reshape(
        -1, *(1 for _ in graph.input_shape)
    )


def _drifts(graph: Graph, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What rounding the weights to float32 changes, at most of many points, and what is claimed of that."""
    exact = _perturbed(graph.derive(in_float64), generator)
    rounded = exact.with_tensors(lambda tensor: tensor.to(torch.float32).to(torch.float64), torch.float64)
    rounded = Graph(rounded.nodes, rounded.input_shape, dtype=torch.float64, rounded=True)
    x, eps = torch.randn(1, *graph.input_shape, generator=generator, dtype=torch.float64), 0.5
    points = torch.cat([x, _points(graph, x, eps, generator)])
    reference = torch.tensor([0])
    seen = [g(points)[:, :1] - g(points) for g in (exact, rounded)]
    claimed = Rest.of(rounded, x).drift(Ball(), torch.tensor([eps], dtype=torch.float64), reference)
    return (seen[1] - seen[0]).amax(0), claimed.squeeze(0)


def _perturbed(graph: Graph, generator: torch.Generator) -> Graph:
    """Weights that float32 does not hold, just off the middle between two that it does."""

    def move(tensor: Tensor) -> Tensor:
        sign = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return tensor * (1 + sign * UNIT32 * 0.99)

    return graph.with_tensors(move, torch.float64)


def test_drift_covers_what_rounding_does(
    graph: Graph, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the unit of float32 in place of float64's, whose effect no test could see."""
    monkeypatch.setattr(regions, "UNIT64", UNIT32)
    for _ in range(5):
        seen, claimed = _drifts(graph, generator)
        assert bool((seen[1:] <= claimed[1:]).all())
        assert bool((seen[1:] > 0).any())
        assert float(claimed[1:].min()) < 1e6 * float(seen.max()), "a bound, but of no use"


def test_a_drift_of_nothing_would_be_seen(
    graph: Graph, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant: next to no drift."""
    monkeypatch.setattr(regions, "UNIT64", 1e-7 * UNIT32)
    short = [bool((seen[1:] > claimed[1:]).any()) for seen, claimed in (_drifts(graph, generator) for _ in range(5))]
    assert any(short)


def test_certificates_stay_below_witnesses(graph: Graph, generator: torch.Generator) -> None:
    x = torch.randn(4, *graph.input_shape, generator=generator)
    nearest = attack(graph, x, DDN()).distance
    for certificate in (Interval(), LinearRelaxation(), QuadraticRelaxation(steps=30), BranchAndBound(seconds=0.2)):
        radius = certify(graph, x, certificate).radius
        assert bool((radius <= nearest).all())
        assert bool((radius > 0).any())


def test_it_pays_on_lopsided_networks(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _lopsided(generator, random_relu_graph(generator, (30, 40, 40, 3)))
    x = torch.randn(8, 30, generator=generator)
    after = certify(graph, x, QuadraticRelaxation(steps=30)).radius.mean()
    monkeypatch.setattr(balance, "WORTH", 0.0)
    plain = Graph(graph.nodes, graph.input_shape)
    before = certify(plain, x, QuadraticRelaxation(steps=30)).radius.mean()
    assert float(after) > 1.05 * float(before)
