"""The fast minimum-norm attack: a ball that shrinks where it succeeds, and gradient steps projected on it."""

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

LAST = 1e-2
"""The last step, and the last gamma, as a part of the first."""


@final
@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Small L2, Linf and L1 perturbations by the fast minimum-norm attack (Pintor et al. 2021), and a polish.

    A step goes along the gradient of the margin, normalised in L2, and is projected on a ball in the norm asked about
    and on the box. Until a witness was seen the ball's radius follows the linear estimate of the distance; then it
    shrinks by the factor 1 - gamma at misclassified points, and to the nearest witness, and grows by 1 + gamma at
    others. One run goes against whichever class is best, and one against each of the `targets` classes that are nearest
    to x by the linear estimate; the first of the `restarts` begins at x, the others at random points. Passes forwards
    and back: steps x restarts x (1 + targets), and the polish.

    Away from the paper: steps are parts, falling from `step`, of the length of r or of the linear estimate, whichever
    is longer, not of the pixels' scale; gamma falls along with them; while the gradient vanishes and no witness was
    seen, the run goes out along a random ray.
    """

    steps: int = 50
    restarts: int = 2
    targets: int = 2
    step: float = 1.0
    gamma: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.restarts) < 1 or self.targets < 0 or not self.step > 0 or not 0 < self.gamma < 1:
            raise InputError(
                f"FMN needs steps >= 1, restarts >= 1, targets >= 0, step > 0 and 0 < gamma < 1, got {self.steps}, "
                f"{self.restarts}, {self.targets}, {self.step}, {self.gamma}"
            )

    @property
    def name(self) -> str:
        """fmn, with the options that are not the usual ones."""
        return f"fmn{options_of(self)}"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """The nearest misclassified inputs of all runs, polished."""
        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            p = self.searched(problem.within).p
            generator = torch.Generator().manual_seed(self.seed)
            rivals = [None, *nearest.rivals(self.targets, self.searched(problem.within))]
            for restart in range(self.restarts):
                for rival in rivals:
                    noise = torch.randn(1, *x.shape[1:], generator=generator, dtype=torch.float64).to(x.device)
                    self._run(nearest, rival, noise, p, from_x=restart == 0)
            polish(nearest)
        return nearest.point

    def _run(self, nearest: Nearest, rival: Tensor | None, noise: Tensor, p: float, *, from_x: bool) -> None:
        """One descent; noise (1, *input_shape) says where it begins, and where to go while the gradient vanishes."""
        x = nearest.origin
        first, _ = nearest.scale(2, rival)
        radius, farthest = nearest.scale(p, rival)
        ray = noise / sizes(noise, p)
        r = torch.zeros_like(x) if from_x else per_sample(radius, x) * ray
        hit = torch.zeros_like(radius, dtype=torch.bool)
        best = torch.full_like(radius, torch.inf)
        for step in range(self.steps):
            z = nearest.inside(x + r)
            seen = nearest.tangent(z, rival)
            r = z.to(torch.float64) - x
            part = falling(step, self.steps, LAST)
            length, reach = sizes(r, p), seen.reach(p)
            hit = hit | seen.wrong
            best = torch.where(seen.wrong, torch.minimum(best, length), best)
            ahead = (length + reach).clamp(radius * (1 + self.gamma), 2 * radius)
            longer = torch.where(hit, (1 + part * self.gamma) * radius, ahead)
            shorter = torch.minimum((1 - part * self.gamma) * radius, best)
            radius = torch.where(seen.wrong, shorter, longer).minimum(farthest)
            uphill = steepest(nearest.unblocked(z, seen.gradient), 2)
            stride = part * self.step * first.maximum(sizes(r, 2))
            r = onto_ball(r + per_sample(stride, x) * uphill, radius, p)
            r = torch.where(per_sample(hit | torch.isfinite(reach), x), r, per_sample(radius, x) * ray)
