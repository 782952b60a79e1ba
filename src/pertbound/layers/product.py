"""Products of two values: gates, squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Form, Pulled, Region, total, wide
from pertbound.layers.base import Layer, Shape, outward, unless_overflow
from pertbound.numerics import UNIT32, UNIT64, tiny
from pertbound.sets import Box

_Ends = tuple[Tensor, Tensor]
_Plane = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""c, a, b, p of c u v + a u + b v + p / 2 (u^2 + v^2); p is (items,)."""


@final
@dataclass(frozen=True, eq=False)
class Multiply(Layer):
    """u v, entry by entry; `bounds` are numbers that abs(u) and abs(v) never exceed, infinite where none is known.

    Sound, at known values u0 and v0 (norm(a b)_2 <= norm(a)_inf norm(b)_2, and norm_inf <= norm_2):
    u v - u0 v0 = u (v - v0) + v0 (u - u0), so that

        omega(rho_u, rho_v) = sup norm(u)_inf rho_v + norm(v0)_inf rho_u,  sup norm(u)_inf <= norm(u0)_inf + rho_u,

    and the same with u and v exchanged, whichever is smaller. `bounds` stand in for the suprema where they are smaller,
    and, where no values are known, for the values: a gate s(i) tanh(c) has omega = rho_c + rho_i anywhere. Without
    bounds a product is not Lipschitz.

    Modulus: sup abs(u) rho_v + sup abs(v) rho_u where both are bounded, else none
    At a known input: (norm(u)_inf + rho_u) rho_v + norm(v)_inf rho_u, or the other way round
    Source: elementary; McCormick (1976) for the planes
    """

    input_shape: Shape
    bounds: tuple[float, float] = (math.inf, math.inf)

    def forward(self, *inputs: Tensor) -> Tensor:
        """u v."""
        return inputs[0] * inputs[1]

    @property
    def keeps_sign(self) -> bool:
        """True."""
        return True

    def local(self, *inputs: Tensor) -> Tensor | None:
        """The largest absolute values of both, (batch, 2)."""
        return torch.stack([v.flatten(1).abs().amax(1).to(torch.float64) for v in inputs], 1)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """See above; 0 where nothing moves, infinite where nothing is known."""
        moved_u, moved_v = torch.broadcast_tensors(*radii)
        most_u, most_v = (torch.full_like(moved_u, bound) for bound in self.bounds)
        at_u, at_v = (most_u, most_v) if at is None else (at[..., 0], at[..., 1])
        most_u, most_v = torch.minimum(most_u, at_u + moved_u), torch.minimum(most_v, at_v + moved_v)
        one = _times(most_u, moved_v) + _times(at_v, moved_u)
        return torch.minimum(one, _times(most_v, moved_u) + _times(at_u, moved_v)) * (1 + 4 * UNIT64)

    def interval(self, *boxes: Box) -> Box:
        """The least and the largest of the products of the ends; the smallest box, but for one rounding."""
        first, second = boxes
        ends = [(a, b) for a in (first.lower, first.upper) for b in (second.lower, second.upper)]
        bad = torch.stack([a.isnan() | b.isnan() for a, b in ends]).any(0)
        # 0 times infinity: a factor that is 0 makes it 0
        products = torch.stack([torch.where((a == 0) | (b == 0), 0.0, a * b) for a, b in ends])
        low, high = products.amin(0), products.amax(0)
        info = torch.finfo(low.dtype)
        room = info.eps * products.abs().amax(0).nan_to_num(0.0, posinf=0.0) + info.tiny
        found = outward(low, high, room, room)
        return Box(found.lower.masked_fill(bad, math.nan), found.upper.masked_fill(bad, math.nan))

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """One rounding of each product, whose norm is at most that of u times that of v, and what flushing of u, of v
        and of the product loses.
        """
        size = norms[0] * norms[1]
        flushed = 2 * (math.sqrt(math.prod(self.input_shape)) + norms[0] + norms[1])
        return unless_overflow(2 * unit * size + flushed * tiny(unit), size, unit)

    def undecided(self, box: Box) -> Tensor:
        """Those that move: a product bends wherever both factors do."""
        return box.upper - box.lower > 1e-3

    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """For u the slope v, and for v the slope u: in the middle of the box, or with curvature at rest.

        In the middle this is the mean of the two planes of McCormick (1976) on that side, from which shifts lead to
        either.
        """
        points = [(r.box.lower + r.box.upper) / 2 if curvature is None else r.value for r in inputs]
        slope = torch.stack([points[1], points[0]], 1)
        return Duals(slope=slope, shift=torch.zeros_like(slope), curvature=curvature)

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """Two planes, and the exact least of what is left over the box.

        With d, e the displacements of u and v, D = u v - y = (u0 v0 - y) + v0 d + u0 e + d e, and for any f and g

            c D >= f d + g e - p/2 (d^2 + e^2)
                   + least over the box of c (u0 v0 - y) + (c v0 - f) d + (c u0 - g) e + c d e + p/2 (d^2 + e^2).

        What is minimised is a quadratic function on a rectangle: where p > abs(c) it is convex, and its minimum is at
        its only stationary point or on an edge; otherwise it is on an edge. On each edge it is a parabola.

        D's square: (u v - u0 v0)^2 = (u e + v0 d)^2 <= 2 sup u^2 e^2 + 2 v0^2 d^2, and
        norm(D)^2 <= (1 + h) norm(u v - u0 v0)^2 + (1 + 1/h) norm(u0 v0 - y)^2 with h = 1e-9.
        """
        one, two = inputs
        assert duals.slope is not None
        c, p, q = form.linear, duals.curvature, form.curvature
        lines = duals.slope * c.unsqueeze(1)
        if duals.shift is not None:
            size = c.detach().flatten(1).square().mean(1).sqrt()
            lines = lines + duals.shift * wide(size, lines)
        f, g = lines.unbind(1)
        a, b = c * two.value - f, c * one.value - g
        ends = tuple((r.box.lower - r.value, r.box.upper - r.value) for r in inputs)
        rest = c * (one.value * two.value - output.value)
        with torch.no_grad():
            d, e, missed = _minimiser((c, a, b, p), ends[0], ends[1])
        terms = rest + a * d + b * e + c * d * e
        bent = torch.zeros_like(one.radius)
        if p is not None:
            bent = p / 2 * (d.square() + e.square()).flatten(1).sum(1)
        constant = terms.flatten(1).sum(1) + bent
        proof = c.dtype == torch.float64
        if proof:
            sizes = _sizes((c, f, g, p), inputs, ends) + c.abs() * output.value.abs()
            constant = total(terms - missed, sizes) + bent - terms[0].numel() * UNIT64 * sizes.flatten(1).sum(1)
        curvatures: list[Tensor | None] = [p, p]
        if q is not None:
            most = torch.maximum(torch.maximum(one.box.lower.abs(), one.box.upper.abs()), one.value.abs())
            squares = (two.value.flatten(1).abs().amax(1).square(), most.flatten(1).amax(1).square())
            curvatures = [(0.0 if p is None else p) + 2 * q * square * (1 + 1e-8) for square in squares]
            if proof:
                constant = constant - q * 1e9 * output.noise * output.noise
        forms = (Form(f, curvatures[0]), Form(g, curvatures[1]))
        return Pulled(forms, constant)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a b, 0 where either is 0. NaN stays."""
    return torch.where(((a == 0) & ~b.isnan()) | ((b == 0) & ~a.isnan()), 0.0, a * b)


def _sizes(plane: _Plane, inputs: tuple[Region, ...], ends: tuple[_Ends, ...]) -> Tensor:
    """Sizes of all that the least value is computed from, entry by entry."""
    c, f, g, p = plane
    far = [low.abs() + high.abs() for low, high in ends]
    u, v = (region.value.abs() for region in inputs)
    sizes = c.abs() * (u + far[0]) * (v + far[1]) + f.abs() * far[0] + g.abs() * far[1]
    return sizes if p is None else sizes + wide(p, sizes) * (far[0].square() + far[1].square())


def _minimiser(plane: _Plane, first: _Ends, second: _Ends) -> tuple[Tensor, Tensor, Tensor]:
    """Where c d e + a d + b e + p/2 (d^2 + e^2) is least on the rectangle, and by how much it may be lower still.

    In float64, where a point is not quite where it should be: on an edge, and where all is convex, f(w) is at least
    f(z) + f'(z) (w - z), and f'(z) is known but for its rounding.
    """
    c, a, b, p = plane
    bow = None if p is None else wide(p, c)
    found: list[tuple[Tensor, Tensor, bool, bool]] = []
    for d in first:
        e = _vertex(b + c * d, bow, second)
        found.append((d, e, False, True))
    for e in second:
        d = _vertex(a + c * e, bow, first)
        found.append((d, e, True, False))
    if bow is not None:
        gap = bow * bow - c * c
        convex = gap > 0
        gap = torch.where(convex, gap, 1.0)
        d = torch.where(convex, (c * b - bow * a) / gap, 0.0).nan_to_num(0.0)
        e = torch.where(convex, (c * a - bow * b) / gap, 0.0).nan_to_num(0.0)
        found.append((_within(d, first), _within(e, second), True, True))
    best: tuple[Tensor, ...] | None = None
    for position, (d, e, free_d, free_e) in enumerate(found):
        cost, missed = c * d * e + a * d + b * e, torch.zeros_like(c)
        if bow is not None:
            cost = cost + bow / 2 * (d * d + e * e)
            if c.dtype == torch.float64:
                for free, slope, z, ends, size in (
                    (free_d, a + c * e + bow * d, d, first, a.abs() + (c * e).abs() + (bow * d).abs()),
                    (free_e, b + c * d + bow * e, e, second, b.abs() + (c * d).abs() + (bow * e).abs()),
                ):
                    if free:
                        off = 16 * UNIT64 * size
                        missed = missed + _positive(slope + off, z - ends[0]) + _positive(off - slope, ends[1] - z)
        if position == 4:  # only where it is convex does this point say anything
            assert bow is not None
            cost = torch.where(bow * bow > c * c, cost, torch.inf)
        one = (cost - missed, d, e, missed)
        best = (
            one
            if best is None
            else tuple(torch.where((best[0] <= one[0]) | best[0].isnan(), x, y) for x, y in zip(best, one, strict=True))
        )
    assert best is not None
    return best[1], best[2], best[3]


def _vertex(slope: Tensor, bow: Tensor | None, ends: _Ends) -> Tensor:
    """Where slope z + bow/2 z^2 is least between the ends."""
    if bow is None:
        return torch.where(slope > 0, ends[0], ends[1])
    return _within(-slope / bow.clamp_min(torch.finfo(slope.dtype).tiny), ends)


def _within(z: Tensor, ends: _Ends) -> Tensor:
    return torch.minimum(torch.maximum(z, ends[0]), ends[1])


def _positive(a: Tensor, b: Tensor) -> Tensor:
    """a b where a > 0, else 0; b >= 0."""
    return torch.where((a <= 0) | (b == 0), 0.0, a * b)
