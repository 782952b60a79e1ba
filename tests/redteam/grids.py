"""Dense enumeration of a ball in one to three dimensions, finer where a decision boundary may be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from redteam.attack import EXACT, Question

SIDES = {1: 4001, 2: 81, 3: 21}
"""Points along each dimension."""
FINER, AROUND = 3, 24
"""Refinements, and around how many points."""


def enumerated(question: Question, radius: Tensor) -> Tensor:
    """For each sample a misclassified grid point within its ball, the nearest, or one of the nearest margins; (n, d).

    NaN where no point of the grid is misclassified. Balls without an end are searched up to 10.
    """
    found = torch.full_like(question.x, math.nan)
    for row in range(len(question.x)):
        size = float(radius[row])
        if size > 0:
            point = _nearest_point(question.take(torch.tensor([row])), min(size, 10.0))
            if point is not None:
                found[row] = point
    return found


def _nearest_point(one: Question, size: float) -> Tensor | None:
    dims = one.x[0].numel()
    steps = torch.linspace(-1, 1, SIDES[dims], dtype=EXACT)
    grid = torch.cartesian_prod(*[steps] * dims).reshape(-1, dims)
    best: Tensor | None = None
    centres, width = torch.zeros(1, dims, dtype=EXACT), size
    for _ in range(1 + FINER):
        moved = (centres[:, None] + width * grid[None]).reshape(-1, dims)
        moved = moved[torch.linalg.vector_norm(moved, one.p, dim=1) < size]
        z = one.x + moved.reshape(-1, *one.x.shape[1:])
        if one.box is not None:
            z = z.clamp(*one.box)
        many = one.take(torch.zeros(len(z), dtype=torch.long))
        with torch.no_grad():
            margins = many.margins(z)
        seen = (margins > 0).nonzero().flatten()
        if len(seen):
            nearest = seen[many.distance(z)[seen].argmin()]
            if best is None or float(one.distance(z[nearest][None])) < float(one.distance(best[None])):
                best = z[nearest]
        # around the largest margins, the next grid is as wide as two of this one's steps
        top = margins.argsort(descending=True)[:AROUND]
        centres = (z[top] - one.x).reshape(-1, dims)
        width = 2 * width / (SIDES[dims] - 1)
        coarse = torch.linspace(-1, 1, 9, dtype=EXACT)
        grid = torch.cartesian_prod(*[coarse] * dims).reshape(-1, dims)
    return best
