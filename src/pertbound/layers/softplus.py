"""Softplus, which may jump."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.forms import Region
from pertbound.layers.base import outward
from pertbound.layers.smooth import Smooth
from pertbound.sets import Box

EXACT = 40.0
"""From this beta z on, softplus is z but for exp(-40) / beta, far less than a rounding of z in float64."""


@final
@dataclass(frozen=True, eq=False)
class Softplus(Smooth):
    """s(z) = log(1 + exp(beta z)) / beta where beta z <= threshold, and z beyond, as PyTorch does.

    So g jumps down at t = threshold / beta, by j = log(1 + exp(-threshold)) / beta: 2e-9 for the usual threshold 20. An
    infinite threshold means no jump (ONNX). s has slopes in (0, 1), 0 < s'' <= beta / 4, and s(z) >= z.

    Sound, anywhere. Let u <= t < v. From s(u) >= u follows g(v) - g(u) <= v - u, and from v > t and s(u) <= s(t)
    follows g(v) - g(u) >= t - s(t) = -j. On either side of t slopes are in [0, 1]. So an entry moves by at most
    max(abs(u - v), j), and by at most abs(u - v) where it does not cross t: for n entries omega(rho) =
    sqrt(rho^2 + n j^2), and rho where all entries are farther than rho from t.
    At a known input: where no entry crosses, those beyond t move by as much as their input, the others as Taylor's
    theorem says of s. Where some can, g = s - h with h = 0 up to t, and h(z) = s(z) - z, which falls from j to 0,
    beyond it: s moves as Taylor's theorem says, and h by at most sqrt(n) j.
    Averaged: g is a continuous function of slopes in [0, 1], less j beyond t. That part moves by at most sqrt(n) j, and
    only where some entry can cross. `jump` is sqrt(n) j then, else 0.

    The computed comparison of beta z with the threshold is rounded: near t either value may be met, and every bound
    holds for both. `noise` leaves that out; the modulus at a known input has it, at radius 0 already.

    Modulus: sqrt(rho^2 + n j^2), j = log(1 + exp(-threshold)) / beta, 0 without a threshold; averaged plus sqrt(n) j
    At a known input: max abs(g'(z)) rho + beta / 8 rho^2, + sqrt(n) j once an entry can cross the threshold, and with
        the Jacobian of g(W x + b)
    Source: Peck et al. (2017), Theorem 4.1, corrected; the jump here; docs/theory.md
    """

    beta: float
    threshold: float

    def __post_init__(self) -> None:
        assert self.beta > 0.0, "the frontends refuse softplus with beta <= 0"
        assert self.threshold > -math.inf, "the frontends refuse thresholds that are no numbers"

    @property
    def at(self) -> float:
        """t, where g jumps; infinite where it does not."""
        return self.threshold / self.beta

    @property
    def drop(self) -> float:
        """j, from above: as for a threshold a millionth lower, which is more than float32 rounds it by."""
        if self.at == math.inf:
            return 0.0
        early = self.threshold - 1e-6 * abs(self.threshold)
        size = max(-early, 0.0) + math.log1p(math.exp(-abs(early)))
        return (size / self.beta) * (1 + 1e-12) + 1e-300

    def _near(self, dtype: torch.dtype) -> tuple[float, float]:
        """Numbers below and above t between which a comparison may go either way."""
        room = 4 * torch.finfo(dtype).eps * abs(self.at) + torch.finfo(dtype).tiny
        return (self.at - room, self.at + room) if math.isfinite(self.at) else (self.at, self.at)

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1, but for the jump."""
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
        """log(2) / beta, from above."""
        return math.log(2) / self.beta

    @property
    def image(self) -> tuple[float, float]:
        """From 0 on, or from t where that is negative."""
        return min(0.0, self._near(torch.float32)[0]), math.inf

    def forward(self, *inputs: Tensor) -> Tensor:
        """The softplus as PyTorch computes it; without overflow where the threshold is high."""
        return functional.softplus(inputs[0], self.beta, min(self.threshold, EXACT))

    def curve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """s(z) = max(z, 0) + log(1 + exp(-abs(x))) / beta with x = beta z, without the threshold.

        Twelve roundings of terms of one sign (exp, log1p and the division by beta count three each), and those of x:
        two, which exp turns into 2 abs(x) below zero, and into at most 2 / (e ln 2) of the value above it. From
        abs(x) = 1000 on exp vanishes in every dtype. What exp or x loses to underflow is divided by beta.
        """
        info = torch.finfo(z.dtype)
        x = self.beta * z
        value = z.clamp_min(0) + x.abs().neg().exp().log1p() / self.beta
        error = info.eps * (8 + (-x).clamp(0, 1000)) * value + 2 * info.tiny * (1 + 1 / self.beta)
        sane = 4 * info.tiny <= self.beta <= 0.25 / info.tiny  # else beta or 1 / beta is not a normal number
        return value, error if sane else torch.full_like(z, math.inf)

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """s(z) up to t, z beyond; either value near t, where the other one is off by j."""
        value, error = self.curve(z)
        first, last = self._near(z.dtype)
        error = torch.where(z >= first, error + self.drop, error)
        return torch.where(z > last, z, value), torch.where(z > last, 0.0, error)

    def interval(self, *boxes: Box) -> Box:
        """The hull of s up to t and of z beyond it, both of which increase. NaN stays NaN."""
        (box,) = boxes
        if self.at == math.inf:
            return super().interval(box)
        first, last = self._near(box.lower.dtype)
        (a, below), (b, above) = self.curve(box.lower), self.curve(box.upper.clamp_max(last))
        up_to, beyond = box.lower <= last, box.upper >= first
        lower = torch.minimum(
            torch.where(up_to, a - below, math.inf), torch.where(beyond, box.lower.clamp_min(first), math.inf)
        )
        upper = torch.maximum(torch.where(up_to, b + above, -math.inf), torch.where(beyond, box.upper, -math.inf))
        lower = lower.clamp_min(self.image[0])
        found = outward(lower, upper, torch.zeros_like(below), torch.zeros_like(above))
        bad = box.lower.isnan() | box.upper.isnan()
        found = Box(torch.where(lower >= 0, found.lower.clamp_min(0.0), found.lower), found.upper)
        return Box(found.lower.masked_fill(bad, math.nan), found.upper.masked_fill(bad, math.nan))

    def derivative(self, z: Tensor) -> Tensor:
        """s'(z), the logistic function of beta z; where beta z < -32 it may be off by 1e-28."""
        return (self.beta * z).sigmoid()

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """logit(slope) / beta."""
        return (slope.logit() / self.beta,)

    def derivative_upper(self, z: Tensor) -> Tensor:
        """The logistic function of beta z, with a few roundings added (beta z itself is rounded); 1 beyond t."""
        scaled = self.beta * z
        below = ((scaled + scaled.abs() * 1e-6).sigmoid() * (1 + 1e-5) + 1e-30).clamp_max(1.0)
        return torch.where(z >= self._near(z.dtype)[0], 1.0, below)

    def local(self, *inputs: Tensor) -> Tensor | None:
        """The largest g'(z), and how far the entry nearest to t is from it, (batch, 2); without a jump (batch,)."""
        slope = super().local(*inputs)
        if slope is None or self.at == math.inf:
            return slope
        z = inputs[0].to(torch.float64)
        info = torch.finfo(inputs[0].dtype)
        away = (z - self.at).abs() - 8 * info.eps * (z.abs() + abs(self.at)) - info.tiny
        return torch.stack([slope, away.clamp_min(0.0).flatten(1).amin(1)], 1)

    def jump(self, rho: Tensor, at: Tensor | None) -> Tensor:
        """sqrt(n) j from the radius on at which some entry can cross t, else 0.

        At a known input that is 0 where an entry's own comparison with t may have been rounded to the other side.
        """
        if self.at == math.inf:
            return torch.zeros_like(rho)
        crosses = rho > 0 if at is None else rho >= at[..., 1]
        most = math.sqrt(math.prod(self.input_shape)) * self.drop * (1 + 4e-16)
        return torch.where(crosses, most, torch.zeros_like(rho))

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """The smaller of both bounds above."""
        (rho,) = radii
        jump = self.jump(rho, at)
        anywhere = torch.where(jump > 0, torch.hypot(rho, jump) * (1 + 4e-16), rho)
        if at is None:
            return anywhere
        slope = at if self.at == math.inf else at[..., 0]
        return torch.minimum(anywhere, slope * rho + 0.5 * self.curvature * rho * rho + jump)

    def tangent(self, region: Region) -> Tensor:
        """s', or 1 where the whole region lies beyond t."""
        slope = self.derivative(region.value)
        return torch.where(self._sides(region)[0] > self._near(slope.dtype)[1], 1.0, slope)

    def leap(self, region: Region) -> Tensor | None:
        """j where t lies between the box, or the value, and the other end."""
        if self.at == math.inf:
            return None
        (low, high), (first, last) = self._sides(region), self._near(region.value.dtype)
        return torch.where((low <= last) & (high >= first), self.drop, torch.zeros_like(low))

    def _sides(self, region: Region) -> tuple[Tensor, Tensor]:
        return torch.minimum(region.box.lower, region.value), torch.maximum(region.box.upper, region.value)

    def undecided(self, box: Box) -> Tensor:
        """Those that can move by so much that the derivative can, and those that can jump by more than 1e-6."""
        first, last = self._near(box.lower.dtype)
        jumps = (box.lower <= last) & (box.upper >= first) & (box.lower < box.upper)
        return super().undecided(box) | (jumps & (self.drop > 1e-6))

    def _straight(self, c: Tensor, line: Tensor, low: Tensor, high: Tensor, rest: Tensor, y: Tensor) -> Tensor:
        """As for s in what of the box lies up to t; beyond it c (z - y) - line (z - rest) is least at an end."""
        if self.at == math.inf:
            return super()._straight(c, line, low, high, rest, y)
        first, last = self._near(low.dtype)
        found = super()._straight(c, line, low.clamp_max(last), high.clamp_max(last), rest, y)
        start, end = low.clamp_min(first), high.clamp_min(first)
        ends = [c * (z - y) - line * (z - rest) for z in (start, end)]
        beyond = torch.where(high >= first, torch.minimum(*ends), math.inf)
        return torch.minimum(torch.where(low <= last, found, math.inf), beyond)
