"""Branch and bound on the signs of activations: the certified radius rises until the bracket closes.

A *domain* is an item (a sample and a wrong class) together with signs that some activations' inputs are given. Each
domain has a certified radius: no perturbation smaller than it reaches the wrong class with those signs. The smallest
over a sample's domains is certified for the sample. The domain with the smallest one is split on the activation that
the bound loses most at, both halves inherit its free variables and climb on (`ascent.py`), and so on. Signs only cut
the boxes that the layers' relaxations see; the multipliers that other tools add for them (beta-CROWN: Wang et al. 2021)
are the free shifts of the lines.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from pertbound.ascent import Ascent, Items, Variables, numbered
from pertbound.forms import Region
from pertbound.graph import INPUT, Graph
from pertbound.layers.piecewise import TwoPieces
from pertbound.sets import Box

AHEAD = 1.1
"""Regions are built for this many times the radius that is certified, until all of a sample's domains reach that."""
FIRST = 32
"""Domains that are split at first, until it is known how long one takes."""
LEAF_STEPS = 10
"""Steps before each proof of a domain in which nothing is left to split, and how many such rounds there are."""
LEAF_ROUNDS = 40
SAME = 0.999
"""Radii that differ by less are not worth a split."""
Signs = dict[str, Tensor]
"""For each node that an activation with two pieces reads: -1, 0 (free) or 1 for each entry, (domains, *shape) int8."""


@final
@dataclass(frozen=True, eq=False)
class Domains:
    """Open domains; rows of everything belong together."""

    sample: Tensor
    other: Tensor
    radius: Tensor
    """Certified, (domains,) float64."""
    signs: Signs
    variables: Variables

    def take(self, rows: Tensor) -> Domains:
        """Those of some rows."""
        signs = {name: part[rows] for name, part in self.signs.items()}
        return Domains(self.sample[rows], self.other[rows], self.radius[rows], signs, self.variables.take(rows))

    def and_(self, others: Domains) -> Domains:
        """Both."""
        signs = {name: torch.cat([part, others.signs[name]]) for name, part in self.signs.items()}
        return Domains(
            torch.cat([self.sample, others.sample]),
            torch.cat([self.other, others.other]),
            torch.cat([self.radius, others.radius]),
            signs,
            self.variables.and_(others.variables),
        )


@final
class Branching:
    """The search for one batch of samples."""

    def __init__(self, ascent: Ascent, lower: Tensor, upper: Tensor) -> None:
        """`ascent` has climbed and proved `lower` (samples,); `upper` (samples,) is as far as anyone wants to know."""
        rest = ascent.views.rest
        self.views, self.rest, self.reference = ascent.views, rest, ascent.reference
        self.lower, self.upper = lower.clone(), upper
        self.reach = torch.minimum(AHEAD * lower, upper)
        """What regions are built for: domains whose radius is as large rest until it is raised."""
        self.exact = torch.full_like(lower, torch.inf)
        """The smallest radius of a sample's domains in which nothing is left to split."""
        self._end = 0.0
        self._reads = {node.name: node.inputs[0] for node in rest.graph.nodes if isinstance(node.layer, TwoPieces)}
        signs = {
            name: rest.values[name].new_zeros((len(ascent.sample), *rest.values[name].shape[1:]), dtype=torch.int8)
            for name in dict.fromkeys(self._reads.values())
        }
        radius = lower.new_zeros(len(ascent.sample))
        start = Domains(ascent.sample, ascent.other, radius, signs, ascent.variables)
        self.open = self._bounded(start, ascent.root.clone(), 0)
        self._settle()

    @staticmethod
    def possible(graph: Graph) -> bool:
        """Whether there is anything to branch on."""
        return any(isinstance(node.layer, TwoPieces) for node in graph.nodes)

    def run(self, *, seconds: float, ratio: float, steps: int, width: int) -> int:
        """Split until every sample's radius is `ratio` times its `upper` or exact, or the time is over.

        At most `width` domains at a time, fewer where these would take more than a tenth of the time, and `steps` for
        each half. Returns the number of splits.
        """
        splits, few = 0, min(width, FIRST)
        self._end = time.monotonic() + seconds
        while self._reads and (begun := time.monotonic()) < self._end:
            rows = self._weakest(ratio, few)
            if len(rows) == 0:
                break
            chosen = self.open.take(rows)
            staying = torch.ones_like(self.open.sample, dtype=torch.bool)
            staying[rows] = False
            others = self.open.take(staying.nonzero().flatten())
            halves, stuck = self._split(chosen)
            others = others.and_(self._finish(chosen.take(stuck)))
            splits += len(halves.sample) // 2
            if len(halves.sample):
                guess = torch.minimum(halves.radius * 1.05, self.reach[halves.sample]).to(torch.float32)
                halves = self._bounded(halves, guess, steps)
            self.open = others.and_(halves)
            self._settle()
            share = (time.monotonic() - begun) / seconds
            few = max(1, few // 2) if share > 0.2 else min(width, 2 * few) if share < 0.1 else few
        return splits

    def _finish(self, leaves: Domains) -> Domains:
        """Nothing is left to split in these: their relaxations are exact, and only the ascent falls short.

        Returns those that wait for a larger reach; what the others have is final.
        """
        if len(leaves.sample) == 0:
            return leaves
        leaves.variables.forget()
        for _ in range(LEAF_ROUNDS):  # the climb is not steady there, and every stop is a chance
            short = (leaves.radius < self.reach[leaves.sample] * SAME).nonzero().flatten()
            if len(short) == 0 or time.monotonic() > self._end:
                break
            part = leaves.take(short)
            guess = torch.minimum(part.radius * 1.05, self.reach[part.sample]).to(torch.float32)
            part = self._bounded(part, guess, LEAF_STEPS)
            leaves.radius[short] = part.radius
            leaves.variables.put(short, part.variables)
        waits = leaves.radius >= self.reach[leaves.sample] * SAME
        final = ~waits
        self.exact = self.exact.scatter_reduce(0, leaves.sample[final], leaves.radius[final], "amin")
        return leaves.take(waits.nonzero().flatten())

    def _weakest(self, ratio: float, width: int) -> Tensor:
        """The domains to split: of every sample that is not finished, as many of the weakest."""
        weakest = self._per_sample(self.open.radius)
        unfinished = (self.lower < ratio * self.upper) & (weakest < self.exact * SAME)
        raised = unfinished & (weakest >= self.reach * SAME)
        self.reach = torch.where(raised, torch.minimum(AHEAD * self.reach, self.upper), self.reach)
        sample = self.open.sample
        worth = torch.minimum(self.reach, self.exact) * SAME
        can = unfinished[sample] & (self.open.radius < worth[sample])
        rows = can.nonzero().flatten()
        rows = rows[self.open.radius[rows].argsort()]
        rows = rows[sample[rows].argsort(stable=True)]  # by sample, weakest first
        each = max(1, width // max(1, int(unfinished.sum())))
        first = torch.searchsorted(sample[rows].contiguous(), sample[rows].contiguous())
        rank = numbered(rows) - first
        return rows[rank < each][:width]

    def _per_sample(self, radius: Tensor) -> Tensor:
        """The smallest radius of each sample's open domains, (samples,); infinite where none is open."""
        return torch.full_like(self.lower, torch.inf).scatter_reduce(0, self.open.sample, radius, "amin")

    def _settle(self) -> None:
        """Update the samples' radii: what all of their domains have."""
        proved = torch.minimum(self._per_sample(self.open.radius), self.exact)
        self.lower = torch.maximum(self.lower, torch.minimum(proved, self.reach))

    def _items(self, domains: Domains, dtype: torch.dtype) -> Items:
        items = Items.of(self.views, self.reference, domains.sample, domains.other, self.reach, dtype)
        regions = {name: _cut(region, domains.signs.get(name)) for name, region in items.regions.items()}
        return replace(items, regions=regions)

    def _bounded(self, domains: Domains, guess: Tensor, steps: int) -> Domains:
        """The domains after so many steps, with what float64 proves; never less than before."""
        root = guess
        if steps:
            root = self._items(domains, torch.float32).ascend(domains.variables, guess, steps)
        exact = self._items(domains, torch.float64)
        reach = torch.minimum(root.to(torch.float64) * 1.001, exact.reach)
        proved = exact.proved(domains.variables, numbered(reach), reach)
        return replace(domains, radius=torch.maximum(domains.radius, proved))

    def _split(self, domains: Domains) -> tuple[Domains, Tensor]:
        """Both halves of each domain, and the rows of those that nothing is left to split in."""
        items = self._items(domains, torch.float32)
        scores: dict[str, Tensor] = {}
        with torch.no_grad():
            ground = items.ground(domains.variables)
            values = self._worst(items, ground.form.linear, domains.radius)
            for node in self.rest.graph.nodes:
                source = self._reads.get(node.name)
                if source is None or node.name not in ground.forms:
                    continue
                assert isinstance(node.layer, TwoPieces)
                form, region = ground.forms[node.name], items.regions[source]
                line, curvature = node.layer.lines(form, ground.duals[node.name])
                loose = node.layer.looseness(
                    form, line, curvature, region, items.regions[node.name].value, values[source]
                )
                free = node.layer.undecided(region.box)
                score = torch.where(free, loose.clamp_min(1e-30), 0.0)
                scores[source] = torch.maximum(scores[source], score) if source in scores else score
            flat = torch.cat([part.flatten(1) for part in scores.values()], 1)
            best, entry = flat.max(1)
            can = best > 0
        rows = can.nonzero().flatten()
        parent = domains.take(torch.cat([rows, rows]))
        side = torch.cat([torch.ones_like(rows), -torch.ones_like(rows)]).to(torch.int8)
        at = torch.cat([entry[rows], entry[rows]])
        for name, part in scores.items():
            size = math.prod(part.shape[1:])
            here = (at >= 0) & (at < size)
            where = here.nonzero().flatten()
            parent.signs[name].view(len(side), size)[where, at[where]] = side[where]
            at = torch.where(here, torch.full_like(at, -1), at - size)
        return parent, (~can).nonzero().flatten()

    def _worst(self, items: Items, linear: Tensor, radius: Tensor) -> dict[str, Tensor]:
        """The values of all nodes at the input where the domain's bound is least, float32."""
        x = items.regions[INPUT].value
        eps = radius.to(x.dtype)
        with torch.enable_grad():
            a = linear.detach().clone().requires_grad_(True)
            (move,) = torch.autograd.grad(self.views.ball.minimum(a, x, eps).sum(), a)
        values: dict[str, Tensor] = {INPUT: x + move}

        def keep(node: object, _: object, value: Tensor) -> None:
            values[node.name] = value  # type: ignore[attr-defined]

        self.rest.graph.run((x + move).to(self.rest.graph.dtype), keep)
        return {name: value.to(x.dtype) for name, value in values.items()}


def _cut(region: Region, signs: Tensor | None) -> Region:
    """The region with its box cut to the given signs."""
    if signs is None:
        return region
    zero = torch.zeros_like(region.box.lower)
    lower = torch.where(signs > 0, torch.maximum(region.box.lower, zero), region.box.lower)
    upper = torch.where(signs < 0, torch.minimum(region.box.upper, zero), region.box.upper)
    return replace(region, box=Box(lower, upper))
