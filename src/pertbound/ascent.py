"""The largest radius that a relaxation certifies, by gradient ascent on its free variables and the radius together.

For each *item*, a sample and one wrong class, the relaxation built for radius B gives a bound f(e, duals) on the margin
that holds for every e <= B, so the root of f in e is certified as far as B goes: one pass gives a radius, no verdict.
Each step climbs f by Adam (Kingma and Ba 2015), divided by the slope of f in e, so that it is the radius that climbs,
and moves e towards the root by Newton's method. Every few steps each sample's B is set a little above its smallest
root, and the regions are built anew; items whose root is above B rest. All of this is float32 and proves nothing. At
the end everything is computed once more in float64, and the radius returned is one at which that proof was evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Regions, wide
from pertbound.graph import INPUT
from pertbound.regions import Rest, take
from pertbound.relaxation import DualsOf, margin_at_rest, margin_form, pull_to_input, wrong_classes
from pertbound.sets import Ball

RATES = {"slope": 0.05, "shift": 0.05, "curvature": 0.1, "centre": 0.1}
"""Step sizes of Adam for each kind of variable, in the units that `Variables.duals` gives them."""
CURVATURE = -1.0
"""Logarithm of the curvature that every nonlinear layer starts with, in units of margin / radius^2."""
ROUND = 5
"""Steps between two updates of the radius that regions are built for."""
Key = tuple[str, str]


@final
@dataclass(frozen=True, eq=False)
class Variables:
    """The free variables of some items before scaling, and Adam's moments; (items, ...) float32, changed in place."""

    raw: dict[Key, Tensor]
    first: dict[Key, Tensor]
    second: dict[Key, Tensor]
    steps: Tensor
    """How many steps each item has taken, (items,)."""
    scale: Tensor
    """The margin of each item at the sample, (items,)."""

    @staticmethod
    def of(start: DualsOf, scale: Tensor) -> Variables:
        """As the layers start them."""
        raw = {
            (node, kind): torch.full_like(tensor, CURVATURE) if kind == "curvature" else tensor.detach().clone()
            for node, duals in start.items()
            for kind, tensor in duals.tensors().items()
        }
        zeros = {key: torch.zeros_like(tensor) for key, tensor in raw.items()}
        others = {key: torch.zeros_like(tensor) for key, tensor in raw.items()}
        return Variables(raw, zeros, others, torch.zeros_like(scale), scale)

    def take(self, rows: Tensor) -> Variables:
        """A copy of those of some items."""

        def some(part: dict[Key, Tensor]) -> dict[Key, Tensor]:
            return {key: tensor[rows].detach() for key, tensor in part.items()}

        first, second = some(self.first), some(self.second)
        return Variables(some(self.raw), first, second, self.steps[rows], self.scale[rows])

    def put(self, rows: Tensor, others: Variables) -> None:
        """Set those of some items."""
        for mine, theirs in ((self.raw, others.raw), (self.first, others.first), (self.second, others.second)):
            for key, tensor in theirs.items():
                mine[key][rows] = tensor.detach()
        self.steps[rows] = others.steps

    def duals(self, rest: Rest, regions: Regions) -> DualsOf:
        """The layers' variables: curvature in units of margin / radius^2 and as a logarithm, centres in units of the
        radius over the root of the number of entries, both of the layer's input.
        """
        found: DualsOf = {}
        for node in rest.graph.nodes:
            kinds = {kind: tensor for (name, kind), tensor in self.raw.items() if name == node.name}
            region = regions[node.inputs[0]]
            dtype = region.value.dtype
            radius = region.radius
            own: dict[str, Tensor] = {}
            for kind, tensor in kinds.items():
                tensor = tensor.to(dtype)
                if kind == "curvature":
                    tensor = tensor.exp() * (self.scale.to(dtype) / radius.square())
                elif kind == "centre":
                    tensor = tensor * wide(radius / tensor[0].numel() ** 0.5, tensor)
                own[kind] = tensor
            found[node.name] = Duals(**own)
        return found

    def climb(self, gradients: dict[Key, Tensor]) -> None:
        """One step of Adam upwards."""
        self.steps.add_(1)
        size = (1 - 0.999**self.steps).sqrt() / (1 - 0.9**self.steps)
        for key, gradient in gradients.items():
            self.first[key].lerp_(gradient, 0.1)
            self.second[key].lerp_(gradient.square(), 0.001)
            step = self.first[key] / (self.second[key].sqrt() + 1e-12)
            self.raw[key].data.add_(wide(RATES[key[1]] * size, step) * step)


@final
class Ascent:
    """The items of one batch of samples on their way up."""

    def __init__(self, rest: Rest, ball: Ball, reference: Tensor, start: Tensor, *, curved: bool) -> None:
        """`start` (samples,) are radii to begin with, best somewhat below what is hoped for; every sample's margin must
        be positive.
        """
        self.rest, self.ball, self.curved = rest, ball, curved
        self.reference = reference
        self.sample, self.other = wrong_classes(reference, rest.graph.classes)
        self.margin = margin_at_rest(rest.logits, reference, self.sample, self.other)
        self.reach = start.to(torch.float64).clone()  # B
        self.root = self.reach[self.sample].to(torch.float32)
        self.variables: Variables | None = None

    def smallest(self, values: Tensor) -> Tensor:
        """The smallest of each sample's items, (samples,)."""
        worst = torch.full((len(self.reference),), torch.inf, dtype=values.dtype, device=values.device)
        return worst.scatter_reduce(0, self.sample, values, "amin")

    def climb(self, steps: int, *, tolerance: float = 1e-3) -> None:
        """At most so many steps for each sample; samples whose radius gains less than `tolerance` in a round rest."""
        alive = torch.ones(len(self.reference), dtype=torch.bool, device=self.reference.device)
        before = torch.zeros_like(self.reach)
        for done in range(0, steps, ROUND):
            items = alive[self.sample] & (self.root <= 1.03 * self.reach[self.sample])
            self._round(items.nonzero().flatten(), min(ROUND, steps - done))
            now = self.smallest(self.root).to(torch.float64)
            alive = alive & ~((now - before).abs() <= tolerance * now)
            before = now
            self.reach = torch.where(alive, now.clamp(0.5 * self.reach, 2 * self.reach) * 1.02, self.reach)
            if not bool(alive.any()):
                break

    def _round(self, items: Tensor, steps: int) -> None:
        if len(items) == 0:
            return
        sample = self.sample[items]
        regions = take(self.rest.regions(self.ball, self.reach), sample, torch.float32)
        graph = self.rest.graph
        form = margin_form(self.reference[sample], self.other[items], graph.classes, torch.float32)
        if self.variables is None:
            with torch.no_grad():
                start = pull_to_input(graph, form, graph.output.name, regions, curved=self.curved)
            self.variables = Variables.of(start.duals, self.margin[items].to(torch.float32))
        variables = self.variables.take(items)
        x, reach = regions[INPUT].value, self.reach[sample].to(torch.float32)
        margin, root = variables.scale, self.root[items].clone()
        for _ in range(steps):
            keys = list(variables.raw)
            with torch.enable_grad():
                eps = torch.minimum(root, reach).requires_grad_(True)
                leaves = [variables.raw[key].requires_grad_(True) for key in keys]
                ground = pull_to_input(graph, form, graph.output.name, regions, variables.duals(self.rest, regions))
                value = margin + ground.lower(self.ball, x, eps)
                slope, *gradients = torch.autograd.grad(value.sum(), [eps, *leaves])
            with torch.no_grad():
                fall = (-slope).clamp_min(1e-9)
                variables.climb(
                    {k: torch.nan_to_num(g / wide(fall, g), 0, 0, 0) for k, g in zip(keys, gradients, strict=True)}
                )
                found = eps + torch.nan_to_num(value / fall, nan=-1.0)
                root = (eps + 0.7 * (found - eps)).clamp(0.7 * eps, 1.6 * eps).detach()
        self.variables.put(items, variables)
        self.root[items] = root

    def proved(self) -> Tensor:
        """The largest radius of each sample at which float64 proves every item, (samples,) float64; 0 where none."""
        assert self.variables is not None
        reach = self.smallest(self.root).to(torch.float64) * 1.001
        regions = take(self.rest.regions(self.ball, reach), self.sample)
        form = margin_form(self.reference[self.sample], self.other, self.rest.graph.classes, torch.float64)
        with torch.no_grad():
            duals = self.variables.duals(self.rest, regions)
            ground = pull_to_input(self.rest.graph, form, self.rest.graph.output.name, regions, duals)
            return ground.proved(self.margin, self.ball, regions[INPUT].value, reach, self.sample)
