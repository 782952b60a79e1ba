"""The worst perturbation inside a ball: gradient ascent from many starts, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Objective = Callable[[Tensor], Tensor]


def unit_rows(r: Tensor) -> Tensor:
    """Each sample divided by its norm; zero and non-finite samples become zero."""
    r = torch.nan_to_num(r, nan=0.0, posinf=0.0, neginf=0.0)
    largest = r.flatten(1).abs().amax(1).clamp_min(1e-300)
    r = r / largest.reshape(-1, *(1 for _ in r.shape[1:]))
    size = torch.linalg.vector_norm(r.flatten(1), dim=1).clamp_min(1e-300)
    return r / size.reshape(-1, *(1 for _ in r.shape[1:]))


def directions(x: Tensor, generator: torch.Generator, *, coordinates: int = 32, random: int = 6) -> Tensor:
    """(count, *sample) unit directions to start from at one sample x: one coordinate, aligned, along x, random.

    All coordinates where there are at most `coordinates` of them, else the middle ones and random others.
    """
    n = x.numel()
    if n <= coordinates:
        chosen = torch.arange(n)
    else:
        middle = [n // 2, n // 2 - 1, n // 4]
        others = [i for i in torch.randperm(n, generator=generator).tolist() if i not in middle]
        chosen = torch.tensor(middle + others[: coordinates - len(middle)])
    eye = torch.zeros(len(chosen), n, dtype=torch.float64)
    eye[torch.arange(len(chosen)), chosen] = 1.0
    flat = x.reshape(1, -1).to(torch.float64)
    alternating = (1 - 2 * (torch.arange(n) % 2)).to(torch.float64)[None]
    aligned = torch.cat([torch.ones(1, n, dtype=torch.float64), alternating, flat, flat.sign()])
    noise = torch.randn(random, n, generator=generator, dtype=torch.float64)
    half = torch.cat([eye, aligned, noise])
    return unit_rows(torch.cat([half, -half]).reshape(-1, *x.shape))


def ascend(objective: Objective, x: Tensor, start: Tensor, rho: Tensor, *, steps: int = 10) -> tuple[Tensor, Tensor]:
    """For each sample, the largest objective(x + r) met on the way and its r, with norm(r) = rho, (batch,).

    Each step turns the direction towards the gradient, less and less; on a convex objective a turn all the way
    is the generalised power iteration, which never descends.
    """
    shape = (-1, *(1 for _ in x.shape[1:]))
    rho = rho.reshape(shape)
    direction = unit_rows(start)
    best = torch.full((len(x),), -math.inf, dtype=torch.float64)
    best_r = torch.zeros_like(x)
    for step in range(steps + 1):
        r = (rho * direction).detach().requires_grad_(step < steps)
        value = objective(x + r)
        better = torch.nan_to_num(value.detach(), nan=-math.inf) > best
        best = torch.where(better, value.detach(), best)
        best_r = torch.where(better.reshape(shape), r.detach(), best_r)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(value.sum(), r)
        pull = (math.inf, 3.0, 1.0, 0.3)[step % 4]
        towards = unit_rows(gradient)
        still = towards.flatten(1).abs().amax(1).reshape(shape) == 0
        turned = towards if math.isinf(pull) else unit_rows(direction + pull * towards)
        direction = torch.where(still, direction, turned)
    return best, best_r
