"""The nearest witness so far, and its last steps: down the segment to x, then along the local linear boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.graph import Graph
from pertbound.problem import strictly_misclassified

RESERVE = 2e-6
"""Twice the reserve that a witness is asked for, so that a candidate survives sums in another order."""

BISECTIONS = 16
LEAST_DAMPING = 2.0**-6
"""A sample whose boundary step fails at this fraction is done."""

LEAST_GAIN = 1e-6
"""Relative; what is gained less than this counts as failure."""


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """values (batch,) in a shape that goes with `like`, sample by sample."""
    return values.reshape(-1, *(1 for _ in like.shape[1:]))


def lengths(r: Tensor) -> Tensor:
    """The L2 norm of each sample, (batch,) float64."""
    return torch.linalg.vector_norm(r.to(torch.float64).flatten(1), dim=1)


def products(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (batch,) float64."""
    return (a.to(torch.float64) * b.to(torch.float64)).flatten(1).sum(1)


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

    @property
    def steepness(self) -> Tensor:
        """The gradient's norm, (batch,) float64."""
        return lengths(self.gradient)

    @property
    def reach(self) -> Tensor:
        """How far the boundary is by the linear estimate, (batch,) float64; infinite where the margin is flat."""
        return ((self.reserve - self.margin).abs() / self.steepness).nan_to_num(torch.inf, torch.inf)


@final
class Nearest:
    """For each sample of x the nearest misclassified point that was seen: `point`, at `distance` (batch,) float64.

    Where none was seen the point is x and the distance infinite. Every point is one of the dtype of x inside `clip`.
    """

    def __init__(self, network: Graph, x: Tensor, reference: Tensor, clip: tuple[float, float] | None) -> None:
        """x (batch, *input_shape) and the classes to leave, (batch,) int64; clip = (low, high) or None."""
        self.network, self.x, self.reference, self.clip = network, x, reference, clip
        self.point = x.clone()
        self.distance = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)

    def inside(self, z: Tensor) -> Tensor:
        """z in the dtype of x and in the box; x in its place where z is not finite in that dtype."""
        z = z.to(self.x.dtype)
        finite = torch.isfinite(z).flatten(1).all(1)
        z = torch.where(per_sample(finite, z), z, self.x)
        return z if self.clip is None else z.clamp(*self.clip)

    def offer(self, z: Tensor, logits: Tensor) -> Tensor:
        """Keep the points that are misclassified and nearer; which ones are misclassified, (batch,) bool."""
        wrong = strictly_misclassified(logits, self.reference, RESERVE)
        distance = lengths(z.to(torch.float64) - self.x.to(torch.float64))
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


def polish(nearest: Nearest, rounds: int) -> None:
    """Bring each witness nearer: bisect the segment to x, then at most `rounds` steps along the boundary.

    A step goes to the point nearest to x at which the linear model of the margin, made at the present witness, just
    misclassifies: for piecewise linear networks the nearest one of the whole linear region's boundary. A step that is
    no gain is halved next time; one that is a gain, doubled. Where nothing was found yet the step starts from x.
    """
    segment = nearest.point - nearest.x
    low = torch.zeros_like(nearest.distance)
    high = torch.ones_like(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        wrong = nearest.probe(nearest.inside(nearest.x + per_sample(middle, segment) * segment))
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    x = nearest.x.to(torch.float64)
    damping = torch.ones_like(low)
    for _ in range(rounds):
        before, point = nearest.distance, nearest.point.to(torch.float64)
        seen = nearest.tangent(nearest.inside(nearest.point))
        level = seen.reserve - seen.margin + products(seen.gradient, point)
        goal = onto_half_space(x, seen.gradient, level, nearest.clip)
        nearest.probe(nearest.inside(point + per_sample(damping, point) * (goal - point)))
        gained = nearest.distance < before * (1 - LEAST_GAIN)
        damping = torch.where(gained, damping * 2, damping / 2).clamp_max(1.0)
        if bool((damping < LEAST_DAMPING).all()):
            break


def onto_half_space(x: Tensor, normal: Tensor, level: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """The point nearest to x, in the box, with normal . z >= level, for each sample; all float64.

    Without a box it is x + t normal. With one it is clip(x + t normal) for the smallest t >= 0 that suffices
    (the optimality conditions of the projection). For x in the box normal . clip(x + t normal) is concave and
    piecewise linear in t, so that Newton's method from 0 rises to that t in finitely many steps. NaN where the normal
    is 0; as far as the box lets it where no point of the box suffices.
    """
    t = torch.zeros_like(level)
    if clip is None:
        t = (level - products(normal, x)).clamp_min(0) / products(normal, normal)
        return x + per_sample(t, x) * normal
    low, high = clip
    z = x.clamp(low, high)
    for _ in range(50):
        moved = x + per_sample(t, x) * normal
        z = moved.clamp(low, high)
        # entries about to leave the box no longer help; those at a face that move inwards do
        free = torch.where(normal > 0, moved < high, moved > low)
        missing = level - products(normal, z)
        slope = products(normal, normal * free)
        wanting = (missing > 1e-12 * (1 + level.abs())) & (slope > 0)
        if not bool(wanting.any()):
            break
        t = t + torch.where(wanting, missing / slope, torch.zeros_like(t))
    return z
