"""Activations: one function of a bounded slope applied to every entry."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Form, Pulled, Region, wide
from pertbound.layers.base import Layer, Shape, outward, unless_overflow
from pertbound.numerics import TINY32, UNIT32, tiny
from pertbound.sets import Box


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """g applied to each entry, with slopes (g(u) - g(v)) / (u - v) in [low, high], but for what `jump` says.

    Sound, anywhere: omega(rho) = steepest rho with steepest = max(abs(low), abs(high)).
    Sound, at a known input z, where g has a derivative that is `curvature`-Lipschitz (Taylor's theorem for each entry,
    and norm(r * r)_2 = norm(r)_4^2 <= norm(r)_2^2):
    omega(rho) = max_i abs(g'(z_i)) rho + (1/2) curvature rho^2.

    g with slopes in [low, high] is *averaged*: g(u) - g(v) = middle (u - v) + half n(u, v) with
    abs(n(u, v)) <= abs(u - v), middle = (high + low) / 2, half = (high - low) / 2. `push.py` uses that to beat
    the product of the neighbouring norms (Combettes and Pesquet, Lipschitz certificates for layered network
    structures driven by averaged activation operators, 2020); it does not need g to increase.
    """

    input_shape: Shape

    @property
    @abstractmethod
    def slopes(self) -> tuple[float, float]:
        """The smallest and largest slope (low, high) over the real line; low may be negative."""

    @property
    def steepest(self) -> float:
        """max(abs(low), abs(high)): g's Lipschitz constant."""
        low, high = self.slopes
        return max(abs(low), abs(high))

    @property
    def curvature(self) -> float:
        """A Lipschitz constant of g', infinite where g' jumps."""
        return math.inf

    @property
    def at_zero(self) -> float:
        """g(0), for the size of the output."""
        return 0.0

    @property
    def image(self) -> tuple[float, float]:
        """The infimum and the supremum of g over the real line."""
        return -math.inf, math.inf

    @property
    def keeps_sign(self) -> bool:
        """Where g(0) >= 0: from 0 on, every g increases."""
        return self.at_zero >= 0.0

    @property
    def valley(self) -> tuple[float, float] | None:
        """Two numbers around the one point from which g falls to the left and rises to the right; None: g increases."""
        return None

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """A computed g(z), and how far it can be from the exact value, entrywise and in the dtype of z."""
        value, info = self.forward(z), torch.finfo(z.dtype)
        return value, 4 * info.eps * value.abs() + 2 * info.tiny

    def interval(self, *boxes: Box) -> Box:
        """Of g at both ends, and at its lowest point where it has one, within the image of g. NaN stays NaN.

        Where g falls to a lowest point first (`valley`), the larger of both is the upper end, and the lower one the
        smaller of both, or the infimum of g where the box may hold that point.
        """
        (box,) = boxes
        if self.valley is None:
            (lower, below), (upper, above) = self.enclose(box.lower), self.enclose(box.upper)
            found, bad_lower, bad_upper = outward(lower, upper, below, above), box.lower.isnan(), box.upper.isnan()
        else:
            (a, a_off), (b, b_off) = self.enclose(box.lower), self.enclose(box.upper)
            bad_lower = bad_upper = box.lower.isnan() | box.upper.isnan()
            first, last = self.valley
            inside = (box.lower <= last) & (box.upper >= first)
            lower, upper = torch.minimum(a - a_off, b - b_off), torch.maximum(a + a_off, b + b_off)
            found = outward(torch.where(inside, -math.inf, lower), upper, 0 * a_off, 0 * b_off)
        least, most = (outside(end, box.lower.dtype, side) for end, side in zip(self.image, (-1, 1), strict=True))
        return Box(
            torch.where(bad_lower, math.nan, found.lower.clamp(least, most)),
            torch.where(bad_upper, math.nan, found.upper.clamp(least, most)),
        )

    def jump(self, rho: Tensor, at: Tensor | None) -> Tensor:
        """How far jumps of g can move the output, beside what its slopes do: 0 for a continuous g. As in `modulus`."""
        del at
        return torch.zeros_like(rho)

    def derivative_upper(self, z: Tensor) -> Tensor:
        """An upper bound on abs(g'(z)), entrywise, including the rounding of its own evaluation."""
        return torch.full_like(z, self.steepest)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """The smaller of steepest * rho and, where `at` = max abs(g'(z)) is known, the Taylor bound."""
        (rho,) = radii
        bound = self.steepest * rho
        if at is None or not math.isfinite(self.curvature):
            return bound
        return torch.minimum(bound, at * rho + 0.5 * self.curvature * rho * rho)

    def local(self, *inputs: Tensor) -> Tensor | None:
        """max_i abs(g'(z_i)) for each sample, float64; None for activations without second derivative."""
        if not math.isfinite(self.curvature):
            return None
        return self.derivative_upper(inputs[0]).flatten(1).amax(1).to(torch.float64)

    @abstractmethod
    def line(self, box: Box, falling: Tensor) -> Tensor:
        """A good slope for a line below g on the box, or, where `falling`, above it; all (items, *input_shape)."""

    @abstractmethod
    def least(self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor) -> Tensor:
        """A lower bound, (items,), on the sum over all entries of the minimum over z in the region's box of

            c (g(z) - y) - q/2 (g(z) - y)^2 - l (z - z0) + p/2 (z - z0)^2

        with c and q the form's linear part and curvature, l = `line`, p = `curvature` (q and p may be None for 0),
        z0 the region's value and y = `value`. In float64 with its roundings taken off.
        """

    @final
    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """A line that fits the box, or, with curvature, the slope at the sample; no shift yet."""
        (region,) = inputs
        shift = torch.zeros_like(form.linear)
        if curvature is None:
            return Duals(slope=self.line(region.box, form.linear < 0), shift=shift)
        at_rest = Box(region.value, region.value)
        return Duals(self.line(at_rest, form.linear < 0), shift, curvature)

    @final
    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """l = slope * c + shift, and p = q steepest^2 + the layer's own curvature: any l and p are sound, because

        c (g(z) - y) - q/2 (g(z) - y)^2 >= l (z - z0) - p/2 (z - z0)^2 + least over the box of the difference.
        """
        (region,) = inputs
        line, curvature = self.lines(form, duals)
        constant = self.least(form, line, curvature, region, output.value)
        return Pulled((Form(line, curvature),), constant)

    @final
    def lines(self, form: Form, duals: Duals) -> tuple[Tensor, Tensor | None]:
        """l and p of `pull_back`."""
        assert duals.slope is not None
        line = duals.slope * form.linear
        if duals.shift is not None:
            size = form.linear.detach().flatten(1).square().mean(1).sqrt()
            line = line + duals.shift * wide(size, line)
        curvature = duals.curvature
        if form.curvature is not None:
            assert curvature is not None, "a form with curvature needs a layer that was started with it"
            curvature = curvature + form.curvature * self.steepest**2 * (1 + 1e-8)
        return line, curvature

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Eight roundings of an output of norm at most steepest * norm(z) + abs(g(0)) sqrt(entries).

        Library functions may lose numbers that are not normal in float32. Flushing loses the smallest normal number
        times z for a slope, and times the steepest slope for z itself.
        """
        if not self.rounds:
            return torch.zeros_like(norms[0])
        entries = math.prod(self.input_shape)
        size = self.steepest * norms[0] + abs(self.at_zero) * math.sqrt(entries)
        flushed = self.steepest * math.sqrt(entries) + 2 * norms[0]
        lost = 8 * TINY32 * math.sqrt(entries) + flushed * tiny(unit)
        return unless_overflow(8 * unit * size + lost, size, unit)


def outside(end: float, dtype: torch.dtype, side: int) -> float:
    """The nearest number of the dtype that is not on the wrong side of `end`."""
    near = torch.tensor(end, dtype=dtype, device="cpu")
    wrong = (float(near) - end) * side < 0
    return float(torch.nextafter(near, near.new_tensor(side * math.inf)) if wrong else near)
