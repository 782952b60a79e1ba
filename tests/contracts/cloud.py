"""Samples in a ball, points that are sought in it, and what regions and pulled forms claim of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contracts import graphs
from oracles import ascent
from oracles.exact import Long, long
from oracles.whole import exact_values, oracle_error
from pertbound.forms import Duals, Form, Regions, wide
from pertbound.graph import INPUT, Graph, Node
from pertbound.regions import Rest, take
from pertbound.relaxation import DualsOf, Ground
from pertbound.sets import Ball

EPS = float(np.finfo(np.longdouble).eps)
EPSILONS = (0.0, 1e-3, 0.05, 0.4)
"""Radii of the samples, in units of their usual distance from each other; the ones that are asked about."""
KINDS = range(6)
"""Started straight or curved; the same and then changed at random; for a form with curvature, started or changed."""
Pull = Callable[..., Ground]
MakeRegions = Callable[[Rest, Ball, Tensor], Regions]


@dataclass(frozen=True)
class Cloud:
    """Points, and the number of each one's sample: the perturbation, and x + r, in long double."""

    sample: Tensor
    r: Long
    at: Long

    def joined(self, other: Cloud) -> Cloud:
        """Both."""
        return Cloud(
            torch.cat([self.sample, other.sample]),
            np.concatenate([self.r, other.r]),
            np.concatenate([self.at, other.at]),
        )


@dataclass(frozen=True)
class Bound:
    """One pulled form for each item."""

    kind: int
    ground: Ground
    sample: Tensor
    other: Tensor
    margin: Long
    """At rest, as the computed logits say."""
    curvature: Tensor | None
    """Of the form at the logits, (items,)."""


@dataclass(frozen=True)
class Ask:
    """A batch of samples in a ball, and the regions for it."""

    graph: Graph
    ball: Ball
    rest: Rest
    eps: Tensor
    regions: Regions
    reference: Tensor

    @staticmethod
    def of(graph: Graph, ball: Ball, generator: torch.Generator, make: MakeRegions) -> Ask:
        x = torch.randn(len(EPSILONS), *graph.input_shape, generator=generator, dtype=torch.float64)
        x[1] *= 3
        x[2, ..., 0] = 0.0
        if ball.box is not None:
            x = x.clamp(*(float(end) for end in ball.box))
        x = x.to(graph.dtype).to(torch.float64)
        n = math.prod(graph.input_shape)
        usual = {1.0: math.sqrt(n), 2.0: 1.0, math.inf: 1 / math.sqrt(n)}[ball.p] * 2
        eps = usual * torch.tensor(EPSILONS, dtype=torch.float64)
        eps[0] = usual if int(torch.randint(2, (1,), generator=generator)) else 0.0
        rest = Rest.of(graph, x)
        reference = rest.logits.argmax(1)
        reference[-1] = (reference[-1] + 1) % graph.classes  # the bound on a negative margin is one as well
        return Ask(graph, ball, rest, eps, make(rest, ball, eps), reference)

    def cloud(self, r: Tensor, sample: Tensor) -> Cloud:
        """These perturbations moved into the set, exactly."""
        x, eps = self.rest.x[sample], self.eps[sample]
        moved, rest = long(r), long(x)
        for _ in range(2):
            norms = np.linalg.norm(moved.reshape(len(moved), -1).astype(np.longdouble), self.ball.p, axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(norms > long(eps), long(eps) / norms * (1 - 8 * EPS), 1)
            moved = moved * share.reshape(-1, *(1 for _ in r.shape[1:]))
            if self.ball.box is not None:
                low, high = (np.longdouble(float(end)) for end in self.ball.box)
                moved = np.clip(moved, low - rest, high - rest)
        return Cloud(sample, moved, rest + moved)

    def move_inside(self, r: Tensor, sample: Tensor) -> Tensor:
        """The same in float64, for searching."""
        norms = torch.linalg.vector_norm(r.flatten(1), ord=self.ball.p, dim=1).clamp_min(1e-300)
        r = r * wide((self.eps[sample] / norms).clamp_max(1.0), r)
        if self.ball.box is not None:
            x = self.rest.x[sample]
            r = (x + r).clamp(*(float(end) for end in self.ball.box)) - x
        return r

    def descend(self, objective: Callable[[Tensor, Tensor], Tensor], sample: Tensor, r: Tensor, steps: int) -> Tensor:
        """The r of each row, inside the set, at which the objective(x + r, r) met was least."""
        r = self.move_inside(r, sample)
        best, least = r, torch.full((len(r),), math.inf, dtype=torch.float64)
        for step in range(steps + 1):
            at = r.detach().requires_grad_(True)
            value = objective(self.rest.x[sample] + at, at)
            better = value.detach() < least
            best = torch.where(wide(better, r), r, best)
            least = torch.where(better, value.detach(), least)
            if step == steps:
                break
            (gradient,) = torch.autograd.grad(value.sum(), at)
            r = self.move_inside(
                r + wide(self.eps[sample], r) * self._turn(-gradient) * (1.0, 0.3, 1.0)[step % 3], sample
            )
        return best

    def _turn(self, towards: Tensor) -> Tensor:
        if self.ball.p == math.inf:
            return towards.sign()
        if self.ball.p == 2:
            return ascent.unit_rows(towards)
        flat = towards.flatten(1)
        one = torch.zeros_like(flat).scatter(1, flat.abs().argmax(1, keepdim=True), 1.0)
        return (one * flat.sign()).reshape(towards.shape)

    def observed(self, z: Tensor) -> dict[str, Tensor]:
        found = {INPUT: z.flatten(1)}

        def see(node: Node, _: tuple[Tensor, ...], value: Tensor) -> None:
            found[node.name] = value.flatten(1)

        graphs.exact(self.graph).run(z, see)
        return found

    def points_for_regions(self, generator: torch.Generator) -> Cloud:
        """Towards the ends of some entries of every node, and far away from every node's value."""
        names = [node.name for node in self.graph.nodes]
        targets = []
        for name in names:
            n = self.rest.values[name][0].numel()
            for sign in (-1.0, 1.0):
                targets.append((name, int(torch.randint(n, (1,), generator=generator)), sign))
            targets.append((name, -1, 1.0))
        count = len(self.rest.x)
        sample = torch.arange(count).repeat(len(targets))
        start = torch.randn(len(sample), *self.graph.input_shape, generator=generator, dtype=torch.float64)
        start = start * wide(10 * self.eps[sample], start)

        def objective(z: Tensor, _: Tensor) -> Tensor:
            found = self.observed(z)
            parts = []
            for i, (name, entry, sign) in enumerate(targets):
                rows = slice(i * count, (i + 1) * count)
                value = found[name][rows] - self.rest.values[name].flatten(1)
                parts.append(value[:, entry] * sign if entry >= 0 else -value.square().sum(1))
            return torch.cat(parts)

        corners = self.corners(sample, generator)
        cloud = self.cloud(self.descend(objective, sample, start, 7), sample)
        return cloud.joined(self.cloud(corners, sample))

    def corners(self, sample: Tensor, generator: torch.Generator) -> Tensor:
        """The ends of the ball: one entry, all of them, or some."""
        shape = (len(sample), *self.graph.input_shape)
        signs = torch.randint(0, 2, shape, generator=generator).to(torch.float64) * 2 - 1
        keep = torch.rand(shape, generator=generator, dtype=torch.float64)
        keep = keep < wide(torch.rand(len(sample), generator=generator, dtype=torch.float64), keep)
        signs = signs * keep
        norms = torch.linalg.vector_norm(signs.flatten(1), ord=self.ball.p, dim=1).clamp_min(1e-300)
        return signs * wide(self.eps[sample] / norms, signs)

    def judge(self, bounds: list[Bound], cloud: Cloud) -> float:
        """All that is claimed, at all points."""
        values = exact_values(self.graph, cloud.at)
        self.demand_inside(cloud, values)
        return min(self.demand_below(bound, cloud, values[self.graph.output.name]) for bound in bounds)

    def bound(self, kind: int, pull: Pull, generator: torch.Generator) -> Bound:
        """A form for each sample and each wrong class, pulled down in one of the ways of `KINDS`."""
        classes = torch.nn.functional.one_hot(self.reference, self.graph.classes)
        sample, other = (classes == 0).nonzero(as_tuple=True)
        regions, rows = take(self.regions, sample), torch.arange(len(sample))
        form = Form(classes[sample].to(torch.float64))
        form.linear[rows, other] = -1.0
        logits = long(self.rest.logits[sample])
        margin = logits[rows, self.reference[sample]] - logits[rows, other]
        sizes = torch.from_numpy(margin.astype(np.float64)).abs() + 0.1
        if kind >= 4:
            form = Form(form.linear, sizes / (regions[self.graph.output.name].radius + 1e-6).square())
        scale = sizes if kind % 2 == 1 or kind == 4 else None
        with torch.no_grad():
            ground = pull(self.graph, form, self.graph.output.name, regions, scale=scale)
            if kind in (2, 3, 5):
                duals = self._other_duals(ground.duals, regions, sizes, generator)
                ground = pull(self.graph, form, self.graph.output.name, regions, duals)
        assert bool(torch.isfinite(ground.constant).all()), "a constant that is no number"
        return Bound(kind, ground, sample, other, margin, form.curvature)

    def _other_duals(self, start: DualsOf, regions: Regions, sizes: Tensor, generator: torch.Generator) -> DualsOf:
        changed: DualsOf = {}
        for node in self.graph.nodes:
            region = regions[node.inputs[0]]
            parts: dict[str, Tensor] = {}
            for kind, tensor in start.get(node.name, Duals()).tensors().items():
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                radius = region.radius
                match kind:
                    case "slope":
                        parts[kind] = tensor + 0.3 * noise
                    case "shift":
                        parts[kind] = 0.1 * noise
                    case "curvature":
                        parts[kind] = (2 * noise).exp() * sizes / (radius + 1e-6).square()
                    case _:
                        parts[kind] = noise * wide(radius / tensor[0].numel() ** 0.5, tensor)
            changed[node.name] = Duals(**parts)
        return changed

    def points_for_bound(self, bound: Bound, generator: torch.Generator) -> Cloud:
        """Where the margin, and where its distance from the bound, is least."""
        form, items = bound.ground.form, torch.arange(len(bound.sample))
        parts = []
        for gap in (True, False):
            rows = items.repeat(2)
            sample = bound.sample[rows]
            start = self.corners(sample, generator)

            def objective(z: Tensor, r: Tensor, rows: Tensor = rows, gap: bool = gap) -> Tensor:
                logits = self.observed(z)[self.graph.output.name]
                own = self.reference[bound.sample[rows]]
                margin = (logits.gather(1, own[:, None]) - logits.gather(1, bound.other[rows][:, None])).squeeze(1)
                if bound.curvature is not None:
                    moved = logits - self.rest.logits[bound.sample[rows]]
                    margin = margin - bound.curvature[rows] / 2 * moved.square().sum(1)
                if not gap:
                    return margin
                line = (form.linear[rows] * r).flatten(1).sum(1)
                if form.curvature is not None:
                    line = line - form.curvature[rows] / 2 * r.square().flatten(1).sum(1)
                return margin - line

            parts.append(self.cloud(self.descend(objective, sample, start, 6), sample))
        best = self._against(bound)
        return parts[0].joined(parts[1]).joined(self.cloud(best, bound.sample))

    def _against(self, bound: Bound) -> Tensor:
        """Where the bound itself is least."""
        linear = -bound.ground.form.linear
        return self.move_inside(wide(self.eps[bound.sample], linear) * self._turn(linear), bound.sample)

    def demand_inside(self, cloud: Cloud, values: dict[str, Long]) -> None:
        """Every node's exact value is in its region."""
        relative = oracle_error(self.graph)
        largest = max(float(np.abs(v).max()) for v in values.values())
        for name, region in self.regions.items():
            rows = cloud.sample
            value, radius = long(region.value[rows]), long(region.radius[rows])
            low, high = long(region.box.lower[rows]), long(region.box.upper[rows])
            room = relative * largest
            far = np.sqrt(((values[name] - value).reshape(len(rows), -1) ** 2).sum(1))
            outside = np.maximum(low - values[name], values[name] - high).reshape(len(rows), -1).max(1)
            for what, excess in (("box", outside), ("radius", far - radius)):
                worst = int(excess.argmax())
                assert excess[worst] <= room, (
                    f"{self.ball}: node {name} of sample {int(rows[worst])} leaves its {what} by "
                    f"{float(excess[worst]):.3g}; radius {float(radius[worst]):.3g}, oracle {room:.1g}"
                )

    def demand_below(self, bound: Bound, cloud: Cloud, logits: Long) -> float:
        """At every point of an item's sample: the quadratic function, and `lower` at the distance of the point."""
        closest = math.inf
        form = bound.ground.form
        norms = np.linalg.norm(cloud.r.reshape(len(cloud.r), -1), self.ball.p, axis=1)
        for item in range(len(bound.sample)):
            mine = (cloud.sample == bound.sample[item]).numpy()
            if not mine.any():
                continue
            sample, own, other = (
                int(t) for t in (bound.sample[item], self.reference[bound.sample[item]], bound.other[item])
            )
            margin = logits[mine][:, own] - logits[mine][:, other]
            if bound.curvature is not None:
                moved = logits[mine] - long(self.rest.logits[sample])
                margin = margin - long(bound.curvature[item]) / 2 * (moved**2).sum(1)
            r = cloud.r[mine].reshape(int(mine.sum()), -1)
            rest, constant = bound.margin[item], long(bound.ground.constant[item])
            a = long(form.linear[item]).reshape(-1)
            claimed = rest + constant + r @ a
            size = (
                np.abs(logits[mine]).max(1) + np.abs(margin) + np.abs(rest) + np.abs(constant) + np.abs(r) @ np.abs(a)
            )
            if form.curvature is not None:
                bent = long(form.curvature[item]) / 2 * (r * r).sum(1)
                claimed, size = claimed - bent, size + bent
            distance = torch.from_numpy(np.nextafter(norms[mine].astype(np.float64), np.inf))
            distance = torch.minimum(distance, self.eps[sample])
            many = type(bound.ground)(
                Form(
                    form.linear[item : item + 1].expand(len(r), *form.linear.shape[1:]),
                    None if form.curvature is None else form.curvature[item : item + 1].expand(len(r)),
                ),
                bound.ground.constant[item : item + 1].expand(len(r)),
            )
            x = self.rest.x[sample : sample + 1].expand(len(r), *self.graph.input_shape)
            least = long(many.lower(self.ball, x.contiguous(), distance)) + rest
            room = oracle_error(self.graph) * size
            for what, claim in (("the quadratic bound", claimed), ("lower", least)):
                short = margin - claim
                worst = int((short + room).argmin())
                assert short[worst] >= -room[worst], (
                    f"{self.ball}, duals {bound.kind}: {what} of sample {sample} against class {other} claims "
                    f"{float(claim[worst])!r} at distance {float(norms[mine][worst])!r}, the margin is "
                    f"{float(margin[worst])!r}: {float(-short[worst]):.3g} too much, oracle {float(room[worst]):.1g}"
                )
            fall = float(rest - margin.min())
            if fall > 0:
                closest = min(closest, float((margin - claimed).min()) / fall)
        return closest
