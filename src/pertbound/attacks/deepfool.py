"""DeepFool: one step after another onto the nearest of the linearised boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.attacks.base import Attack, options_of
from pertbound.attacks.nearest import Nearest
from pertbound.attacks.polish import polish
from pertbound.errors import InputError
from pertbound.problem import Problem


@final
@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Small L2, Linf and L1 perturbations by linearising (Moosavi-Dezfooli et al. 2016), and a polish.

    Each step linearises the margins of the `classes` largest other logits at the present point and goes to the nearest
    of their boundaries, in the norm and the box that were asked about, and a little (`overshoot`) beyond. A sample is
    done when it is misclassified, or after `steps`; what was found is polished. Passes forwards and back: usually two
    or three for each class, and at most 30 for the polish, which makes it the cheapest of the attacks.
    """

    steps: int = 50
    classes: int = 9
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1 or self.classes < 1 or not 0 <= self.overshoot < 1:
            raise InputError(
                f"DeepFool needs steps >= 1, classes >= 1 and 0 <= overshoot < 1, got {self.steps}, {self.classes}, "
                f"{self.overshoot}"
            )

    @property
    def name(self) -> str:
        """deepfool, with the options that are not the usual ones."""
        return f"deepfool{options_of(self)}"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """Where the steps left the reference class, polished."""
        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            within = self.searched(problem.within)
            likely = nearest.likely(self.classes)
            rows, part, z = torch.arange(len(x), device=x.device), nearest, x
            for _ in range(self.steps):
                point = z.to(torch.float64)
                goals = [part.over_boundary(z, point, within, rival) for rival in likely[rows].unbind(1)]
                moves = torch.stack([goal - point for goal in goals])
                length = torch.stack([within.norms(move) for move in moves])
                length, best = torch.where(length > 0, length, torch.inf).min(0)
                move = moves[best, torch.arange(len(rows), device=x.device)]
                z = part.inside(point + (1 + self.overshoot) * move)
                left = ~part.probe(z) & torch.isfinite(length)
                nearest.put(rows, part)
                rows, part, z = rows[left], part.take(left), z[left]
                if len(rows) == 0:
                    break
            polish(nearest)
        return nearest.point
