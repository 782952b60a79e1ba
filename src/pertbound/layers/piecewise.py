"""Activations of straight pieces: ReLU, leaky and parametric ReLU, absolute value."""

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
from pertbound.layers.base import Shape, outward, require_finite
from pertbound.numerics import UNIT64
from pertbound.sets import Box

Number = float | Tensor
Piece = tuple[Number, float, float, float]
"""slope, offset, first, last: slope * z + offset on [first, last]; a tensor of slopes has one for each entry."""


@dataclass(frozen=True, eq=False)
class Pieces(Activation):
    """A continuous g of a few straight pieces."""

    @abstractmethod
    def pieces(self, like: Tensor) -> tuple[Piece, ...]:
        """The pieces, which cover the real line, from right to left; slopes in the dtype of `like`."""

    @final
    def least(self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor) -> Tensor:
        """Exact: on each piece a parabola or a line, whose least value is at an end of the piece or at its vertex.

        Where it is attained is found without derivatives: at a minimiser they vanish (envelope theorem).
        """
        with torch.no_grad():
            z, image, far, missed = self._minimiser(form, line, curvature, region, value)
            up, across = image - value, z - region.value  # how far output and input move
        terms = form.linear * up - line * across
        bent = torch.zeros_like(region.radius)
        if curvature is not None:
            bent = curvature / 2 * across.square().flatten(1).sum(1)
            if form.curvature is not None:
                bent = bent - form.curvature / 2 * up.square().flatten(1).sum(1)
        if terms.dtype != torch.float64:
            return terms.flatten(1).sum(1) + bent
        sizes = _sizes(form, line, curvature, up, far, across)
        return total(terms - missed, sizes) + bent - terms[0].numel() * UNIT64 * sizes.flatten(1).sum(1)

    @final
    def looseness(
        self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor, at: Tensor
    ) -> Tensor:
        """By how much `least` is below what stands under the minimum at z = `at`, entry by entry, (items, *shape).

        At the inputs' values for one perturbation, these are the parts that the entries have in the bound's gap there.
        """
        least_at, least_image, _, _ = self._minimiser(form, line, curvature, region, value)
        costs: list[Tensor] = []
        for z, image in ((at, self.forward(at)), (least_at, least_image)):
            up, across = image - value, z - region.value
            cost = form.linear * up - line * across
            for bow, moved in ((curvature, across), (None if form.curvature is None else -form.curvature, up)):
                if bow is not None:
                    cost = cost + wide(bow, moved) / 2 * moved.square()
            costs.append(cost)
        return costs[0] - costs[1]

    def _minimiser(
        self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where the least value is, g there, what bounds the sizes that g(z) - y is computed from, and by how much the
        least value of all can be lower.

        On each piece f is convex, f(w) >= f(z) + f'(z) (w - z): in float64, where z is not quite the minimiser, what is
        missed is at most f'(z), roundings included, times the way to an end. Pieces are compared by the lower bounds
        that come of this, because their values can be of very different sizes, and so what rounds them.
        """
        low, high, rest = region.box.lower, region.box.upper, region.value
        best: tuple[Tensor, ...] | None = None
        for slope, offset, first, last in self.pieces(line):
            start, end = _between(low, first, last), _between(high, first, last)
            rise = slope * form.linear - line
            p = q = None
            if curvature is None:
                z = torch.where(rise > 0, start, end)
            else:
                p = wide(curvature, rise)
                bow, push = p, p * rest - rise
                if form.curvature is not None:
                    q = wide(form.curvature, rise) * slope
                    bow, push = bow - q * slope, push - q * (value - offset if offset else value)
                z = push / bow.clamp_min(torch.finfo(bow.dtype).tiny)
                z = torch.minimum(torch.maximum(z, start), end)
            image = slope * z
            if offset:
                image = image + offset
            up, across = image - value, z - rest
            cost = form.linear * up - line * across
            if curvature is not None:
                cost = cost + wide(curvature, cost) / 2 * across.square()
                if form.curvature is not None:
                    cost = cost - wide(form.curvature, cost) / 2 * up.square()
            far = missed = cost  # what is not used
            if z.dtype == torch.float64:
                far = (slope * z).abs() + value.abs() + abs(offset)
                exact = not isinstance(slope, Tensor) and slope in (-1, 0, 1)
                steep, off = rise, rise.abs() + (slope * form.linear).abs() * (not exact)
                if p is not None:
                    steep, off = steep + p * across, off + p * across.abs()
                if q is not None:
                    steep, off = steep - q * up, off + (q * far).abs()
                off = 16 * UNIT64 * off
                missed = _product(steep + off, z - start) + _product(off - steep, end - z)
                cost = cost - missed - 32 * UNIT64 * _sizes(form, line, curvature, up, far, across)
            if first > -math.inf:
                cost = torch.where(high >= first, cost, torch.inf)
            if last < math.inf:
                cost = torch.where(low <= last, cost, torch.inf)
            found = (cost, z, image, far, missed) if z.dtype == torch.float64 else (cost, z, image)
            best = found if best is None else _smaller(best, found)
        assert best is not None
        _, z, image, far, missed = best if len(best) == 5 else (*best, best[0], best[0])
        return z, image, far, missed


@dataclass(frozen=True, eq=False)
class TwoPieces(Pieces):
    """left * z for z < 0, z for z >= 0."""

    def left(self, like: Tensor) -> Number:
        """The slope below zero, in the dtype of `like` where it is a tensor."""
        del like
        return 0.0

    @final
    def pieces(self, like: Tensor) -> tuple[Piece, ...]:
        """1 and `left`."""
        return (1.0, 0.0, 0.0, math.inf), (self.left(like), 0.0, -math.inf, 0.0)

    @property
    def image(self) -> tuple[float, float]:
        """From 0 on where g falls to the left of it in all entries."""
        left = self.left(torch.zeros((), dtype=torch.float64))
        most = float(left.max()) if isinstance(left, Tensor) else left
        return (0.0 if most <= 0 else -math.inf), math.inf

    @property
    def broadcasts(self) -> bool:
        """They do."""
        return True

    @final
    def undecided(self, box: Box) -> Tensor:
        """Those that can be on either side of the kink."""
        return (box.lower < 0) & (box.upper > 0)

    @final
    def line(self, box: Box, falling: Tensor) -> Tensor:
        """The chord over the box above a convex g; below it, the slope of the longer side (Zhang et al. 2018).

        For left > 1, where g is concave, the other way round.
        """
        low, high = box.lower.clamp_max(0.0), box.upper.clamp_min(0.0)
        share = high / (high - low).clamp_min(torch.finfo(low.dtype).tiny)  # 1 where the box is positive, 0 negative
        share = torch.where((low == 0) & (high == 0), 0.5, share)
        left = self.left(low)
        over = falling == (left <= 1) if isinstance(left, Tensor) else falling if left <= 1 else ~falling
        part = torch.where(over, share, (high > -low).to(share.dtype))
        return left + (1 - left) * part

    def interval(self, *boxes: Box) -> Box:
        """Of g at both ends, and of 0 where that is within: on each side of it g is monotone. NaN stays NaN."""
        (box,) = boxes
        (a, a_off), (b, b_off) = self.enclose(box.lower), self.enclose(box.upper)
        a_off, b_off = a_off.masked_fill(a.isinf(), 0.0), b_off.masked_fill(b.isinf(), 0.0)
        bad = a.isnan() | b.isnan()
        inside = (box.lower <= 0) & (box.upper >= 0)
        low = torch.minimum(a - a_off, b - b_off)
        low = torch.where(inside, low.clamp_max(0.0), low)
        found = outward(low, torch.maximum(a + a_off, b + b_off), torch.zeros_like(a_off), torch.zeros_like(b_off))
        if not self.rounds:
            found = Box(low, torch.maximum(a, b))
        found = Box(found.lower.clamp_min(self.image[0]), found.upper)
        return Box(found.lower.masked_fill(bad, math.nan), found.upper.masked_fill(bad, math.nan))


def _sizes(form: Form, line: Tensor, curvature: Tensor | None, up: Tensor, far: Tensor, across: Tensor) -> Tensor:
    """The sizes of what is added up, entry by entry: a few roundings of the sum are as many of these, at most.

    `far` bounds what `up`, the output's movement, is computed from; the input's, `across`, is a single difference.
    """
    sizes = form.linear.abs() * far + (line * across).abs()
    if curvature is not None:
        sizes = sizes + wide(curvature, up) * across.square()
    if form.curvature is not None:
        sizes = sizes + wide(form.curvature, up) * far * (up.abs() + 4 * UNIT64 * far)
    return sizes


def _between(x: Tensor, first: float, last: float) -> Tensor:
    """x moved into [first, last]; NaN stays."""
    x = x if first == -math.inf else x.clamp_min(first)
    return x if last == math.inf else x.clamp_max(last)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b where a > 0, else 0; b >= 0. NaN stays."""
    return torch.where((a <= 0) | (b == 0), 0.0, a * b)


def _smaller(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Entry by entry the tuple whose first entry is smaller; NaN stays."""
    first = (a[0] <= b[0]) | a[0].isnan()
    return tuple(torch.where(first, x, y) for x, y in zip(a, b, strict=True))


@final
@dataclass(frozen=True, eq=False)
class ReLU(TwoPieces):
    """max(z, 0). Slopes 0 and 1; no second derivative, so no curvature bound holds.

    Published: Theorem 4.1 with the Jacobian at x. Unsound: at x = -1, h(x) = ReLU(x) has Jacobian 0, hence an
    infinite "bound", and r = 1 + kappa moves the output by kappa.

    Modulus: rho, and (norm(B W) + norm(B) norm(W)) / 2 rho between linear maps W and B
    Source: Combettes and Pesquet (2020) for the modulus, Zhang et al. (2018) for lines, docs/theory.md for parabolas
    """

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """max(z, 0)."""
        return inputs[0].relu()

    @property
    def rounds(self) -> bool:
        """Exact."""
        return False

    def interval(self, *boxes: Box) -> Box:
        """Of an increasing function: its values at the ends; exact."""
        return Box(boxes[0].lower.relu(), boxes[0].upper.relu())


@final
@dataclass(frozen=True, eq=False)
class LeakyReLU(TwoPieces):
    """z for z >= 0, slope * z otherwise; the slope may be negative, -1 being the absolute value.

    Modulus: max(1, abs(slope)) rho, averaged between linear maps
    Source: as for ReLU
    """

    slope: float

    def __post_init__(self) -> None:
        assert math.isfinite(self.slope), "the frontends refuse slopes that are no numbers"

    def left(self, like: Tensor) -> float:
        """The slope below zero."""
        del like
        return self.slope

    @property
    def slopes(self) -> tuple[float, float]:
        """The two slopes in increasing order."""
        return min(self.slope, 1.0), max(self.slope, 1.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Max of z and slope * z where slope <= 1."""
        return functional.leaky_relu(inputs[0], self.slope)

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Exact from zero on; below, the roundings of the slope and of the product, and what either flushes."""
        value, info = self.forward(z) if self.slope else z.relu(), torch.finfo(z.dtype)
        error = 2 * info.eps * value.abs() + 2 * info.tiny * (1 + (-z).clamp_min(0))
        return value, error.masked_fill(z >= 0, 0.0) if self.slope else torch.zeros_like(z)


@final
@dataclass(frozen=True, eq=False)
class Abs(TwoPieces):
    """abs(z). Slopes -1 and 1: omega(rho) = rho, and behind linear maps nothing is averaged.

    Modulus: rho
    Source: as for ReLU
    """

    def left(self, like: Tensor) -> float:
        """-1."""
        del like
        return -1.0

    @property
    def slopes(self) -> tuple[float, float]:
        """-1 and 1."""
        return -1.0, 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """abs(z)."""
        return inputs[0].abs()

    @property
    def rounds(self) -> bool:
        """Exact."""
        return False

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Exact."""
        return z.abs(), torch.zeros_like(z)


@final
@dataclass(frozen=True, eq=False)
class PReLU(TwoPieces):
    """z for z >= 0, weight * z otherwise; `weight` broadcasts over the sample, and may be negative.

    Each entry is a leaky ReLU of its own slope, so that omega(rho) = max(1, abs(weight)) rho, exact.

    Modulus: max(1, abs(weight)) rho, averaged between linear maps
    Source: as for ReLU; He et al. (2015)
    """

    weight: Tensor

    def __post_init__(self) -> None:
        require_finite(self, weight=self.weight)

    @staticmethod
    def of_channels(shape: Shape, weight: Tensor) -> PReLU:
        """One slope for all, or one for each entry of the first dimension of a sample, as PyTorch counts them."""
        return PReLU(shape, weight.reshape(-1, *(1 for _ in shape[1:])))

    def left(self, like: Tensor) -> Tensor:
        """The slopes below zero."""
        return self.weight.to(like)

    @property
    def slopes(self) -> tuple[float, float]:
        """The least and the largest slope of any entry."""
        return min(1.0, float(self.weight.min())), max(1.0, float(self.weight.max()))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The product below zero."""
        (z,) = inputs
        return torch.where(z >= 0, z, self.left(z) * z)

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """As for leaky ReLU."""
        value, info = self.forward(z), torch.finfo(z.dtype)
        error = 2 * info.eps * value.abs() + 2 * info.tiny * (1 + (-z).clamp_min(0))
        still = (self.left(z) == 0).expand_as(z)
        value = torch.where(still, z.relu(), value)  # not 0 times infinity
        return value, error.masked_fill((z >= 0) | still, 0.0)
