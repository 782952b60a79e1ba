"""Interval, linear and quadratic relaxation, and branch and bound: below exact distances, and what else must hold."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pertbound as pb
from contracts.certificates import (
    BOXES,
    CERTIFICATES,
    KINDS,
    NORMS,
    SMOOTH,
    check_evaluated,
    check_linear_classifiers,
    question,
)
from oracles.networks import random_relu_graph, random_smooth_graph
from pertbound.ascent import Ascent
from pertbound.balance import balanced
from pertbound.certificates import (
    BranchAndBound,
    Certificate,
    Interval,
    LinearRelaxation,
    Lipschitz,
    QuadraticRelaxation,
    certify,
)
from pertbound.certificates.relaxed import linear_radius, samples_at_once
from pertbound.environment import denormals_flushed
from pertbound.graph import Graph, in_float64
from pertbound.layers import Dense, Sigmoid, Softplus
from pertbound.regions import Rest, Tighten, Views
from pertbound.search import LARGEST
from pertbound.sets import Ball

CONVERGED = {
    "linear, plain": LinearRelaxation(tighten=False),
    "linear": LinearRelaxation(),
    "quadratic": QuadraticRelaxation(),
    "branch and bound": BranchAndBound(seconds=0.1),
}
"""What is exact on linear classifiers."""
KEPT = {
    "interval": Interval(),
    "linear, plain": LinearRelaxation(tighten=False),
    "linear": LinearRelaxation(),
    "quadratic": QuadraticRelaxation(steps=15),
    "branch and bound": BranchAndBound(seconds=0.1, root_steps=15),
}
"""One of each kind, for what does not depend on how good they are."""
COMBINATIONS = list(itertools.product(NORMS, BOXES))
CHOSEN = [(kind, *COMBINATIONS[(2 * i + 4 * j) % 9], j) for i, kind in enumerate(KINDS) for j in (0, 1)]
"""Two of nine for each kind of network, every norm and every box in turn, and which half of the certificates."""
HALVES = (
    ("interval", "linear", "quadratic", "branch and bound, plain"),
    ("linear, plain", "quadratic, tight", "branch and bound"),
)
every_kept = pytest.mark.parametrize("certificate", KEPT.values(), ids=KEPT)


# --- soundness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "p", "box", "half"), CHOSEN)
def test_below_the_exact_distance(kind: str, p: float, box: str, half: int) -> None:
    asked = question(kind, p, box)
    best = torch.stack([asked.demand_below(CERTIFICATES[name]) for name in HALVES[half]]).amax(0)
    assert float(best.min()) > (0.03 if kind in SMOOTH else 0.1), f"says nothing: {best.tolist()}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
@pytest.mark.parametrize("kind", KINDS)
def test_below_the_exact_distance_always(kind: str, seed: int) -> None:
    for p, box in COMBINATIONS:
        asked = question(kind, p, box, seed=seed, samples=3)
        for certificate in CERTIFICATES.values():
            asked.demand_below(certificate)


@pytest.mark.parametrize("name", CONVERGED)
def test_linear_classifiers_are_exact(name: str) -> None:
    check_linear_classifiers(CONVERGED[name])


@pytest.mark.parametrize("name", [name for name in CERTIFICATES if name != "interval"])
def test_radii_were_proved(name: str) -> None:
    """By bounds that are positive in other arithmetic, too."""
    if name.startswith("branch"):
        pytest.skip("its radius is the least of many, and may be a reach: see test_branch_and_bound.py")
    for kind, p, box in (("three layers", 2.0, "free"), ("max pooling", math.inf, "box"), ("residual", 1.0, "entries")):
        check_evaluated(CERTIFICATES[name], question(kind, p, box))


@pytest.mark.parametrize("p", [1.0, 2.0, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_radii_hold_in_regions_of_their_own(p: float) -> None:
    """Regions built for exactly the radius that was returned, and the proof done again: all of it is proved there."""
    for kind, box in (("three layers", "free"), ("leaky 0.2", "box"), ("max pooling", "free")):
        asked = question(kind, p, box)
        rest, ball = Rest.of(asked.graph, asked.x), asked.ball
        reference = rest.logits.argmax(1)
        for tighten in (False, True):
            radius = asked.radius(LinearRelaxation(tighten=tighten))
            again = linear_radius(rest, ball, reference, radius, tighten, 2**28)
            assert bool((again >= 0.999 * radius).all()), f"{asked.name}: {radius.tolist()}, again {again.tolist()}"
            with torch.no_grad():
                views = Views(rest, ball, Tighten(2**28) if tighten else None)
                ascent = Ascent(views, reference, asked.radius(Lipschitz()))
                ascent.climb(20)
                proved = ascent.proved()
                items = ascent._items(torch.arange(len(ascent.sample)), proved, torch.float64)
                again = items.proved(ascent.variables, ascent.sample, proved)
            assert bool((again >= 0.99 * proved).all()), f"{asked.name}: {proved.tolist()}, again {again.tolist()}"


@pytest.mark.parametrize("p", NORMS)
def test_intervals_hold_in_regions_of_their_own(p: float) -> None:
    """At the radius that was returned the reference's logit is above all others in the box."""
    for kind, box in (("two layers", "free"), ("leaky 3", "entries"), ("max pooling", "box")):
        asked = question(kind, p, box)
        rest = Rest.of(asked.graph.derive(balanced), asked.x)
        logits = rest.regions(asked.ball, asked.radius(Interval()))[asked.graph.output.name].box
        own = torch.nn.functional.one_hot(rest.logits.argmax(1), asked.graph.classes).to(torch.bool)
        assert bool((logits.lower[own] > logits.upper.masked_fill(own, -math.inf).amax(1)).all())


@pytest.mark.parametrize("p", NORMS)
def test_smooth_networks_against_a_grid(p: float, generator: torch.Generator) -> None:
    """No point of a polar grid within the radius has another class: two inputs, every smooth activation."""
    angles = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    circle = circle / torch.linalg.vector_norm(circle, ord=p, dim=1, keepdim=True)
    for activation in (None, Sigmoid, lambda shape: Softplus(shape, 5.0, 20.0)):
        options = {} if activation is None else {"activation": activation}
        graph = random_smooth_graph(generator, (2, 8, 8, 3), 3.0, **options)  # type: ignore[arg-type]
        x = torch.randn(12, 2, generator=generator).clamp(-1.5, 1.5)
        ball = Ball(p=p, box=(-1.5, 1.5) if activation is None else None)
        for certificate in (LinearRelaxation(), QuadraticRelaxation(steps=20)):
            radius = certify(graph, x, certificate, within=ball).radius
            assert float(radius.max()) > 0
            exact = graph.derive(in_float64)
            reference = exact(x.double()).argmax(1)
            for share in (0.5, 0.8, 0.95, 0.9999):
                ring = x.double()[:, None] + share * radius[:, None, None] * circle
                ring = ring if ball.box is None else ring.clamp(-1.5, 1.5)
                classes = exact(ring.reshape(-1, 2)).argmax(1).reshape(len(x), -1)
                assert bool((classes == reference[:, None]).all())


def test_margins_of_a_few_roundings(generator: torch.Generator) -> None:
    """Samples moved so near to the boundary that the logits' difference is rounding: rational arithmetic decides.

    There the network is one linear map, whose distance is exact in rationals: for Linf, and for L1. Ascents climb in
    float32, which sees nothing at a millionth of the values' size, and are only asked to be tight where it does.
    """
    for p in (1.0, math.inf):
        asked = question("float64", p)
        graph = asked.graph
        reference = graph(asked.x).argmax(1)
        near: list[Tensor] = []
        for x, witness, own in zip(asked.x, asked.witness, reference, strict=True):
            low, high = 0.0, 1.0
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (
                    (middle, high) if graph((x + middle * (witness - x))[None]).argmax(1) == own else (low, middle)
                )
            for away in (0, 1e-15, 4e-15, 1e-14, 1e-13, 1e-12, 1e-9, 1e-6, 1e-4):
                near.append(x + (low - away) * (witness - x))
        x = torch.stack(near)
        labels = reference.repeat_interleave(len(x) // len(reference))
        exact = [_rational_distance(graph, row, int(c), p) for row, c in zip(x, labels, strict=True)]
        distance = torch.tensor(exact, dtype=torch.float64)
        for name, certificate in CONVERGED.items():
            radius = certify(graph, x, certificate, labels, within=Ball(p=p)).radius
            assert bool((radius <= distance.clamp_min(0.0)).all()), (
                f"{name}: {radius.tolist()} certified, exact {distance.tolist()}"
            )
            shares = (radius / distance)[distance > 1e-5]
            assert float(shares.min()) > 0.5, f"{name}: far from rounding it should be tight, {shares.tolist()}"


def _rational_distance(graph: Graph, x: Tensor, reference: int, p: float) -> float:
    """Where the piece of the network at x ends its class; rounded upwards. Negative where the class is another one."""
    a, values = None, [Fraction(v) for v in x.tolist()]
    for node in graph.nodes:
        if isinstance(node.layer, Dense):
            weight = [[Fraction(w) for w in row] for row in node.layer.weight.tolist()]
            bias = [Fraction(b) for b in (node.layer.bias if node.layer.bias is not None else torch.zeros(0)).tolist()]
            values = [
                sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in zip(weight, bias, strict=True)
            ]
            a = (
                weight
                if a is None
                else [
                    [sum(r * c for r, c in zip(row, col, strict=True)) for col in zip(*a, strict=True)]
                    for row in weight
                ]
            )
        else:
            assert a is not None
            a = [row if v > 0 else [Fraction(0)] * len(row) for row, v in zip(a, values, strict=True)]
            values = [max(v, Fraction(0)) for v in values]
    assert a is not None
    found = []
    for j in range(len(values)):
        if j != reference:
            slope = [abs(c - d) for c, d in zip(a[reference], a[j], strict=True)]
            size = max(slope) if p == 1 else sum(slope)
            found.append((values[reference] - values[j]) / size)
    return float(min(found)) * (1 + 1e-15) if min(found) > 0 else float(min(found))


@pytest.mark.parametrize("name", CONVERGED)
def test_cancellation_is_counted(name: str, generator: torch.Generator) -> None:
    """Logits that float32 cannot tell apart: a linear classifier of 3000 inputs, whose distance is rational."""
    weight = torch.randn(1, 3000, generator=generator)
    weights = torch.cat([weight, weight + 1e-7 * weight.abs()])
    x = torch.randn(6, 3000, generator=generator)
    model = nn.Linear(3000, 2)
    model.weight.data, model.bias.data = weights, torch.zeros(2)
    network = pb.from_torch(model, x[:1])
    got = certify(network, x, CONVERGED[name], within=Ball(p=math.inf))
    rows = [[Fraction(v) for v in row] for row in weights.tolist()]
    slope = [a - b for a, b in zip(*rows, strict=True)]
    for row, c, radius in zip(x.tolist(), got.reference.tolist(), got.radius.tolist(), strict=True):
        margin = sum(a * Fraction(v) for a, v in zip(slope, row, strict=True)) * (1 if c == 0 else -1)
        assert Fraction(radius) * sum(abs(a) for a in slope) <= max(margin, 0)


# --- what gives zero --------------------------------------------------------------------------------------------------


@every_kept
def test_wrong_labels_ties_and_overflow_give_zero(certificate: Certificate, generator: torch.Generator) -> None:
    graph = random_relu_graph(generator, (3, 6, 6, 3))
    x = torch.randn(8, 3, generator=generator)
    labels = graph(x).argmax(1)
    labels[::2] = (labels[::2] + 1) % 3
    found = certify(graph, x, certificate, labels)
    assert found.reference.tolist() == labels.tolist()
    assert bool((found.radius[::2] == 0).all())
    assert bool((found.radius[1::2] > 0).all())
    model = nn.Linear(2, 3)
    model.weight.data = torch.tensor([[3e38, 3e38], [0.0, 0.0], [1.0, 1.0]])
    model.bias.data = torch.tensor([0.0, 0.0, -1.0])
    network = pb.from_torch(model, torch.zeros(1, 2))
    assert certify(network, torch.tensor([[3.0, 3.0], [0.0, 0.0]]), certificate).radius.tolist() == [0.0, 0.0]
    with pytest.raises(pb.InputError):
        certify(network, torch.tensor([[math.nan, 0.0]]), certificate)


@every_kept
def test_all_wrong_gives_zeros(certificate: Certificate, generator: torch.Generator) -> None:
    graph = random_relu_graph(generator, (3, 6, 2))
    x = torch.randn(3, 3, generator=generator)
    found = certify(graph, x, certificate, 1 - graph(x).argmax(1))
    assert found.radius.tolist() == [0.0] * 3


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "p"), [("three layers", 2.0), ("residual", math.inf), ("leaky 3", 1.0)])
def test_tighter_boxes_prove_more(kind: str, p: float) -> None:
    """At the same reach: every box within the plain one, and, with the same lines, nearly never a smaller radius."""
    asked = question(kind, p, samples=3)
    rest = Rest.of(asked.graph, asked.x)
    reference = rest.logits.argmax(1)
    for share in (0.3, 0.7, 1.0, 1.5):
        reach = share * asked.exact
        plain, tight = rest.regions(asked.ball, reach), rest.regions(asked.ball, reach, tighten=Tighten(2**24))
        for name, region in tight.items():  # but for the order of roundings
            assert bool((region.box.lower >= plain[name].box.lower - 1e-12).all())
            assert bool((region.box.upper <= plain[name].box.upper + 1e-12).all())
        radii = [linear_radius(rest, asked.ball, reference, reach, tighten, 2**24) for tighten in (False, True)]
        assert bool((radii[1] >= 0.95 * radii[0]).all()), f"{radii}"


@pytest.mark.parametrize(("kind", "p"), [("two layers", 1.0), ("max pooling", 2.0), ("tanh", math.inf)])
def test_a_box_only_helps(kind: str, p: float) -> None:
    """The same samples without the box: at most 1 % more, for what has nothing to be optimised."""
    asked = question(kind, p, "box")
    for certificate in (Interval(passes=40), LinearRelaxation(tighten=False, passes=30), LinearRelaxation(passes=30)):
        free = certify(asked.graph, asked.x, certificate, within=Ball(p=p)).radius
        boxed = asked.radius(certificate)
        assert bool((boxed >= 0.99 * free).all()), (
            f"{certificate.name}: {boxed.tolist()} in the box, {free.tolist()} free"
        )


@pytest.mark.parametrize("certificate", [LinearRelaxation(), QuadraticRelaxation(), BranchAndBound(seconds=0.03)])
def test_relaxations_are_not_worse_than_lipschitz(certificate: Certificate, generator: torch.Generator) -> None:
    """Their regions are at least as good as its moduli: where they prove less, something went wrong on the way."""
    graph = random_relu_graph(generator, (3, 6, 6, 3))
    x = torch.randn(12, 3, generator=generator)
    for p in (2.0, math.inf):
        simple = certify(graph, x, Lipschitz(), within=Ball(p=p)).radius
        found = certify(graph, x, certificate, within=Ball(p=p)).radius
        assert bool((found >= 0.99 * simple).all()), f"L{p:g}: {found.tolist()} below {simple.tolist()}"


# --- independence, determinism ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["interval", "linear", "quadratic, tight"])
def test_samples_do_not_see_each_other(name: str, generator: torch.Generator) -> None:
    """Not by batch size, order, or how many fit the memory; a sample that is wrong changes nothing for the others."""
    certificate = CERTIFICATES[name]
    graph = random_relu_graph(generator, (4, 10, 3))
    x = torch.randn(6, 4, generator=generator)
    whole = certify(graph, x, certificate).radius
    assert bool((whole > 0).all())
    for other in (
        certify(graph, x, certificate, batch_size=4).radius,
        certify(graph, x.flip(0), certificate).radius.flip(0),
        torch.cat([certify(graph, row[None], certificate).radius for row in x]),
        certify(graph, x, certificate, batch_size=1).radius,
    ):
        torch.testing.assert_close(other, whole, rtol=1e-3, atol=0.0)
    labels = graph(x).argmax(1)
    labels[4] = (labels[4] + 1) % 3
    mixed = certify(graph, x, certificate, labels).radius
    assert mixed[4] == 0
    right = torch.arange(6) != 4
    torch.testing.assert_close(mixed[right], whole[right], rtol=1e-3, atol=0.0)
    again = certify(graph, x, certificate).radius
    assert again.tolist() == whole.tolist()


@pytest.mark.parametrize("make", [LinearRelaxation, QuadraticRelaxation])
def test_memory_only_costs_time(make: Callable[..., Certificate], generator: torch.Generator) -> None:
    """One sample at a time, and one neuron at a time; an ascent goes another way where sums have another order."""
    graph = random_relu_graph(generator, (3, 6, 6, 3))
    x = torch.randn(5, 3, generator=generator)
    assert samples_at_once(graph, 1) == 1
    assert samples_at_once(graph, 2**30) > 5
    whole, little = (certify(graph, x, make(tighten=True, memory=memory)).radius for memory in (2**30, 1))
    # one of five samples of the ascent differs by 0.03 on some processors, by 0.1 on others
    torch.testing.assert_close(little, whole, rtol=1e-3 if make is LinearRelaxation else 0.15, atol=0.0)


# --- the hint ---------------------------------------------------------------------------------------------------------


@every_kept
def test_a_hint_is_only_a_hint(certificate: Certificate) -> None:
    """True, too large, infinite, far too small, zero: never above it or the distance; a true one costs nothing much.

    Sizes at which nothing changes the class may be found out.
    """
    asked = question("two classes", 2.0, samples=2)
    quick = BranchAndBound(seconds=0.08, root_steps=15) if isinstance(certificate, BranchAndBound) else certificate
    without = asked.demand_below(quick)
    for factor in (1.0, 3.0, math.inf, 0.5, 1e-3, 1e-30, 0.0):
        upper = torch.full_like(asked.exact, math.inf) if math.isinf(factor) else factor * asked.exact
        try:
            share = asked.demand_below(quick, upper=upper)
        except pb.ContradictionError:
            assert 0.0 < factor < 1.0
            continue
        assert bool((share <= factor * (1 + 1e-12)).all())
        if factor >= 1.0:
            assert bool((share >= 0.9 * without).all()), f"{factor}: {share.tolist()}, without {without.tolist()}"
    single = asked.demand_below(quick, upper=asked.exact.to(torch.float32) * 1.001)
    assert bool((single > 0).all())


def test_a_hint_is_per_sample() -> None:
    asked = question("two classes", 2.0, samples=2)
    upper = torch.tensor([1.0, math.inf], dtype=torch.float64) * asked.exact  # a witness's, and none
    for certificate in (Interval(), LinearRelaxation()):
        with_, without = (asked.radius(certificate, upper=u) for u in (upper, None))
        assert float(with_[0]) <= float(upper[0])
        torch.testing.assert_close(with_[1], without[1], rtol=1e-3, atol=0.0)


# --- inputs of every kind ---------------------------------------------------------------------------------------------


@every_kept
def test_inputs_on_the_face_of_the_box(certificate: Certificate, generator: torch.Generator) -> None:
    """Corners, faces, entries that cannot move at all, and a box that is one point."""
    graph = random_relu_graph(generator, (3, 8, 3))
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.3]])
    quick = BranchAndBound(seconds=0.03, root_steps=10) if isinstance(certificate, BranchAndBound) else certificate
    for p in NORMS:
        found = certify(graph, x, quick, within=Ball(p=p, box=(0, 1))).radius
        assert bool((found > 0).all())
        _no_point_of_the_grid(graph, x, found, p)
        thin = (torch.tensor([0.0, 0.0, 0.3]), torch.tensor([1.0, 1.0, 0.3]))
        assert bool((certify(graph, x[2:], quick, within=Ball(p=p, box=thin)).radius > 0).all())
        point = certify(graph, x[2:], quick, within=Ball(p=p, box=(x[2], x[2]))).radius
        assert 0 < float(point) <= LARGEST


def _no_point_of_the_grid(graph: Graph, x: Tensor, radius: Tensor, p: float) -> None:
    side = torch.linspace(0, 1, 31, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side, side)
    classes = graph.derive(in_float64)(grid).argmax(1)
    for one, own, r in zip(x.double(), graph(x).argmax(1), radius.tolist(), strict=True):
        near = torch.linalg.vector_norm(grid - one, ord=p, dim=1) < r
        assert bool((classes[near] == own).all())


@every_kept
def test_classifiers_that_cannot_change_their_mind(certificate: Certificate) -> None:
    """At most the largest radius that is ever tried, and at least what a Lipschitz bound says."""
    quick = BranchAndBound(seconds=0.05, root_steps=10) if isinstance(certificate, BranchAndBound) else certificate
    flat, dead, last = nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), nn.Linear(3, 2)
    flat.weight.data, flat.bias.data = torch.zeros(2, 3), torch.tensor([1.0, 0.0])
    dead[0].weight.data = torch.zeros(4, 3)
    dead[2].bias.data = torch.tensor([2.0, 0.0, -1.0]) - dead[2](dead[1](dead[0].bias)).detach() + dead[2].bias.data
    last = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    last[2].weight.data, last[2].bias.data = torch.zeros(3, 4), torch.tensor([1.0, 0.0, 0.0])
    for model in (flat, dead, last):
        network = pb.from_torch(model.eval(), torch.zeros(1, 3))
        radius = float(certify(network, torch.zeros(1, 3), quick).radius)
        assert 0.9 * LARGEST < radius <= LARGEST, f"{quick.name}: {radius:g}"


@every_kept
def test_one_class_can_win_and_another_never(certificate: Certificate, generator: torch.Generator) -> None:
    """A constant far below does not matter; nothing overflows at the radii it allows."""
    weight = torch.cat([torch.randn(2, 3, generator=generator), torch.zeros(1, 3)])
    model = nn.Linear(3, 3)
    model.weight.data, model.bias.data = weight, torch.tensor([0.0, 0.0, -1e9])
    x = torch.randn(4, 3, generator=generator)
    network = pb.from_torch(model, x)
    exact = (x @ (weight[0] - weight[1])).abs() / (weight[0] - weight[1]).norm()
    found = certify(network, x, certificate).radius
    assert bool((found <= exact * (1 + 1e-6)).all())
    if not isinstance(certificate, Interval):
        assert bool((found >= 0.99 * exact).all())


@pytest.mark.parametrize("name", ["interval", "linear", "quadratic"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(name: str, scale: float, generator: torch.Generator) -> None:
    """Inputs in other units, or logits: the same radii in those units. Powers of two, so that nothing rounds."""
    certificate = KEPT[name]
    factor = 2.0 ** round(math.log2(scale))
    first = random_relu_graph(torch.Generator().manual_seed(5), (3, 8, 3))
    layers = [node.layer for node in first.nodes]
    x = torch.randn(3, 3, generator=generator)
    usual = certify(first, x, certificate).radius
    stretched = _with_dense(first, 0, layers[0].weight / factor, layers[0].bias)
    louder = _with_dense(first, 2, layers[2].weight * factor, layers[2].bias * factor)
    for found in (certify(stretched, x * factor, certificate).radius / factor, certify(louder, x, certificate).radius):
        torch.testing.assert_close(found, usual, rtol=0.02, atol=0.0)


def _with_dense(graph: Graph, at: int, weight: Tensor, bias: Tensor) -> Graph:
    nodes = list(graph.nodes)
    nodes[at] = replace(nodes[at], layer=Dense(nodes[at].layer.input_shape, weight, bias))
    return Graph(nodes, graph.input_shape, dtype=graph.dtype)


def test_float64_graphs_agree_with_float32_ones() -> None:
    """The same weights: the same radii, but for rounding and what an ascent makes of it."""
    asked = question("two layers", 2.0)
    wide = asked.graph.derive(in_float64)
    for name in ("interval", "linear", "quadratic"):
        found = certify(wide, asked.x.double(), CERTIFICATES[name]).radius
        torch.testing.assert_close(found, asked.radius(CERTIFICATES[name]), rtol=0.02, atol=0.0)


# --- where it is called from ------------------------------------------------------------------------------------------


@every_kept
@pytest.mark.parametrize("made_there", [False, True], ids=["", "network made there"])
@pytest.mark.parametrize(
    "context", [pytest.param(torch.no_grad, marks=pytest.mark.slow), torch.inference_mode], ids=lambda c: c.__name__
)
def test_contexts_of_the_caller_do_not_matter(
    certificate: Certificate,
    context: Callable[[], contextlib.AbstractContextManager[None]],
    made_there: bool,
    generator: torch.Generator,
) -> None:
    """Also for samples, and a network, that were made in there, and may hold tensors of inference mode."""
    x = torch.randn(1, 3, generator=generator)
    rtol = 1e-3
    if isinstance(certificate, BranchAndBound):  # how far it comes is a matter of time
        certificate, rtol = BranchAndBound(seconds=0.1, root_steps=10), 0.99
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    graph = pb.from_torch(model, x)
    usual = certify(graph, x, certificate).radius
    assert bool((usual > 0).all())
    with context():
        graph = pb.from_torch(model, x) if made_there else graph
        inside = certify(graph, x.clone(), certificate).radius
    torch.testing.assert_close(inside, usual, rtol=rtol, atol=0.0)
    outside = certify(graph, x, certificate).radius
    torch.testing.assert_close(outside, usual, rtol=rtol, atol=0.0)
    wanting = certify(graph, x.clone().requires_grad_(), certificate).radius
    torch.testing.assert_close(wanting, usual, rtol=rtol, atol=0.0)
    assert not wanting.requires_grad


def _denormals_count() -> bool:
    tiny = torch.full((1,), 1e-310, dtype=torch.float64)
    return float(tiny * 1.0) != 0.0


@every_kept
def test_flags_are_left_as_they_were(certificate: Certificate, generator: torch.Generator) -> None:
    graph = random_relu_graph(generator, (3, 5, 2))
    x = torch.randn(2, 3, generator=generator)
    quick = BranchAndBound(seconds=0.05, root_steps=5) if isinstance(certificate, BranchAndBound) else certificate
    state = torch.get_rng_state()
    for flushed in (False, True):
        torch.set_flush_denormal(flushed)
        try:
            certify(graph, x, quick)
            assert _denormals_count() is not flushed
        finally:
            torch.set_flush_denormal(False)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(state, torch.get_rng_state())
    assert all(not v.requires_grad for node in graph.nodes for v in vars(node.layer).values() if isinstance(v, Tensor))


def test_flags_are_restored_after_an_error() -> None:
    assert _denormals_count()

    def fail() -> None:
        with denormals_flushed():
            assert not _denormals_count()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert _denormals_count()
    assert torch.is_grad_enabled()


def test_options_that_say_nothing_are_refused() -> None:
    for make in (
        lambda: QuadraticRelaxation(steps=0),
        lambda: QuadraticRelaxation(tolerance=1.0),
        lambda: QuadraticRelaxation(tolerance=-0.1),
        lambda: BranchAndBound(seconds=0.0),
        lambda: BranchAndBound(seconds=math.inf),
        lambda: BranchAndBound(seconds=math.nan),
        lambda: BranchAndBound(ratio=0.0),
        lambda: BranchAndBound(ratio=1.1),
        lambda: BranchAndBound(steps=0),
        lambda: BranchAndBound(width=0),
        lambda: BranchAndBound(root_steps=0),
    ):
        with pytest.raises(pb.InputError):
            make()


def test_answers_say_what_they_are() -> None:
    asked = question("two classes", math.inf, "box")
    for certificate in KEPT.values():
        quick = BranchAndBound(seconds=0.02, root_steps=5) if isinstance(certificate, BranchAndBound) else certificate
        found = certify(asked.graph, asked.x, quick, within=asked.ball)
        assert found.method == quick.name
        assert found.guarantee.norm == "Linf"
        assert found.guarantee.domain == asked.ball.domain
        assert found.radius.dtype == torch.float64
        assert found.radius.shape == (len(asked.x),)
    names = [certificate.name for certificate in CERTIFICATES.values()]
    assert len(set(names)) >= len(names) - 1
    assert np.isfinite([float(v) for v in found.radius]).all()


def test_auto_names_who_gave_each_radius_whatever_the_others_are() -> None:
    """A sample that nothing can change, and one that is a tie, are not asked about further."""
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(weight)
        model[2].weight.copy_(torch.eye(2))
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-2.0, 0.0]])
    found = pb.certify(pb.from_torch(model, x), x, pb.Auto(seconds=0.1))
    assert found.radius.tolist() == pytest.approx([1.0, 0.0, 2.0], rel=1e-3)
    assert len(found.methods) == 3
    constant = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        for layer in (constant[0], constant[2]):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([2.0, 1.0]))
    found = pb.certify(pb.from_torch(constant, x), x, pb.Auto(seconds=0.1))
    assert bool((found.radius >= 1e8).all())
    assert found.methods == ("lipschitz",) * 3


def test_auto_goes_on_with_tight_boxes_where_there_is_time() -> None:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 6, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 40), nn.Tanh())
    model = nn.Sequential(*layers, nn.Linear(40, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = torch.rand(2, 1, 8, 8)
    graph = pb.from_torch(model, x)
    found = pb.certify(graph, x, pb.Auto(seconds=10.0))  # it needs less than one
    assert found.methods == ("quadratic, tight boxes",) * 2
    assert bool((found.radius > pb.certify(graph, x, pb.QuadraticRelaxation(steps=80)).radius).all())
    assert bool((found.radius <= pb.attack(graph, x, pb.DDN()).distance).all())
