"""What every certificate must keep: held against exact smallest perturbations, and against points that are sought.

A check takes the certificates it is about; what it asks of them is fixed here, so that `tests/mutants` can run the same
checks on a broken library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from unittest.mock import patch

import torch
from torch import Tensor

from contracts.graphs import Builder
from oracles.balls import true_minimum
from oracles.milp import _Question, smallest_perturbation
from oracles.networks import random_conv_graph, random_relu_graph, random_smooth_graph
from pertbound.ascent import Ascent
from pertbound.branching import Branching, Domains
from pertbound.certificates import (
    BranchAndBound,
    Certificate,
    Interval,
    LinearRelaxation,
    Lipschitz,
    QuadraticRelaxation,
    certify,
)
from pertbound.forms import wide
from pertbound.graph import INPUT, Graph, in_float64
from pertbound.layers import Add, Concat, LeakyReLU, Shape, Sigmoid, Softplus
from pertbound.regions import Rest, Tighten, Views
from pertbound.relaxation import Ground
from pertbound.sets import Ball

NORMS = (1.0, 2.0, math.inf)
CERTIFICATES: dict[str, Certificate] = {
    "interval": Interval(),
    "linear, plain": LinearRelaxation(tighten=False),
    "linear": LinearRelaxation(),
    "quadratic": QuadraticRelaxation(steps=30),
    "quadratic, tight": QuadraticRelaxation(steps=30, tighten=True),
    "branch and bound": BranchAndBound(seconds=0.08, root_steps=20),
    "branch and bound, plain": BranchAndBound(seconds=0.08, root_steps=20, tighten=False),
}
"""Cheap ones of each kind."""


# --- networks and questions about them --------------------------------------------------------------------------------


def residual_graph(seed: int) -> Graph:
    """Ten ReLUs and a sum of two branches."""
    b = Builder((3,), seed)
    start = b.dense(5)
    b.activation("ReLU")
    b.dense(5)
    b.add(Add(), start, b.last)
    b.activation("ReLU")
    b.dense(3)
    return b.balanced()


def concatenated_graph(seed: int) -> Graph:
    """Twelve ReLUs and branches of different depth side by side."""
    b = Builder((3,), seed)
    b.dense(4)
    stem = b.activation("ReLU")
    b.dense(4, stem)
    deep = b.activation("ReLU")
    b.add(Concat(1), stem, deep)
    b.dense(4)
    b.activation("ReLU")
    b.dense(3)
    return b.balanced()


def _leaky(slope: float) -> Callable[[Shape], LeakyReLU]:
    return lambda shape: LeakyReLU(shape, slope)


KINDS: dict[str, Callable[[torch.Generator], Graph]] = {
    "linear": lambda g: random_relu_graph(g, (5, 4)),
    "two layers": lambda g: random_relu_graph(g, (4, 24, 3)),
    "three layers": lambda g: random_relu_graph(g, (3, 8, 8, 3)),
    "two classes": lambda g: random_relu_graph(g, (3, 10, 2)),
    "five classes": lambda g: random_relu_graph(g, (4, 12, 5)),
    "leaky 0.2": lambda g: random_relu_graph(g, (3, 6, 6, 3), activation=_leaky(0.2)),
    "leaky 3": lambda g: random_relu_graph(g, (3, 6, 6, 3), activation=_leaky(3.0)),
    "max pooling": lambda g: random_conv_graph(g, (1, 4, 4)),
    "residual": lambda g: residual_graph(int(torch.randint(1000, (1,), generator=g))),
    "concatenated": lambda g: concatenated_graph(int(torch.randint(1000, (1,), generator=g))),
    "float64": lambda g: random_relu_graph(g, (3, 6, 6, 3), dtype=torch.float64),
    "tanh": lambda g: random_smooth_graph(g, (3, 7, 3), 3.0),
    "sigmoid": lambda g: random_smooth_graph(g, (3, 6, 6, 3), 4.0, activation=Sigmoid),
    "softplus": lambda g: random_smooth_graph(g, (3, 6, 3), 3.0, activation=lambda shape: Softplus(shape, 3.0, 20.0)),
}
SMOOTH = ("tanh", "sigmoid", "softplus")
"""What the oracle does not know: there the nearest point that a search found has to do."""
BOXES = ("free", "box", "entries")
"""No box, one for all entries, and one for each entry."""


@dataclass(frozen=True, eq=False)
class Question:
    """Some samples of one network, and how far their classes are: from above, by a witness, and nearly exact."""

    name: str
    graph: Graph
    x: Tensor
    ball: Ball
    exact: Tensor
    witness: Tensor

    def radius(self, certificate: Certificate, **options: object) -> Tensor:
        """What a certificate says."""
        return certify(self.graph, self.x, certificate, within=self.ball, **options).radius  # type: ignore[arg-type]

    def demand_below(self, certificate: Certificate, **options: object) -> Tensor:
        """Radii that are numbers, at least 0 and at most the distance; returned as shares of it."""
        radius = self.radius(certificate, **options)
        assert radius.shape == self.exact.shape
        assert radius.dtype == torch.float64
        assert bool(torch.isfinite(radius).all()), f"{self.name}: {certificate.name} gives {radius.tolist()}"
        assert bool((radius >= 0).all()), f"{self.name}: {certificate.name} gives {radius.tolist()}"
        assert bool((radius <= self.exact).all()), (
            f"{self.name}: {certificate.name} certifies {radius.tolist()}, and witnesses are at {self.exact.tolist()}"
        )
        return radius / self.exact


@cache
def question(kind: str, p: float, box: str = "free", *, seed: int = 0, samples: int = 2) -> Question:
    """That question; samples whose class nothing can change are not taken."""
    generator = torch.Generator().manual_seed(1000 * seed + 17 * BOXES.index(box) + list(KINDS).index(kind))
    for _ in range(20):
        graph = KINDS[kind](generator)
        x = torch.randn(4 * samples, *graph.input_shape, generator=generator).to(graph.dtype)
        low, high = torch.tensor(-math.inf), torch.tensor(math.inf)
        if box == "box":
            x, low, high = x.sigmoid(), torch.tensor(0.0), torch.tensor(1.0)
        if box == "entries":
            low = -torch.rand(graph.input_shape, generator=generator) - 0.1
            high = torch.rand(graph.input_shape, generator=generator) + 0.1
            low.flatten()[0], high.flatten()[-1] = -math.inf, math.inf
            x = (0.3 * x).clamp(low, high).to(graph.dtype)
        ball = Ball(p=p, box=None if box == "free" else (low, high))
        reference = graph(x).argmax(1)
        found: list[tuple[Tensor, Tensor, float]] = []
        for one, own in zip(x, reference.tolist(), strict=True):
            witness, distance = _nearest(graph, one, own, p, ball.box, searched=kind in SMOOTH)
            if witness is not None:
                found.append((one, witness, distance))
            if len(found) == samples:
                points, witnesses, distances = zip(*found, strict=True)
                exact = torch.tensor(distances, dtype=torch.float64)
                name = f"{kind}, {ball}, seed {seed}"
                return Question(name, graph, torch.stack(points), ball, exact, torch.stack(witnesses))
    raise AssertionError(f"no samples whose class can change: {kind}, {box}")


def _nearest(
    graph: Graph, x: Tensor, reference: int, p: float, box: tuple[float | Tensor, float | Tensor] | None, searched: bool
) -> tuple[Tensor | None, float]:
    """The nearest point of another class, or one near it, and its distance."""
    if not searched:
        answer = smallest_perturbation(graph, x, reference, p=p, box=box)
        return answer.witness, answer.distance_upper
    asked = _Question(graph, x, reference, p, box)
    point = asked.search()
    return None if point is None else asked.sample(point), asked.distance(point)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_below_exact(certificate: Certificate, questions: Iterable[Question]) -> float:
    """At most the distance of every sample; the smallest share of it that was reached."""
    return min(float(asked.demand_below(certificate).min()) for asked in questions)


def check_linear_classifiers(certificate: Certificate, *, tolerance: float = 1e-3) -> None:
    """Exact where the network is one linear map: for every norm, with and without a box."""
    for p in NORMS:
        for box in BOXES:
            asked = question("linear", p, box, samples=4)
            share = asked.demand_below(certificate)
            assert float(share.min()) >= 1 - tolerance, f"{asked.name}: {certificate.name} reaches {share.tolist()}"


def check_evaluated(certificate: Certificate, asked: Question) -> None:
    """Every radius is one at which all of a sample's bounds were positive, as other arithmetic sees them as well.

    `Ground.proved` is where linear and quadratic radii come from: what it was given and what it answered is kept.
    """
    answers: list[Tensor] = []
    original = Ground.proved

    def spy(self: Ground, margin: Tensor, ball: Ball, x: Tensor, reach: Tensor, groups: Tensor) -> Tensor:
        found = original(self, margin, ball, x, reach, groups)
        assert bool((found <= reach).all()), f"{found.tolist()} is farther than the regions reach, {reach.tolist()}"
        for item, group in enumerate(groups.tolist()):
            eps = float(found[group])
            if eps > 0:
                bound = float(margin[item]) + _least(self, ball, x, item, eps)
                assert bound > 0, f"{asked.name}: at {eps!r} a bound is {bound!r}"
        answers.append(found)
        return found

    with patch.object(Ground, "proved", spy):
        radius = asked.radius(certificate)
    known = torch.cat([*answers, asked.radius(Lipschitz())])  # where every ascent begins
    for r in radius[radius > 0]:
        assert bool((known == r).any()), f"{asked.name}: {float(r)!r} was never proved"


def _least(ground: Ground, ball: Ball, x: Tensor, item: int, eps: float) -> float:
    """The least value of one item's ground within eps, in long double, but for what the entries' box forbids: that is
    left to rational arithmetic or bisection.
    """
    a, rest = ground.form.linear[item].flatten(), x[item].flatten()
    low, high = (-math.inf, math.inf) if ball.box is None else ball.box
    ends = (torch.as_tensor(e, dtype=torch.float64).expand(x[item].shape).flatten() for e in (low, high))
    _, least = true_minimum(ball.p, a, rest, *ends, eps)
    bent = 0.0
    if ground.form.curvature is not None:
        bent = float(ground.form.curvature[item]) / 2 * eps * eps * (len(a) if ball.p == math.inf else 1)
    return float(ground.constant[item]) + least - bent


def check_domains(
    asked: Question, generator: torch.Generator, *, seconds: float = 0.2, tighten: Tighten | None = None
) -> int:
    """Branch and bound from the inside: no wrong point is lost, none is in two domains, none is nearer than its domain.

    A point has the signs of the activations' inputs there. Sought are points of each wrong class around each sample.
    With `tighten` domains have boxes of their own. Returns the number of splits.
    """
    graph, ball = asked.graph, asked.ball
    rest = Rest.of(graph, asked.x)
    reference = rest.logits.argmax(1)
    start = asked.radius(LinearRelaxation())
    ascent = Ascent(Views(rest, ball, tighten), reference, start)
    ascent.climb(10)
    branching = Branching(ascent, torch.maximum(ascent.proved(), start), torch.full_like(start, torch.inf))
    closed: list[Domains] = []
    finish = branching._finish

    def spy(leaves: Domains, *options: object) -> object:
        closed.append(leaves.take(torch.arange(len(leaves.sample))))
        return finish(leaves, *options)  # type: ignore[arg-type]

    branching._finish = spy  # type: ignore[method-assign, assignment]
    splits = branching.run(seconds=seconds, ratio=1.0, steps=4, width=16)
    sample, points = _wrong_points(asked, generator)
    values = {INPUT: points}
    graph.derive(in_float64).run(points, lambda node, _, value: values.__setitem__(node.name, value))
    far = ball.norms(points - rest.x[sample])
    logits = values[graph.output.name]
    own = logits.gather(1, reference[sample][:, None]).squeeze(1)
    for row in range(len(points)):
        i = int(sample[row])
        for j in (logits[row] > own[row]).nonzero().flatten().tolist():
            home = _matching(branching.open, i, j, values, row)
            was = any(bool(_matching(leaves, i, j, values, row).any()) for leaves in closed)
            assert int(home.sum()) <= 1, f"a point is in {int(home.sum())} open domains"
            assert bool(home.any()) or was, f"a point of class {j} at {float(far[row])} is in no domain"
            for part in (branching.open, *closed):
                there = _matching(part, i, j, values, row)
                nearest = float(part.radius[there].max()) if bool(there.any()) else 0.0
                assert nearest <= far[row], f"a domain is certified up to {nearest}, and reached at {float(far[row])}"
            if not bool(home.any()):
                assert branching.exact[i] <= far[row], f"closed at {float(branching.exact[i])}, reached at {far[row]}"
        assert branching.lower[i] <= far[row], f"certified up to {branching.lower[i]}, reached at {far[row]}"
    return splits


def _matching(domains: Domains, sample: int, other: int, values: dict[str, Tensor], row: int) -> Tensor:
    """Which domains a point is in, (domains,) bool."""
    found = (domains.sample == sample) & (domains.other == other)
    for name, signs in domains.signs.items():
        found = found & ((signs * values[name][row]).flatten(1) >= 0).all(1)
    return found


def _wrong_points(asked: Question, generator: torch.Generator, *, count: int = 60) -> tuple[Tensor, Tensor]:
    """Points of other classes, not much farther away than the nearest, and the number of each one's sample."""
    x, ball = asked.x.to(torch.float64), asked.ball
    graph = asked.graph.derive(in_float64)
    reference = graph.run(x).argmax(1)
    sample = torch.arange(len(x)).repeat_interleave(2000)
    r = torch.randn(len(sample), *x.shape[1:], generator=generator, dtype=torch.float64)
    share = torch.rand(len(sample), generator=generator, dtype=torch.float64)
    r = r * wide(share.square() * asked.exact[sample] / ball.norms(r), r)
    points = (asked.witness + (asked.witness - x) * 0.01)[sample] + r
    if ball.box is not None:
        points = points.clamp(*(torch.as_tensor(end, dtype=torch.float64) for end in ball.box))
    wrong = (graph.run(points).argmax(1) != reference[sample]).nonzero().flatten()
    kept = torch.cat([wrong[sample[wrong] == i][:count] for i in range(len(x))])
    assert len(kept) >= count, "too few points: they say nothing"
    return sample[kept], points[kept]
