"""Entrywise operators as they are read, against their definitions: computed values, interval bounds, relaxations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import mpmath
import torch
from mpmath import mpf
from torch import Tensor

from oracles.formulas import Formula
from pertbound.forms import Duals, Form, Region
from pertbound.frontends.aten import graph_of
from pertbound.frontends.program import Call, Program, Ref
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Activation
from pertbound.push import Push
from pertbound.regions import Rest, take
from pertbound.relaxation import pull_to_input
from pertbound.sets import Ball, Box


def graph_for(formula: Formula, dtype: torch.dtype = torch.float32) -> Graph:
    """Two entries, each through the operator."""
    call = Call("y", f"aten.{formula.target}.default", {"self": Ref("x"), **formula.arguments})
    return graph_of(Program("x", (2, 2), {}, (call,), "y"), dtype, None)[0]


@dataclass(frozen=True)
class Known:
    """Points in increasing order, and what the operator makes of them exactly."""

    points: Tensor
    values: list[mpf]

    def between(self, low: float, high: float) -> list[int]:
        """The numbers of the points in [low, high]."""
        inside = (self.points >= low) & (self.points <= high)
        return inside.nonzero().flatten().tolist()


def known(formula: Formula, dtype: torch.dtype) -> Known:
    """Points of that dtype: everywhere, and closer and closer to each feature."""
    near = [1 + sign * 2.0**-s for s in (24, 23, 22, 20, 16, 10, 5, 2) for sign in (-1, 1)]
    near += [1 + sign * k * 2.0**-52 for k in (1, 2, 3) for sign in (-1, 1)]
    found = [place * n for place in formula.features for n in (1.0, *near)]
    found += [place + sign * 2.0**-s for place in formula.features for s in (40, 20, 10, 4, 1) for sign in (-1, 1)]
    found += [*torch.linspace(-12, 12, 49).tolist(), -100.0, -30.0, 30.0, 100.0]
    points = torch.tensor(found, dtype=torch.float64).to(dtype).unique().to(torch.float64)
    return Known(points, [formula.value(mpf(z)) for z in points.tolist()])


def check_forward(graph: Graph, formula: Formula, dtype: torch.dtype) -> None:
    """Computed outputs are off by at most what the push says of radius 0."""
    at = known(formula, dtype)
    x = torch.stack([at.points, at.points.flip(0)], 1).to(dtype)
    push, last = Push(graph), graph.output.name
    computed, summary = push.summarise(x)
    allowed = push.radii(torch.zeros(len(x), 1, dtype=torch.float64), summary)[last].flatten().tolist()
    for row, most, one, two in zip(computed.tolist(), allowed, at.values, at.values[::-1], strict=True):
        off = mpmath.sqrt((mpf(row[0]) - one) ** 2 + (mpf(row[1]) - two) ** 2)
        assert off <= most, f"computed {row} for {float(one)!r}, {float(two)!r}: off by {float(off):.3g} > {most:.3g}"


def check_interval(graph: Graph, formula: Formula, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Boxes between any two points hold the values of all points between them."""
    at = known(formula, dtype)
    count = len(at.points)
    ends = torch.randint(count, (200, 2), generator=generator).sort(1).values
    ends[:100, 1] = (ends[:100, 0] + torch.randint(4, (100,), generator=generator)).clamp_max(count - 1)
    lower, upper = (at.points[ends[:, i]].to(dtype)[:, None].expand(-1, 2).contiguous() for i in (0, 1))
    box = Box(lower, upper)
    with torch.no_grad():
        for node in graph.nodes:
            box = node.layer.interval(box)
    for (first, last), low, high in zip(ends.tolist(), box.lower[:, 0].tolist(), box.upper[:, 0].tolist(), strict=True):
        values = at.values[first : last + 1]
        assert low <= min(values), f"from {at.points[first]} to {at.points[last]}: {low!r} > {float(min(values))!r}"
        assert high >= max(values), f"from {at.points[first]} to {at.points[last]}: {high!r} < {float(max(values))!r}"


def check_relaxation(graph: Graph, formula: Formula, generator: torch.Generator, items: int = 40) -> None:
    """Lower bounds of random forms over boxes are not above what the points in the box give, whatever the lines are."""
    at, ball = known(formula, torch.float64), Ball(p=math.inf)
    inner = [i for i, z in enumerate(at.points.tolist()) if abs(z) <= 13]
    which = torch.tensor(inner)[torch.randint(len(inner), (items, 2), generator=generator)]
    x = at.points[which]
    width = 10.0 ** torch.randint(-9, 1, (items,), generator=generator).to(torch.float64)
    rest = Rest.of(graph, x)
    regions = take(rest.regions(ball, width), torch.arange(items))
    a = torch.randn(items, 2, generator=generator, dtype=torch.float64)
    for curved in (False, True):
        size = torch.rand(items, generator=generator, dtype=torch.float64) * 10.0 if curved else None

        def choose(node: Node, inputs: tuple[Region, ...], form: Form, size: Tensor | None = size) -> Duals:
            found = node.layer.start(inputs, form, curvature=size)
            if isinstance(node.layer, Activation) and found.slope is not None:
                other = 1.4 * torch.rand(found.slope.shape, generator=generator, dtype=torch.float64) - 0.2
                keep = torch.rand(found.slope.shape, generator=generator) < 0.5
                found = replace(found, slope=torch.where(keep, found.slope, other * node.layer.steepest))
            return found

        form = Form(a, size)
        with torch.no_grad():
            ground = pull_to_input(graph, form, graph.output.name, regions, choose)
        value = regions[graph.output.name].value
        for item in range(items):
            left = -mpf(float(ground.constant[item]))
            for entry in range(2):
                low, high = (float(end[item, entry]) for end in (regions[INPUT].box.lower, regions[INPUT].box.upper))
                out = _Parabola(form, value, item, entry)
                into = _Parabola(ground.form, regions[INPUT].value, item, entry)
                places = [(at.points[i].item(), at.values[i]) for i in at.between(low, high)]
                places += [(z, formula.value(mpf(z))) for z in (low, high)]
                left += min(out(v) - into(mpf(z)) for z, v in places)
            assert left >= 0, f"a relaxation over [{low}, {high}] is above the function by {float(-left):.3g}"


class _Parabola:
    """<a, d> - q/2 d^2 of one entry, d the way from its value at rest."""

    def __init__(self, form: Form, rest: Tensor, item: int, entry: int) -> None:
        self.slope, self.rest = mpf(float(form.linear[item, entry])), mpf(float(rest[item, entry]))
        self.bow = mpf(0 if form.curvature is None else float(form.curvature[item]))

    def __call__(self, z: mpf) -> mpf:
        d = z - self.rest
        return self.slope * d - self.bow / 2 * d * d
