"""ReLU and leaky ReLU: two straight pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.forms import Form, Region, total, wide
from pertbound.layers.activation import Activation
from pertbound.numerics import UNIT64
from pertbound.sets import Box


@dataclass(frozen=True, eq=False)
class TwoPieces(Activation):
    """left * z for z < 0, z for z >= 0; left >= 0."""

    @property
    def left(self) -> float:
        """The slope below zero."""
        return 0.0

    @final
    def undecided(self, box: Box) -> Tensor:
        """Those that can be on either side of the kink."""
        return (box.lower < 0) & (box.upper > 0)

    def line(self, box: Box, falling: Tensor) -> Tensor:
        """The chord over the box above a convex g; below it, the slope of the longer side (Zhang et al. 2018).

        For left > 1, where g is concave, the other way round.
        """
        low, high = box.lower.clamp_max(0.0), box.upper.clamp_min(0.0)
        share = high / (high - low).clamp_min(torch.finfo(low.dtype).tiny)  # 1 where the box is positive, 0 negative
        share = torch.where((low == 0) & (high == 0), 0.5, share)
        over = falling if self.left <= 1 else ~falling
        part = torch.where(over, share, (high > -low).to(share.dtype))
        return self.left + (1 - self.left) * part

    @final
    def least(self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor) -> Tensor:
        """Exact: on each piece a parabola or a line, whose least value is at an end of the piece or at its vertex.

        Where it is attained is found without derivatives: at a minimiser they vanish (envelope theorem).
        """
        with torch.no_grad():
            z, slope, missed = self._minimiser(form, line, curvature, region, value)
            up, across = slope * z - value, z - region.value  # how far output and input move
        terms = form.linear * up - line * across
        bent = torch.zeros_like(region.radius)
        if curvature is not None:
            bent = curvature / 2 * across.square().flatten(1).sum(1)
            if form.curvature is not None:
                bent = bent - form.curvature / 2 * up.square().flatten(1).sum(1)
        if terms.dtype != torch.float64:
            return terms.flatten(1).sum(1) + bent
        sizes = _sizes(form, line, curvature, up, (slope * z).abs() + value.abs(), across)
        return total(terms - missed, sizes) + bent - terms[0].numel() * UNIT64 * sizes.flatten(1).sum(1)

    @final
    def looseness(
        self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor, at: Tensor
    ) -> Tensor:
        """By how much `least` is below what stands under the minimum at z = `at`, entry by entry, (items, *shape).

        At the inputs' values for one perturbation, these are the parts that the entries have in the bound's gap there.
        """
        least_at, slope, _ = self._minimiser(form, line, curvature, region, value)
        costs: list[Tensor] = []
        for z, piece in ((at, torch.where(at >= 0, 1.0, self.left)), (least_at, slope)):
            up, across = piece * z - value, z - region.value
            cost = form.linear * up - line * across
            for bow, moved in ((curvature, across), (None if form.curvature is None else -form.curvature, up)):
                if bow is not None:
                    cost = cost + wide(bow, moved) / 2 * moved.square()
            costs.append(cost)
        return costs[0] - costs[1]

    def _minimiser(
        self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where the least value is, the slope of that piece, and by how much the least value of all can be lower.

        On each piece f is convex, f(w) >= f(z) + f'(z) (w - z): in float64, where z is not quite the minimiser, what is
        missed is at most f'(z), roundings included, times the way to an end. Pieces are compared by the lower bounds
        that come of this, because their values can be of very different sizes, and so what rounds them.
        """
        low, high, rest = region.box.lower, region.box.upper, region.value
        best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        for slope, start, end, there in (
            (1.0, low.clamp_min(0.0), high.clamp_min(0.0), high >= 0),
            (self.left, low.clamp_max(0.0), high.clamp_max(0.0), low <= 0),
        ):
            rise = slope * form.linear - line
            p = q = None
            if curvature is None:
                z = torch.where(rise > 0, start, end)
            else:
                p = wide(curvature, rise)
                bow, push = p, p * rest - rise
                if form.curvature is not None:
                    q = wide(form.curvature, rise) * slope
                    bow, push = bow - q * slope, push - q * value
                z = push / bow.clamp_min(torch.finfo(bow.dtype).tiny)
                z = torch.minimum(torch.maximum(z, start), end)
            up, across = slope * z - value, z - rest
            cost = form.linear * up - line * across
            if curvature is not None:
                cost = cost + wide(curvature, cost) / 2 * across.square()
                if form.curvature is not None:
                    cost = cost - wide(form.curvature, cost) / 2 * up.square()
            missed = torch.zeros_like(cost)
            if z.dtype == torch.float64:
                far = (slope * z).abs() + value.abs()
                steep, off = rise, rise.abs() + (slope * form.linear).abs() * (slope not in (0, 1))
                if p is not None:
                    steep, off = steep + p * across, off + p * across.abs()
                if q is not None:
                    steep, off = steep - q * up, off + q * far
                off = 16 * UNIT64 * off
                missed = _product(steep + off, z - start) + _product(off - steep, end - z)
                cost = cost - missed - 32 * UNIT64 * _sizes(form, line, curvature, up, far, across)
            cost = torch.where(there, cost, torch.inf)
            found = (cost, z, torch.full_like(z, slope), missed)
            best = found if best is None else _smaller(best, found)
        assert best is not None
        return best[1:]


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


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b where a > 0, else 0; b >= 0. NaN stays."""
    return torch.where((a <= 0) | (b == 0), 0.0, a * b)


def _smaller(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Entry by entry the tuple whose first entry is smaller; NaN stays."""
    first = (a[0] <= b[0]) | a[0].isnan()
    cost, z, slope, missed = (torch.where(first, x, y) for x, y in zip(a, b, strict=True))
    return cost, z, slope, missed


@final
@dataclass(frozen=True, eq=False)
class ReLU(TwoPieces):
    """max(z, 0). Slopes 0 and 1; no second derivative, so no curvature bound holds.

    Published: Theorem 4.1 with the Jacobian at x. Unsound: at x = -1, h(x) = ReLU(x) has Jacobian 0, hence an
    infinite "bound", and r = 1 + kappa moves the output by kappa.
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


@final
@dataclass(frozen=True, eq=False)
class LeakyReLU(TwoPieces):
    """z for z >= 0, slope * z otherwise, with slope >= 0."""

    slope: float

    def __post_init__(self) -> None:
        assert self.slope >= 0.0, "the frontends refuse leaky ReLUs that decrease"

    @property
    def left(self) -> float:
        """The slope below zero."""
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
