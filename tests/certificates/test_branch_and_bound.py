"""Branch and bound: how near it comes to exact minima, that no part of the ball is lost, and when it stops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from clocks import ticking
from contracts.certificates import KINDS, Question, check_domains, question
from contracts.graphs import Builder, residual
from oracles.milp import smallest_perturbation
from oracles.networks import random_relu_graph, random_smooth_graph
from pertbound.ascent import Ascent
from pertbound.branching import Branching, Domains
from pertbound.certificates import BranchAndBound, LinearRelaxation, Lipschitz, QuadraticRelaxation, certify
from pertbound.forms import Region
from pertbound.graph import INPUT, Graph
from pertbound.layers import Add, LeakyReLU, ReLU
from pertbound.regions import Rest, Tighten, Views, cut
from pertbound.search import LARGEST
from pertbound.sets import Ball, Box

ENOUGH = BranchAndBound(seconds=15.0)
"""More than is needed below."""
SMALL = [(3, 8, 8, 3), (4, 12, 12, 3), (4, 24, 3), (3, 10, 2), (5, 20, 4), (3, 6, 6, 6, 3), (2, 16, 16, 2)]
LARGE = [(5, 25, 25, 3), (6, 25, 25, 2), (5, 50, 3)]


def _asked(widths: tuple[int, ...], seed: int, p: float, samples: int = 1) -> Question:
    """Samples of a random network, its classes balanced so that no class is all there is."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        graph = random_relu_graph(generator, widths)
        x = torch.randn(samples, widths[0], generator=generator)
        answers = [smallest_perturbation(graph, one, int(graph(one[None]).argmax(1)), p=p) for one in x]
        if all(answer.witness is not None for answer in answers):
            exact = torch.tensor([answer.distance_upper for answer in answers], dtype=torch.float64)
            found = torch.stack([answer.witness for answer in answers if answer.witness is not None])
            return Question(f"{widths}, seed {seed}", graph, x, Ball(p=p), exact, found)


# --- how near it comes ------------------------------------------------------------------------------------------------


SLOW_ONES = ((2, 16, 16, 2), 1), ((2, 16, 16, 2), 2), ((3, 6, 6, 6, 3), 1), ((3, 6, 6, 6, 3), 2)


@pytest.mark.parametrize(
    ("widths", "seed"),
    [
        pytest.param(w, seed, marks=pytest.mark.slow) if (w, seed) in SLOW_ONES else (w, seed)
        for w in SMALL
        for seed in (1, 2)
    ],
    ids=str,
)
def test_small_networks_are_exact(widths: tuple[int, ...], seed: int) -> None:
    """Without being told: at least 0.985 of the minimum, never more, and long before the time is over."""
    asked = _asked(widths, seed, 2.0)
    share = asked.demand_below(ENOUGH)
    assert float(share.min()) >= 0.985, share


@pytest.mark.parametrize("p", [1.0, math.inf])
@pytest.mark.parametrize("widths", [pytest.param((3, 8, 8, 3), marks=pytest.mark.slow), (3, 10, 2)], ids=str)
def test_other_norms_are_exact(widths: tuple[int, ...], p: float) -> None:
    """The ascent is not smooth there; linear programs end what it leaves."""
    asked = _asked(widths, 3, p)
    share = asked.demand_below(BranchAndBound(seconds=8.0))
    assert float(share.min()) >= 0.985, share


@pytest.mark.slow
@pytest.mark.parametrize("widths", LARGE, ids=str)
@pytest.mark.parametrize("seed", [1, 2])
def test_fifty_units_are_exact(widths: tuple[int, ...], seed: int, request: pytest.FixtureRequest) -> None:
    if (widths, seed) == ((6, 25, 25, 2), 2):
        reason = "about 0.8 of the minimum in 15 s, which mixed-integer programming finds in 3 s"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=False))
    asked = _asked(widths, seed, 2.0)
    share = asked.demand_below(BranchAndBound(seconds=60.0))
    assert float(share.min()) >= 0.985, share


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, *range(10, 30)])
def test_more_small_networks_are_exact(seed: int) -> None:
    asked = _asked(SMALL[seed % len(SMALL)], seed, 2.0, samples=3)
    share = asked.demand_below(BranchAndBound(seconds=20.0))
    assert float(share.min()) >= 0.985, share


@pytest.mark.parametrize("kind", ["leaky 0.2", "residual", "concatenated", "two classes"])
def test_other_graphs_are_exact(kind: str) -> None:
    asked = question(kind, 2.0, "free", seed=3, samples=1)
    share = asked.demand_below(ENOUGH)
    assert float(share.min()) >= 0.985, share


@pytest.mark.parametrize("kind", ["two layers", "leaky 3"])
def test_a_box_is_no_obstacle(kind: str) -> None:
    asked = question(kind, 2.0, "box", seed=2, samples=1)
    share = asked.demand_below(ENOUGH)
    assert float(share.min()) >= 0.985, share


def test_more_than_its_root() -> None:
    """Where the quadratic ascent leaves a gap, some of it is closed."""
    asked = question("three layers", 2.0, "box")
    root = asked.demand_below(QuadraticRelaxation(steps=80, tighten=True))
    share = asked.demand_below(BranchAndBound(seconds=1.0))
    assert float((share - root).max()) > 0.1
    assert bool((share >= root - 1e-3).all())


def test_what_it_cannot_branch_on_keeps_its_relaxation(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smooth networks: what the root gives, at once; max pooling between ReLUs: sound, and better than the root."""
    smooth = random_smooth_graph(generator, (3, 6, 6, 3))
    x = torch.randn(2, 3, generator=generator)
    with monkeypatch.context() as patch:
        clock = ticking(patch, 1.0)
        found = certify(smooth, x, BranchAndBound(seconds=60.0)).radius
    assert clock.seconds <= 2.0, "nothing is to be split"
    assert bool((found > 0).all())
    asked = question("max pooling", 2.0)
    share = asked.demand_below(BranchAndBound(seconds=1.0))
    assert bool((share > 0).all())


# --- domains ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "p", "box"), [
    ("three layers", 2.0, "box"),
    ("three layers", 1.0, "free"),
    ("two layers", math.inf, "free"),
    ("concatenated", 1.0, "free"),
    ("max pooling", 2.0, "box"),
])  # fmt: skip
@pytest.mark.parametrize("tighten", [None, Tighten(2**24)], ids=["shared boxes", "own boxes"])
def test_every_wrong_point_is_in_one_domain(
    kind: str, p: float, box: str, tighten: Tighten | None, generator: torch.Generator
) -> None:
    seconds = 0.2 if tighten is None else 0.5
    assert check_domains(question(kind, p, box), generator, seconds=seconds, tighten=tighten) > 0


def _branching(asked: Question) -> Branching:
    rest = Rest.of(asked.graph, asked.x)
    ascent = Ascent(Views(rest, asked.ball, None), rest.logits.argmax(1), asked.radius(LinearRelaxation()))
    ascent.climb(10)
    return Branching(ascent, torch.maximum(ascent.proved(), asked.radius(LinearRelaxation())), 10 * asked.exact)


def test_children_partition_their_parent() -> None:
    """One sign more each, of one entry that was free, opposite ones; all else is the parent's, its radius too."""
    asked = question("three layers", 2.0, "box")
    branching = _branching(asked)
    domains = branching.open
    for _ in range(3):
        halves, stuck = branching._split(domains)
        rows = [i for i, entry in enumerate(domains.entry.tolist()) if entry >= 0]
        assert len(halves.sample) == 2 * len(rows)
        assert len(stuck.sample) + len(rows) == len(domains.sample)
        for at, row in enumerate(rows):
            upper, lower = (halves.take(torch.tensor([i])) for i in (at, at + len(rows)))
            parent = domains.take(torch.tensor([row]))
            changed = 0
            for name, before in parent.signs.items():
                plus, minus = upper.signs[name], lower.signs[name]
                differs = plus != minus
                changed += int(differs.sum())
                assert bool((before[differs] == 0).all()), "a sign that was given was split on"
                assert bool((plus[differs] * minus[differs] == -1).all())
                assert bool((plus[~differs] == before[~differs]).all())
            assert changed == 1
            for half in (upper, lower):
                assert half.sample.tolist() == parent.sample.tolist()
                assert half.other.tolist() == parent.other.tolist()
                assert half.radius.tolist() == parent.radius.tolist()
                for key, raw in half.variables.raw.items():
                    assert torch.equal(raw, parent.variables.raw[key])
        domains = branching._bounded(halves, halves.radius.to(torch.float32), 0)


def test_boxes_are_cut_where_the_signs_say() -> None:
    low, high = torch.tensor([[-1.0, -2.0, -3.0, 0.5]]), torch.tensor([[1.0, 2.0, 3.0, 0.7]])
    zero = torch.zeros(1)
    region = Region(torch.zeros(1, 4), Box(low, high), zero, zero)
    assert cut(region, None) is region
    found = cut(region, torch.tensor([[1, -1, 0, 1]], dtype=torch.int8))
    assert found.box.lower.tolist() == [[0.0, -2.0, -3.0, 0.5]]
    assert found.box.upper.tolist() == [[1.0, 0.0, 3.0, pytest.approx(0.7)]]
    assert torch.equal(found.value, region.value)
    assert torch.equal(region.box.lower, low), "the region itself stays"


def test_radii_only_grow() -> None:
    """Of the samples, and from every domain to its halves; none exceeds what regions were built for."""
    asked = question("two layers", 2.0, "box")
    branching = _branching(asked)
    before = branching.lower.clone()
    for _ in range(4):
        open_, reach = branching.open, branching.reach.clone()
        halves, _ = branching._split(open_)
        found = branching._bounded(halves, (halves.radius * 1.05).to(torch.float32), 3)
        assert bool((found.radius >= halves.radius).all())
        assert bool((found.radius <= reach[found.sample]).all())
        branching.run(seconds=0.05, ratio=1.0, steps=2, width=8)
        assert bool((branching.lower >= before).all())
        assert bool((branching.reach >= reach).all())
        assert bool((branching.lower <= asked.exact).all())
        before = branching.lower.clone()


def test_two_activations_may_read_the_same_values(generator: torch.Generator) -> None:
    """Their signs are the same, and so are those of an activation on the input itself."""
    b = Builder((3,), 4)
    start = b.dense(5)
    b.add(ReLU((5,)), start)
    one = b.dense(4)
    b.add(LeakyReLU((5,), 0.3), start)
    other = b.dense(4)
    b.add(Add(), one, other)
    b.dense(3)
    shared = b.balanced()
    c = Builder((3,), 7)
    c.add(LeakyReLU((3,), 0.2))
    c.dense(6)
    c.activation("ReLU")
    c.dense(3)
    for graph in (shared, c.balanced()):
        x = torch.randn(2, 3, generator=generator)
        own = graph(x).argmax(1).tolist()
        answers = [smallest_perturbation(graph, one, c, p=2.0) for one, c in zip(x, own, strict=True)]
        exact = torch.tensor([answer.distance_upper for answer in answers], dtype=torch.float64)
        radius = certify(graph, x, BranchAndBound(seconds=2.0)).radius
        assert bool((radius <= exact).all())
        assert float((radius / exact).min()) >= 0.95


# --- when it stops ----------------------------------------------------------------------------------------------------


def test_it_stops_where_nothing_is_left_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """`upper` at the exact distance: done with `ratio` of it, sooner than without, far sooner than the time allows."""
    asked = question("two layers", 2.0)
    clock = ticking(monkeypatch, 0.1)
    share = asked.demand_below(BranchAndBound(seconds=60.0, ratio=0.9), upper=asked.exact)
    assert bool((share >= 0.9).all())
    assert clock.seconds < 20.0
    loose = asked.demand_below(BranchAndBound(seconds=60.0, ratio=0.5), upper=asked.exact)
    assert bool((loose >= 0.5).all())
    rest = Rest.of(asked.graph, asked.x)
    ascent = Ascent(Views(rest, asked.ball, None), rest.logits.argmax(1), asked.radius(Lipschitz()))
    ascent.climb(60)
    lower = torch.maximum(ascent.proved(), asked.radius(LinearRelaxation()))
    assert Branching(ascent, lower, lower / 0.95).run(seconds=10.0, ratio=0.9, steps=5, width=32) == 0
    assert Branching(ascent, lower, 0.5 * lower).run(seconds=10.0, ratio=1.0, steps=5, width=32) == 0


@pytest.mark.parametrize("seconds", [1e-9, 0.01, 0.1])
def test_interrupted_it_is_sound(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little time there is: at least what the root proved, and sound; the overrun is one step."""
    asked = question("three layers", 2.0, samples=2)
    clock = ticking(monkeypatch, 0.005)
    share = asked.demand_below(BranchAndBound(seconds=seconds, root_steps=20))
    assert clock.seconds <= 2 * seconds + 4 * clock.tick, "the time is for two samples"
    root = asked.demand_below(QuadraticRelaxation(steps=20, tolerance=1e-4, tighten=True))
    assert bool((share >= 0.999 * root).all()), f"{share.tolist()} after a root of {root.tolist()}"


def test_time_is_for_each_sample_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that nothing changes spends what the others leave, and not more; its radius stays a number."""
    graph, x = _unchangeable()
    clock = ticking(monkeypatch, 0.01)
    radius = certify(graph, x, BranchAndBound(seconds=0.3, root_steps=10)).radius
    assert clock.seconds <= 2 * 0.3 + 4 * clock.tick
    assert bool((radius > 0).all())
    assert bool((radius <= LARGEST).all())


def _unchangeable() -> tuple[Graph, Tensor]:
    """The second logit is always above the others: a sum of ReLUs against their negatives."""
    graph = random_relu_graph(torch.Generator().manual_seed(2), (3, 6, 3))
    nodes = list(graph.nodes)
    last = nodes[-1]
    weight = last.layer.weight.abs() * torch.tensor([[-1.0], [1.0], [-2.0]])
    nodes[-1] = replace(last, layer=replace(last.layer, weight=weight, bias=torch.tensor([-1.0, 1.0, -1.0])))
    return Graph(nodes, (3,)), torch.randn(2, 3, generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
def test_width_and_steps_change_nothing_but_the_way() -> None:
    asked = question("two layers", 2.0, samples=1)
    for options in ({"width": 1}, {"width": 7}, {"steps": 1}, {"tighten": False}, {"memory": 1}):
        share = asked.demand_below(BranchAndBound(seconds=3.0, **options))  # type: ignore[arg-type]
        assert float(share.min()) > 0.9, f"{options}: {share.tolist()}"


def test_dead_branches_and_leaves_alone(generator: torch.Generator) -> None:
    """Activations that are decided everywhere leave nothing to split: no error, and the piece's exact distance."""
    b = Builder((3,), 5)
    b.dense(4)
    nodes = b.nodes
    nodes[-1] = replace(nodes[-1], layer=replace(nodes[-1].layer, bias=torch.full((4,), 1e3)))
    b.activation("ReLU")
    b.dense(3)
    b.nodes[-1] = replace(b.nodes[-1], layer=replace(b.nodes[-1].layer, bias=torch.zeros(3)))
    graph = b.graph()
    logits = graph(torch.zeros(1, 3))
    b.nodes[-1] = replace(b.nodes[-1], layer=replace(b.nodes[-1].layer, bias=-logits[0]))
    graph = b.graph()
    x = torch.randn(3, 3, generator=generator)
    own = graph(x).argmax(1).tolist()
    exact = [smallest_perturbation(graph, one, c, p=2.0).distance_upper for one, c in zip(x, own, strict=True)]
    radius = certify(graph, x, BranchAndBound(seconds=5.0)).radius
    for found, true in zip(radius.tolist(), exact, strict=True):
        assert 0.985 * true <= found <= true


def test_every_kind_of_graph_runs() -> None:
    """One of each of the contracts' graphs that has something to split."""
    for graph in (residual("ReLU"), KINDS["max pooling"](torch.Generator().manual_seed(1))):
        x = torch.randn(2, *graph.input_shape, generator=torch.Generator().manual_seed(1))
        simple = certify(graph, x, Lipschitz()).radius
        radius = certify(graph, x, BranchAndBound(seconds=0.2, root_steps=10)).radius
        assert bool(((radius > 0) == (simple > 0)).all())


def test_domains_are_taken_and_joined_row_by_row() -> None:
    branching = _branching(question("three layers", 2.0, "box"))
    open_ = branching.open
    back = open_.take(torch.arange(2)).and_(open_.take(torch.arange(2, len(open_.sample))))
    assert isinstance(back, Domains)
    assert back.sample.tolist() == open_.sample.tolist()
    assert back.other.tolist() == open_.other.tolist()
    assert back.radius.tolist() == open_.radius.tolist()
    assert INPUT not in back.signs
    for key, raw in back.variables.raw.items():
        assert torch.equal(raw, open_.variables.raw[key])
