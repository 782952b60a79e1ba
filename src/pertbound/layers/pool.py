"""Pooling over windows: maximum, average, Lp norm; one or two spatial dimensions; windows may overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.forms import Duals, Form, Pulled, Region, total, wide
from pertbound.layers.base import Layer, Shape, outward, reserve
from pertbound.layers.linear import Linear
from pertbound.numerics import TINY32, UNIT32, UNIT64, gamma
from pertbound.sets import Box

_MAX: dict[int, Callable[..., Any]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., Any]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


def windows_per_entry(window: Shape, stride: Shape, dilation: Shape) -> int:
    """The largest number of windows that one input entry lies in.

    In one dimension with q taps at distance d and stride s, an entry at position p lies in the windows o with
    p = o s + j d: the possible j in 0 .. q - 1 differ by multiples of s / gcd(s, d), so there are at most
    ceil(q gcd(s, d) / s) of them. Dimensions multiply.
    """
    return math.prod(-(-q * math.gcd(s, d) // s) for q, s, d in zip(window, stride, dilation, strict=True))


def published_side(output_shape: Shape) -> float:
    """The paper's t, for an output of t x t per channel; the root of the number of positions in general."""
    return math.sqrt(math.prod(output_shape[1:]))


@final
@dataclass(frozen=True, eq=False)
class MaxPool(Layer):
    """The largest entry of each window.

    Sound: abs(max u - max v) <= norm(u - v)_inf <= norm(u - v)_2 in each window, and an entry lies in at most m
    windows (`windows_per_entry`), so omega(rho) = sqrt(m) rho; rho where windows do not overlap.
    Published (Theorem 4.4): kappa / t for t x t outputs per channel: correct, and very loose.

    Modulus: sqrt(m) rho, m the most windows that hold one entry
    Source: Peck et al. (2017), Theorem 4.4, made tight; convex weights as in Ti-Lin (Xiao et al. 2022)
    """

    input_shape: Shape
    window: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    ceil_mode: bool

    @property
    def rounds(self) -> bool:
        """Maxima are exact."""
        return False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The maxima."""
        pool = _MAX[len(self.window)]
        return pool(inputs[0], self.window, self.stride, self.padding, self.dilation, self.ceil_mode)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """sqrt(m) rho."""
        return math.sqrt(windows_per_entry(self.window, self.stride, self.dilation)) * radii[0]

    def interval(self, *boxes: Box) -> Box:
        """The maxima of the ends; exact, because a maximum increases in every entry."""
        return Box(self.forward(boxes[0].lower), self.forward(boxes[0].upper))

    def undecided(self, box: Box) -> Tensor:
        """Those that can be the largest of a window in which others can be, too."""
        low, high = self.windows(box.lower, -math.inf), self.windows(box.upper, -math.inf)
        can = (high >= low.amax(-1, keepdim=True)) & torch.isfinite(high)
        several = can.sum(-1, keepdim=True) > 1
        return self.unwindowed((can & several).to(box.lower.dtype)) > 0

    def start(self, inputs: tuple[Region, ...], form: Form, *, curved: bool) -> Duals:
        """Each window's weight on its largest entry at the sample."""
        del form
        z = self.windows(inputs[0].value, -math.inf)
        first = torch.zeros_like(z).scatter_(-1, z.argmax(-1, keepdim=True), 1.0)
        own = torch.zeros_like(inputs[0].radius) if curved else None
        return Duals(slope=first, shift=torch.zeros_like(z), curvature=own)

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """Convex weights below a maximum; above it, the least over the entries that can be largest.

        One window: c (max z - y) - q/2 (max z - y)^2 >= <l, u> - p/2 norm(u)^2 + least, with u = z - z0.
        Where c >= 0: max z >= <t, z> for all weights t >= 0 of sum 1 (the best convex bound; Ti-Lin, Xiao et al.
        2022), and abs(max z - y) <= max abs(u_j). Where c < 0: c max z = c z_i for an i that can be largest in the box;
        then max z - y = u_i - (y - z0_i) lies between u_w and u_i, w the largest entry at rest. Either way what is
        left to minimise is a sum over the window's entries of parabolas in u, for each choice of the entry that is
        largest (i) and of the one that the square is charged to (j). l and t are free: l = c t + shift.

        Where windows overlap, an entry in m of them gets a share 1 / m of p norm(u)^2 in each.
        """
        (region,) = inputs
        assert duals.slope is not None
        assert duals.shift is not None
        there = self.windows(torch.ones_like(region.value[:1]), 0.0)  # 0 on the padding
        weights = duals.slope.clamp_min(0.0) * there
        sums = weights.sum(-1, keepdim=True)
        usable = (sums > 1e-12) & (sums < math.inf)
        weights = torch.where(usable, weights / torch.where(usable, sums, 1.0), there / there.sum(-1, keepdim=True))
        c = form.linear.unsqueeze(-1)
        size = form.linear.detach().flatten(1).square().mean(1).sqrt()
        line = weights * c + duals.shift * wide(size, duals.shift)
        line = line * there
        q, p = form.curvature, duals.curvature
        share = windows_per_entry(self.window, self.stride, self.dilation)
        if q is not None:
            assert p is not None, "a form with curvature needs a layer that was started with it"
            p = p + q * share * (1 + 1e-9)
        constant = least_over_windows(self, form, weights, line, None if p is None else p / share, region, output)
        return Pulled((Form(self.unwindowed(line), p),), constant)

    def windows(self, x: Tensor, padding: float) -> Tensor:
        """(batch, channels, *sizes) to (batch, channels, *output sizes, entries of a window)."""
        dims = len(self.window)
        if self._plain:
            sides = [n for size, q in zip(x.shape[2:], self.window, strict=True) for n in (size // q, q)]
            x = x.reshape(*x.shape[:2], *sides)
            order = [0, 1, *range(2, 2 + 2 * dims, 2), *range(3, 2 + 2 * dims, 2)]
            return x.permute(order).flatten(2 + dims)
        index, sizes = self._index
        outside = x.new_full((*x.shape[:2], 1), padding)
        return torch.cat([x.flatten(2), outside], 2)[:, :, index.to(x.device)].reshape(*x.shape[:2], *sizes, -1)

    def unwindowed(self, w: Tensor) -> Tensor:
        """The adjoint of `windows` (with padding 0): every entry's sum over its windows."""
        dims, channels = len(self.window), self.input_shape[0]
        if self._plain:
            order = [0, 1, *(n for d in range(dims) for n in (2 + d, 2 + dims + d))]
            return (
                w.reshape(*w.shape[:-1], *self.window).permute(order).reshape(len(w), channels, *self.input_shape[1:])
            )
        index, _ = self._index
        flat = w.new_zeros(len(w), channels, math.prod(self.input_shape[1:]) + 1)
        flat = flat.index_add(2, index.to(w.device), w.reshape(len(w), channels, -1))
        return flat[:, :, :-1].reshape(len(w), *self.input_shape)

    @cached_property
    def _plain(self) -> bool:
        """Whether the windows tile the input."""
        tiles = all(size % q == 0 for size, q in zip(self.input_shape[1:], self.window, strict=True))
        return tiles and self.stride == self.window and not any(self.padding) and all(d == 1 for d in self.dilation)

    @cached_property
    def _index(self) -> tuple[Tensor, Shape]:
        """For each window and each of its entries the position in the flat input, the size where there is none."""
        sizes = self.forward(torch.zeros(1, *self.input_shape)).shape[2:]
        total_ = math.prod(self.input_shape[1:])
        index, valid = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
        each = zip(sizes, self.input_shape[1:], self.window, self.stride, self.padding, self.dilation, strict=True)
        for count, size, q, step, pad, apart in each:
            at = (torch.arange(count) * step - pad)[:, None] + torch.arange(q) * apart
            inside = (at >= 0) & (at < size)
            index = (index[:, None, :, None] * size + at[None, :, None, :]).flatten(0, 1).flatten(1)
            valid = (valid[:, None, :, None] & inside[None, :, None, :]).flatten(0, 1).flatten(1)
        return torch.where(valid, index, total_).flatten(), tuple(sizes)

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Theorem 4.4: kappa / t."""
        output = self.forward(torch.zeros(1, *self.input_shape))
        return kappa / published_side(tuple(output.shape[1:]))


def least_over_windows(
    pool: MaxPool, form: Form, weights: Tensor, line: Tensor, p: Tensor | None, region: Region, output: Region
) -> Tensor:
    """The constant of `MaxPool.pull_back`, (items,): see there. Sums over windows of the least over (i, j).

    Where the least value is attained is found without derivatives: at a minimiser they vanish (envelope theorem).
    """
    with torch.no_grad():
        rest = pool.windows(region.value, -math.inf)
        there = torch.isfinite(rest)
        gap = torch.where(there, output.value.unsqueeze(-1) - rest, 0.0)
        down = torch.where(there, pool.windows(region.box.lower, 0.0) - rest, 0.0)
        up = torch.where(there, pool.windows(region.box.upper, 0.0) - rest, 0.0)
        can = there & (up - gap >= torch.where(there, down - gap, -torch.inf).amax(-1, keepdim=True))
        u, rise, square = _window_minimiser(form, weights, line, p, (gap, down, up, there, can))
    falling = form.linear < 0
    highest = torch.where(falling, rise, ((u - gap) * weights).sum(-1))
    terms = form.linear * highest - (line * u).sum(-1)
    bent = torch.zeros_like(region.radius)
    if p is not None:
        bent = p / 2 * u.square().flatten(1).sum(1)
        if form.curvature is not None:
            bent = bent - form.curvature / 2 * square.flatten(1).sum(1)
    if terms.dtype != torch.float64:
        return terms.flatten(1).sum(1) + bent
    # gap, down and up are single differences, gap is at most up - down where it matters but for the weights, and a
    # vertex missed costs what rounds its slope, times up - down
    far = (down.abs() + up.abs()).sum(-1)
    sizes = (line.abs().sum(-1) + form.linear.abs()) * far + form.linear.abs() * (weights * gap).sum(-1)
    for bow in (p, form.curvature):
        if bow is not None:
            sizes = sizes + wide(bow, far) * far.square()
    return total(terms, sizes) + bent - u[0].numel() * UNIT64 * sizes.flatten(1).sum(1)


_Windows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""What is known of the entries of each window: gap to the largest at rest, how far down and up they can go, whether
they exist, whether they can be the largest."""


def _window_minimiser(
    form: Form, weights: Tensor, line: Tensor, p: Tensor | None, windows: _Windows
) -> tuple[Tensor, Tensor, Tensor]:
    """The u at which the least value is attained, by what the maximum then rises (c < 0), and the charged square."""
    gap, down, up, there, can = windows
    c, q = form.linear.unsqueeze(-1), form.curvature
    falling = c < 0
    # entries of which nothing is charged: the form's part is spread by the weights (c >= 0), or on entry i (c < 0)
    shared = torch.where(falling, 0.0, c * weights) - line
    plain_u, plain = _parabola(shared, p, None, down, up)
    on_i_u, on_i = _parabola(c - line, p, None, down, up)
    first = gap.masked_fill(~there, torch.inf).argmin(-1, keepdim=True)
    if q is None:
        cost = torch.where(can, on_i - plain - c * gap, torch.inf)
        best = cost.argmin(-1, keepdim=True)
        u = plain_u.scatter(-1, best, torch.where(falling, on_i_u, plain_u).gather(-1, best))
        rise = (u - gap).gather(-1, best).squeeze(-1)
        return u, rise, torch.zeros_like(rise)
    square_u, square = _parabola(shared, p, q, down, up)
    both_u, both = _parabola(c - line, p, q, down, up)
    extra = square - plain
    # c >= 0: charge the square to the entry where that costs most
    worst = torch.where(there, extra, torch.inf).argmin(-1, keepdim=True)
    # c < 0: entry i is the largest, and the square is charged to it (same), or to the largest at rest (apart)
    same = both - plain - c * gap
    apart = on_i - plain - c * gap + extra.gather(-1, first)
    apart = apart.scatter(-1, first, torch.inf)
    cost, choice = torch.where(can, torch.minimum(same, apart), torch.inf).min(-1, keepdim=True)
    is_same = same.gather(-1, choice) <= apart.gather(-1, choice)
    charged = torch.where(falling, torch.where(is_same, choice, first), worst)
    u = plain_u.scatter(-1, charged, square_u.gather(-1, charged))
    at_choice = torch.where(is_same, both_u.gather(-1, choice), on_i_u.gather(-1, choice))
    u = torch.where(falling, u.scatter(-1, choice, at_choice), u)
    rise = (u - gap).gather(-1, choice).squeeze(-1)
    return u, rise, u.gather(-1, charged).squeeze(-1).square()


def _parabola(a: Tensor, p: Tensor | None, q: Tensor | None, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where a u + (p - q) / 2 u^2 is least on [low, high], p > q, and its value; p and q are (items,) or None for 0."""
    if p is None:
        u = torch.where(a > 0, low, high)
        return u, a * u
    bow = wide(p if q is None else p - q, a).clamp_min(torch.finfo(a.dtype).tiny)
    u = torch.minimum(torch.maximum(-a / bow, low), high)
    return u, u * (a + bow / 2 * u)


@final
@dataclass(frozen=True, eq=False)
class AveragePool(Linear):
    """The mean of each window: a linear map with non-negative entries.

    Sound: its operator norm, from Schur's test (row sums times column sums), exact where windows do not overlap.
    Published (Theorem 4.4): kappa / t for t x t outputs per channel: correct, and very loose.

    Modulus: norm(A) rho, 1 / q for q x q windows that do not overlap
    Source: Schur's test; Peck et al. (2017), Theorem 4.4, made tight
    """

    window: Shape
    stride: Shape
    padding: Shape
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None

    def forward(self, *inputs: Tensor) -> Tensor:
        """The means."""
        return self.apply(inputs[0])

    def apply(self, x: Tensor) -> Tensor:
        """The means."""
        pool = _AVERAGE[len(self.window)]
        options = (self.window, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return pool(x, *options) if self.divisor is None else pool(x, *options, self.divisor)

    def absolute(self) -> AveragePool:
        """The layer itself: a divisor is positive."""
        return self

    @property
    def terms(self) -> int:
        """The entries of a window, and the division."""
        return math.prod(self.window) + 1

    @cached_property
    def row_norms_upper(self) -> Tensor:
        """sqrt(largest entry * row sum) for each row of non-negative entries; an entry is 1 / divisor."""
        sums = self.apply(torch.ones(1, *self.input_shape, dtype=torch.float64))[0]
        fixed = self.count_include_pad and not self.ceil_mode
        divisor = self.divisor or (math.prod(self.window) if fixed else 1)
        return torch.minimum((sums / divisor).sqrt(), sums) * (1 + 1e-12)

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Theorem 4.4: kappa / t."""
        return kappa / published_side(self.output_shape)


@final
@dataclass(frozen=True, eq=False)
class LpPool(Layer):
    """(sum over the window of abs(x)^p)^(1/p), p >= 1, without padding; a last partial window is left out.

    Sound: abs(norm(u)_p - norm(v)_p) <= norm(u - v)_p <= max(1, n^(1/p - 1/2)) norm(u - v)_2 for windows of n
    entries (Minkowski; for p < 2 Hoelder), and an entry lies in at most m windows:
    omega(rho) = sqrt(m) max(1, n^(1/p - 1/2)) rho.
    Published (Theorem 4.4): kappa / (t q^(2/p)) for q x q windows, t x t outputs: correct, and very loose.

    Modulus: sqrt(m) max(1, n^(1/p - 1/2)) rho for windows of n entries, m of which hold one entry at most
    Source: Minkowski, Hoelder; Peck et al. (2017), Theorem 4.4, made tight
    """

    input_shape: Shape
    p: float
    window: Shape
    stride: Shape

    def __post_init__(self) -> None:
        assert self.p >= 1.0, "the frontends refuse p < 1, where the triangle inequality fails"

    def forward(self, *inputs: Tensor) -> Tensor:
        """The norms."""
        powers = inputs[0].abs().pow(self.p)
        pool = _AVERAGE[len(self.window)]
        mean = pool(powers, self.window, self.stride)
        return (mean * math.prod(self.window)).pow(1 / self.p)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """sqrt(m) max(1, n^(1/p - 1/2)) rho."""
        overlap = windows_per_entry(self.window, self.stride, (1,) * len(self.window))
        n = math.prod(self.window)
        return math.sqrt(overlap) * max(1.0, n ** (1 / self.p - 0.5)) * radii[0]

    def interval(self, *boxes: Box) -> Box:
        """The norms of the smallest and of the largest abs(x); each norm increases in every abs(x_i).

        Evaluated as m (sum (abs(x_i) / m)^p)^(1/p) with m the largest of the window, so that no power overflows and
        what underflows is at most the smallest normal number next to a sum of at least 1. In units of roundoff: the
        division and the last product 1 each; the powers 8 each; the rounding of p at most n / e (t abs(ln t) <= 1
        / e for t <= 1), that of 1 / p at most 2 ln n; the sum n. Together less than 3 n + 32. No error grows by
        the power p, which the root takes back (the norm is homogeneous), nor by the root.
        """
        (box,) = boxes
        zero = box.lower.new_zeros(())
        lower = self._norms(torch.maximum(torch.maximum(box.lower, -box.upper), zero))
        upper = self._norms(torch.maximum(box.lower.abs(), box.upper.abs()))
        q = reserve(3 * math.prod(self.window) + 32, zero.dtype)
        flushed = 2 * torch.finfo(zero.dtype).tiny
        found = outward(lower, upper, q * lower + flushed, q * upper + flushed)
        return Box(found.lower.clamp_min(0.0), found.upper)

    def _norms(self, x: Tensor) -> Tensor:
        """`forward` for non-negative x, without overflow or underflow of a power."""
        for axis, (size, step) in enumerate(zip(self.window, self.stride, strict=True)):
            x = x.unfold(2 + axis, size, step)
        windows = x.flatten(-len(self.window))
        largest = windows.amax(-1)
        ratios = windows / torch.where(largest > 0, largest, 1.0).unsqueeze(-1)
        return largest * ratios.pow(self.p).sum(-1).pow(1 / self.p)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Roundings of two powers and a sum of n terms, and what underflow of abs(x)^p can hide.

        The exponents p and 1 / p are rounded too, which changes a^b by at most abs(ln(a^b)) unit: below 89 units for
        what float32 can hold, below 710 for float64.
        """
        n = math.prod(self.window)
        outputs = self.forward(torch.zeros(1, *self.input_shape)).numel()
        hidden = (2 * n * TINY32) ** (1 / self.p) * math.sqrt(outputs)
        exponents = 2 * (89 if unit == UNIT32 else 710)
        # an overflow here gives +infinity, which no later layer can hide: it makes their norms, hence noise, infinite
        return gamma(n + 24 + exponents, unit) * self.modulus(norms[0]) + hidden

    def published_kappa(self, kappa: Tensor) -> Tensor:
        """Theorem 4.4: kappa / (t q^(2/p)), with q^2 read as the number of entries of a window."""
        output = self.forward(torch.zeros(1, *self.input_shape))
        return kappa / (published_side(tuple(output.shape[1:])) * math.prod(self.window) ** (1 / self.p))
