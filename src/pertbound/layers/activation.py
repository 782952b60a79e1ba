"""Activations: one increasing function applied to every entry."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Form, Pulled, Region, wide
from pertbound.layers.base import Layer, Shape, outward, unless_overflow
from pertbound.numerics import TINY32, UNIT32
from pertbound.sets import Box


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """g applied to each entry, with slopes in [low, high], 0 <= low <= high.

    Sound, anywhere: omega(rho) = high * rho.
    Sound, at a known input z, where g is twice differentiable with abs(g'') <= curvature (Taylor's theorem for
    each entry, and norm(r * r)_2 = norm(r)_4^2 <= norm(r)_2^2):
    omega(rho) = max_i g'(z_i) rho + (1/2) curvature rho^2.

    An increasing g with slopes in [low, high] is *averaged*: g(u) - g(v) = middle (u - v) + half n(u, v) with
    abs(n(u, v)) <= abs(u - v), middle = (high + low) / 2, half = (high - low) / 2. `push.py` uses that to beat
    the product of the neighbouring norms (Combettes and Pesquet, Lipschitz certificates for layered network
    structures driven by averaged activation operators, 2020).
    """

    input_shape: Shape

    @property
    @abstractmethod
    def slopes(self) -> tuple[float, float]:
        """The smallest and largest slope (low, high) over the real line."""

    @property
    def curvature(self) -> float:
        """sup abs(g''), infinite where g'' does not exist everywhere."""
        return math.inf

    @property
    def at_zero(self) -> float:
        """g(0), for the size of the output."""
        return 0.0

    @property
    def image(self) -> tuple[float, float]:
        """The infimum and the supremum of g over the real line."""
        return -math.inf, math.inf

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """A computed g(z), and how far it can be from the exact value, entrywise and in the dtype of z."""
        value, info = self.forward(z), torch.finfo(z.dtype)
        return value, 4 * info.eps * value.abs() + 2 * info.tiny

    def interval(self, *boxes: Box) -> Box:
        """[g(lower), g(upper)], because g increases, within the image of g. NaN stays NaN."""
        (box,) = boxes
        if not self.rounds:
            return Box(self.forward(box.lower), self.forward(box.upper))
        (lower, below), (upper, above) = self.enclose(box.lower), self.enclose(box.upper)
        found = outward(lower, upper, below, above)
        return Box(
            torch.where(box.lower.isnan(), box.lower, found.lower.clamp(*self.image)),
            torch.where(box.upper.isnan(), box.upper, found.upper.clamp(*self.image)),
        )

    def derivative_upper(self, z: Tensor) -> Tensor:
        """An upper bound on g'(z), entrywise, including the rounding of its own evaluation."""
        return torch.full_like(z, self.slopes[1])

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """The smaller of high * rho and, where `at` = max g'(z) is known, the Taylor bound."""
        (rho,) = radii
        bound = self.slopes[1] * rho
        if at is None or not math.isfinite(self.curvature):
            return bound
        return torch.minimum(bound, at * rho + 0.5 * self.curvature * rho * rho)

    def local(self, *inputs: Tensor) -> Tensor | None:
        """max_i g'(z_i) for each sample, float64; None for activations without second derivative."""
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
    def start(self, inputs: tuple[Region, ...], form: Form, *, curved: bool) -> Duals:
        """A line that fits the box, or, with curvature, the slope at the sample; no shift and no curvature yet."""
        (region,) = inputs
        shift = torch.zeros_like(form.linear)
        if not curved:
            return Duals(slope=self.line(region.box, form.linear < 0), shift=shift)
        at_rest = Box(region.value, region.value)
        return Duals(self.line(at_rest, form.linear < 0), shift, torch.zeros_like(region.radius))

    @final
    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """l = slope * c + shift, and p = q slope^2 + the layer's own curvature: any l and p are sound, because

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
            curvature = curvature + form.curvature * self.slopes[1] ** 2 * (1 + 1e-8)
        return line, curvature

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Eight roundings of an output of norm at most high * norm(z) + abs(g(0)) sqrt(entries)."""
        if not self.rounds:
            return torch.zeros_like(norms[0])
        entries = math.prod(self.input_shape)
        size = self.slopes[1] * norms[0] + abs(self.at_zero) * math.sqrt(entries)
        return unless_overflow(8 * unit * size + 8 * TINY32 * math.sqrt(entries), size, unit)
