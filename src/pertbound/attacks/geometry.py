"""Norms, their steepest directions, and the nearest points of balls and half-spaces, sample by sample.

p is 1, 2 or math.inf. Tensors are (batch, *shape), sizes (batch,); all float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pertbound.sets import Ball

DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}
"""The dual norm's p."""


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """values (batch,) in a shape that goes with `like`, sample by sample."""
    return values.reshape(-1, *(1 for _ in like.shape[1:]))


def sizes(r: Tensor, p: float) -> Tensor:
    """The p-norm of each sample, (batch,) float64."""
    return torch.linalg.vector_norm(r.to(torch.float64).flatten(1), ord=p, dim=1)


def products(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (batch,) float64."""
    return (a.to(torch.float64) * b.to(torch.float64)).flatten(1).sum(1)


def steepest(gradient: Tensor, p: float, spread: float = 0.0) -> Tensor:
    """The direction of p-norm 1 that gains most, for p = 1 spread evenly over a part of the entries; 0 where flat."""
    if p == math.inf:
        return gradient.sign()
    if p == 2:
        size = sizes(gradient, 2)
        return gradient / per_sample(torch.where(size > 0, size, torch.inf), gradient)
    flat = gradient.flatten(1)
    chosen = flat.abs().topk(max(1, round(spread * flat.shape[1])), 1)
    signs = torch.zeros_like(flat).scatter_(1, chosen.indices, (chosen.values > 0).to(flat.dtype)) * flat.sign()
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1)).reshape(gradient.shape)


def onto_ball(r: Tensor, radius: Tensor, p: float) -> Tensor:
    """The point nearest to r in L2 whose p-norm is at most `radius`.

    For p = 1 it is sign(r) max(|r| - t, 0): with the entries in decreasing size, t is what the first k of them exceed
    the radius by, divided by k, for the last k that leaves the k-th entry positive (Duchi et al. 2008).
    """
    limit = per_sample(radius, r)
    if p == math.inf:
        return r.clamp(-limit, limit)
    if p == 2:
        return r * (radius / sizes(r, 2).clamp_min(1e-300)).clamp_max(1.0).reshape(limit.shape)
    flat = r.flatten(1).abs()
    largest = flat.sort(1, descending=True).values
    count = torch.arange(1, flat.shape[1] + 1, dtype=r.dtype, device=r.device)
    shift = (largest.cumsum(1) - radius[:, None]) / count
    last = (largest > shift).sum(1, keepdim=True).clamp_min(1) - 1
    t = shift.gather(1, last).clamp_min(0).reshape(limit.shape)
    return r.sign() * (r.abs() - t).clamp_min(0)


def onto_half_space(x: Tensor, normal: Tensor, level: Tensor, within: Ball) -> Tensor:
    """The point nearest to x, in the norm and the box of `within`, with normal . z >= level, for each sample.

    As far as the box lets it where no point of the box suffices, and where the normal is 0. x lies in the box.
    """
    low, high = within.inner_ends(x)
    if within.p == 1:
        return (x + _cheapest_entries(x, normal, level - products(normal, x), low, high)).clamp(low, high)
    # the optimality conditions: it is clamp(x + t direction) for the smallest t >= 0 that suffices
    direction = normal if within.p == 2 else normal.sign()
    if within.box is None:
        gain = products(normal, direction)
        t = (level - products(normal, x)).clamp_min(0) / torch.where(gain > 0, gain, torch.inf)
        return x + per_sample(t, x) * direction
    # normal . clamp(x + t direction) is concave and piecewise linear in t: Newton's method from 0 rises to that t
    t = torch.zeros_like(level)
    z = x
    for _ in range(50):
        moved = x + per_sample(t, x) * direction
        z = moved.clamp(low, high)
        # entries about to leave the box no longer help; those at a face that move inwards do
        free = torch.where(normal > 0, moved < high, moved > low)
        missing = level - products(normal, z)
        slope = products(normal, direction * free)
        wanting = (missing > 1e-12 * (1 + level.abs())) & (slope > 0)
        if not bool(wanting.any()):
            break
        t = t + torch.where(wanting, missing / slope, torch.zeros_like(t))
    return z


def _cheapest_entries(x: Tensor, normal: Tensor, missing: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The smallest r in L1 with normal . r >= missing: the steepest entries first, each as far as the box lets it."""
    flat = normal.flatten(1)
    room = torch.where(normal > 0, high - x, x - low).flatten(1)
    steepness, order = flat.abs().sort(1, descending=True)
    room = room.gather(1, order)
    gain = torch.where(steepness > 0, steepness * room, 0.0)
    before = torch.nn.functional.pad(gain.cumsum(1)[:, :-1], (1, 0))
    wanted = (missing[:, None] - before).clamp_min(0) / torch.where(steepness > 0, steepness, torch.inf)
    moved = torch.zeros_like(flat).scatter_(1, order, torch.minimum(wanted, room))
    return (moved * flat.sign()).reshape(x.shape)
