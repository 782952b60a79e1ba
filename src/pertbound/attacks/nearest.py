"""The nearest witness so far, and what the model looks like at a point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.attacks.geometry import DUAL, onto_half_space, per_sample, products, sizes
from pertbound.graph import Graph
from pertbound.problem import strictly_misclassified
from pertbound.sets import Ball

RESERVE = 2e-6
"""Twice the reserve that a witness is asked for, so that a candidate survives sums in another order."""

FARTHEST = 1e4
"""No perturbation is longer than so many times x."""


@final
@dataclass(frozen=True)
class Tangent:
    """A batch of points as the model sees them: `margin` is the rival's logit minus the reference's.

    `gradient`, of the points' shape and float64, is the margin's; what is not finite in it is 0. `reserve` is the
    margin that a candidate needs; `wrong` says that the rival, or any class where none was named, has it.
    """

    margin: Tensor
    gradient: Tensor
    reserve: Tensor
    wrong: Tensor

    def steepness(self, p: float = 2.0) -> Tensor:
        """The most that the margin gains for a step of p-norm 1, (batch,) float64."""
        return sizes(self.gradient, DUAL[p])

    def reach(self, p: float = 2.0) -> Tensor:
        """How far the boundary is by the linear estimate, (batch,) float64; infinite where the margin is flat."""
        return ((self.reserve - self.margin).abs() / self.steepness(p)).nan_to_num(torch.inf, torch.inf)


@final
class Nearest:
    """For each sample of x the nearest misclassified point that was seen: `point`, at `distance` (batch,) float64.

    `within` says in which norm, and holds the box. Where none was seen the point is x and the distance infinite. Every
    point is of the dtype of x and in the box.
    """

    def __init__(self, network: Graph, x: Tensor, reference: Tensor, within: Ball) -> None:
        """x (batch, *input_shape) and the classes to leave, (batch,) int64."""
        self.network, self.x, self.reference, self.within = network, x, reference, within
        self.point = x.clone()
        self.distance = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    @property
    def origin(self) -> Tensor:
        """x in float64."""
        return self.x.to(torch.float64)

    def take(self, rows: Tensor) -> Nearest:
        """The same for some of the samples, to go on with by itself; rows (kept,) int64."""
        part = Nearest(self.network, self.x[rows], self.reference[rows], self.within)
        part.point, part.distance = self.point[rows], self.distance[rows]
        return part

    def put(self, rows: Tensor, part: Nearest) -> None:
        """Take over what was found for those samples."""
        self.point = self.point.index_copy(0, rows, part.point)
        self.distance = self.distance.index_copy(0, rows, part.distance)

    def inside(self, z: Tensor) -> Tensor:
        """z in the dtype of x and in the box; x in its place where z is not finite in that dtype."""
        z = z.to(self.x.dtype)
        finite = torch.isfinite(z).flatten(1).all(1)
        return self.within.clamped(torch.where(per_sample(finite, z), z, self.x))

    def unblocked(self, z: Tensor, direction: Tensor) -> Tensor:
        """`direction` without what would leave the box at z."""
        low, high = self.within.inner_ends(z)
        return torch.where(torch.where(direction > 0, z < high, z > low), direction, 0.0)

    def offer(self, z: Tensor, logits: Tensor) -> Tensor:
        """Keep the points that are misclassified and nearer; which ones are misclassified, (batch,) bool."""
        wrong = strictly_misclassified(logits, self.reference, RESERVE)
        distance = self.within.norms(z.to(torch.float64) - self.origin)
        nearer = wrong & (distance < self.distance)
        self.point = torch.where(per_sample(nearer, z), z, self.point)
        self.distance = torch.where(nearer, distance, self.distance)
        return wrong

    def probe(self, z: Tensor) -> Tensor:
        """Offer z after a forward pass; which points are misclassified, (batch,) bool."""
        return self.offer(z, self.network.run(z))

    def tangent(self, z: Tensor, rival: Tensor | None = None) -> Tangent:
        """Offer z after a pass forwards and back; the rival is the class named (batch,), or the best other one."""
        with torch.enable_grad():
            z = z.detach().requires_grad_(True)
            logits = self.network.run(z)
            others = logits.detach().scatter(1, self.reference[:, None], -torch.inf)
            against = others.argmax(1) if rival is None else rival
            margin = (logits.gather(1, against[:, None]) - logits.gather(1, self.reference[:, None])).squeeze(1)
            (gradient,) = torch.autograd.grad(margin.sum(), z)
        z, logits, margin = z.detach(), logits.detach(), margin.detach().to(torch.float64)
        wrong = self.offer(z, logits)
        gradient = gradient.to(torch.float64).nan_to_num(0.0, 0.0, 0.0)
        reserve = 1.5 * RESERVE * (1 + logits.to(torch.float64).abs().amax(1))
        return Tangent(margin, gradient, reserve, wrong if rival is None else wrong & (margin > 0))

    def over_boundary(self, z: Tensor, origin: Tensor, within: Ball, rival: Tensor | None = None) -> Tensor:
        """The point nearest to `origin` where the margin of the rival (or of the best class), linear as at z, suffices.

        Nearest in the norm and the box of `within`; z (batch, *input_shape) is offered, `origin` and the result are
        float64. Where no point of the box suffices, as far as it lets it.
        """
        seen = self.tangent(z, rival)
        level = seen.reserve - seen.margin + products(seen.gradient, z)
        return onto_half_space(origin, seen.gradient, level, within)

    def likely(self, count: int) -> Tensor:
        """The other classes with the largest logits at x, largest first: at most `count`; (batch, classes) int64."""
        with torch.no_grad():
            others = self.network.run(self.x).scatter(1, self.reference[:, None], -torch.inf)
        return others.topk(min(self.network.classes - 1, count), 1).indices

    def rivals(self, count: int, within: Ball) -> list[Tensor]:
        """The `count` classes (batch,) whose boundaries, linear as at x, are nearest, among the likely; nearest first.

        In the norm and the box of `within`; what the box keeps out of reach comes last.
        """
        if count == 0:
            return []
        likely = self.likely(max(9, 2 * count))
        lengths: list[Tensor] = []
        for rival in likely.unbind(1):
            seen = self.tangent(self.x, rival)
            missing = seen.reserve - seen.margin
            move = onto_half_space(self.origin, seen.gradient, missing + products(seen.gradient, self.x), within)
            move = move - self.origin
            enough = products(seen.gradient, move) > 0.999 * missing
            lengths.append(torch.where(enough, within.norms(move), torch.inf))
        return list(likely.gather(1, torch.stack(lengths, 1).sort(dim=1, stable=True).indices)[:, :count].unbind(1))

    def scale(self, p: float, rival: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """A first guess of the distance, and the largest one that is sought: p-norms of perturbations, (batch,)."""
        size = sizes(self.origin, p)
        size = torch.where(size > 0, size, torch.ones_like(size))
        reach = self.tangent(self.x, rival).reach(p)
        farthest = FARTHEST * size
        return torch.where(torch.isfinite(reach) & (reach > 0), reach, size / 10).minimum(farthest), farthest


def falling(step: int, steps: int, last: float) -> float:
    """From 1 at step 0 to `last` by a half wave of the cosine."""
    return last + (1 - last) * (1 + math.cos(math.pi * step / steps)) / 2
