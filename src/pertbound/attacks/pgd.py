"""Projected gradient descent at one radius after another, bisected to the smallest that still succeeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.attacks.base import Attack, options_of
from pertbound.attacks.geometry import onto_ball, per_sample, sizes, steepest
from pertbound.attacks.nearest import Nearest, falling
from pertbound.attacks.polish import polish
from pertbound.errors import InputError
from pertbound.problem import Problem

ENOUGH = 0.01
"""A sample is done when the radii that failed and that succeeded are so near each other, relatively."""

LAST_STEP = 0.02
"""The last step as a part of the first."""


@final
@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Small L2, Linf and L1 perturbations by projected gradient descent (Madry et al. 2018) at bisected radii.

    At one radius, `steps` steps go along the steepest direction of the norm, each a part of the radius that falls from
    `step`, and are projected on the ball and the box; the objective is the margin of the best other class. The first of
    the `restarts` begins at x, the others at random points; a sample rests as soon as it is misclassified. The first
    radius is the linear estimate of the distance, or `Problem.upper` where that is nearer. It doubles until one
    succeeds, then halves the gap between the largest that failed and the nearest witness, in at most `radii` rounds.
    What was found is polished. Passes forwards and back: at most steps x restarts x radii.

    The steepest direction in L1 moves one entry, which is slow: a step spreads evenly over the steepest `spread` (a
    part) of the entries (Tramer and Boneh 2019).
    """

    steps: int = 20
    restarts: int = 2
    radii: int = 12
    step: float = 0.5
    spread: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts, self.radii) < 1 or not self.step > 0 or not 0 < self.spread <= 1:
            raise InputError(
                f"PGD needs steps >= 1, restarts >= 1, radii >= 1, step > 0 and 0 < spread <= 1, got {self.steps}, "
                f"{self.restarts}, {self.radii}, {self.step}, {self.spread}"
            )

    @property
    def name(self) -> str:
        """pgd, with the options that are not the usual ones."""
        return f"pgd{options_of(self)}"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """The nearest misclassified inputs of all radii, polished."""
        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            p = self.searched(problem.within).p
            generator = torch.Generator().manual_seed(self.seed)
            first, farthest = nearest.scale(p)
            known = problem.known()
            radius = torch.where(known > 0, torch.minimum(first, known), first)
            failed = torch.zeros_like(radius)
            rows = torch.arange(len(x), device=x.device)
            for _ in range(self.radii):
                noise = torch.randn(self.restarts, 1, *x.shape[1:], generator=generator, dtype=torch.float64)
                part = nearest.take(rows)
                self._descend(part, radius[rows], noise.to(x.device), p)
                nearest.put(rows, part)
                failed[rows] = torch.where(part.distance > radius[rows], radius[rows], failed[rows])
                closer = (failed + nearest.distance) / 2
                radius = torch.where(torch.isfinite(closer), closer, (2 * radius).maximum(first))
                rows = (nearest.distance > (1 + ENOUGH) * failed) & (failed < farthest)
                rows = rows.nonzero().flatten()
                if len(rows) == 0:
                    break
            polish(nearest)
        return nearest.point

    def _descend(self, nearest: Nearest, radius: Tensor, noise: Tensor, p: float) -> None:
        """All descents at one radius for each sample, (batch,); noise (restarts, 1, *input_shape)."""
        rows, part = torch.arange(len(radius), device=radius.device), nearest
        for restart, random in enumerate(noise):
            start = random / sizes(random, p) if restart else torch.zeros_like(random)
            r = per_sample(radius, part.x) * start
            for step in range(self.steps):
                x = part.origin
                z = part.inside(x + r)
                seen = part.tangent(z)
                nearest.put(rows, part)
                left = ~seen.wrong
                rows, part, radius = rows[left], part.take(left), radius[left]
                if len(rows) == 0:
                    return
                z = z[left].to(torch.float64)
                ahead = steepest(part.unblocked(z, seen.gradient[left]), p, self.spread)
                length = self.step * falling(step, self.steps, LAST_STEP) * radius
                r = onto_ball(z - x[left] + per_sample(length, z) * ahead, radius, p)
