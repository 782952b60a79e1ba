"""What each layer's step costs: the error of bounding a network layer by layer, divided among the layers.

Peck et al. (2017) leave open how large "the approximation errors incurred by this layer-wise approach" are. Both ways
of going through a graph have an answer: backwards, where a margin is pulled down to the input (`relaxation.py`), and
forwards, where a radius is pushed up to the logits (`push.py`). Both answers compare what a layer's step says with what
the layer does at one perturbed input. They are diagnoses, not bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.ascent import Ascent, Items, numbered
from pertbound.certificates import QuadraticRelaxation
from pertbound.certificates.base import L2
from pertbound.certificates.relaxed import MEMORY, relaxed, samples_at_once
from pertbound.environment import known_state
from pertbound.errors import InputError
from pertbound.forms import Form, Regions, norms, wide
from pertbound.graph import INPUT, Graph, in_float64
from pertbound.problem import Problem
from pertbound.push import Push
from pertbound.regions import Rest
from pertbound.relaxation import Ground
from pertbound.sets import Ball

DECISION = "decision"
"""The last entry of `LayerFactors.nodes`: from the logits' movement to that of the difference of two of them."""
DESCENTS = 20
"""Steps towards the worst input of a ball."""


@final
@dataclass(frozen=True, eq=False)
class LayerLosses:
    """Where a certificate that pulls margins backwards loses: the margin of each sample, divided among the layers.

    Every step replaces the form of a node's displacement by forms of its inputs' displacements and a constant that are
    together never larger (docs/theory.md). At one perturbed input z the difference of the two is a number >= 0, what
    the step loses at z, and all of them telescope:

        margin at x = (margin at x - margin at z) + sum of what the steps lose at z + what is left of the bound.

    z is the input with the smallest margin that was found in the ball of the certified radius, so that the first term,
    `real`, is what no certificate of that radius could save. If the bound is exact, nothing is lost. A linear layer's
    step loses nothing unless curvature passes through it. What a step leaves as its constant alone would not say this:
    it is part of the cost that the rest passes on, such as curvature, which is paid for at the input.
    """

    nodes: tuple[str, ...]
    """"input", where the ball is, and the graph's nodes in order."""
    layers: tuple[str, ...]
    """The kind of each: "Ball", and the names of the layers' classes."""
    radius: Tensor
    """Certified by the pulled margins, in the norm asked about, (samples,) float64; where it is 0, all else is NaN."""
    other: Tensor
    """The wrong class that holds the sample back, (samples,) int64; -1 where there is none."""
    margin: Tensor
    """logit[reference] - logit[other] at the sample, (samples,)."""
    real: Tensor
    """How much of it is gone at z, (samples,)."""
    lost: Tensor
    """What each step loses at z, (samples, nodes); >= 0 up to rounding."""
    left: Tensor
    """What the bound still is at the radius, (samples,): next to nothing, unless the climb ended early."""
    method: str

    @property
    def share(self) -> Tensor:
        """`lost` as parts of the margin, (samples, nodes)."""
        return self.lost / self.margin[:, None]


@final
@dataclass(frozen=True, eq=False)
class LayerFactors:
    """Where the Lipschitz certificate loses: how much larger each radius is than the movement at a known input.

    For a perturbed input the *looseness* of a node is the radius that is pushed to it, over how far its value really
    moves (L2); >= 1. A layer's *factor* is its own looseness over that of its inputs (the root of the sum of squares
    where there are several): how much its step adds. It is below 1 where a joint norm of several layers makes up for
    what an earlier one lost. Along a chain the factors multiply to the looseness of the decision. Where moduli are
    proportional to the radius, as without smooth activations, that is the distance to the input over the certified
    radius, provided that the input lies on the boundary to the class that holds the certificate back.
    """

    nodes: tuple[str, ...]
    """"input" (the ball's L2 radius over the perturbation's L2 norm: 1 in L2), the graph's nodes, and "decision"."""
    layers: tuple[str, ...]
    """The kind of each: "Ball", the names of the layers' classes, and "Decision"."""
    looseness: Tensor
    """(samples, nodes) float64; NaN for samples that are not moved, infinite where a node does not move."""
    factor: Tensor
    """(samples, nodes) float64; NaN where a node and its inputs do not move."""


@known_state()
def layer_losses(
    network: Graph,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    certificate: QuadraticRelaxation = QuadraticRelaxation(),  # noqa: B008 - frozen
    within: Ball = L2,
    adversarial: Tensor | None = None,
) -> LayerLosses:
    """What each layer's step loses at the certified radius of each sample of x (samples, *input_shape).

    `certificate` says how far the free variables climb; its radius is the one that this is about, unless that is
    Lipschitz's. `adversarial`, of x's shape, may hold known witnesses: the worst input is also sought on the way to
    them. Costs a little more than the certificate. Raises `InputError` as `pb.certify` does.
    """
    problem = Problem(network, x, labels, within)
    _require_alike(x, adversarial)
    asked: list[Tensor] = []
    parts: list[_Part] = []

    def work(rest: Rest, reference: Tensor, lipschitz: Tensor, upper: Tensor) -> Tensor:
        ascent = certificate.climbed(rest, within, reference, lipschitz, upper)
        hint = None if adversarial is None else adversarial[asked[-1]].to(torch.float64)
        parts.append(_divided(ascent, hint))
        return parts[-1].radius

    simple = relaxed(problem, certificate.name, certificate.memory, work, asked.append)

    def every(kind: str, missing: float, *shape: int) -> Tensor:
        found = [getattr(part, kind) for part in parts]
        whole = simple.radius.new_full((len(x), *shape), missing).to(found[0].dtype if found else torch.float64)
        if found:
            whole[torch.cat(asked)] = torch.cat(found)
        return whole

    return LayerLosses(
        nodes=(INPUT, *(node.name for node in network.nodes)),
        layers=("Ball", *(type(node.layer).__name__ for node in network.nodes)),
        radius=every("radius", 0.0),
        other=every("other", -1).to(torch.int64),
        margin=every("margin", torch.nan),
        real=every("real", torch.nan),
        lost=every("lost", torch.nan, len(network.nodes) + 1),
        left=every("left", torch.nan),
        method=certificate.name,
    )


@known_state()
def layer_factors(network: Graph, x: Tensor, adversarial: Tensor, *, within: Ball = L2) -> LayerFactors:
    """How much larger each layer's pushed radius is than its movement from x to `adversarial`, both (samples, *shape).

    The radius at the input is that of the ball of `within` that just holds the perturbed input. Costs two forward
    passes once the network's norms are known. Raises `InputError` for inputs that do not fit the network.
    """
    Problem(network, x)
    _require_alike(x, adversarial)
    nodes = (INPUT, *(node.name for node in network.nodes), DECISION)
    layers = ("Ball", *(type(node.layer).__name__ for node in network.nodes), "Decision")
    with torch.no_grad():
        size = samples_at_once(network, MEMORY)
        parts = [
            _factors(network, some.detach().clone(), z.detach().to(torch.float64), within)
            for some, z in zip(x.split(size), adversarial.split(size), strict=True)
        ]
    looseness, factor = (torch.cat(part) for part in zip(*parts, strict=True))
    return LayerFactors(nodes, layers, looseness, factor)


def _factors(network: Graph, x: Tensor, z: Tensor, within: Ball) -> tuple[Tensor, Tensor]:
    """`looseness` and `factor` of `LayerFactors` for some samples."""
    push, names = network.derive(Push), (INPUT, *(node.name for node in network.nodes))
    rest, moved = Rest.of(network, x), _values(network.derive(in_float64), z)
    reach = within.l2_radius(within.norms(z - rest.x), network.input_shape)[:, None]
    radii = push.radii(reach, rest.summary)
    movement = {name: norms(moved[name] - rest.values[name])[:, None] for name in names}
    loose = [radii[name] / movement[name] for name in names]
    factors = [loose[0]]
    for node, own in zip(network.nodes, loose[1:], strict=True):
        reached, went = (torch.cat([some[name] for name in node.inputs], 1) for some in (radii, movement))
        factors.append(own / (reached.norm(dim=1, keepdim=True) / went.norm(dim=1, keepdim=True)))
    reference = rest.logits.argmax(1)
    against = moved[network.output.name].scatter(1, reference[:, None], -torch.inf).argmax(1, keepdim=True)
    step = moved[network.output.name] - rest.logits
    change = (step.gather(1, reference[:, None]) - step.gather(1, against)).abs()
    loose.append(push.changes(rest.summary, reference)(reach).gather(1, against) / change)
    factors.append(loose[-1] / loose[-2])
    still = movement[INPUT] == 0
    looseness, factor = (torch.cat(parts, 1).masked_fill(still, torch.nan) for parts in (loose, factors))
    return looseness, factor


def step_losses(graph: Graph, ground: Ground, regions: Regions, moved: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each node's step of `ground` loses where the nodes are displaced by `moved`, (items,) for each node.

    A step's loss is the form at the node's displacement less what it was replaced by: 0 or more where the displacements
    are those of an input that the regions hold for.
    """
    lost: dict[str, Tensor] = {}
    for node in graph.nodes:
        above = ground.forms.get(node.name)
        if above is None:
            lost[node.name] = torch.zeros_like(ground.constant)
            continue
        inputs = tuple(regions[name] for name in node.inputs)
        pulled = node.layer.pull_back(above, inputs, regions[node.name], ground.duals[node.name])
        below = [_value(form, moved[name]) for form, name in zip(pulled.forms, node.inputs, strict=True)]
        lost[node.name] = _value(above, moved[node.name]) - sum(below, pulled.constant)
    return lost


@final
@dataclass(frozen=True, eq=False)
class _Part:
    """The tensors of `LayerLosses` for some samples."""

    radius: Tensor
    other: Tensor
    margin: Tensor
    real: Tensor
    left: Tensor
    lost: Tensor


def _divided(ascent: Ascent, hint: Tensor | None) -> _Part:
    """What was climbed to, evaluated at the worst input that is found; NaN where nothing was proved."""
    sample, every = ascent.sample, numbered(ascent.sample)
    reach = ascent.aim * 1.001  # as `Ascent.proved` has it
    items = Items.of(ascent.views, ascent.reference, sample, ascent.other, reach, torch.float64)
    before = ascent.variables.take(every)
    ascent.proved()  # items that were left behind climb once more, which need not do them good
    each = torch.stack([items.proved(some, every, items.reach) for some in (before, ascent.variables)])
    worse = (each[0] > each[1]).nonzero().flatten()
    ascent.variables.put(worse, before.take(worse))
    radius = ascent.smallest(each.amax(0))
    ground = items.ground(ascent.variables)
    bound = items.margin + ground.lower(items.ball, items.regions[INPUT].value, radius[sample])
    rows = bound.reshape(len(radius), -1).argmin(1) + numbered(radius) * (ascent.views.rest.graph.classes - 1)
    items, variables = items.take(rows), ascent.variables.take(rows)
    graph, x = items.rest.graph, items.regions[INPUT].value
    ground = items.ground(variables)
    starts = [_least(items.ball, ground.form.linear, x, radius)]
    if hint is not None:
        size = items.ball.norms(hint - x)
        starts.append((hint - x) * wide(torch.where(size > 0, radius / size, 0.0).clamp_max(1.0), x))
    move = _worst(items, radius, starts)
    at = _values(graph.derive(in_float64), x + move)
    moved = {name: at[name] - region.value for name, region in items.regions.items()}
    lower = ground.lower(items.ball, x, radius)
    steps = step_losses(graph, ground, items.regions, moved)
    lost = [ground.constant + _value(ground.form, moved[INPUT]) - lower, *steps.values()]
    real = -_value(items.form, moved[graph.output.name])
    nothing, left = radius == 0, items.margin + lower
    margin, real, left = (part.masked_fill(nothing, torch.nan) for part in (items.margin, real, left))
    other = ascent.other[rows].masked_fill(nothing, -1)
    return _Part(radius, other, margin, real, left, torch.stack(lost, 1).masked_fill(nothing[:, None], torch.nan))


def _worst(items: Items, radius: Tensor, starts: list[Tensor]) -> Tensor:
    """The perturbation within the ball with the smallest margin that a few conditional gradient steps find.

    Frank and Wolfe 1956: the next point lies between the present one and the least point of the linearised margin; a
    convex combination of points of the ball and box, so it never leaves them.
    """
    graph, x = items.rest.graph.derive(in_float64), items.regions[INPUT].value
    best, least = torch.zeros_like(x), torch.full_like(radius, torch.inf)
    for move in starts:
        for step in range(DESCENTS):
            with torch.enable_grad():
                z = (x + move).requires_grad_(True)
                margin = (graph.run(z) * items.form.linear).sum(1)
                (slope,) = torch.autograd.grad(margin.sum(), z)
            better = margin.detach() < least
            best, least = torch.where(wide(better, x), move, best), torch.where(better, margin.detach(), least)
            move = move + (_least(items.ball, slope, x, radius) - move) * (2 / (step + 2))
    return best


def _least(ball: Ball, a: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """The point r of the ball with the least <a, r>, (items, *shape)."""
    with torch.enable_grad():
        a = a.detach().clone().requires_grad_(True)
        (move,) = torch.autograd.grad(ball.minimum(a, x, radius).sum(), a)
    return move


def _value(form: Form, move: Tensor) -> Tensor:
    """What the form is at a displacement (items, *shape); (items,)."""
    linear = (form.linear * move).flatten(1).sum(1)
    return linear if form.curvature is None else linear - form.curvature / 2 * move.flatten(1).square().sum(1)


def _values(graph: Graph, x: Tensor) -> dict[str, Tensor]:
    """The value of every node at x, in the graph's precision."""
    values = {INPUT: x}

    def keep(node: object, _: object, value: Tensor) -> None:
        values[node.name] = value  # pyright: ignore[reportAttributeAccessIssue]

    with torch.no_grad():
        graph.run(x, keep)
    return values


def _require_alike(x: Tensor, adversarial: Tensor | None) -> None:
    if adversarial is not None and adversarial.shape != x.shape:
        raise InputError(
            f"adversarial inputs must have the samples' shape {tuple(x.shape)}, got {tuple(adversarial.shape)}"
        )
