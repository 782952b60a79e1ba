"""Carlini and Wagner's attack: the distance and the margin in one objective, and a search for their balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from pertbound.attacks.base import Attack, options_of
from pertbound.attacks.geometry import per_sample, sizes
from pertbound.attacks.nearest import Nearest
from pertbound.attacks.polish import polish
from pertbound.errors import InputError
from pertbound.problem import Problem

DECAY = (0.9, 0.999)
TINY = 1e-8
"""Adam's means and what keeps its quotient finite."""

CHECKS = 10
"""How often in a run a sample rests that has not come on by a thousandth since the last time."""


@final
@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Small L2 perturbations by minimising norm(r)^2 + c max(-margin, 0) (Carlini and Wagner 2017), and a polish.

    The margin is that of the best other class at x + r. Adam takes at most `steps` steps for one c; a sample rests when
    its objective no longer falls. Where a witness was found c is halved next time, or set halfway (geometrically) to
    the largest that found none; where none was found it is ten times as large, or halfway to the smallest that found
    one; `searches` rounds in all.

    Away from the paper: entries are clipped to the box after each step, instead of a change of variables, which serves
    any box; steps are `rate` times the linear estimate of the distance, over the root of the number of entries, and the
    first c balances both gradients at that distance, so that the scale of inputs and of logits does not matter; steps
    are twice as long after a round that found nothing yet.
    """

    norms: ClassVar[frozenset[float]] = frozenset((2.0,))
    steps: int = 200
    searches: int = 6
    rate: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.searches < 1 or not self.rate > 0:
            raise InputError(
                f"CarliniWagner needs steps >= 1, searches >= 1 and rate > 0, got {self.steps}, {self.searches}, "
                f"{self.rate}"
            )

    @property
    def name(self) -> str:
        """cw, with the options that are not the usual ones."""
        return f"cw{options_of(self)}"

    def candidates(self, problem: Problem, reference: Tensor) -> Tensor:
        """The nearest misclassified inputs of all searches, polished."""
        with torch.inference_mode(False), torch.no_grad():
            x = problem.x.detach().clone()
            nearest = Nearest(problem.network, x, reference.clone(), problem.within)
            first, _ = nearest.scale(2)
            steepness = nearest.tangent(x).steepness()
            c = 2 * first / torch.where(steepness > 0, steepness, torch.ones_like(steepness))
            least, most = torch.zeros_like(c), torch.full_like(c, torch.inf)
            length = self.rate * first
            for _ in range(self.searches):
                succeeded = self._minimise(nearest, c, length)
                least, most = torch.where(succeeded, least, c), torch.where(succeeded, c, most)
                length = torch.where(torch.isfinite(most), length, 2 * length)
                up, down = torch.where(torch.isfinite(most), (least * most).sqrt(), 10 * c), c / 2
                c = torch.where(least > 0, up, down)
            polish(nearest)
        return nearest.point

    def _minimise(self, nearest: Nearest, c: Tensor, length: Tensor) -> Tensor:
        """Run Adam with weights c and steps of about that length, both (batch,); where it found a witness, (batch,)."""
        every = torch.zeros_like(c, dtype=torch.bool)
        rows, part = torch.arange(len(c), device=c.device), nearest
        x = part.origin
        r, mean, square = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        before = torch.full_like(c, torch.inf)
        step_size = length / x[0].numel() ** 0.5
        for step in range(1, self.steps + 1):
            z = part.inside(part.origin + r)
            r = z.to(torch.float64) - part.origin
            seen = part.tangent(z)
            nearest.put(rows, part)
            every[rows] |= seen.wrong
            short = (seen.reserve - seen.margin).clamp_min(0)
            gradient = 2 * r - per_sample(c * (short > 0), r) * seen.gradient
            mean = DECAY[0] * mean + (1 - DECAY[0]) * gradient
            square = DECAY[1] * square + (1 - DECAY[1]) * gradient.square()
            scale = (square / (1 - DECAY[1] ** step)).sqrt() + TINY * per_sample(length, r)
            r = r - per_sample(step_size, r) * mean / (1 - DECAY[0] ** step) / scale
            if step % max(1, self.steps // CHECKS) == 0:
                objective = sizes(z.to(torch.float64) - part.origin, 2).square() + c * short
                left = objective < 0.999 * before
                rows, part, c, step_size, length = rows[left], part.take(left), c[left], step_size[left], length[left]
                r, mean, square, before = r[left], mean[left], square[left], objective[left]
                if len(rows) == 0:
                    break
        return every
