"""Smooth activations: what they share, sigmoid and tanh."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Form, Region, total, wide
from pertbound.layers.activation import Activation
from pertbound.numerics import UNIT32, UNIT64
from pertbound.sets import Box

SLACK = 1e-12
"""Of slopes, relatively: what their rounding can be."""


@dataclass(frozen=True, eq=False)
class Smooth(Activation):
    """A g whose derivative is monotone on each of a few stretches of the line; it may jump between them (`kinks`)."""

    @abstractmethod
    def derivative(self, z: Tensor) -> Tensor:
        """g'(z), off by at most `derivative_error`; at a kink, that of the stretch that `flat` may end there for."""

    @abstractmethod
    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """For each stretch the z in it with g'(z) = slope, (items, ...).

        NaN where there is none for any slope closer than `SLACK` times the steepest; beyond inf g' and sup g' anything.
        """

    @property
    def kinks(self) -> tuple[float, ...]:
        """Where the derivative jumps."""
        return ()

    @property
    def bends(self) -> tuple[float, float]:
        """inf g'' and sup g'', jumps of the derivative counted as infinite: g - inf z^2 / 2 is convex, and so on."""
        return -self.curvature, self.curvature

    def derivative_error(self, slope: Tensor) -> Tensor:
        """How far a computed derivative can be from the exact one."""
        return 32 * unit_of(slope) * slope.abs() + 1e-25

    def curve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """What `derivative` and `flat` are about, computed, and its error: g itself where that is continuous."""
        return self.enclose(z)

    def tangent(self, region: Region) -> Tensor:
        """The slope at the region's value that the bent bound starts from."""
        return self.derivative(region.value)

    def leap(self, region: Region) -> Tensor | None:
        """How far, entry by entry, a jump of g can take its value within the region; None for a continuous g."""
        del region
        return None

    def derivative_upper(self, z: Tensor) -> Tensor:
        """abs(g'(z)), a few roundings added."""
        return (self.derivative(z) * (1 + 1e-5) + 1e-30).clamp_max(self.slopes[1])

    def undecided(self, box: Box) -> Tensor:
        """Those that can move by so much that the derivative can."""
        return (box.upper - box.lower) * self.curvature > 1e-3

    def line(self, box: Box, falling: Tensor) -> Tensor:
        """The chord over the box; the derivative where the box is a point."""
        width = box.upper - box.lower
        chord = (self.curve(box.upper)[0] - self.curve(box.lower)[0]) / width
        return torch.where(width > 1e-4, chord, self.derivative((box.lower + box.upper) / 2))

    @final
    def least(self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor) -> Tensor:
        """The larger of two bounds for each entry, an exact one for lines and one of Taylor's for parabolas.

        Straight: p >= q steepest^2 pays for the quadratic terms, and what is left, c g(z) - l z, is least at an end of
        the box, at a kink, or where g' = l / c. Where a computed such point z is on the right stretch, g' is monotone
        from there to the exact one, which is therefore lower by at most abs(c g'(z) - l) times the width of the box.
        Where z is outside of the box and the exact one inside, that holds at the end next to z.
        Bent: c g(z) >= c g(z0) + c g'(z0) d - abs(c) k / 2 d^2 with k = -inf g'' where c > 0 and sup g'' where c < 0
        (Taylor for the convex function c g + abs(c) k / 2 z^2), which leaves a parabola in d = z - z0.

        Where g can jump by j (`leap`), what is said of g' is said of a function without the jump (`curve`), the
        straight bound knows both sides of it, the bent one pays abs(c) j, and, as abs(g(z) - g(z0)) is at most the
        larger of steepest abs(d) and j, both pay q/2 j^2.
        """
        c, rest, leap = form.linear, region.value, self.leap(region)
        low, high = region.box.lower, region.box.upper
        proof = c.dtype == torch.float64
        y, off = self.enclose(rest)
        start = c * (y - value)
        straight = start + self._straight(c, line, low, high, rest, y)
        terms = straight
        if curvature is not None:
            bent = start + self._bent(form, line, curvature, region)
            terms = torch.maximum(straight, bent if leap is None else bent - c.abs() * leap)
        if leap is not None and form.curvature is not None:
            terms = terms - wide(form.curvature, leap) / 2 * leap.square()
        if not proof:
            return terms.flatten(1).sum(1)
        far = (low - rest).abs() + (high - rest).abs()
        sizes = c.abs() * (y.abs() + off + value.abs() + far * self.steepest) + line.abs() * far
        if leap is not None:
            sizes = sizes + c.abs() * leap
            sizes = sizes if form.curvature is None else sizes + wide(form.curvature, leap) * leap.square()
        lost = c.abs() * off
        if curvature is not None:
            sizes = sizes + wide(curvature, far) * far.square()
        if form.curvature is not None:
            lost = lost + wide(form.curvature, off) * 1e9 * ((y - value).abs() + off).square()
        return total(terms - lost, sizes)

    def _straight(self, c: Tensor, line: Tensor, low: Tensor, high: Tensor, rest: Tensor, y: Tensor) -> Tensor:
        """The least of c (g(z) - y) - line (z - rest) over the box."""
        with torch.no_grad():
            places = [low, high]
            costs = [self._cost(c, line, z, rest, y) for z in places]
            ratio = line / c
            least, most = self.slopes
            room = SLACK * self.steepest
            turns = (ratio >= least - room) & (ratio <= most + room)  # else g' = l / c nowhere
            for kink in self.kinks:
                z = torch.minimum(torch.maximum(torch.full_like(low, kink), low), high)
                places.append(z)
                costs.append(self._cost(c, line, z, rest, y))
            for z in self.flat(ratio):
                known = turns & ~z.isnan()
                found = torch.nan_to_num(z, nan=0.0).clamp(-1e30, 1e30)
                z = torch.minimum(torch.maximum(found, low), high)
                cost = self._cost(c, line, z, rest, y)
                if z.dtype == torch.float64:
                    slope, there = self.derivative(z), self.derivative(found)
                    off = self._rounded(c, slope, line) + self._rounded(c, there, line)
                    steep = (c * slope - line).abs()
                    # the exact one may be in the box where the computed one is not, if it is no worse at the box's end
                    near = known & (steep <= (c * there - line).abs() + off)
                    cost = cost - torch.where(near, (steep + off) * (high - low), 0.0)
                places.append(z)
                costs.append(cost)
            lowest, which = torch.stack(costs).min(0)
            z = torch.stack(places).gather(0, which[None]).squeeze(0)
        found = self._cost(c, line, z, rest, y)
        return found + (lowest - found).detach().clamp_max(0.0) if z.dtype == torch.float64 else found

    def _cost(self, c: Tensor, line: Tensor, z: Tensor, rest: Tensor, y: Tensor) -> Tensor:
        value, off = self.curve(z)
        cost = c * (value - y) - line * (z - rest)
        return cost - c.abs() * off if z.dtype == torch.float64 else cost

    def _rounded(self, c: Tensor, slope: Tensor, line: Tensor) -> Tensor:
        """How far a computed c g'(z) - l can be from the exact one."""
        return c.abs() * self.derivative_error(slope) + 8 * UNIT64 * (c * slope).abs() + 8 * UNIT64 * line.abs()

    def _bent(self, form: Form, line: Tensor, curvature: Tensor, region: Region) -> Tensor:
        c, rest = form.linear, region.value
        slope = self.tangent(region)
        rise = c * slope - line
        below, above = self.bends
        usable = None  # or where no kink is the wrong way round
        if -below == above:
            bow = wide(curvature, rise) - c.abs() * above
        else:
            finite = [0.0 if math.isinf(bend) else abs(bend) for bend in (below, above)]
            bow = wide(curvature, rise) - torch.where(c > 0, c * finite[0], c * -finite[1])
            if math.isinf(below) or math.isinf(above):
                usable = c <= 0 if math.isinf(below) else c >= 0
        if form.curvature is not None:
            bow = bow - wide(form.curvature, bow) * self.steepest**2 * (1 + 1e-9)
        low, high = region.box.lower - rest, region.box.upper - rest
        with torch.no_grad():
            ends = torch.where(rise * low + bow / 2 * low * low < rise * high + bow / 2 * high * high, low, high)
            vertex = torch.minimum(torch.maximum(-rise / bow, low), high)
            d = torch.where(bow > 0, vertex, ends)
        found = rise * d + bow / 2 * d * d
        if d.dtype != torch.float64:
            return found if usable is None else torch.where(usable, found, -math.inf)
        off = self._rounded(c, slope, line)
        missed = torch.where(bow > 0, (off + UNIT64 * rise.abs()).square() / bow.clamp_min(1e-300), 0.0)
        found = found - off * (low.abs() + high.abs()) - missed
        return found if usable is None else torch.where(usable, found, -math.inf)


def unit_of(like: Tensor) -> float:
    """The unit roundoff of a tensor's dtype."""
    return UNIT64 if like.dtype == torch.float64 else UNIT32


@final
@dataclass(frozen=True, eq=False)
class Sigmoid(Smooth):
    """s(z) = 1 / (1 + exp(-z)). s' = s (1 - s) in (0, 1/4]; abs(s'') <= 1 / (6 sqrt(3)), at s = (3 +- sqrt 3) / 6.

    Modulus: rho / 4, averaged between linear maps
    At a known input: max abs(g'(z)) rho + 0.0481 rho^2, and with the Jacobian of g(W x + b)
    Source: Peck et al. (2017), Theorem 4.1, corrected; docs/theory.md
    """

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1/4."""
        return 0.0, 0.25

    @property
    def curvature(self) -> float:
        """1 / (6 sqrt(3)) = 0.0962."""
        return 1 / (6 * math.sqrt(3)) * (1 + 1e-12)

    @property
    def at_zero(self) -> float:
        """1/2."""
        return 0.5

    @property
    def image(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """s(z)."""
        return inputs[0].sigmoid()

    def derivative(self, z: Tensor) -> Tensor:
        """s(z) s(-z), which does not cancel."""
        return z.sigmoid() * (-z).sigmoid()

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """s (1 - s) = slope at s = (1 +- sqrt(1 - 4 slope)) / 2, and z = log(s / (1 - s))."""
        root = (1 - 4 * slope).clamp_min(0.0).sqrt()
        z = (2 * root / (1 - root)).log1p()
        return z, -z


@final
@dataclass(frozen=True, eq=False)
class Tanh(Smooth):
    """tanh(z). Slopes in (0, 1]; abs(tanh'') = 2 abs(t) (1 - t^2) <= 4 / (3 sqrt(3)), at t^2 = 1/3.

    Modulus: rho, averaged between linear maps
    At a known input: max abs(g'(z)) rho + 0.385 rho^2, and with the Jacobian of g(W x + b)
    Source: Peck et al. (2017), Theorem 4.1, corrected; docs/theory.md
    """

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    @property
    def curvature(self) -> float:
        """4 / (3 sqrt(3)) = 0.7698."""
        return 4 / (3 * math.sqrt(3)) * (1 + 1e-12)

    @property
    def image(self) -> tuple[float, float]:
        """-1 and 1."""
        return -1.0, 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """tanh(z)."""
        return inputs[0].tanh()

    def derivative(self, z: Tensor) -> Tensor:
        """1 - tanh(z)^2 = 4 s(2z) s(-2z) with the logistic s, which does not cancel."""
        return 4 * (2 * z).sigmoid() * (-2 * z).sigmoid()

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """1 - tanh(z)^2 = slope at z = +- artanh sqrt(1 - slope)."""
        z = (1 - slope).clamp_min(0.0).sqrt().atanh()
        return z, -z
