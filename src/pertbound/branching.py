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
from pertbound.forms import Signs, norms, wide
from pertbound.graph import INPUT, Graph
from pertbound.layers.piecewise import TwoPieces
from pertbound.leaves import smallest
from pertbound.pace import Pace
from pertbound.regions import cut, empty, met

SMALL = 256
"""Where all nodes have at most so many entries together, domains have boxes of their own and multipliers of a convex
program before anything climbs: a network's inputs are then so few that most patterns of signs are those of no input."""
AHEAD, AHEAD_SMALL = 1.1, 1.15
"""Regions are built for this many times the radius that is certified, until all of a sample's domains reach that."""
FIRST = 32
"""Domains that are split at first, until it is known how long one takes."""
PROBES = 6
"""Inputs that are tried on the way through each domain's worst input, from its radius to what is asked about."""
STEPS = 12
"""Steps from the nearest of these towards the nearest misclassified input."""
CELLS = 1000
"""Cells into which undecided entries may cut the input space for later entries to wait for them."""
SAME = 0.999
"""Radii that differ by less are not worth a split."""


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
    reach: Tensor
    """What their regions were built for when `radius` was proved, (domains,)."""
    entry: Tensor
    """Which entry of all signs, flattened one node after the other, is split next; -1 where none is left. (domains,)"""

    def take(self, rows: Tensor) -> Domains:
        """Those of some rows."""
        signs = {name: part[rows] for name, part in self.signs.items()}
        sample, other, radius = self.sample[rows], self.other[rows], self.radius[rows]
        return Domains(sample, other, radius, signs, self.variables.take(rows), self.reach[rows], self.entry[rows])

    def and_(self, others: Domains) -> Domains:
        """Both."""
        signs = {name: torch.cat([part, others.signs[name]]) for name, part in self.signs.items()}
        return Domains(
            torch.cat([self.sample, others.sample]),
            torch.cat([self.other, others.other]),
            torch.cat([self.radius, others.radius]),
            signs,
            self.variables.and_(others.variables),
            torch.cat([self.reach, others.reach]),
            torch.cat([self.entry, others.entry]),
        )


@final
class Branching:
    """The search for one batch of samples."""

    def __init__(self, ascent: Ascent, lower: Tensor, upper: Tensor) -> None:
        """`ascent` has climbed and proved `lower` (samples,); `upper` (samples,) is as far as anyone wants to know."""
        rest = ascent.views.rest
        self.views, self.rest, self.reference = ascent.views, rest, ascent.reference
        self.lower, self.upper = lower.clone(), upper
        entries = sum(value[0].numel() for value in rest.values.values())
        self.own = self.views.tighten if entries <= SMALL else None
        """Bytes to work in for boxes of each domain's own, or None."""
        self.ahead = AHEAD if self.own is None else AHEAD_SMALL
        self.reach = torch.minimum(self.ahead * lower, upper)
        """What regions are built for: domains whose radius is as large rest until it is raised."""
        self.exact = torch.full_like(lower, torch.inf)
        """The smallest radius of a sample's domains in which nothing is left to split."""
        self._reads = {node.name: node.inputs[0] for node in rest.graph.nodes if isinstance(node.layer, TwoPieces)}
        self._sources = list(dict.fromkeys(self._reads.values()))
        signs = {
            name: rest.values[name].new_zeros((len(ascent.sample), *rest.values[name].shape[1:]), dtype=torch.int8)
            for name in self._sources
        }
        radius = lower.new_zeros(len(ascent.sample))
        none = -torch.ones_like(ascent.sample)
        start = Domains(ascent.sample, ascent.other, radius, signs, ascent.variables, radius, none)
        self.open = self._bounded(start, ascent.root.clone(), 0)
        self._settle()

    @staticmethod
    def possible(graph: Graph) -> bool:
        """Whether there is anything to branch on."""
        return any(isinstance(node.layer, TwoPieces) for node in graph.nodes)

    def run(self, *, seconds: float, ratio: float, steps: int, width: int, pace: Pace | None = None) -> int:
        """Split until every sample's radius is `ratio` times its `upper` or exact, or the time is over.

        At most `width` domains at a time, fewer where these would take more than a tenth of the time, and `steps` for
        each half. `pace` records what the clock decided, or repeats it. Returns the number of splits.
        """
        splits, few, pace = 0, min(width, FIRST), pace or Pace()
        end = time.monotonic() + seconds
        while self._reads:
            begun = time.monotonic()
            few = min(width, pace.decide(few if begun < end else 0))
            if few == 0:
                break
            rows = self._weakest(ratio, few)
            if len(rows) == 0:
                break
            chosen = self.open.take(rows)
            staying = torch.ones_like(self.open.sample, dtype=torch.bool)
            staying[rows] = False
            others = self.open.take(staying.nonzero().flatten())
            kept = chosen.radius >= SAME * chosen.reach  # all that was asked: a larger reach may need no split
            halves, stuck = self._split(chosen.take((~kept).nonzero().flatten()))
            others = others.and_(self._finish(stuck))
            splits += len(halves.sample) // 2
            again = chosen.take(kept.nonzero().flatten()).and_(halves)
            if len(again.sample):
                guess = torch.minimum(again.radius * 1.05, self.reach[again.sample]).to(torch.float32)
                again = self._bounded(again, guess, steps)
            self.open = others.and_(again)
            self._settle()
            share = (time.monotonic() - begun) / seconds
            few = max(1, few // 2) if share > 0.2 else min(width, 2 * few) if share < 0.1 else few
        return splits

    def _finish(self, leaves: Domains) -> Domains:
        """Nothing was left to split in these: what is proved of them now is final, unless a larger reach splits them.

        Returns those that stay open.
        """
        if len(leaves.sample) == 0:
            return leaves
        leaves = self._bounded(leaves, leaves.radius, 0)
        final = (leaves.entry < 0) & (leaves.radius < self.reach[leaves.sample] * SAME)
        self.exact = self.exact.scatter_reduce(0, leaves.sample[final], leaves.radius[final], "amin")
        return leaves.take((~final).nonzero().flatten())

    def _weakest(self, ratio: float, width: int) -> Tensor:
        """The domains to split: of every sample that is not finished, as many of the weakest."""
        weakest = self._per_sample(self.open.radius)
        unfinished = (self.lower < ratio * self.upper) & (weakest < self.exact * SAME)
        raised = unfinished & (weakest >= self.reach * SAME)
        self.reach = torch.where(raised, torch.minimum(self.ahead * self.reach, self.upper), self.reach)
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

    def _items(self, domains: Domains) -> Items:
        """In float64, their regions cut to the signs."""
        sample, dtype = domains.sample, torch.float64
        items = Items.of(self.views, self.reference, sample, domains.other, self.reach, dtype)
        if self.own is None:
            return replace(items, regions={name: cut(r, domains.signs.get(name)) for name, r in items.regions.items()})
        rest = self.rest.take(sample)
        regions = rest.regions(self.views.ball, self.reach[sample], tighten=self.own, signs=domains.signs)
        return replace(items, regions=met(regions, items.regions))

    def _bounded(self, domains: Domains, guess: Tensor, steps: int) -> Domains:
        """The domains after so many steps, with what float64 proves; never less than before."""
        items = self._items(domains)
        radius = torch.where(empty(items.regions), items.reach, domains.radius)
        piece = self._on_one_piece(items)
        # cheaper than to climb, often enough, and all there is to know of an affine network
        rows = ((radius < items.reach * SAME) & (piece | (self.own is not None))).nonzero().flatten()
        if len(rows):
            signs = {name: part[rows] for name, part in domains.signs.items()}
            radius[rows] = torch.maximum(radius[rows], smallest(items.take(rows), signs))
        rows = ((radius < items.reach * SAME) & ~piece).nonzero().flatten()
        if len(rows):
            radius[rows] = torch.maximum(radius[rows], self._climbed(items, domains, rows, guess, steps))
        entry = self._loosest(domains.sample, items, domains.variables, radius)
        return replace(domains, radius=radius, entry=entry, reach=items.reach)

    def _on_one_piece(self, items: Items) -> Tensor:
        """Where no layer's relaxation is loose, (items,) bool."""
        loose = [
            node.layer.undecided(items.regions[node.inputs[0]].box).flatten(1).any(1) for node in self.rest.graph.nodes
        ]
        return ~torch.stack(loose).any(0)

    def _climbed(self, items: Items, domains: Domains, rows: Tensor, guess: Tensor, steps: int) -> Tensor:
        """What float64 proves of those rows after so many steps, which change their variables."""
        items, variables, root = items.take(rows), domains.variables.take(rows), guess[rows]
        if steps:
            root = items.to(torch.float32).ascend(variables, root, steps)
            domains.variables.put(rows, variables)
        reach = torch.minimum(root.to(torch.float64) * 1.001, items.reach)
        return items.proved(variables, numbered(reach), reach)

    def _loosest(self, sample: Tensor, items: Items, variables: Variables, radius: Tensor) -> Tensor:
        """The entry at which each item's bound loses most, counted as in `Domains.entry`."""
        if not self._sources:
            return torch.full(radius.shape, -1, device=radius.device)
        items = items.to(torch.float32)
        scores = {name: torch.zeros_like(items.regions[name].value) for name in self._sources}
        with torch.no_grad():
            ground = items.ground(variables)
            values = self._worst(items, ground.form.linear, radius)
            if self.own is not None:
                self._seek(sample, items, values[INPUT])
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
                score = torch.where(free, loose.nan_to_num(0.0).clamp(1e-30, 1e30), 0.0)
                scores[source] = torch.maximum(scores[source], score)
            if self.own is not None:
                self._early_first(scores)
            best, entry = torch.cat([scores[name].flatten(1) for name in self._sources], 1).max(1)
            return torch.where(best > 0, entry, -1)

    def _early_first(self, scores: dict[str, Tensor]) -> None:
        """Leave the earliest layer with undecided entries alone where these cut the input space into few cells only:
        rows of signs are exact where all before them have a sign, and so few cells are soon looked at one by one.
        """
        dimension = self.rest.x[0].numel()
        passed = torch.zeros(len(next(iter(scores.values()))), dtype=torch.bool, device=self.rest.x.device)
        for name in self._sources:
            scores[name] = scores[name].masked_fill(wide(passed, scores[name]), 0.0)
            count = (scores[name] > 0).flatten(1).sum(1)
            cells = sum((_choose(count, i) for i in range(min(dimension, 8) + 1)), torch.zeros_like(passed).double())
            passed = passed | ((count > 0) & (cells <= CELLS))

    def _seek(self, sample: Tensor, items: Items, worst: Tensor) -> None:
        """Lower `upper` to misclassified inputs on the way from samples through `worst`, and near those: nothing
        beyond is to be proved, and regions for less are tighter.
        """
        ball, graph, x = self.views.ball, self.rest.graph, items.regions[INPUT].value
        far = torch.full((len(sample),), torch.finfo(x.dtype).max / 4, dtype=torch.float64, device=x.device)
        ends, reference = ball.bounds(x, far), self.reference[sample]

        def seen(z: Tensor) -> Tensor:
            """Distances of misclassified inputs, infinite for others."""
            other = graph.run(z.to(graph.dtype)).argmax(1) != reference
            return ball.norms(z.double() - x.double()).masked_fill(~other, torch.inf)

        move = worst - x
        most = self.reach[sample] / ball.norms(move).clamp_min(1e-30)
        best, nearest = seen(x), x
        for part in range(PROBES):
            by = (most ** (part / (PROBES - 1))).to(x.dtype)
            z = torch.minimum(torch.maximum(x + wide(by, move) * move, ends.lower), ends.upper)
            size = seen(z)
            nearest, best = torch.where(wide(size < best, x), z, nearest), torch.minimum(size, best)
        z = nearest
        for _ in range(STEPS if bool((best < self.upper[sample]).any()) else 0):
            with torch.enable_grad():
                leaf = z.detach().to(graph.dtype).requires_grad_(True)
                logits = graph.run(leaf)
                own = logits.gather(1, reference[:, None]).squeeze(1)
                margin = own - logits.scatter(1, reference[:, None], -torch.inf).amax(1)
                (g,) = torch.autograd.grad(margin.sum(), leaf)
            # the input nearest to x at which the margin, if it were affine, would vanish
            size = norms(g).to(x.dtype).clamp_min(1e-30)
            needed = (((z - x) * g).flatten(1).sum(1) - margin.to(x.dtype)) / size * 1.0005
            y = torch.minimum(torch.maximum(x + wide(needed / size, g) * g, ends.lower), ends.upper)
            size = seen(y)
            better = size < best
            nearest, best = torch.where(wide(better, x), y, nearest), torch.minimum(size, best)
            z = torch.where(wide(better, x), y, (y + nearest) / 2)
        self.upper = torch.maximum(self.upper.scatter_reduce(0, sample, best, "amin"), self.lower)
        self.reach = torch.minimum(self.reach, self.upper)

    def _split(self, domains: Domains) -> tuple[Domains, Domains]:
        """Both halves of each domain, and those domains that nothing is left to split in."""
        rows = (domains.entry >= 0).nonzero().flatten()
        parent = domains.take(torch.cat([rows, rows]))
        side = torch.cat([torch.ones_like(rows), -torch.ones_like(rows)]).to(torch.int8)
        at = parent.entry.clone()
        for part in parent.signs.values():
            size = math.prod(part.shape[1:])
            where = ((at >= 0) & (at < size)).nonzero().flatten()
            part.view(len(side), size)[where, at[where]] = side[where]
            at = at - size
        return parent, domains.take((domains.entry < 0).nonzero().flatten())

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


def _choose(n: Tensor, k: int) -> Tensor:
    """Binomial coefficients, float64."""
    n = n.to(torch.float64)
    return torch.exp(torch.lgamma(n + 1) - math.lgamma(k + 1) - torch.lgamma(n - k + 1)).where(
        n >= k, torch.zeros_like(n)
    )
