"""The sets that values range over: boxes at every layer, and balls, with or without a box, at the input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from pertbound.environment import kept
from pertbound.errors import InputError
from pertbound.numerics import UNIT32, UNIT64, gamma

TOP = 64
"""An L1 budget is nearly always spent on this many entries; only where it is not, all of them are sorted."""
STEPS = 100
"""Newton steps for an L2 ball in a box. 2 to 4 are usual, 10 to 20 happen where nearly every entry meets the box."""


@final
@dataclass(frozen=True, eq=False)
class Box:
    """lower <= y <= upper, entry by entry; both (batch, *shape)."""

    lower: Tensor
    upper: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Ball:
    """{z : norm(z - x)_p <= eps}, and, where `box` is given, low <= z <= high: 'ball-and-box', valid inputs only.

    `p` is 1, 2 or math.inf. `box` is a pair (low, high) of numbers, or of tensors that broadcast to one sample's shape;
    -inf and inf are no ends. x is (batch, *shape), eps (batch,), and rows do not see each other. A radius that is
    negative, infinite or NaN gives NaN. Raises `InputError` for any other p, and for a box that is none.
    """

    p: float = 2.0
    box: tuple[float | Tensor, float | Tensor] | None = None

    def __post_init__(self) -> None:
        if self.p not in (1, 2, math.inf):
            raise InputError(
                f"p must be 1, 2 or math.inf, got {self.p!r}. For other norms a larger ball is sound: the L2 ball of "
                f"the same eps where 1 < p < 2, the Linf ball where p > 2"
            )
        _ = self._ends  # raises where the box is none

    def __str__(self) -> str:
        return f"{self.norm_name} over {self.domain}"

    @property
    def norm_name(self) -> str:
        """L1, L2 or Linf."""
        return "Linf" if self.p == math.inf else f"L{self.p:g}"

    @property
    def domain(self) -> str:
        """Where perturbed inputs may lie, in words."""
        if self.box is None:
            return "all of R^d"
        if any(isinstance(end, Tensor) and end.ndim > 0 for end in self.box):
            return "inputs within a box given per entry"
        low, high = (float(end) for end in self.box)
        return f"inputs within [{low:g}, {high:g}]"

    def require_inside(self, x: Tensor) -> None:
        """Raises `InputError` when an entry of x (batch, *shape) is outside the box, infinite or NaN."""
        low, high = self._ends_for(x, torch.float64)
        values = x.detach().to(torch.float64)
        bad = ~((values >= low) & (values <= high) & torch.isfinite(values)).flatten(1)
        rows = bad.any(1).nonzero().flatten().tolist()
        if not rows:
            return
        excess = torch.maximum(low - values, values - high).flatten(1)[rows[0]]
        entry = int(torch.where(bad[rows[0]], excess, -torch.inf).argmax())
        value = float(values[rows[0]].flatten()[entry])
        where = f"the first at position {rows[0]}: entry {entry} of {len(excess)} is {value:g}"
        if not math.isfinite(value):
            raise InputError(f"{len(rows)} of {len(x)} samples are not finite or lie outside the box, {where}")
        raise InputError(
            f"{len(rows)} of {len(x)} samples are not {self.domain.removeprefix('inputs ')}, {where}, "
            f"{float(excess[entry]):.3g} outside. Clip the samples, give the box in the units of the classifier's "
            f"input, or leave it out (box=None)"
        )

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """A lower bound on min over z of <a, z - x>, (batch,): exact but for rounding, never above 0, 0 at eps = 0.

        a and x are (batch, *shape), eps (batch,); x lies in the box (where it does not, the box is taken to reach x).
        Computed in the dtype of a, float32 or float64. NaN in what is used gives NaN, never a number; overflow gives
        -inf. The derivative in a is the minimiser z - x, that in eps the slope towards smaller balls (at eps = 0:
        towards larger ones); x is a constant.

        Why it is a bound: with size = max abs(a), c = abs(a) / size, s = -sign(a) (z - x) / eps, the largest <c, s> is
        sought where norm(s)_p <= 1 and s <= r; here r_i = min(1, room_i / eps), and room_i is the distance from x_i to
        the end of the box that entry i would move to. For any w and v >= 0 with w + v >= c, as s >= 0 in the maximum,

            <c, s> <= <w, s> + <v, s> <= dual norm(w) + <v, r>.

        p = inf: w = 0. p = 1: w = min(c, lam), lam the c of the entry that spends the budget, entries in decreasing c.
        p = 2: w = min(c, lam r), lam = norm(w). Without a box w = c. These are the Karush-Kuhn-Tucker conditions, so
        the bound is attained; a lam that rounding has moved is as sound, and costs tightness in second order only.

        Rounding: all terms are nonnegative, so the sum of n computed ones is off by a factor between 1 / (1 + gamma)
        and 1 + gamma for gamma = gamma_{n+k}, k the other roundings on one term's way: eps, room (difference,
        conversion), r, c, v, the product, the norm's root, the sum of two parts, and five products outside: below 32.
        The ends of the box are rounded outwards first. Underflow (gradual, so that differences are exact there) loses
        at most `tiny` for each quotient and product and the root of n tiny for a norm, in units of size eps; and in
        size eps itself, and in what multiplies it, tiny (n + 2) together.
        """
        _require_alike(a, x, eps)
        if a.dtype not in (torch.float32, torch.float64):
            raise InputError(f"coefficients must be float32 or float64, got {a.dtype}")
        differentiable = torch.is_grad_enabled() and (a.requires_grad or eps.requires_grad)
        with torch.no_grad():
            c = a.flatten(1).abs()
            size = c.amax(1, keepdim=True)
            c /= torch.where(size > 0, size, torch.ones_like(size))
            radius = _rounded(_valid(eps), a.dtype, torch.inf)[:, None]
            r = None if self.box is None else self._rooms(a, x, radius)
            most, slope, point = {1: _most_l1, 2: _most_l2, math.inf: _most_linf}[self.p](c, r, differentiable)
            n, tiny = c.shape[1], torch.finfo(a.dtype).tiny
            most = most * (1 + gamma(n + 32, UNIT64 if a.dtype == torch.float64 else UNIT32)) + 4 * n * math.sqrt(tiny)
            moves = ((size > 0) & (radius > 0)).to(a.dtype)
            value = (-(size * radius) * most - moves * (4 * n * tiny)).squeeze(1)
            if not differentiable:
                return value
            point = torch.sign(a.flatten(1)).mul_(point).mul_(-radius)
            slope = -(size * slope).squeeze(1)
        return _Envelope.apply(a.flatten(1), eps, value, point, slope)  # pyright: ignore[reportReturnType]

    def bounds(self, x: Tensor, eps: Tensor) -> Box:
        """The smallest box around the set, rounded outwards, in the dtype of x, without derivatives.

        Entry i reaches x_i +- eps where the others rest, for every p. Where x is outside the box, the box reaches x.
        """
        _require_alike(x, x, eps)
        with torch.no_grad():
            low, high = self._ends_for(x, torch.float64)
            center = x.to(torch.float64)
            radius = _valid(eps).reshape(-1, *[1] * (x.ndim - 1))
            below, above = (torch.full_like(center, end) for end in (-torch.inf, torch.inf))
            lower = torch.where(radius == 0, center, torch.nextafter(center - radius, below))
            upper = torch.where(radius == 0, center, torch.nextafter(center + radius, above))
            lower = torch.maximum(lower, torch.minimum(low, center))
            upper = torch.minimum(upper, torch.maximum(high, center))
            return Box(_rounded(lower, x.dtype, -torch.inf), _rounded(upper, x.dtype, torch.inf))

    def l2_radius(self, eps: Tensor, shape: tuple[int, ...]) -> Tensor:
        """An upper bound on norm(z - x)_2 over the ball around samples of this shape; (batch,) float64.

        norm_2 <= norm_1, and norm_2 <= sqrt(d) norm_inf; the product is rounded upwards.
        """
        radius = _valid(eps.detach())
        if self.p != math.inf:
            return radius
        root = math.nextafter(math.sqrt(math.prod(shape)), math.inf)
        wider = torch.nextafter(radius * root, torch.full_like(radius, torch.inf))
        return torch.where(radius == 0, radius, wider)

    def norms(self, r: Tensor) -> Tensor:
        """The p-norm of each row of r (batch, *shape); (batch,) float64."""
        return vector_norm(r.detach().to(torch.float64).flatten(1), ord=self.p, dim=1)

    def contains(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        """Is z in the set, as float64 arithmetic sees it? (batch,) bool; False for NaN."""
        _require_alike(z, x, eps)
        move = z.detach().to(torch.float64) - x.detach().to(torch.float64)
        return self.in_box(z) & (self.norms(move) <= _valid(eps.detach()))

    def in_box(self, z: Tensor) -> Tensor:
        """Is every entry of z (batch, *shape) in the box? (batch,) bool; False for NaN, and for infinity."""
        low, high = self._ends_for(z, torch.float64)
        point = z.detach().to(torch.float64)
        return ((point >= low) & (point <= high) & torch.isfinite(point)).flatten(1).all(1)

    def clamped(self, z: Tensor) -> Tensor:
        """Each entry of z (batch, *shape) moved to the nearest number of its dtype that is in the box."""
        return z if self.box is None else z.clamp(*self.inner_ends(z))

    def inner_ends(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest number of z's dtype in the box, of a shape that goes with z (batch, *shape)."""
        low, high = self._ends_for(z, torch.float64)
        return _rounded(low, z.dtype, torch.inf), _rounded(high, z.dtype, -torch.inf)

    @kept
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The box's ends in float64, checked; infinite where there is none."""
        try:
            low, high = (-math.inf, math.inf) if self.box is None else self.box
            ends = _end(low), _end(high)
            crossed = ~(ends[0] <= ends[1]) | (ends[0] == torch.inf) | (ends[1] == -torch.inf)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"a box is a pair (low, high) of numbers, or of tensors of one sample's shape, got {self.box!r:.200}"
            ) from error
        if bool(crossed.any()):
            low, high = (float(end.expand_as(crossed)[crossed][0]) for end in ends)
            raise InputError(
                f"a box needs low <= high, low < inf and high > -inf; in {int(crossed.sum())} of {crossed.numel()} "
                f"entries it is not so: the first of them is [{low:g}, {high:g}]"
            )
        return ends[0].detach(), ends[1].detach()

    def _ends_for(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The ends rounded outwards to `dtype`, where x is; `InputError` where they do not fit its samples."""
        low, high = self._ends
        for end in (low, high):
            fits = end.ndim < x.ndim and all(
                own in (1, other) for own, other in zip(reversed(end.shape), reversed(x.shape), strict=False)
            )
            if not fits:
                raise InputError(
                    f"the box has ends of shape {tuple(end.shape)}, which do not broadcast to samples of shape "
                    f"{tuple(x.shape[1:])}"
                )
        return _rounded(low.to(x.device), dtype, -torch.inf), _rounded(high.to(x.device), dtype, torch.inf)

    def _rooms(self, a: Tensor, x: Tensor, radius: Tensor) -> Tensor:
        """r of `minimum`, (batch, entries): how far each entry may move against its sign in a, in units of radius.

        Sides are chosen by products with 0 and 1: torch.where on a random mask takes ten times as long. At radius 0
        the smallest normal number stands in for it, which keeps apart what can move at all.
        """
        dtype = torch.promote_types(a.dtype, x.dtype)
        low, high = self._ends_for(x, dtype)
        wide = x.to(dtype)  # against an end without dimensions, x would keep its own dtype
        unit = torch.where(radius > 0, radius, torch.full_like(radius, torch.finfo(a.dtype).tiny))
        down, up = ((wide - low).to(a.dtype).flatten(1), (high - wide).to(a.dtype).flatten(1))
        torch.minimum(down, unit, out=down)
        torch.minimum(up, unit, out=up)
        flat = a.flatten(1)
        side = torch.empty_like(flat)
        down *= torch.gt(flat, 0, out=side)
        up *= torch.le(flat, 0, out=side)
        return torch.maximum(down, up, out=down).div_(unit)


@final
class _Envelope(torch.autograd.Function):
    """A minimum with the derivatives that the envelope theorem gives: the minimiser in a, the slope in eps."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, eps: Tensor, value: Tensor, point: Tensor, slope: Tensor) -> Tensor:
        """The value; the rest is kept."""
        ctx.save_for_backward(point, slope)
        ctx.dtype = eps.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Each row's derivatives times the incoming one."""
        point, slope = ctx.saved_tensors
        return grads[0][:, None] * point, (grads[0] * slope).to(ctx.dtype), None, None, None


def _most_l1(c: Tensor, r: Tensor | None, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """For p = 1: the bound on <c, s>, and, only where `differentiable`, dual norm(w) and the s that attains it."""
    n = c.shape[1]
    counts = (1,) if r is None else (TOP, n) if n > TOP else (n,)
    r = torch.ones_like(c) if r is None else r
    top, index, spent, room = c, c, c, c
    for count in counts:
        top, index = c.topk(count, dim=1)
        room = r.gather(1, index)
        spent = room.cumsum(1)
        if bool((spent[:, -1:] >= 1).all()):
            break
    last = (spent < 1).sum(1, keepdim=True)
    lam = torch.nn.functional.pad(top, (0, 1)).gather(1, last)
    most = lam + vecdot(r, (c - lam).clamp_min_(0))[:, None]
    if not differentiable:
        return most, lam, c
    return most, lam, torch.zeros_like(c).scatter_(1, index, torch.minimum(room, (1 - (spent - room)).clamp_min_(0)))


def _most_l2(c: Tensor, r: Tensor | None, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same for p = 2."""
    if r is None:
        norm = vector_norm(c, dim=1, keepdim=True)
        return norm, norm, c / torch.where(norm > 0, norm, 1) if differentiable else c
    inverse = _inverse_square(c, r)
    w = torch.minimum(c, inverse.rsqrt() * r)
    norm = vector_norm(w, dim=1, keepdim=True)
    most = norm + vecdot(r, torch.sub(c, w, out=w))[:, None]
    if not differentiable:
        return most, norm, c
    return most, norm, torch.minimum(c * inverse.sqrt().clamp_max(torch.finfo(c.dtype).max), r)


def _inverse_square(c: Tensor, r: Tensor) -> Tensor:
    """1 / lam^2 for p = 2, (batch, 1): the m with sum min(m c^2, r^2) = 1, or infinity where no m reaches 1.

    The sum g is increasing, concave and piecewise linear in m, so that Newton's steps from the left never pass the root
    and end at it: each at least quarters the gap 1 - g times the slope. Gap and slope need the entries that m leaves
    free. The bound at m is too high by less than the gap, relatively (compare it with <c, s> at s = min(c / lam, r)).
    """
    squares, ends = c * c, r * r
    stops = ends / squares
    total = ends.sum(1, keepdim=True)
    m = torch.where(total < 1, torch.inf, 1 / squares.sum(1, keepdim=True))
    enough = 1e-11 if c.dtype == torch.float64 else 1e-4
    free = torch.empty_like(c)
    for _ in range(STEPS):
        torch.gt(stops, m, out=free)
        slope = vecdot(free, squares)[:, None]
        step = (1 - total + vecdot(free, ends)[:, None]) / slope
        grows = step > m  # False for the NaN of rows where nothing is free
        gap = (step - m) * slope
        m = torch.where(grows, step, m)
        if not bool((grows & (gap > enough)).any()):
            break
    return m


def _most_linf(c: Tensor, r: Tensor | None, differentiable: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same for p = inf."""
    if r is None:
        most = c.sum(1, keepdim=True)
        return most, most, torch.ones_like(c) if differentiable else c
    most = vecdot(c, r)[:, None]
    return most, vecdot(c, torch.ge(r, 1, out=torch.empty_like(c)))[:, None] if differentiable else most, r


def _end(value: float | Tensor) -> Tensor:
    """An end of a box in float64, where it is."""
    here = value.device if isinstance(value, Tensor) else "cpu"
    return torch.as_tensor(value, dtype=torch.float64, device=here)


def _valid(eps: Tensor) -> Tensor:
    """Radii in float64; NaN for those that are negative or infinite."""
    radius = eps.to(torch.float64)
    return torch.where((radius >= 0) & (radius < torch.inf), radius, torch.nan)


def _rounded(value: Tensor, dtype: torch.dtype, towards: float) -> Tensor:
    """float64 values in `dtype`, rounded towards -inf or inf."""
    near = value.to(dtype)
    if dtype == torch.float64:
        return near
    wrong = near.to(torch.float64) > value if towards < 0 else near.to(torch.float64) < value
    return torch.where(wrong, torch.nextafter(near, torch.full_like(near, towards)), near)


def _require_alike(a: Tensor, x: Tensor, eps: Tensor) -> None:
    """Raises `InputError` unless a and x share a shape (batch, *shape), not empty, and eps is (batch,)."""
    if a.shape != x.shape or a.ndim < 2 or eps.shape != a.shape[:1] or 0 in a.shape[1:]:
        raise InputError(
            f"a ball needs two tensors of one shape (batch, *shape) and radii of shape (batch,), got "
            f"{tuple(a.shape)}, {tuple(x.shape)} and {tuple(eps.shape)}"
        )
