"""What `Ground.lower` promises of a quadratic function of the input: no corner of the ball is below it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pertbound.forms import Form
from pertbound.relaxation import Ground
from pertbound.sets import Ball


def check_last_step(make: Callable[[Form, Tensor], Ground], ball: Ball, generator: torch.Generator) -> None:
    """constant + <a, r> - q/2 norm(r)^2 at the corners of the ball, for q of every size."""
    rows, n = 60, 5
    a, x = torch.randn(2, rows, n, generator=generator, dtype=torch.float64)
    constant = torch.randn(rows, generator=generator, dtype=torch.float64)
    q = 10 ** (4 * torch.rand(rows, generator=generator, dtype=torch.float64) - 2)
    eps = torch.rand(rows, generator=generator, dtype=torch.float64)
    low, high = (-math.inf, math.inf) if ball.box is None else (float(end) for end in ball.box)
    x = x.clamp(low, high)
    for curvature in (None, q):
        least = make(Form(a, curvature), constant).lower(ball, x, eps)
        for _ in range(200):
            r = torch.randint(-1, 2, (rows, n), generator=generator).double()
            norms = torch.linalg.vector_norm(r, ord=ball.p, dim=1).clamp_min(1e-9)
            r = (x + r * (eps / norms)[:, None]).clamp(low, high) - x
            value = constant + (a * r).sum(1)
            if curvature is not None:
                value = value - curvature / 2 * r.square().sum(1)
            short = least - value - 1e-13 * value.abs()
            assert bool((short <= 0).all()), f"{ball}: the last step claims {float(short.max()):.3g} too much"
