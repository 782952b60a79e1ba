"""Ways to regions, and through a graph to its input, with one thing wrong each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from contracts.cloud import MakeRegions, Pull
from contracts.graphs import Builder, convolutional, mlp, residual
from contracts.relaxation import usual_regions
from pertbound.forms import Form, Region, Regions
from pertbound.graph import Graph
from pertbound.layers import Add
from pertbound.regions import Rest
from pertbound.relaxation import Ground, pull_to_input
from pertbound.sets import Ball, Box


def _counted_once(*given: Any, **options: Any) -> Ground:
    """Of a node that is read twice, one reader's form."""
    with patch.object(Form, "__add__", lambda _, other: other):
        return pull_to_input(*given, **options)


def _curvature_once(*given: Any, **options: Any) -> Ground:
    """Of a node that is read twice, the larger curvature instead of the sum."""

    def largest(self: Form, other: Form) -> Form:
        if self.curvature is None or other.curvature is None:
            return Form(self.linear + other.linear, self.curvature if other.curvature is None else other.curvature)
        return Form(self.linear + other.linear, torch.maximum(self.curvature, other.curvature))

    with patch.object(Form, "__add__", largest):
        return pull_to_input(*given, **options)


def _first_step_free(*given: Any, **options: Any) -> Ground:
    """What the node next to the input cost is forgotten."""
    ground = pull_to_input(*given, **options)
    costs = [cost for name, cost in ground.spent.items() if not name.startswith(("dense", "conv"))]
    return Ground(ground.form, ground.constant - costs[-1], ground.duals, ground.spent)


class _Flat(Ground):
    """The last step without curvature."""

    def lower(self, ball: Ball, x: Tensor, eps: Tensor) -> Tensor:
        return Ground(Form(self.form.linear), self.constant).lower(ball, x, eps)


class _Euclidean(Ground):
    """Curvature times eps^2 in every ball."""

    def lower(self, ball: Ball, x: Tensor, eps: Tensor) -> Tensor:
        flat = Ground(Form(self.form.linear), self.constant).lower(ball, x, eps)
        return flat if self.form.curvature is None else flat - self.form.curvature / 2 * eps * eps


LAST_STEPS: dict[str, tuple[type[Ground], Ball]] = {
    "without curvature": (_Flat, Ball()),
    "Euclidean": (_Euclidean, Ball(p=math.inf)),
}


def _smaller_ball(rest: Rest, ball: Ball, eps: Tensor) -> Regions:
    """Regions for 99 % of the radius."""
    return rest.regions(ball, 0.99 * eps)


def _boxes_only(rest: Rest, ball: Ball, eps: Tensor) -> Regions:
    """Boxes taken to be balls: each node's radius is the largest half width."""

    def radius(region: Region) -> Tensor:
        half = torch.maximum(region.box.upper - region.value, region.value - region.box.lower)
        return torch.minimum(region.radius, half.flatten(1).amax(1))

    return {name: replace(region, radius=radius(region)) for name, region in rest.regions(ball, eps).items()}


def _centred(rest: Rest, ball: Ball, eps: Tensor) -> Regions:
    """Boxes moved to have the value in their middle."""
    found = rest.regions(ball, eps)
    for name, region in found.items():
        half = (region.box.upper - region.box.lower) / 2
        found[name] = replace(region, box=Box(region.value - half, region.value + half))
    return found


@dataclass(frozen=True)
class GraphMutant:
    """A broken way to regions or bounds, and the graph and the ball at which it shows."""

    graph: Graph
    ball: Ball
    pull: Pull = pull_to_input
    make: MakeRegions = usual_regions


def _doubled() -> Graph:
    """x + x, and a little more."""
    b = Builder((3,), 3)
    b.add(Add(), "input", "input")
    return b.graph()


def graph_mutants() -> dict[str, GraphMutant]:
    """All of them, by what is wrong."""
    images = convolutional("ReLU", "overlapping max", seed=11)
    boxed, everywhere = Ball(p=math.inf, box=(-1.5, 0.7)), Ball()
    return {
        "a node read twice counted once": GraphMutant(residual("ReLU", seed=7), everywhere, _counted_once),
        "curvature of a node read twice": GraphMutant(_doubled(), everywhere, _curvature_once),
        "a step that costs nothing": GraphMutant(mlp(3, "ReLU", seed=3), everywhere, _first_step_free),
        "99 % of the radius": GraphMutant(mlp(2, "Softplus 1", seed=3), everywhere, make=_smaller_ball),
        "99 % of the radius, images": GraphMutant(images, Ball(p=1.0), make=_smaller_ball),
        "boxes for balls": GraphMutant(mlp(3, "LeakyReLU 3", seed=3), everywhere, make=_boxes_only),
        "centred boxes": GraphMutant(mlp(3, "ReLU", seed=3), boxed, make=_centred),
    }
