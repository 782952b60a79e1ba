"""What is known of every node's value when the input moves within a ball: boxes and radii, per sample."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from pertbound.environment import denormals_flushed
from pertbound.forms import Form, Region, Regions, Signs, norms, wide
from pertbound.graph import INPUT, Graph, Node
from pertbound.layers import Linear
from pertbound.numerics import SLACK, UNIT64
from pertbound.push import Push, Summary
from pertbound.relaxation import pull_to_input
from pertbound.sets import Ball, Box

STALE = 0.7
"""Tightened boxes are computed anew when the radius falls below this part of the one that they were made for."""
FORESIGHT = 1.1
"""They are made for a radius that is larger than the present one by this factor."""
MANY = 16
"""Entries for each sample, on average, from which on one sample is tightened after the other."""
BENT = 0.7
"""With curvature, tightening starts with that of a value of this part of half the box's width."""


@final
@dataclass(frozen=True)
class Tighten:
    """That boxes are to be tightened by backward substitution up to their nodes, in so many bytes of `memory`.

    Nodes of more than `entries` entries are left out. With `curved` by quadratic relaxation, as its layers start it:
    for L2 that is much tighter than linear relaxation where many entries are undecided. Only float64 is sound.
    """

    memory: int
    entries: float = math.inf
    curved: bool = False
    dtype: torch.dtype = torch.float64


@final
@dataclass(frozen=True, eq=False)
class Rest:
    """A batch of samples at rest, in float64: the values of all nodes, and what the push needs to know of them."""

    graph: Graph
    values: dict[str, Tensor]
    summary: Summary

    @staticmethod
    def of(graph: Graph, x: Tensor) -> Rest:
        """Run the batch x (samples, *input_shape) once."""
        values = {INPUT: x.to(torch.float64)}

        def keep(node: Node, _: tuple[Tensor, ...], value: Tensor) -> None:
            values[node.name] = value

        _, summary = graph.derive(Push).summarise(values[INPUT], keep)
        return Rest(graph, values, summary)

    @property
    def x(self) -> Tensor:
        """The samples."""
        return self.values[INPUT]

    @property
    def logits(self) -> Tensor:
        """The logits, (samples, classes)."""
        return self.values[self.graph.output.name]

    def take(self, rows: Tensor) -> Rest:
        """The samples of those rows."""
        noise: dict[str, Tensor | float] = {
            name: v[rows] if isinstance(v, Tensor) else v for name, v in self.summary.noise.items()
        }
        steepest = {name: v[rows] for name, v in self.summary.steepest.items()}
        jacobian = {name: v[rows] for name, v in self.summary.jacobian.items()}
        values = {name: v[rows] for name, v in self.values.items()}
        return Rest(self.graph, values, Summary(noise, steepest, jacobian))

    def drift(self, ball: Ball, eps: Tensor, reference: Tensor) -> Tensor:
        """How much less logit[reference] - logit[other] can be than this graph's, (samples, classes).

        0 but for graphs whose weights are `rounded`. Then, at any input within `ball` of radius eps (samples,), a layer
        is off by at most what `Layer.noise` says of inputs as large as they can be there, and the push takes that to
        the logits. What holds at the sample only (slopes, Jacobians) is left out.
        """
        graph = self.graph
        if not graph.rounded:
            return torch.zeros_like(self.logits)
        push, eps = graph.derive(Push), eps.to(torch.float64)
        radii = push.radii(ball.l2_radius(eps, graph.input_shape)[:, None], self.summary)
        sizes = {
            name: norms(v)[:, None] * (1 + 1e-9) + v[0].numel() * 2.0**-500 + radii[name]
            for name, v in self.values.items()
        }
        noise: dict[str, Tensor | float] = dict.fromkeys((node.name for node in graph.nodes), 0.0)
        for node in graph.nodes:
            if node.layer.rounds:
                noise[node.name] = node.layer.noise(*(sizes[name] for name in node.inputs), unit=UNIT64)
        return push.changes(Summary(noise, {}, {}), reference)(torch.zeros_like(eps)[:, None]) * (1 + SLACK)

    def regions(
        self, ball: Ball, eps: Tensor, *, tighten: Tighten | None = None, signs: Signs | None = None
    ) -> Regions:
        """The regions for inputs within `ball` of radius eps (samples,) around each sample; float64, sound.

        At every node the box is the intersection of what intervals say (`Layer.interval` of the boxes before), what the
        radius of the node says, and, behind a linear layer, what the radius of its input and the norm of each row say.
        With `tighten` also of what a relaxation says of the entries that the layer reading them is undecided about.
        All of these hold the node's exact value at the sample, so no intersection is empty.

        With `signs` the regions are those of inputs that give these entries these signs. Then intersections can be
        empty, lower > upper (`empty`): no such input exists, and all else that is said of that sample is idle.
        """
        graph, eps = self.graph, eps.to(torch.float64)
        pushed = graph.derive(Push).radii(ball.l2_radius(eps, graph.input_shape)[:, None], self.summary)
        # all but the input's are computed, and rounded
        radii = {name: radius if name == INPUT else radius * (1 + SLACK) for name, radius in pushed.items()}
        readers = {name: node.layer for node in graph.nodes for name in node.inputs}
        zero = torch.zeros_like(eps)
        at_input = Region(self.x, ball.bounds(self.x, eps), radii[INPUT].squeeze(1), zero)
        found: Regions = {INPUT: at_input if signs is None else cut(at_input, signs.get(INPUT))}
        for node in graph.nodes:
            value, radius = self.values[node.name], radii[node.name].squeeze(1)
            noise = self.summary.noise[node.name]
            noise = noise.squeeze(1) if isinstance(noise, Tensor) else zero + noise
            reach = wide(radius, value)
            if isinstance(node.layer, Linear) and node.layer.terms:
                rows = wide(radii[node.inputs[0]], value) * node.layer.row_norms_upper.to(value.device)
                reach = torch.minimum(reach, (rows + wide(noise, value)) * (1 + 1e-12))
            box = node.layer.interval(*(found[name].box for name in node.inputs))
            found[node.name] = Region(value, _within(box, value, reach), radius, noise)
            small = tighten is not None and value[0].numel() <= tighten.entries
            if tighten is not None and small and node.name in readers and any(name != INPUT for name in node.inputs):
                undecided = readers[node.name].undecided(found[node.name].box)
                box = tightened(graph, node.name, found, undecided, ball, eps, tighten)
                found[node.name] = Region(value, box, radius, noise)
            if signs is not None:
                found[node.name] = cut(found[node.name], signs.get(node.name))
        return found


def tightened(
    graph: Graph, name: str, regions: Regions, entries: Tensor, ball: Ball, eps: Tensor, tighten: Tighten
) -> Box:
    """The box of node `name`, smaller where `entries` (samples, *shape) says so: by a relaxation up to that node.

    Each entry is pulled back to the input twice, upwards and downwards, in pieces that fit the memory. Where samples
    have many, and all layers broadcast, a piece belongs to one sample, whose regions need not be copied then.
    """
    region, dtype = regions[name], tighten.dtype
    value, ends = region.value.flatten(1), [region.box.lower.flatten(1).clone(), region.box.upper.flatten(1).clone()]
    found = entries.flatten(1).nonzero().T  # rows, and columns
    alone = all(node.layer.broadcasts for node in graph.nodes) and found.shape[1] >= MANY * len(value)
    groups = found[0].unique_consecutive(return_counts=True)[1].tolist() if alone else [found.shape[1]]
    sizes = sum(part.value[0].numel() for part in regions.values())
    piece = max(1, tighten.memory // (8 * 20 * sizes))
    with torch.no_grad(), denormals_flushed() if dtype == torch.float32 else nullcontext():
        for group in found.split(groups, 1) if found.numel() else ():
            for row, column in group.split(piece, 1):
                some = take(regions, row[:1] if alone else row, dtype)
                scale = (BENT / 2 * (ends[1] - ends[0])[row, column]).to(dtype) if tighten.curved else None
                rest, reach = value[row, column], eps[row].to(dtype)
                for sign, end in zip((1.0, -1.0), ends, strict=True):
                    unit = torch.zeros(len(row), value.shape[1], dtype=dtype, device=value.device)
                    unit.scatter_(1, column[:, None], sign)
                    form = Form(unit.reshape(-1, *region.value.shape[1:]))
                    ground = pull_to_input(graph, form, name, some, scale=scale)
                    x = some[INPUT].value.expand_as(ground.form.linear)
                    least = ground.lower(ball, x, reach).to(torch.float64)
                    # the exact value is off the computed one by at most the noise, which is part of the pulled form
                    bound = rest + sign * least
                    bound = bound - sign * 2.0**-52 * (rest.abs() + least.abs())
                    better = torch.fmax if sign > 0 else torch.fmin
                    end[row, column] = better(end[row, column], bound)
    return Box(ends[0].reshape(region.value.shape), ends[1].reshape(region.value.shape))


@final
class Views:
    """Regions of a batch for changing radii; tightened boxes, which are dear, are kept while they hold."""

    def __init__(self, rest: Rest, ball: Ball, tighten: Tighten | None) -> None:
        """`tighten` as in `Rest.regions`."""
        self.rest, self.ball, self.tighten = rest, ball, tighten
        self._kept: dict[torch.dtype, _Kept] = {}

    def regions(self, rows: Tensor, eps: Tensor, dtype: torch.dtype = torch.float64) -> Regions:
        """The regions of the samples `rows` for radius eps, one for each of them; those in float64 are sound."""
        found = self.rest.take(rows).regions(self.ball, eps)
        if self.tighten is None:
            return found
        kept = self._kept.setdefault(dtype, _Kept(torch.zeros_like(self.rest.x.flatten(1)[:, 0])))
        self._renew(kept, rows[(eps > kept.reach[rows]) | (eps < STALE * kept.reach[rows])], rows, eps, dtype)
        return {
            name: _met(region, Box(kept.boxes[name].lower[rows], kept.boxes[name].upper[rows]))
            if name in kept.boxes
            else region
            for name, region in found.items()
        }

    def _renew(self, kept: _Kept, stale: Tensor, rows: Tensor, eps: Tensor, dtype: torch.dtype) -> None:
        if len(stale) == 0:
            return
        assert self.tighten is not None
        ahead = FORESIGHT if dtype != torch.float64 or not self.tighten.curved else 1.0
        wanted = torch.zeros_like(kept.reach).scatter(0, rows, eps)[stale] * ahead
        tighten = replace(self.tighten, dtype=dtype)
        for name, region in self.rest.take(stale).regions(self.ball, wanted, tighten=tighten).items():
            if name not in kept.boxes:
                wide_open = kept.reach.new_full((len(kept.reach), *region.value.shape[1:]), torch.inf)
                kept.boxes[name] = Box(-wide_open, wide_open.clone())
            kept.boxes[name].lower[stale], kept.boxes[name].upper[stale] = region.box.lower, region.box.upper
        kept.reach[stale] = wanted


@final
@dataclass(frozen=True, eq=False)
class _Kept:
    """Tightened boxes, and the radius of each sample that they hold for."""

    reach: Tensor
    boxes: dict[str, Box] = field(default_factory=dict[str, Box])


def _met(region: Region, box: Box) -> Region:
    lower, upper = torch.maximum(region.box.lower, box.lower), torch.minimum(region.box.upper, box.upper)
    return replace(region, box=Box(lower, upper))


def met(some: Regions, others: Regions) -> Regions:
    """`some` with boxes that are the intersections of both."""
    return {name: _met(region, others[name].box) for name, region in some.items()}


def empty(regions: Regions) -> Tensor:
    """Where some box is empty, (samples,) bool."""
    crossed = [(r.box.lower > r.box.upper).flatten(1).any(1) for r in regions.values()]
    return torch.stack(crossed).any(0)


def cut(region: Region, signs: Tensor | None) -> Region:
    """The region with its box cut to the given signs."""
    if signs is None:
        return region
    lower = torch.where(signs > 0, region.box.lower.clamp_min(0.0), region.box.lower)
    upper = torch.where(signs < 0, region.box.upper.clamp_max(0.0), region.box.upper)
    return replace(region, box=Box(lower, upper))


def take(regions: Regions, rows: Tensor, dtype: torch.dtype = torch.float64) -> Regions:
    """The regions of those rows, in that dtype."""
    return {name: region.take(rows).to(dtype) for name, region in regions.items()}


def _within(box: Box, value: Tensor, reach: Tensor) -> Box:
    """The box intersected with value +- reach, rounded outwards."""
    room = reach + 4e-16 * (value.abs() + reach)
    return Box(torch.maximum(box.lower, value - room), torch.minimum(box.upper, value + room))
