"""Regions and backward substitution on whole graphs: every graph of `contracts.graphs`, every ball, and dense grids."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from contracts.graphs import Builder, graphs
from contracts.last_step import check_last_step
from contracts.relaxation import (
    BALLS,
    bent_regions,
    check_domain,
    check_on_a_grid,
    check_relaxation,
    kept_regions,
    tightened_regions,
    usual_regions,
)
from oracles.exact import WIDER, exact, long
from oracles.networks import SMOOTH, chain, random_conv_graph, random_relu_graph, random_smooth_graph
from pertbound import regions
from pertbound.forms import Form, Regions
from pertbound.graph import INPUT, Graph
from pertbound.layers import Add, Concat, Dense, Diagonal, MaxPool, ReLU, Reshape
from pertbound.regions import Rest, Tighten
from pertbound.relaxation import Ground, pull_to_input
from pertbound.sets import Ball

GRAPHS = graphs()
pytestmark = pytest.mark.skipif(not WIDER, reason="long double is no wider than double here")


@pytest.mark.parametrize("name", GRAPHS)
def test_regions_and_bounds_hold_at_the_worst_points(name: str, generator: torch.Generator) -> None:
    """Each graph with one of the balls."""
    ball = BALLS[list(GRAPHS).index(name) % len(BALLS)]
    gap = check_relaxation(GRAPHS[name], ball, generator)
    assert gap <= 10, "the bound is so loose that the contract means nothing"


TIGHTENED = ["3 dense layers, ReLU", "5 dense layers, LeakyReLU 3", "residual, ReLU", "inception, Tanh", "tokens"]
TIGHTENED += ["convolutional, ReLU, overlapping max", "activation first, LeakyReLU 3"]


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("kind", ["dense", "max pooling"])
def test_it_does_not_matter_whether_samples_are_tightened_together(
    kind: str, curved: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = random_relu_graph(generator) if kind == "dense" else random_conv_graph(generator)
    assert all(node.layer.broadcasts for node in graph.nodes)
    rest = Rest.of(graph, torch.randn(3, *graph.input_shape, generator=generator))
    ball, eps = Ball(), torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    found: list[Regions] = []
    for many in (math.inf, 0):
        monkeypatch.setattr(regions, "MANY", many)
        found.append(rest.regions(ball, eps, tighten=Tighten(2**18, curved=curved)))
    plain, (together, alone) = rest.regions(ball, eps), found
    for name, region in together.items():
        for end in ("lower", "upper"):
            torch.testing.assert_close(getattr(alone[name].box, end), getattr(region.box, end), rtol=1e-9, atol=1e-12)
    assert any(bool((together[name].box.upper < 0.999 * plain[name].box.upper).any()) for name in together)


@pytest.mark.parametrize("name", TIGHTENED)
def test_tightened_regions_hold_as_well(name: str, generator: torch.Generator) -> None:
    ball = BALLS[(list(GRAPHS).index(name) + 2) % len(BALLS)]
    check_relaxation(GRAPHS[name], ball, generator, make=tightened_regions)


@pytest.mark.parametrize("name", TIGHTENED)
def test_boxes_from_quadratic_relaxation_hold(name: str, generator: torch.Generator) -> None:
    check_relaxation(GRAPHS[name], Ball(), generator, make=bent_regions)


@pytest.mark.parametrize("name", TIGHTENED[:3])
def test_boxes_that_are_kept_for_smaller_radii_hold(name: str, generator: torch.Generator) -> None:
    check_relaxation(GRAPHS[name], BALLS[3], generator, make=kept_regions)


@pytest.mark.parametrize("name", [n for n in GRAPHS if "ReLU" in n and "linear" not in n])
def test_domains_of_branching_hold(name: str, generator: torch.Generator) -> None:
    """Boxes cut at 0, beside the value at rest or not."""
    ball = BALLS[(list(GRAPHS).index(name) + 1) % len(BALLS)]
    points = check_domain(GRAPHS[name], ball, generator)
    assert points > 0


@pytest.mark.slow
@pytest.mark.parametrize("ball", BALLS, ids=str)
@pytest.mark.parametrize("name", GRAPHS)
def test_regions_and_bounds_hold_in_every_ball(name: str, ball: Ball) -> None:
    for seed in range(2):
        for make in (usual_regions, tightened_regions):
            check_relaxation(GRAPHS[name], ball, torch.Generator().manual_seed(seed), make=make)


# Every point of a grid.


def _planar(kind: str, generator: torch.Generator) -> Graph:
    """Classifiers of one or two inputs."""
    match kind:
        case "ReLU":
            return random_relu_graph(generator, (2, 6, 6, 3))
        case "one input":
            return random_relu_graph(generator, (1, 8, 5, 2))
        case "smooth, one input":
            return random_smooth_graph(generator, (1, 5, 5, 2), 3.0, activation=SMOOTH[0])
        case "residual":
            b = Builder((2,), int(torch.randint(1000, (1,), generator=generator)))
            stem = b.dense(4)
            b.activation("ReLU")
            b.dense(4)
            b.add(Add(), b.last, stem, stem)
            one = b.activation("LeakyReLU 0.1")
            b.add(Concat(1), one, stem, one)
            b.dense(3)
            return b.balanced()
        case "pooling":
            b = Builder((2,), int(torch.randint(1000, (1,), generator=generator)))
            b.dense(8)
            b.add(Reshape((8,), (1, 8)))
            b.add(MaxPool((1, 8), (3,), (2,), (1,), (1,), False))
            b.flatten()
            b.dense(3)
            return b.balanced()
        case _:
            return random_smooth_graph(generator, (2, 5, 5, 3), 2.5, activation=SMOOTH[int(kind[-1])])


KINDS = ("ReLU", "one input", "smooth, one input", "residual", "pooling", "smooth 0", "smooth 1", "smooth 2")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_claimed_that_a_grid_refutes(kind: str, generator: torch.Generator) -> None:
    for ball in BALLS[KINDS.index(kind) % 2 :: 2]:
        check_on_a_grid(_planar(kind, generator), ball, generator)
    check_on_a_grid(_planar(kind, generator), Ball(p=math.inf), generator, make=tightened_regions)


# Odd graphs.


def test_a_node_read_by_itself_and_nodes_that_nothing_reads(generator: torch.Generator) -> None:
    """x + x, x beside x, a node that no logit depends on, and logits that are the input itself."""
    b = Builder((3,), 5)
    b.dense(4)
    twice = b.add(Add(), b.last, b.last)
    b.dense(4)
    unread = b.last
    b.add(Concat(1), twice, twice)
    b.dense(3)
    graph = b.graph()
    assert all(unread not in node.inputs for node in graph.nodes)
    for ball in BALLS:
        check_relaxation(graph, ball, generator)
        check_relaxation(chain([Reshape((3,), (3,))], (3,)), ball, generator)


def test_constants_do_not_depend_on_the_input(generator: torch.Generator) -> None:
    """Logits that no input moves: nothing is lost but rounding."""
    last = Dense((2,), torch.zeros(3, 2), torch.tensor([1.0, 0.0, -1.0]))
    graph = chain([Dense((2,), torch.randn(2, 2, generator=generator), None), ReLU((2,)), last], (2,))
    x = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    eps = torch.ones(2, dtype=torch.float64)
    rest = Rest.of(graph, x)
    form = Form(torch.tensor([[1.0, -1.0, 0.0]]).double().expand(2, 3))
    ground = pull_to_input(graph, form, graph.output.name, rest.regions(Ball(), eps))
    least = ground.lower(Ball(), x, eps)
    assert bool(((least <= 0) & (least >= -1e-12)).all())


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_linear_networks_lose_nothing(p: float, generator: torch.Generator) -> None:
    """Without curvature the bound is the dual norm of the difference of two rows."""
    graph = GRAPHS["linear chain"]
    x = torch.randn(3, *graph.input_shape, generator=generator, dtype=torch.float64)
    eps = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
    rest, ball = Rest.of(graph, x), Ball(p=p)
    form = Form(torch.tensor([[1.0, -1.0, 0.0, 0.0]]).double().expand(3, 4))
    least = pull_to_input(graph, form, graph.output.name, rest.regions(ball, eps)).lower(ball, x, eps)
    units = long(torch.eye(6)).reshape(6, 6)
    images = [units, 0 * units[:1]]
    for node in graph.nodes:
        images = [exact(node.layer, image) for image in images]
    rows = (images[0] - images[1])[:, 0] - (images[0] - images[1])[:, 1]
    dual = {1.0: abs(rows).max(), 2.0: (rows**2).sum() ** 0.5, math.inf: abs(rows).sum()}[p]
    assert torch.allclose(least, -eps * float(dual), rtol=1e-9)


# The last step.


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_the_last_step_takes_curvature_over_the_whole_ball(ball: Ball, generator: torch.Generator) -> None:
    check_last_step(Ground, ball, generator)


# What regions round.


def _largest(graph: Graph, eps: float) -> tuple[Fraction, Fraction, Fraction]:
    """Radius and box of the output for an input at 0, and how far a chain of diagonal layers really moves it."""
    x = torch.zeros(1, *graph.input_shape, dtype=torch.float64)
    region = Rest.of(graph, x).regions(Ball(), torch.tensor([eps], dtype=torch.float64))[graph.output.name]
    moved = Fraction(eps)
    for node in graph.nodes:
        assert isinstance(node.layer, Diagonal)
        moved *= Fraction(float(node.layer.scale.max()))
    return Fraction(float(region.radius)), Fraction(float(region.box.upper.max())), moved


def _one_bad_chain(layers: int) -> tuple[Graph, float]:
    """Diagonal layers whose scales are chosen such that every product is rounded down, by almost half a unit."""
    generator = torch.Generator().manual_seed(0)
    b, eps = Builder((2,), 0, torch.float64), 1 / 3
    reached = eps
    for _ in range(layers):
        scales = (1 + torch.rand(200, generator=generator, dtype=torch.float64) / 1024).tolist()
        scale = max(scales, key=lambda s: Fraction(s) * Fraction(reached) - Fraction(s * reached))
        reached *= scale
        b.add(Diagonal((2,), torch.full((2,), scale, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)))
    return b.graph(), eps


def test_radii_are_rounded_upwards() -> None:
    """A ball of radius eps, scaled; the point that goes furthest goes along the first axis."""
    for layers in (1, 5, 40):
        radius, upper, moved = _largest(*_one_bad_chain(layers))
        assert radius >= moved, f"{layers} layers: the radius is short by {float(1 - radius / moved):.2g} of itself"
        assert upper >= moved, f"{layers} layers: the box is short by {float(1 - upper / moved):.2g}"


def test_the_radius_of_a_maximum_is_rounded_upwards() -> None:
    """One entry that three windows read moves them by sqrt(3) eps."""
    b = Builder((1, 3), 0, torch.float64)
    b.add(MaxPool((1, 3), (3,), (1,), (1,), (1,), False))
    b.flatten()
    x = torch.zeros(1, 1, 3, dtype=torch.float64)
    region = Rest.of(graph := b.graph(), x).regions(Ball(), torch.ones(1, dtype=torch.float64))[graph.output.name]
    assert Fraction(float(region.radius)) ** 2 >= 3


def test_the_input_is_where_it_was(generator: torch.Generator) -> None:
    x = torch.randn(2, 5, generator=generator)
    rest = Rest.of(GRAPHS["3 dense layers, ReLU"], x)
    region = rest.regions(Ball(), torch.tensor([0.0, 0.5]))[INPUT]
    assert torch.equal(region.value, x.double())
    assert torch.equal(region.box.lower[0], x[0].double())
    assert torch.equal(region.radius, torch.tensor([0.0, 0.5]).double())


def test_convolutional_networks_of_the_oracles(generator: torch.Generator) -> None:
    for seed in range(3):
        graph = random_conv_graph(generator, (2, 5, 5), 3, dtype=torch.float64 if seed else torch.float32)
        check_relaxation(graph, BALLS[seed], generator)
