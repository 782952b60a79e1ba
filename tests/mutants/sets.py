"""Balls with one thing wrong each. Balls are final in the library; a mutant is their only heir."""

from __future__ import annotations

import math
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from pertbound import sets
from pertbound.numerics import gamma
from pertbound.sets import Ball, Box


def _changed(name: str, broken: Callable[..., object]) -> type[Ball]:
    """A ball whose minimum sees another function of the module under this name."""

    class Changed(Ball):
        def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
            with patch.object(sets, name, broken):
                return Ball.minimum(self, a, x, eps)

    return Changed


def _ends(ball: Ball) -> tuple[float | Tensor, float | Tensor]:
    return (-math.inf, math.inf) if ball.box is None else ball.box


class LowForgotten(Ball):
    """The box's lower end ignored: sound, but loose."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return Ball(p=self.p, box=(-math.inf, _ends(self)[1])).minimum(a, x, eps)


class HighForgotten(Ball):
    """The box's upper end ignored."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return Ball(p=self.p, box=(_ends(self)[0], math.inf)).minimum(a, x, eps)


class OtherSide(Ball):
    """The room on the side that an entry moves away from."""

    def _rooms(self, a: Tensor, x: Tensor, radius: Tensor) -> Tensor:
        return super()._rooms(-a, x, radius)


class NormsSwapped(Ball):
    """The ball's own norm of a for the dual one."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return Ball(p={1: math.inf, 2: 2.0, math.inf: 1}[self.p], box=self.box).minimum(a, x, eps)


class MultiplierOff(_changed("_inverse_square", lambda c, r, right=sets._inverse_square: right(c, r) * 1.05**2)):
    """lam 5 % off, which costs a tenth of a percent."""


class OneNewtonStep(_changed("STEPS", 1)):  # type: ignore[arg-type]
    """Stops long before the multiplier is found."""


class ReserveAdded(_changed("gamma", lambda terms, unit: -gamma(terms, unit))):
    """The rounding moved to the wrong side."""


class ReserveForgotten(_changed("gamma", lambda terms, unit: 0.0)):
    """Computed results taken for exact."""


class UnitOfFloat64(_changed("gamma", lambda terms, unit: gamma(terms))):
    """Float32 taken to round like float64."""


class ClippedOnce(Ball):
    """The value at the ball's own minimiser, moved into the box: a feasible point, but not the best one."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        free = a.detach().clone().requires_grad_()
        (move,) = torch.autograd.grad(Ball(p=self.p).minimum(free, x, eps).sum(), free)
        low, high = (torch.as_tensor(end, dtype=x.dtype) for end in _ends(self))
        return (a * (torch.minimum(torch.maximum(x + move, low), high) - x)).flatten(1).sum(1)


class PartsApart(Ball):
    """The better of the bounds for the ball and for the box alone."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        ball = Ball(p=self.p).minimum(a, x, eps)
        return ball if self.box is None else torch.maximum(ball, Ball(p=math.inf, box=self.box).minimum(a, x, eps))


class SmallestFirst(Ball):
    """An L1 budget spent on the smallest entries of a first."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        if self.p != 1 or self.box is None:
            return super().minimum(a, x, eps)
        size = a.flatten(1).abs()
        room = self._rooms(a, x, eps[:, None]) * eps[:, None]
        order = size.argsort(1)
        room = room.gather(1, order)
        left = (eps[:, None] - (room.cumsum(1) - room)).clamp_min(0)
        return -(size.gather(1, order) * torch.minimum(room, left)).sum(1)


class OneRadius(Ball):
    """The first row's radius for the whole batch."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return super().minimum(a, x, eps[:1].expand_as(eps))


class NanPasses(Ball):
    """NaN replaced by a number."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return super().minimum(a, x, eps).nan_to_num(nan=0.0)


class NegativeRadius(_changed("_valid", lambda eps: eps.to(torch.float64))):
    """Radii that are none not looked for."""


class MovesThroughTheBox(Ball):
    """The derivative of the ball without its box."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        free = Ball(p=self.p).minimum(a, x, eps)
        return super().minimum(a, x, eps).detach() + (free - free.detach())


class SlopeTwice(Ball):
    """The derivative in eps counted twice."""

    def minimum(self, a: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        again = super().minimum(a.detach(), x, eps)
        return super().minimum(a, x, eps) + (again - again.detach())


class EndsToNearest(Ball):
    """The box's ends in float32 rounded to nearest, which may be inwards."""

    def _ends_for(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        low, high = super()._ends_for(x, torch.float64)
        return low.to(dtype), high.to(dtype)


class RoomInFloat32(Ball):
    """The room computed in the samples' dtype, also where a is wider."""

    def _rooms(self, a: Tensor, x: Tensor, radius: Tensor) -> Tensor:
        return super()._rooms(a.to(x.dtype), x, radius.to(x.dtype)).to(a.dtype)


class BoundsToNearest(Ball):
    """x - eps and x + eps as they are computed."""

    def bounds(self, x: Tensor, eps: Tensor) -> Box:
        found, radius = super().bounds(x, eps), eps.reshape(-1, *[1] * (x.ndim - 1))
        return Box((x - radius).to(x.dtype).maximum(found.lower), (x + radius).to(x.dtype).minimum(found.upper))


class BoundsOfTheBall(Ball):
    """The box around the ball, which reaches out of the inputs' own."""

    def bounds(self, x: Tensor, eps: Tensor) -> Box:
        return Ball(p=self.p).bounds(x, eps)


class RootForgotten(Ball):
    """The radius of a cube for the distance to its corners."""

    def l2_radius(self, eps: Tensor, shape: tuple[int, ...]) -> Tensor:
        return eps.to(torch.float64)


class RootToNearest(Ball):
    """sqrt(d) eps as it is computed."""

    def l2_radius(self, eps: Tensor, shape: tuple[int, ...]) -> Tensor:
        return eps.to(torch.float64) * (math.sqrt(math.prod(shape)) if self.p == math.inf else 1.0)


class InvalidInside(Ball):
    """Points outside the box taken for members."""

    def contains(self, z: Tensor, x: Tensor, eps: Tensor) -> Tensor:
        return Ball(p=self.p).contains(z, x, eps)


MUTANTS: tuple[tuple[type[Ball], str], ...] = (
    (LowForgotten, "values"),
    (HighForgotten, "values"),
    (HighForgotten, "monotone"),
    (OtherSide, "values"),
    (OtherSide, "samples"),
    (NormsSwapped, "samples"),
    (NormsSwapped, "values"),
    (MultiplierOff, "values"),
    (OneNewtonStep, "values"),
    (ReserveAdded, "rounding"),
    (ReserveForgotten, "rounding"),
    (UnitOfFloat64, "float32"),
    (ClippedOnce, "values"),
    (ClippedOnce, "samples"),
    (PartsApart, "values"),
    (SmallestFirst, "samples"),
    (OneRadius, "values"),
    (NanPasses, "fails closed"),
    (NegativeRadius, "fails closed"),
    (MovesThroughTheBox, "gradients"),
    (SlopeTwice, "gradients"),
    (EndsToNearest, "float32"),
    (RoomInFloat32, "float32"),
    (BoundsToNearest, "bounds"),
    (BoundsOfTheBall, "bounds"),
    (RootForgotten, "L2 radius"),
    (RootToNearest, "L2 radius"),
    (InvalidInside, "contains"),
)
"""Each with a contract that must reject it."""
