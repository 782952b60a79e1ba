"""The last steps to a near witness: down the segment to x, then along the local linear boundary."""

from __future__ import annotations

import torch

from pertbound.attacks.geometry import per_sample
from pertbound.attacks.nearest import Nearest

ROUNDS = 30
"""Steps along the boundary, at most."""

BISECTIONS = 16
OVERSHOOT = 0.02
"""How far beyond the linear boundary a correction goes, as a part of its length."""

LEAST_DAMPING = 2.0**-6
"""A sample whose boundary step fails at this fraction is done."""

LEAST_GAIN = 1e-5
"""Relative; what is gained less than this counts as failure."""


def polish(nearest: Nearest, rounds: int = ROUNDS) -> None:
    """Bring each witness nearer: bisect the segment to x, then at most `rounds` steps along the boundary.

    A step goes to the point nearest to x, in the norm and the box that were asked about, at which the linear model of
    the margin, made at the present witness, just misclassifies: for piecewise linear networks the nearest one of the
    whole linear region's boundary. There the margin is linearised again, and the shortest way over that boundary added:
    without this correction nearly every long step ends on the wrong side. A step that is no gain is halved next time;
    one that is a gain, doubled. Where nothing was found yet the step starts from x.
    """
    shorten(nearest)
    rows, part = torch.arange(len(nearest.x), device=nearest.x.device), nearest
    damping = torch.ones_like(nearest.distance)
    for _ in range(rounds):
        before, point = part.distance, part.point.to(torch.float64)
        goal = part.over_boundary(part.point, part.origin, part.within)
        z = part.inside(point + per_sample(damping, point) * (goal - point))
        beside = z.to(torch.float64)
        beyond = part.over_boundary(z, beside, part.within)
        part.probe(part.inside(beside + (1 + OVERSHOOT) * (beyond - beside)))
        nearest.put(rows, part)
        gained = part.distance < before * (1 - LEAST_GAIN)
        damping = torch.where(gained, damping * 2, damping / 2).clamp_max(1.0)
        left = damping >= LEAST_DAMPING
        rows, part, damping = rows[left], part.take(left), damping[left]
        if len(rows) == 0:
            break


def shorten(nearest: Nearest) -> None:
    """Bisect the segment from each witness to x."""
    segment = nearest.point - nearest.x
    low = torch.zeros_like(nearest.distance)
    high = torch.ones_like(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        wrong = nearest.probe(nearest.inside(nearest.x + per_sample(middle, segment) * segment))
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
