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

from pertbound.environment import denormals_flushed
from pertbound.forms import Duals, Form, Regions, wide
from pertbound.graph import INPUT
from pertbound.regions import Rest, Views, take
from pertbound.relaxation import CURVATURE, DualsOf, Ground, margin_at_rest, margin_form, pull_to_input, wrong_classes
from pertbound.sets import Ball

RATES = {"slope": 0.05, "shift": 0.05, "curvature": 0.1, "centre": 0.1}
"""Step sizes of Adam for each kind of variable, in the units that `Variables.duals` gives them."""
FIRST, LAST = 1.5, 0.2
"""Where it is known how many steps there will be, the first is so many times as long and the last, falling evenly."""
LATER = 0.5
"""Where it is not, in problems that were climbed before, they are so many times as long."""
ROUNDS = (2, 2, 2, 2, 2, 5)
"""Steps between two updates of the radius that regions are built for: often at first, when it is far too small."""
AHEAD = 1.02
"""The radius that regions are built for, over the smallest root of a sample's items."""
NEAR = 1.03
"""Items whose root is at most this many times that radius climb, or as many times as it grew in the last round; the
others are not what holds the sample back."""
STALE = 0.9
"""Also those climb whose root is that of regions for less than this part of that radius."""
TRUSTED = 2.0
"""A root beyond the radius that the regions hold for is extrapolated: it is believed up to this many times that."""
HELD, FELL = 0.98, 0.8
"""The parts of that radius above which a root shows that it was not too large, and below which, that it was: then the
item goes back to where it was."""
REPAIRS = 3
"""How often items that hold their sample back at the end climb again."""
Key = tuple[str, str]
"""A node and a kind of free variable."""


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

    def and_(self, others: Variables) -> Variables:
        """Both, one after the other."""

        def both(a: dict[Key, Tensor], b: dict[Key, Tensor]) -> dict[Key, Tensor]:
            return {key: torch.cat([tensor.detach(), b[key].detach()]) for key, tensor in a.items()}

        first, second = both(self.first, others.first), both(self.second, others.second)
        steps, scale = torch.cat([self.steps, others.steps]), torch.cat([self.scale, others.scale])
        return Variables(both(self.raw, others.raw), first, second, steps, scale)

    def forget(self) -> None:
        """Adam starts anew: gradients of another problem would only make its steps short."""
        for part in (self.first, self.second):
            for tensor in part.values():
                tensor.zero_()
        self.steps.zero_()

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

    def climb(self, gradients: dict[Key, Tensor], planned: int | None) -> None:
        """One step of Adam upwards, of so many that are planned."""
        self.steps.add_(1)
        size = (1 - 0.999**self.steps).sqrt() / (1 - 0.9**self.steps)
        size = size * (LATER if planned is None else (FIRST * (1 - self.steps / planned)).clamp_min(LAST))
        for key, gradient in gradients.items():
            self.first[key].lerp_(gradient, 0.1)
            self.second[key].lerp_(gradient.square(), 0.001)
            step = self.first[key] / (self.second[key].sqrt() + 1e-12)
            self.raw[key].data.add_(wide(RATES[key[1]] * size, step) * step)


@final
@dataclass(frozen=True, eq=False)
class Items:
    """Some items in regions that hold up to `reach` (items,), all in one dtype; margins (items,) are float64."""

    rest: Rest
    ball: Ball
    form: Form
    margin: Tensor
    regions: Regions
    reach: Tensor

    @staticmethod
    def of(views: Views, reference: Tensor, sample: Tensor, other: Tensor, reach: Tensor, dtype: torch.dtype) -> Items:
        """The items (sample, other), two (items,) tensors; `reference` and `reach` are (samples,), reach float64."""
        own, rest, ball = reference[sample], views.rest, views.ball
        needed, position = sample.unique(return_inverse=True)
        regions = take(views.regions(needed, reach[needed], dtype), position, dtype)
        form = margin_form(own, other, rest.graph.classes, dtype)
        drift = rest.take(needed).drift(ball, reach[needed], reference[needed])[position, other]
        margin = margin_at_rest(rest.logits[sample], own, other) - drift
        return Items(rest, ball, form, margin, regions, reach[sample].to(dtype))

    def take(self, rows: Tensor) -> Items:
        """Those of some rows."""
        form = Form(self.form.linear[rows])
        return Items(self.rest, self.ball, form, self.margin[rows], take(self.regions, rows), self.reach[rows])

    def to(self, dtype: torch.dtype) -> Items:
        """In that dtype."""
        regions = {name: region.to(dtype) for name, region in self.regions.items()}
        form, reach = Form(self.form.linear.to(dtype)), self.reach.to(dtype)
        return Items(self.rest, self.ball, form, self.margin, regions, reach)

    @denormals_flushed()
    def start(self) -> Variables:
        """Variables to begin with."""
        graph = self.rest.graph
        with torch.no_grad():
            scale = self.margin.to(self.reach.dtype)
            ground = pull_to_input(graph, self.form, graph.output.name, self.regions, scale=scale)
        return Variables.of(ground.duals, scale)

    def ground(self, variables: Variables) -> Ground:
        """The items' forms pulled down to the input."""
        graph = self.rest.graph
        return pull_to_input(
            graph, self.form, graph.output.name, self.regions, variables.duals(self.rest, self.regions)
        )

    @denormals_flushed()
    def ascend(self, variables: Variables, root: Tensor, steps: int, planned: int | None = None) -> Tensor:
        """Climb so many steps, changing `variables`; from one guess of the roots, (items,), to the next.

        `planned` is how many steps these variables will take in all.
        """
        x, margin = self.regions[INPUT].value, self.margin.to(self.reach.dtype)
        keys = list(variables.raw)
        for _ in range(steps):
            with torch.enable_grad():
                eps = torch.minimum(root, self.reach).requires_grad_(True)
                leaves = [variables.raw[key].requires_grad_(True) for key in keys]
                value = margin + self.ground(variables).lower(self.ball, x, eps)
                slope, *gradients = torch.autograd.grad(value.sum(), [eps, *leaves])
            with torch.no_grad():
                fall = (-slope).clamp_min(1e-9)
                climbs = (torch.nan_to_num(g / wide(fall, g), 0.0, 0.0, 0.0) for g in gradients)
                variables.climb(dict(zip(keys, climbs, strict=True)), planned)
                found = eps + torch.nan_to_num(value / fall, nan=-1.0)
                root = (eps + 0.7 * (found - eps)).clamp(0.7 * eps, 1.6 * eps).detach()
        return root

    def proved(self, variables: Variables, groups: Tensor, reach: Tensor) -> Tensor:
        """The largest radius <= `reach` (groups,) at which every item of a group has a positive bound, see `Ground`."""
        assert self.margin.dtype == self.reach.dtype, "only float64 proves"
        with torch.no_grad():
            ground = self.ground(variables)
            return ground.proved(self.margin, self.ball, self.regions[INPUT].value, reach, groups)


def numbered(like: Tensor) -> Tensor:
    """0, 1, 2, ... for the rows of `like`, on its device."""
    return torch.arange(len(like), device=like.device)


@final
class Ascent:
    """All wrong classes of one batch of samples on their way up."""

    def __init__(self, views: Views, reference: Tensor, start: Tensor) -> None:
        """`start` (samples,) float64 are radii to begin with, below what is hoped for; margins must be positive."""
        self.views, self.reference = views, reference
        self.sample, self.other = wrong_classes(reference, views.rest.graph.classes)
        self.reach = start.clone()
        self.root = start[self.sample].to(torch.float32)
        self.aim = start.clone()
        """About where each sample's smallest root is the radius that regions are built for, (samples,) float64."""
        self.alive = torch.ones(len(reference), dtype=torch.bool, device=reference.device)
        """The samples that still gain."""
        self._held, self._lost = torch.zeros_like(start), torch.full_like(start, torch.inf)
        self._seen = torch.zeros_like(self.sample, dtype=torch.float64)
        self._before, self._growth = torch.zeros_like(start), torch.full_like(start, torch.inf)
        self.done, self.rounds = 0, 0
        """Steps and rounds so far."""
        self.variables = self._items(numbered(self.sample), self.reach, torch.float32).start()

    def _items(self, rows: Tensor, reach: Tensor, dtype: torch.dtype) -> Items:
        return Items.of(self.views, self.reference, self.sample[rows], self.other[rows], reach, dtype)

    def smallest(self, values: Tensor) -> Tensor:
        """The smallest of each sample's items, (samples,)."""
        worst = torch.full((len(self.reference),), torch.inf, dtype=values.dtype, device=values.device)
        return worst.scatter_reduce(0, self.sample, values, "amin")

    def climb(
        self, steps: int, *, tolerance: float = 1e-3, upper: Tensor | None = None, planned: int | None = None
    ) -> None:
        """At most so many more steps for each sample; those whose radius gains less than `tolerance` in a round rest.

        No region is built for more than `upper` (samples,), where it is given. `planned` is how many steps there will
        be in all, where more follow.
        """
        end = self.done + steps
        while self.done < end and bool(self.alive.any()):
            length = min(ROUNDS[min(self.rounds, len(ROUNDS) - 1)], end - self.done)
            self.done, self.rounds = self.done + length, self.rounds + 1
            near = (torch.maximum(self.reach, self._before) * self._growth.clamp_min(NEAR))[self.sample]
            stale = self._seen < STALE * self.reach[self.sample]
            rows = (self.alive[self.sample] & ((self.root <= near) | stale)).nonzero().flatten()
            if len(rows):
                variables = self.variables.take(rows)
                items = self._items(rows, self.reach, torch.float32)
                root = items.ascend(variables, self.root[rows], length, planned or end)
                # what was learnt where too much was asked is of no use at smaller radii
                fell = (root < FELL * items.reach) & (self._held > 0)[self.sample[rows]]
                self.root[rows] = torch.minimum(root, TRUSTED * items.reach)
                self.variables.put(rows[~fell], variables.take(~fell))
                self._seen[rows] = items.reach.to(self._seen)
            now, fell = self._moved()
            gained = (now - self._before).abs() > tolerance * now * length / ROUNDS[-1]
            self.alive = self.alive & (gained | fell)
            self._growth, self._before = torch.nan_to_num(now / self._before, nan=torch.inf), now
            if upper is not None:
                self.reach = torch.minimum(self.reach, upper)

    def _moved(self) -> tuple[Tensor, Tensor]:
        """Set the radii that regions are built for next; the smallest roots by then, and which samples fell.

        Boxes can widen so fast that a root is far below the radius once regions are built for a little more: then the
        next radius lies between the largest that held and this one.
        """
        now, reach = self.smallest(self.root).to(torch.float64), self.reach
        holds, fell = now >= HELD * reach, (now < FELL * reach) & (self._held > 0)
        # boxes for less give a larger root, so the radius that is its own root is between these two
        crossing = torch.where(now < reach, (now.clamp_min(0.25 * reach) * reach).sqrt(), now)
        self.aim = torch.where(self.alive, crossing, self.aim)
        more = crossing.clamp(max=2 * reach) * AHEAD
        target = torch.where(holds, torch.minimum(more, (more * self._lost).sqrt()), crossing)
        self._lost = torch.where(fell, reach, 1.1 * self._lost)
        target = torch.where(fell, (self._held.clamp(0.5 * reach, 0.95 * reach) * reach).sqrt(), target)
        self._held = torch.where(holds, reach, torch.minimum(self._held, 0.9 * target))
        again = fell[self.sample] & (self.root < reach[self.sample])
        self.root = torch.where(again, target[self.sample].to(self.root.dtype), self.root)
        self.reach = torch.where(self.alive, target, reach)
        return torch.where(fell, target, now), fell

    def proved(self) -> Tensor:
        """The largest radius of each sample at which float64 proves every item, (samples,) float64; 0 where none.

        Items that rested while the radius grew may hold their sample back: these climb once more.
        """
        every = numbered(self.sample)
        reach = self.aim * 1.001
        radius = self._items(every, reach, torch.float64).proved(self.variables, every, reach[self.sample])
        for _ in range(REPAIRS):
            target = torch.minimum(self.typical(radius), reach)
            rows = (radius < 0.98 * target[self.sample]).nonzero().flatten()
            if len(rows) == 0:
                break
            variables = self.variables.take(rows)
            items = self._items(rows, reach, torch.float32)
            self.root[rows] = items.ascend(variables, items.reach.clone(), 2 * ROUNDS[-1])
            self.variables.put(rows, variables)
            exact = self._items(rows, reach, torch.float64)
            radius[rows] = torch.maximum(radius[rows], exact.proved(variables, numbered(rows), exact.reach))
        return self.smallest(radius)

    def typical(self, values: Tensor) -> Tensor:
        """The median of each sample's items: what a sample could have but for the items that were left behind."""
        return values.reshape(len(self.reference), -1).median(1).values
