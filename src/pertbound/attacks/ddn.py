"""The attack that decouples direction and norm, aimed at the margin, with restarts, rivals and a polish."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from pertbound.attacks.base import Attack, options_of
from pertbound.attacks.geometry import per_sample, sizes
from pertbound.attacks.nearest import Nearest, Tangent, falling
from pertbound.attacks.polish import polish
from pertbound.errors import InputError
from pertbound.problem import Problem

LAST_STEP = 2e-3
"""The last step as a part of the radius; gamma falls by the same factor."""

FAR_START = 3.0
"""How far from x, in best distances, the restarts begin: nearer they find the same minima again."""


@final
@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Small L2 perturbations by decoupled direction and norm (Rony et al. 2019), and a polish of what it finds.

    One run goes `steps` times along the normalised gradient and back to a sphere around x, whose radius shrinks by
    the factor 1 - gamma after a misclassification and grows by 1 + gamma otherwise. The first of the `restarts`
    begins at x, the others at random points around it; each is a run against whichever class is best, and one against
    each of the `targets` classes that are nearest to x by the linear estimate. The nearest witness of all runs is
    bisected towards x and moved along the local linear boundary until nothing is gained (`polish`). Passes forwards
    and back: steps x restarts x (1 + targets), at most 50 for the polish, 9 or more for the choice of targets.

    Away from the paper, each for a measured gain: the objective is the difference of two logits, since the
    cross-entropy pulls towards high confidence and ended 10 to 17 % farther out; steps are parts of the radius, not
    of the pixels' scale, and gamma falls along with them; the radius follows the linear estimate of the distance
    until one misclassification and one failure were seen. More restarts gain more than more steps do.

    Asked about another norm, it goes the same ways in L2, and keeps and polishes what is nearest in that norm. The same
    `seed` gives the same witnesses; random points are the same for each sample of a batch, so that the choice of
    batches does not matter.
    """

    norms: ClassVar[frozenset[float]] = frozenset((2.0,))
    steps: int = 50
    restarts: int = 2
    targets: int = 2
    gamma: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.targets < 0 or not 0 < self.gamma < 1:
            raise InputError(
                f"DDN needs steps >= 1, restarts >= 1, targets >= 0 and 0 < gamma < 1, got {self.steps}, "
                f"{self.restarts}, {self.targets}, {self.gamma}"
            )

    @property
    def name(self) -> str:
        """ddn, with the options that are not the usual ones."""
        return f"ddn{options_of(self)}"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """The nearest misclassified inputs of all runs, polished."""
        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            generator = torch.Generator().manual_seed(self.seed)
            rivals = [None, *nearest.rivals(self.targets, self.searched(problem.within))]
            for restart in range(self.restarts):
                for rival in rivals:
                    direction = torch.randn(1, *x.shape[1:], generator=generator, dtype=torch.float64).to(x.device)
                    self._run(nearest, rival, direction / sizes(direction, 2), from_x=restart == 0)
            polish(nearest)
        return nearest.point

    def _run(self, nearest: Nearest, rival: Tensor | None, direction: Tensor, *, from_x: bool) -> None:
        """One descent against `rival`; where the gradient vanishes it goes along `direction` (1, *input_shape)."""
        x = nearest.origin
        radius, farthest = nearest.scale(2, rival)
        r = torch.zeros_like(x)
        if not from_x:
            best = sizes(nearest.point.to(torch.float64) - x, 2)
            radius = FAR_START * torch.where(torch.isfinite(nearest.distance), best, radius)
            r = per_sample(radius, x) * direction
        hit, missed = torch.zeros_like(radius, dtype=torch.bool), torch.zeros_like(radius, dtype=torch.bool)
        for step in range(self.steps):
            z = nearest.inside(x + r)
            r = z.to(torch.float64) - x
            seen = nearest.tangent(z, rival)
            part = falling(step, self.steps, LAST_STEP)
            if step > 0 or not from_x:
                hit, missed = hit | seen.wrong, missed | ~seen.wrong
                radius = self._next(radius, sizes(r, 2), seen, part * self.gamma, hit & missed).minimum(farthest)
            steepness = seen.steepness()
            ahead = torch.where(per_sample(steepness, x) > 0, seen.gradient / per_sample(steepness, x), direction)
            r = r + per_sample(part * radius, x) * ahead
            r = r * per_sample(radius / sizes(r, 2).maximum(1e-12 * radius), x)

    @staticmethod
    def _next(radius: Tensor, length: Tensor, seen: Tangent, gamma: float, settled: Tensor) -> Tensor:
        """The next radius after a point at `length`, all (batch,); `settled` where both sides were seen."""
        longer, shorter = (1 + gamma) * radius, (1 - gamma) * radius
        # before the boundary is enclosed, the linear estimate leads there at any scale
        up = torch.where(settled, longer, (length + seen.reach()).clamp(longer, 2 * radius))
        down = torch.where(settled, shorter, (length - seen.reach()).clamp(radius / 2, shorter))
        return torch.where(seen.wrong, down, up)
