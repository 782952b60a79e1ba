"""Smooth activations: sigmoid, tanh, softplus."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

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

    def derivative_upper(self, z: Tensor) -> Tensor:
        """abs(g'(z)), a few roundings added."""
        return (self.derivative(z) * (1 + 1e-5) + 1e-30).clamp_max(self.slopes[1])

    def undecided(self, box: Box) -> Tensor:
        """Those that can move by so much that the derivative can."""
        return (box.upper - box.lower) * self.curvature > 1e-3

    def line(self, box: Box, falling: Tensor) -> Tensor:
        """The chord over the box; the derivative where the box is a point."""
        width = box.upper - box.lower
        chord = (self.forward(box.upper) - self.forward(box.lower)) / width
        return torch.where(width > 1e-4, chord, self.derivative((box.lower + box.upper) / 2))

    @final
    def least(self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor) -> Tensor:
        """The larger of two bounds for each entry, an exact one for lines and one of Taylor's for parabolas.

        Straight: p >= q steepest^2 pays for the quadratic terms, and what is left, c g(z) - l z, is least at an end of
        the box, at a kink, or where g' = l / c. Where a computed such point z is on the right stretch, g' is monotone
        from there to the exact one, which is therefore lower by at most abs(c g'(z) - l) times the width of the box.
        Bent: c g(z) >= c g(z0) + c g'(z0) d - abs(c) k / 2 d^2 with k = -inf g'' where c > 0 and sup g'' where c < 0
        (Taylor for the convex function c g + abs(c) k / 2 z^2), which leaves a parabola in d = z - z0.
        """
        c, rest = form.linear, region.value
        low, high = region.box.lower, region.box.upper
        proof = c.dtype == torch.float64
        y, off = self.enclose(rest)
        start = c * (y - value)
        straight = start + self._straight(c, line, low, high, rest, y)
        terms = straight
        if curvature is not None:
            terms = torch.maximum(straight, start + self._bent(form, line, curvature, region))
        if not proof:
            return terms.flatten(1).sum(1)
        far = (low - rest).abs() + (high - rest).abs()
        sizes = c.abs() * (y.abs() + off + value.abs() + far * self.steepest) + line.abs() * far
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
                inside = turns & (z > low) & (z < high)
                z = torch.nan_to_num(z, nan=0.0).clamp(-1e30, 1e30)
                z = torch.minimum(torch.maximum(z, low), high)
                cost = self._cost(c, line, z, rest, y)
                if z.dtype == torch.float64:
                    slope = self.derivative(z)
                    steep = (c * slope - line).abs() + self._rounded(c, slope, line)
                    cost = cost - torch.where(inside, steep * (high - low), 0.0)
                places.append(z)
                costs.append(cost)
            lowest, which = torch.stack(costs).min(0)
            z = torch.stack(places).gather(0, which[None]).squeeze(0)
        found = self._cost(c, line, z, rest, y)
        return found + (lowest - found).detach().clamp_max(0.0) if z.dtype == torch.float64 else found

    def _cost(self, c: Tensor, line: Tensor, z: Tensor, rest: Tensor, y: Tensor) -> Tensor:
        value, off = self.enclose(z)
        cost = c * (value - y) - line * (z - rest)
        return cost - c.abs() * off if z.dtype == torch.float64 else cost

    def _rounded(self, c: Tensor, slope: Tensor, line: Tensor) -> Tensor:
        """How far a computed c g'(z) - l can be from the exact one."""
        return c.abs() * self.derivative_error(slope) + 8 * UNIT64 * (c * slope).abs() + 8 * UNIT64 * line.abs()

    def _bent(self, form: Form, line: Tensor, curvature: Tensor, region: Region) -> Tensor:
        c, rest = form.linear, region.value
        slope = self.derivative(rest)
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


@final
@dataclass(frozen=True, eq=False)
class Softplus(Smooth):
    """log(1 + exp(beta z)) / beta, replaced by z where beta z > threshold, as PyTorch does.

    The exact function without the threshold is what is bounded: slopes in (0, 1), abs(g'') <= beta / 4. The
    replacement changes it by at most exp(-threshold) / beta, which `noise` counts with the rounding.

    Modulus: rho, averaged between linear maps
    At a known input: max abs(g'(z)) rho + beta / 8 rho^2, and with the Jacobian of g(W x + b)
    Source: Peck et al. (2017), Theorem 4.1, corrected; docs/theory.md
    """

    beta: float
    threshold: float

    def __post_init__(self) -> None:
        assert self.beta > 0.0, "the frontends refuse softplus with beta <= 0"

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    @property
    def curvature(self) -> float:
        """beta / 4."""
        return self.beta / 4

    @property
    def bends(self) -> tuple[float, float]:
        """0 and beta / 4: convex."""
        return 0.0, self.curvature

    @property
    def at_zero(self) -> float:
        """log(2) / beta."""
        return math.log(2) / self.beta

    def forward(self, *inputs: Tensor) -> Tensor:
        """The softplus as PyTorch computes it."""
        return functional.softplus(inputs[0], self.beta, self.threshold)

    @property
    def image(self) -> tuple[float, float]:
        """0 and infinity."""
        return 0.0, math.inf

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """max(z, 0) + log(1 + exp(-abs(s))) / beta with s = beta z: the exact function, without the threshold.

        Twelve roundings of terms of one sign (exp, log1p and the division by beta count three each), and those of s:
        two, which exp turns into 2 abs(s) below zero, and into at most 2 / (e ln 2) of the value above it. From
        abs(s) = 1000 on exp vanishes in every dtype. What exp or s loses to underflow is divided by beta.
        """
        info = torch.finfo(z.dtype)
        s = self.beta * z
        value = z.clamp_min(0) + s.abs().neg().exp().log1p() / self.beta
        error = info.eps * (8 + (-s).clamp(0, 1000)) * value + 2 * info.tiny * (1 + 1 / self.beta)
        sane = 4 * info.tiny <= self.beta <= 0.25 / info.tiny  # else beta or 1 / beta is not a normal number
        return value, error if sane else torch.full_like(z, math.inf)

    def interval(self, *boxes: Box) -> Box:
        """The exact function's, and the values z with which `forward` replaces it where beta z > threshold.

        These are below the exact ones, so only the lower end can move: to the smallest of them.
        """
        (box,) = boxes
        found = super().interval(box)
        first = self.threshold / self.beta
        if math.isfinite(first):  # a little early: the threshold's comparison is rounded as well
            first -= 4 * torch.finfo(box.lower.dtype).eps * abs(first) + torch.finfo(box.lower.dtype).tiny
        lower = torch.minimum(found.lower, box.lower.clamp_min(first))
        return Box(torch.where(box.upper > first, lower, found.lower), found.upper)

    def derivative(self, z: Tensor) -> Tensor:
        """The logistic function of beta z; where beta z < -32 it may be off by 1e-28."""
        return (self.beta * z).sigmoid()

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """logit(slope) / beta."""
        return (slope.logit() / self.beta,)

    def derivative_upper(self, z: Tensor) -> Tensor:
        """The logistic function of beta z, with a few roundings added (beta z itself is rounded)."""
        scaled = self.beta * z
        return ((scaled + scaled.abs() * 1e-6).sigmoid() * (1 + 1e-5) + 1e-30).clamp_max(1.0)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Rounding, and what the threshold leaves out, for each entry."""
        replaced = math.exp(min(-self.threshold, 700.0)) / self.beta * math.sqrt(math.prod(self.input_shape))
        return super().noise(*norms, unit=unit) + replaced
