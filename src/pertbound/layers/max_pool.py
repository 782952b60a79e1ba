"""The largest entry of each window; one to three spatial dimensions; windows may overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.environment import kept
from pertbound.forms import Duals, Form, Pulled, Region, total, wide
from pertbound.layers.base import Layer, Shape
from pertbound.layers.pool import published_side, windows_per_entry
from pertbound.numerics import UNIT64
from pertbound.sets import Box

_MAX: dict[int, Callable[..., Any]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


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

    @property
    def broadcasts(self) -> bool:
        """They do."""
        return True

    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """Each window's weight on its largest entry at the sample; with curvature p, shared where c < 0.

        Without boxes and with q = 0, weights t lose c^2 norm(t - e_i)^2 / 2p - abs(c) gap_i where entry i becomes the
        largest, gap_i below the largest at rest. That is the same for all i that matter, which is best, if
        t_i = max(0, s - p gap_i / abs(c)) with s such that the sum is 1.
        """
        (region,) = inputs
        z = self.windows(region.value, -math.inf)
        first = torch.zeros_like(z).scatter_(-1, z.argmax(-1, keepdim=True), 1.0)
        if curvature is None:
            return Duals(slope=first, shift=torch.zeros_like(z))
        share = windows_per_entry(self.window, self.stride, self.dilation)
        low, high = self.windows(region.box.lower, -math.inf), self.windows(region.box.upper, -math.inf)
        can = high >= low.amax(-1, keepdim=True)
        c = form.linear.unsqueeze(-1)
        gap = (z.amax(-1, keepdim=True) - z).masked_fill(~can, 0.0)
        weights = _on_simplex(-wide(curvature / share, gap) * gap / c.abs().clamp_min(1e-30), can)
        slope = torch.where((c < 0) & wide(curvature > 0, c), weights, first)
        return Duals(slope=slope, shift=torch.zeros_like(z), curvature=curvature)

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

    @kept
    def _plain(self) -> bool:
        """Whether the windows tile the input."""
        tiles = all(size % q == 0 for size, q in zip(self.input_shape[1:], self.window, strict=True))
        return tiles and self.stride == self.window and not any(self.padding) and all(d == 1 for d in self.dilation)

    @kept
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
    first = gap.masked_fill(~there, torch.inf).argmin(-1, keepdim=True).expand(*c.shape[:-1], 1)
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


def _on_simplex(x: Tensor, there: Tensor) -> Tensor:
    """The nearest point with entries >= 0 of sum 1 along the last dimension, 0 where not `there` (Michelot 1986)."""
    left, level = there, torch.zeros_like(x[..., :1])
    for _ in range(x.shape[-1]):
        level = ((x * left).sum(-1, keepdim=True) - 1) / left.sum(-1, keepdim=True).clamp_min(1)
        left = left & (x > level)
    return (x - level).clamp_min(0.0) * there


def _parabola(a: Tensor, p: Tensor | None, q: Tensor | None, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where a u + (p - q) / 2 u^2 is least on [low, high], p > q, and its value; p and q are (items,) or None for 0."""
    if p is None:
        u = torch.where(a > 0, low, high)
        return u, a * u
    bow = wide(p if q is None else p - q, a).clamp_min(torch.finfo(a.dtype).tiny)
    u = torch.minimum(torch.maximum(-a / bow, low), high)
    return u, u * (a + bow / 2 * u)
