"""Where the two sides of `pull_back`'s inequality are closest: points of the region, one for each row of a question.

Entry by entry for activations, by coordinates for pooling, along singular vectors and the residual for linear maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from contracts.questions import Question
from oracles import dense, loops
from oracles.exact import Long, exact, jump, long, pieces, value
from oracles.taps import taps_of
from pertbound.forms import Pulled
from pertbound.layers import (
    Activation,
    Add,
    Concat,
    Layer,
    Linear,
    LocalResponse,
    LpPool,
    MaxPool,
    Multiply,
    Sort,
    Standardize,
)
from pertbound.layers.piecewise import Pieces

EPS = float(np.finfo(np.longdouble).eps)
Point = tuple[Long, ...]
"""Displacements of a layer's inputs, (rows, *shape) each."""


def worst_points(layer: Layer, question: Question, pulled: Pulled, generator: torch.Generator) -> Iterator[Point]:
    """Points of the region, one for each row, at which the two sides are close."""
    match layer:
        case Activation():
            yield within(question, (_entry_by_entry(layer, question, pulled),))
        case Multiply():
            yield within(question, _pair_by_pair(question, pulled))
        case Standardize() | LocalResponse():
            for point in _by_descent(layer, question, pulled, generator):
                yield within(question, point)
        case Linear() | Add() | Concat():
            for point in _along(layer, question, pulled, generator):
                yield within(question, point)
        case _:
            for point in _by_coordinates(layer, question, pulled, generator):
                yield within(question, point)


def within(question: Question, point: Point) -> Point:
    """Displacements moved into the box, then shortened into the ball (the value where that leaves the box)."""
    found = []
    for region, moved in zip(question.inputs, point, strict=True):
        rest = long(region.value)
        low, high = long(region.box.lower) - rest, long(region.box.upper) - rest
        d = np.clip(moved, low, high)
        length = np.sqrt((d.reshape(len(d), -1) ** 2).sum(1))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(length > long(region.radius), long(region.radius) / length * (1 - 4 * EPS), 1)
        share = share.reshape(-1, *(1 for _ in d.shape[1:]))
        inside = ((low <= 0) & (high >= 0)).reshape(len(d), -1).all(1)
        assert (inside | (share.reshape(-1) == 1)).all(), "a ball that does not reach the box's corners around it"
        found.append(d * share)
    return tuple(found)


_FEATURES = (0.0, 1e-9, 1e-3, 0.05, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 60.0)


def _entry_by_entry(layer: Activation, question: Question, pulled: Pulled) -> Long:
    """Every entry's own worst point: for straight pieces exact, for others by a grid that is refined."""
    (region,), (form,) = question.inputs, pulled.forms
    low, high, rest, at = (long(t) for t in (region.box.lower, region.box.upper, region.value, question.output.value))
    c, line = long(question.form.linear), long(form.linear)
    p = _column(form.curvature, c)
    q = _column(question.form.curvature, c)

    def cost(z: Long) -> Long:
        up, across = value(layer, z) - at, z - rest
        return c * up - q / 2 * up * up - line * across + p / 2 * across * across

    places = [low, high, np.clip(rest, low, high), np.clip(0 * rest, low, high)]
    if isinstance(layer, Pieces):
        for slope, offset, first, last in pieces(layer):
            bow = p - q * slope * slope
            with np.errstate(divide="ignore", invalid="ignore"):
                z = (p * rest + line - slope * c - q * slope * (at - offset)) / bow
            z = np.where(np.isfinite(z), z, rest)
            places += [z, np.clip(z, first, last), np.full_like(z, first), np.full_like(z, last)]
        z = np.stack(places)
        z = np.clip(z, low, high)
        costs = cost(z)
        return np.take_along_axis(z, costs.argmin(0)[None], 0)[0] - rest
    places += [low + (high - low) * np.longdouble(i / 24) for i in range(1, 24)]
    centres = (0, rest, *(jump(layer) or ()))
    places += [np.clip(centre + sign * f, low, high) for f in _FEATURES for sign in (-1, 1) for centre in centres]
    z = np.sort(np.stack(places), 0)
    for _ in range(9):
        costs = cost(z)
        best, last = costs.argmin(0)[None], len(z) - 1 - costs[::-1].argmin(0)[None]  # of points that are repeated
        left = np.take_along_axis(z, np.maximum(best - 1, 0), 0)
        right = np.take_along_axis(z, np.minimum(last + 1, len(z) - 1), 0)
        middle = np.take_along_axis(z, best, 0)
        parts = (np.arange(7, dtype=np.longdouble) / 7).reshape(-1, *(1 for _ in rest.shape))
        z = np.concatenate([left + (middle - left) * parts, middle + (right - middle) * parts, right])
        z = np.clip(z, low, high)
    return np.take_along_axis(z, cost(z).argmin(0)[None], 0)[0] - rest


def _pair_by_pair(question: Question, pulled: Pulled) -> Point:
    """Of products, every pair's own worst point: a grid that is refined, ends and rest included."""
    one, two = question.inputs
    c, at = long(question.form.linear), long(question.output.value)
    q = _column(question.form.curvature, c)
    lines, bows = [long(f.linear) for f in pulled.forms], [_column(f.curvature, c) for f in pulled.forms]
    rests, lows, highs = (
        [long(t) for t in pair]
        for pair in zip(*((region.value, region.box.lower, region.box.upper) for region in (one, two)), strict=True)
    )

    def cost(u: Long, v: Long) -> Long:
        up, found = u * v - at, np.zeros_like(u * v)
        for z, line, bow, rest in zip((u, v), lines, bows, rests, strict=True):
            found = found - line * (z - rest) + bow / 2 * (z - rest) ** 2
        return found + c * up - q / 2 * up * up

    ends = [(low, high) for low, high in zip(lows, highs, strict=True)]
    best = [np.clip(rest, *end) for rest, end in zip(rests, ends, strict=True)]
    for _ in range(12):
        grids = []
        for (low, high), rest, z in zip(ends, rests, best, strict=True):
            parts = (np.arange(9, dtype=np.longdouble) / 8).reshape(-1, *(1 for _ in c.shape))
            grids.append(np.concatenate([low + (high - low) * parts, z[None], np.clip(rest, low, high)[None]]))
        pairs = cost(grids[0][:, None], grids[1][None])
        flat = pairs.reshape(-1, *c.shape).argmin(0)
        which = np.unravel_index(flat, pairs.shape[:2])
        best = [np.take_along_axis(g, w[None], 0)[0] for g, w in zip(grids, which, strict=True)]
        ends = [
            (np.maximum(z - (high - low) / 6, whole_low), np.minimum(z + (high - low) / 6, whole_high))
            for z, (low, high), whole_low, whole_high in zip(best, ends, lows, highs, strict=True)
        ]
    return best[0] - rests[0], best[1] - rests[1]


def _by_descent(layer: Layer, question: Question, pulled: Pulled, generator: torch.Generator) -> Iterator[Point]:
    """Signs of derivatives in float64, with shorter and shorter steps, from several starts."""
    (region,), (form,) = question.inputs, pulled.forms
    rest, low, high = region.value, region.box.lower, region.box.upper
    wider, p, q = dense.in_float64(layer), form.curvature, question.form.curvature

    def cost(z: Tensor) -> Tensor:
        up, across = (wider.forward(z) - question.output.value).flatten(1), (z - rest).flatten(1)
        found = (question.form.linear.flatten(1) * up).sum(1) - (form.linear.flatten(1) * across).sum(1)
        found = found if q is None else found - q / 2 * up.square().sum(1)
        return found if p is None else found + p / 2 * across.square().sum(1)

    rows = (-1, *(1 for _ in rest.shape[1:]))
    for kind in range(6):
        t = torch.rand(rest.shape, generator=generator, dtype=torch.float64)
        t = (t > 0.5).to(t.dtype) if kind % 2 else t
        z = torch.minimum(torch.maximum(rest, low), high) if kind == 0 else low + (high - low) * t
        best, least = z, cost(z)
        for step in range(14):
            at = z.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(cost(at).sum(), at)
            width = (high - low) * 0.6**step
            towards = torch.minimum(torch.maximum(z - width * gradient.sign(), low), high)
            value = torch.nan_to_num(cost(towards), nan=math.inf)
            better = value < least
            best, least = torch.where(better.reshape(rows), towards, best), torch.where(better, value, least)
            z = torch.where(better.reshape(rows), towards, best)
        yield (long(best) - long(rest),)


def _column(per_item: Tensor | None, like: Long) -> Long:
    if per_item is None:
        return np.zeros((1,) * like.ndim, np.longdouble)
    return long(per_item).reshape(-1, *(1 for _ in like.shape[1:]))


def _along(layer: Layer, question: Question, pulled: Pulled, generator: torch.Generator) -> Iterator[Point]:
    """Directions in which a linear step loses least: of the residual, of the singular vectors, of the centre."""
    rows, radii = len(question.form.linear), [long(region.radius) for region in question.inputs]

    def stretched(direction: Long, radius: Long) -> Long:
        flat = direction.reshape(rows, -1)
        largest = np.abs(flat).max(1, keepdims=True)
        flat = flat / np.where(largest > 0, largest, 1)
        length = np.sqrt((flat * flat).sum(1, keepdims=True))
        return (flat / np.where(length > 0, length, 1) * radius[:, None]).reshape(direction.shape)

    yield tuple(np.zeros_like(long(region.value)) for region in question.inputs)
    for _ in range(2):
        noise = [
            long(torch.randn(region.value.shape, generator=generator, dtype=torch.float64))
            for region in question.inputs
        ]
        yield tuple(stretched(d, r) for d, r in zip(noise, radii, strict=True))
    if not isinstance(layer, Linear):
        same = long(torch.randn(question.inputs[0].value.shape, generator=generator, dtype=torch.float64))
        if len({region.value.shape for region in question.inputs}) == 1:
            least = np.minimum.reduce(radii)
            for t in (1e-3, 1.0):
                yield tuple(t * stretched(same, least) for _ in radii)
        yield tuple(stretched(long(f.linear), r) for f, r in zip(pulled.forms, radii, strict=True))
        return
    (radius,), (form,) = radii, pulled.forms
    taps = taps_of(layer)
    a, q = long(question.form.linear), np.zeros(rows, np.longdouble)
    if question.form.curvature is not None:
        q = long(question.form.curvature)
    still = (np.zeros_like(long(question.inputs[0].value)),)
    pull = a - q.reshape(-1, *(1 for _ in a.shape[1:])) * moves(layer, question, still)[0]
    slope = taps.transposed(pull) - long(form.linear)  # of the difference, at the value
    yield (stretched(-slope, radius),)
    top = np.broadcast_to(long(taps.top), slope.shape)
    for sign in (-1, 1):
        yield (stretched(sign * top, radius),)
    if form.curvature is None:
        return
    centre = 0 * slope if question.duals.centre is None else long(question.duals.centre)
    yield (centre,)
    for sign in (-1, 1):  # nothing is lost along the top direction either: from the centre to the ball's end
        yield (centre + sign * stretched(top, radius),)
    # the least of the difference: (q' - q A^T A) d = -slope
    bow = form.curvature.numpy()[:, None] - q.astype(np.float64)[:, None] * np.maximum(taps.squares, 0)
    with np.errstate(all="ignore"):
        parts = -slope.reshape(rows, -1).astype(np.float64) @ taps.vectors
        d = np.where(bow > 0, parts / bow, 0) @ taps.vectors.T
    yield (np.nan_to_num(d, nan=0, posinf=0, neginf=0).astype(np.longdouble).reshape(slope.shape),)


def _by_coordinates(layer: Layer, question: Question, pulled: Pulled, generator: torch.Generator) -> Iterator[Point]:
    """Coordinate search in float64: ends, vertices, ties with the other entries of a window; several starts."""
    (region,), (form,) = question.inputs, pulled.forms
    rest, low, high = (t.flatten(1) for t in (region.value, region.box.lower, region.box.upper))
    rows, n = rest.shape
    at, a = question.output.value.flatten(1), question.form.linear.flatten(1)
    line, p, q = form.linear.flatten(1), form.curvature, question.form.curvature
    wider = dense.in_float64(layer)
    reads = _readers(layer)

    def cost(z: Tensor) -> tuple[Tensor, Tensor]:
        out = wider.forward(z.reshape(-1, *region.value.shape[1:])).reshape(*z.shape[:-1], -1)
        up, across = out - at, z - rest
        found = (a * up).sum(-1) - (line * across).sum(-1)
        if q is not None:
            found = found - q / 2 * up.square().sum(-1)
        if p is not None:
            found = found + p / 2 * across.square().sum(-1)
        return found, out

    lost = (a @ reads - line) / (1 if p is None else p[:, None].clamp_min(1e-300))
    ball = torch.minimum(torch.maximum(rest, low), high)
    corner = torch.where(torch.rand(rest.shape, generator=generator) < 0.5, low, high)
    for start in (ball, corner):
        z = start.clone()
        best, out = cost(z)
        for e in torch.randperm(n, generator=generator).tolist():
            around = torch.where(reads[:, e] > 0, out, -math.inf).amax(1)
            pushed = (line[:, e], line[:, e] - torch.where(reads[:, e] > 0, a, 0.0).sum(1), lost[:, e])
            tries = [low[:, e], high[:, e], rest[:, e], around, 0 * around, low[:, e] + (high - low)[:, e] * 0.37]
            if p is not None:
                tries += [rest[:, e] + push / p.clamp_min(1e-300) for push in pushed]
            many = z.expand(len(tries), rows, n).clone()
            many[:, :, e] = torch.nan_to_num(torch.stack(tries), nan=0.0)
            many = torch.minimum(torch.maximum(many, low), high)
            costs, outs = cost(many)
            least, which = costs.min(0)
            better = least < best
            z = torch.where(better[:, None], many[which, torch.arange(rows)], z)
            out = torch.where(better[:, None], outs[which, torch.arange(rows)], out)
            best = torch.where(better, least, best)
        yield ((long(z) - long(rest)).reshape(rows, *region.value.shape[1:]),)


def _readers(layer: Layer) -> Tensor:
    """(outputs, inputs): 1 where a window reads an entry."""
    if isinstance(layer, Sort):
        group = torch.ones(layer.input_shape[-1], layer.input_shape[-1], dtype=torch.float64)
        return torch.block_diag(*[group] * math.prod(layer.input_shape[:-1]))
    assert isinstance(layer, MaxPool | LpPool)
    spatial, dims = layer.input_shape[1:], len(layer.window)
    zeros, ones = (0,) * dims, (1,) * dims
    geometry = (layer.padding, layer.dilation, layer.ceil_mode) if isinstance(layer, MaxPool) else (zeros, ones, False)
    rows = []
    for _, inside in loops.windows(spatial, layer.window, layer.stride, *geometry):
        row = torch.zeros(spatial, dtype=torch.float64)
        for place in inside:
            row[place] = 1.0
        rows.append(row.flatten())
    each = torch.stack(rows)
    return torch.block_diag(*[each] * layer.input_shape[0])


def moves(layer: Layer, question: Question, point: Point) -> tuple[Long, Long]:
    """The output's exact displacement, and the sizes of what it was computed from; (rows, *shape)."""
    at = long(question.output.value)
    rest = [long(region.value) for region in question.inputs]
    if isinstance(layer, Add):
        reach = sum(np.abs(v) + np.abs(d) for v, d in zip(rest, point, strict=True)) + np.abs(at)
        return np.sum(np.stack(point), 0) + (np.sum(np.stack(rest), 0) - at), reach
    if not isinstance(layer, Linear):
        out = exact(layer, *(v + d for v, d in zip(rest, point, strict=True)))
        return out - at, np.abs(out) + np.abs(at)
    taps = taps_of(layer)
    shift = exact(layer, np.zeros_like(rest[0][:1]))
    off = taps.apply(rest[0]) + shift - at
    size = replace(taps, weights=np.abs(taps.weights))
    reach = size.apply(np.abs(rest[0]) + np.abs(point[0])) + np.abs(shift) + np.abs(at)
    return taps.apply(point[0]) + off, reach
