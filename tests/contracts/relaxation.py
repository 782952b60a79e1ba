"""What regions and backward substitution promise, on whole graphs: held against exact values at points that are sought.

Every point is an exact perturbation inside the ball (and box); the network's values there are computed in long double,
layer by layer, from each layer's formula. At every point every node must lie in its region, and the margin must be
above the quadratic function of the input that `pull_to_input` found, and above `Ground.lower` at the point's distance.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from contracts.cloud import KINDS, Ask, Cloud, MakeRegions, Pull
from oracles.exact import long
from oracles.whole import exact_values
from pertbound.forms import Regions, wide
from pertbound.graph import Graph
from pertbound.layers.piecewise import TwoPieces
from pertbound.regions import Rest, Tighten, Views
from pertbound.relaxation import pull_to_input
from pertbound.sets import Ball, Box

BALLS = (
    Ball(),
    Ball(p=math.inf),
    Ball(p=1.0),
    Ball(box=(-1.5, 1.5)),
    Ball(p=math.inf, box=(-1.5, 0.7)),
    Ball(p=1.0, box=(-1.0, 1.5)),
)


def usual_regions(rest: Rest, ball: Ball, eps: Tensor) -> Regions:
    """As they are."""
    return rest.regions(ball, eps)


def tightened_regions(rest: Rest, ball: Ball, eps: Tensor) -> Regions:
    """With boxes from linear relaxation, in small pieces."""
    return rest.regions(ball, eps, tighten=Tighten(2**18))


def bent_regions(rest: Rest, ball: Ball, eps: Tensor) -> Regions:
    """With boxes from quadratic relaxation, in small pieces."""
    return rest.regions(ball, eps, tighten=Tighten(2**18, curved=True))


def kept_regions(rest: Rest, ball: Ball, eps: Tensor) -> Regions:
    """From tightened boxes that were made for other radii before."""
    views, rows = Views(rest, ball, Tighten(2**18)), torch.arange(len(eps))
    for share in (0.3, 2.0, 1.5):
        views.regions(rows, share * eps)
    return views.regions(rows, eps)


def check_relaxation(
    graph: Graph,
    ball: Ball,
    generator: torch.Generator,
    *,
    pull: Pull = pull_to_input,
    make: MakeRegions = usual_regions,
) -> float:
    """Regions and bounds at the worst points found. Returns how much of the largest gap of a bound was left, at best:
    the smallest difference of margin and bound in units of how far the margin can fall.
    """
    question = Ask.of(graph, ball, generator, make)
    cloud = question.points_for_regions(generator)
    bounds = [question.bound(kind, pull, generator) for kind in KINDS]
    for bound in bounds[int(torch.randint(2, (1,), generator=generator)) :: 2]:  # the others meet these points as well
        cloud = cloud.joined(question.points_for_bound(bound, generator))
    return question.judge(bounds, cloud)


def check_on_a_grid(
    graph: Graph,
    ball: Ball,
    generator: torch.Generator,
    *,
    pull: Pull = pull_to_input,
    make: MakeRegions = usual_regions,
) -> float:
    """The same where the input has one or two entries: at every point of a grid, and at its ends."""
    question = Ask.of(graph, ball, generator, make)
    n = math.prod(graph.input_shape)
    ticks = torch.linspace(-1, 1, 25 if n == 2 else 201, dtype=torch.float64)
    grid = torch.cartesian_prod(*[ticks] * n).reshape(-1, n)
    grid = torch.cat([grid, torch.nn.functional.normalize(grid[grid.abs().amax(1) == 1], dim=1)])
    sample = torch.arange(len(question.rest.x)).repeat_interleave(len(grid))
    r = grid.repeat(len(question.rest.x), 1).reshape(-1, *graph.input_shape)
    cloud = question.cloud(r * wide(question.eps[sample], r), sample)
    return question.judge([question.bound(kind, pull, generator) for kind in KINDS], cloud)


def check_domain(graph: Graph, ball: Ball, generator: torch.Generator, *, pull: Pull = pull_to_input) -> int:
    """The same of regions cut at 0 in front of activations with two pieces, for points on that side; returns how many.

    A few entries keep the signs that they have at one point: those at rest may be others.
    """
    question = Ask.of(graph, ball, generator, usual_regions)
    every = torch.arange(len(question.rest.x))
    corner = question.move_inside(question.corners(every, generator), every)
    there, signs = question.observed(question.rest.x + corner), {}
    for name in [node.inputs[0] for node in graph.nodes if isinstance(node.layer, TwoPieces)]:
        rest = question.rest.values[name]
        chosen = torch.rand(rest.shape, generator=generator) < 2 / rest[0].numel()
        sign = signs[name] = torch.where(chosen, there[name].reshape(rest.shape).sign(), 0.0)
        box = question.regions[name].box
        lower = torch.where(sign > 0, box.lower.clamp_min(0.0), box.lower)
        upper = torch.where(sign < 0, box.upper.clamp_max(0.0), box.upper)
        question.regions[name] = replace(question.regions[name], box=Box(lower, upper))
    bounds = [question.bound(kind, pull, generator) for kind in KINDS]
    cloud = question.points_for_regions(generator)
    for bound in bounds[int(torch.randint(2, (1,), generator=generator)) :: 2]:  # the others meet these points as well
        cloud = cloud.joined(question.points_for_bound(bound, generator))
    for share in (1.0, 0.99, 0.7):
        cloud = cloud.joined(question.cloud(share * corner, every))
    values = exact_values(graph, cloud.at)
    inside = np.ones(len(cloud.sample), bool)
    for name, sign in signs.items():
        inside &= (values[name] * long(sign[cloud.sample]) >= 0).reshape(len(inside), -1).all(1)
    cloud = Cloud(cloud.sample[torch.from_numpy(inside)], cloud.r[inside], cloud.at[inside])
    if inside.any():
        question.judge(bounds, cloud)
    return int(inside.sum())
