"""Layers whose relaxation has one thing wrong each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from contracts.pull_back import check_centre, check_exact_pieces, check_pull_back
from mutants.layers import Mutant, SigmoidCurvatureHalved, SoftplusBetaForgotten, TanhCurvatureHalved
from pertbound.forms import Duals, Form, Pulled, Region, total, wide
from pertbound.layers import (
    Add,
    Concat,
    Conv,
    Dense,
    Diagonal,
    Layer,
    LeakyReLU,
    LpPool,
    MaxPool,
    ReLU,
    Shape,
    Sigmoid,
    Softplus,
    Tanh,
    linear,
    max_pool,
    piecewise,
    smooth,
)
from pertbound.layers.max_pool import least_over_windows
from pertbound.layers.pool import windows_per_entry
from pertbound.sets import Box

Inputs = tuple[Region, ...]


def _plain_sum(terms: Tensor, _: Tensor | None = None) -> Tensor:
    """A sum of rows as computed."""
    return terms.flatten(1).sum(1)


# Linear layers.


class NormForgotten(Dense):
    """Curvature passed on as it is, without the square of the norm."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        return Pulled((Form(found.forms[0].linear, form.curvature),), found.constant)


class NormOnce(Conv):
    """The norm instead of its square."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        q = None if form.curvature is None else form.curvature * self.norm_upper * (1 + 1e-9)
        return Pulled((Form(found.forms[0].linear, q),), found.constant)


def _centre_term(layer: Dense, form: Form, duals: Duals) -> Tensor | float:
    """q/2 s^T Q s."""
    s, q = duals.centre, form.curvature
    if s is None or q is None:
        return 0.0
    spread = layer.norm_upper**2 * s - layer.transpose(layer.apply(s))
    return q / 2 * (spread * s).flatten(1).sum(1)


class CentreQuartered(Dense):
    """A quarter of s^T Q s instead of half of it."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        return Pulled(found.forms, found.constant + _centre_term(self, form, duals) / 2)


class CentreWhole(Dense):
    """All of s^T Q s: sound, but at the centre something is lost."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        return Pulled(found.forms, found.constant - _centre_term(self, form, duals))


class CentreReversed(Dense):
    """The linear part of the centre with the wrong sign: sound as well, because s and -s cost the same."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        other = duals if duals.centre is None else replace(duals, centre=-duals.centre)
        return super().pull_back(form, inputs, output, other)


class NoiseForgotten(Dense):
    """The output's value taken for exact."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        return super().pull_back(form, inputs, replace(output, noise=0 * output.noise), duals)


class NoiseInCurvatureForgotten(Conv):
    """The noise taken off the linear part alone."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        if form.curvature is None:
            return found
        return Pulled(found.forms, found.constant + form.curvature * 1e9 * output.noise * output.noise)


class Unrounded(Dense):
    """The roundings of A^T a left out."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(linear, "gamma", lambda *_: 0.0):
            return super().pull_back(form, inputs, output, duals)


class UnroundedConv(Conv):
    """The same."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(linear, "gamma", lambda *_: 0.0):
            return super().pull_back(form, inputs, output, duals)


class ShortNorms(Dense):
    """Norms that underflow."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(linear, "_size", lambda a: torch.linalg.vector_norm(a.flatten(1), dim=1)):
            return super().pull_back(form, inputs, output, duals)


class MeanSquare(Diagonal):
    """Curvature by the mean of the squared scales."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        mean = float(self.scale.double().expand(self.input_shape).square().mean())
        q = None if form.curvature is None else form.curvature * mean * (1 + 1e-8)
        return Pulled((Form(found.forms[0].linear, q),), found.constant)


# Activations.


def _with_box(region: Region, lower: Tensor, upper: Tensor) -> Inputs:
    return (replace(region, box=Box(lower, upper)),)


class RightPieceOnly(ReLU):
    """The minimum over the positive piece, wherever there is one."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        box = inputs[0].box
        lower = torch.where(box.upper > 0, box.lower.clamp_min(0), box.lower)
        return super().pull_back(form, _with_box(inputs[0], lower, box.upper), output, duals)


class LowerForgotten(LeakyReLU):
    """Entries that only ever rise."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        box, value = inputs[0].box, inputs[0].value
        lower = torch.minimum(torch.maximum(box.lower, value), box.upper)
        return super().pull_back(form, _with_box(inputs[0], lower, box.upper), output, duals)


class CentredBox(ReLU):
    """A box of the same width around the value."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        half, value = (inputs[0].box.upper - inputs[0].box.lower) / 2, inputs[0].value
        return super().pull_back(form, _with_box(inputs[0], value - half, value + half), output, duals)


class EndsOnly(ReLU):
    """Vertices of parabolas forgotten: the ends of the pieces alone."""

    def _minimiser(self, *given: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        form, line, curvature, region, value = given
        if curvature is None:
            return super()._minimiser(*given)
        found = []
        for z in (region.box.lower, region.box.upper, 0 * line):
            z = torch.minimum(torch.maximum(z, region.box.lower), region.box.upper)
            up, across = z.relu() - value, z - region.value
            cost = form.linear * up - line * across + wide(curvature, z) / 2 * across.square()
            if form.curvature is not None:
                cost = cost - wide(form.curvature, z) / 2 * up.square()
            found.append((cost, z))
        which = torch.stack([cost for cost, _ in found]).argmin(0)
        z = torch.stack([z for _, z in found]).gather(0, which[None]).squeeze(0)
        return z, z.relu(), z.abs() + value.abs(), torch.zeros_like(z)


class NeverMissed(LeakyReLU):
    """Every computed minimiser taken for exact."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(piecewise, "_product", lambda a, b: 0 * a * b):
            return super().pull_back(form, inputs, output, duals)


class MissedBothWays(ReLU):
    """The slope at an end counted as missed where it falls towards that end: sound, but loose."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(piecewise, "_product", lambda a, b: a.abs() * b):
            return super().pull_back(form, inputs, output, duals)


class ComparedAsComputed(LeakyReLU):
    """No roundings of the terms."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(piecewise, "_sizes", lambda form, *_: 0 * form.linear):
            return super().pull_back(form, inputs, output, duals)


class CurvatureUnpaid(LeakyReLU):
    """The form's own curvature dropped from what is passed on."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        return Pulled((Form(found.forms[0].linear, duals.curvature),), found.constant)


class SteepestForgotten(LeakyReLU):
    """q instead of q slope^2, where the slope is above 1."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        p = duals.curvature
        if p is not None and form.curvature is not None:
            p = p + form.curvature * (1 + 1e-8)
        return Pulled((Form(found.forms[0].linear, p),), found.constant)


class StationaryForgotten(Sigmoid):
    """Points between the ends where the derivative is the line's slope left out."""

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        return ()


class OneStationaryPoint(Tanh):
    """One of the two."""

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        return super().flat(slope)[:1]


class NearlyStationary(Softplus):
    """Stationary points a little off, and taken for exact."""

    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        return tuple(z + 1e-4 for z in super().flat(slope))

    def derivative(self, z: Tensor) -> Tensor:
        return super().derivative(z - 1e-4)


class WithoutThreshold(Softplus):
    """Relaxed as if there were no threshold."""

    def least(self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor) -> Tensor:
        return Softplus(self.input_shape, self.beta, math.inf).least(form, line, curvature, region, value)


class LeapUnpaid(Softplus):
    """The jump known to the straight bound alone."""

    def leap(self, region: Region) -> Tensor | None:
        return None


class LeapOfCurvatureUnpaid(Softplus):
    """The form's curvature paid for as if g had no jump."""

    def least(self, form: Form, line: Tensor, curvature: Tensor | None, region: Region, value: Tensor) -> Tensor:
        found = super().least(form, line, curvature, region, value)
        leap = self.leap(region)
        if form.curvature is None or leap is None:
            return found
        return found + (wide(form.curvature, leap) / 2 * leap.square()).flatten(1).sum(1)


class TangentAtTheJump(Softplus):
    """The slope 1 for all values beyond the jump, also where the box reaches over it."""

    def tangent(self, region: Region) -> Tensor:
        return torch.where(region.value > self.at, 1.0, self.derivative(region.value))


class SmoothUnrounded(Tanh):
    """Sums as computed."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(smooth, "total", _plain_sum):
            return super().pull_back(form, inputs, output, duals)


class TaylorBothWays(Tanh):
    """The larger of two bounds, one of which forgets to pay for the form's curvature."""

    def _bent(self, form: Form, line: Tensor, curvature: Tensor, region: Region) -> Tensor:
        return super()._bent(Form(form.linear), line, curvature, region)


# Pooling.


class SquareForgotten(MaxPool):
    """The form's curvature dropped."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        return super().pull_back(Form(form.linear), inputs, output, duals)


class SquareKeptForOne(MaxPool):
    """Curvature passed on as if no entry lay in two windows."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        p = duals.curvature
        if p is not None and form.curvature is not None:
            p = p + form.curvature * (1 + 1e-9)
        return Pulled((Form(found.forms[0].linear, p),), found.constant)


def _charged_to_first(right: Callable[..., Any]) -> Callable[..., Any]:
    def minimiser(form: Form, weights: Tensor, line: Tensor, p: Tensor | None, windows: Any) -> Any:
        u, rise, square = right(form, weights, line, p, windows)
        first = windows[0].masked_fill(~windows[3], torch.inf).argmin(-1, keepdim=True)
        return u, rise, torch.minimum(square, u.gather(-1, first).squeeze(-1).square())

    return minimiser


class ChargedToFirst(MaxPool):
    """The square charged to the entry that is largest at rest."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(max_pool, "_window_minimiser", _charged_to_first(max_pool._window_minimiser)):
            return super().pull_back(form, inputs, output, duals)


def _only_first(right: Callable[..., Any]) -> Callable[..., Any]:
    def minimiser(form: Form, weights: Tensor, line: Tensor, p: Tensor | None, windows: Any) -> Any:
        gap, down, up, there, can = windows
        return right(form, weights, line, p, (gap, down, up, there, can & (gap == 0)))

    return minimiser


class OnlyTheFirst(MaxPool):
    """The entry that is largest at rest stays so."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(max_pool, "_window_minimiser", _only_first(max_pool._window_minimiser)):
            return super().pull_back(form, inputs, output, duals)


def _only_above(right: Callable[..., Any]) -> Callable[..., Any]:
    def minimiser(form: Form, weights: Tensor, line: Tensor, p: Tensor | None, windows: Any) -> Any:
        gap, down, up, there, can = windows
        return right(form, weights, line, p, (gap, down, up, there, can & (up >= gap)))

    return minimiser


class OnlyAboveTheRest(MaxPool):
    """Entries that cannot reach the largest at rest are left out, though that one may fall below them."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(max_pool, "_window_minimiser", _only_above(max_pool._window_minimiser)):
            return super().pull_back(form, inputs, output, duals)


class WeightsAsTheyAre(MaxPool):
    """Weights divided by their sum, whatever that is, and those on the padding counted."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        assert duals.slope is not None
        assert duals.shift is not None
        (region,) = inputs
        weights = duals.slope.clamp_min(0.0)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
        size = form.linear.flatten(1).square().mean(1).sqrt()
        line = weights * form.linear.unsqueeze(-1) + duals.shift * wide(size, duals.shift)
        line = line * self.windows(torch.ones_like(region.value[:1]), 0.0)
        p, share = duals.curvature, windows_per_entry(self.window, self.stride, self.dilation)
        if form.curvature is not None and p is not None:
            p = p + form.curvature * share * (1 + 1e-9)
        constant = least_over_windows(self, form, weights, line, None if p is None else p / share, region, output)
        return Pulled((Form(self.unwindowed(line), p),), constant)


class RadiusForgotten(LpPool):
    """What has no relaxation: the form's curvature dropped."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        return super().pull_back(Form(form.linear), inputs, output, duals)


class UpperEndOnly(LpPool):
    """What has no relaxation: at the upper end of the box, whatever the sign."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(Form(0 * form.linear, form.curvature), inputs, output, duals)
        return Pulled(found.forms, found.constant + total(form.linear * (output.box.upper - output.value)))


# Layers with several inputs.


class CountForgotten(Add):
    """q instead of k q."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        q = None if form.curvature is None else form.curvature * (1 + 1e-8)
        return Pulled(tuple(Form(below.linear, q) for below in found.forms), found.constant)


class AddNoiseForgotten(Add):
    """The output's value taken for exact."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        return super().pull_back(form, inputs, replace(output, noise=0 * output.noise), duals)


class Backwards(Concat):
    """The parts in the opposite order."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        return Pulled(found.forms[::-1], found.constant)


class CurvatureShared(Concat):
    """Each part with its share of the curvature."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        q = None if form.curvature is None else form.curvature / len(inputs)
        return Pulled(tuple(Form(below.linear, q) for below in found.forms), found.constant)


def layer_mutants() -> dict[str, Mutant]:
    """All of them, by what is wrong."""
    generator = torch.Generator().manual_seed(6)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def conv(kind: Callable[..., Conv]) -> Conv:
        return kind((2, 5, 5), normal(2, 2, 3, 3), normal(2), (1, 1), (1, 1), (1, 1), 1)

    flat: Shape = (5,)
    dense = (flat, normal(4, 5), normal(4))
    overlapping = ((1, 6, 6), (3, 3), (2, 2), (1, 1), (1, 1), False)
    apart = ((1, 8), (2,), (2,), (0,), (1,), False)
    norms = ((1, 4, 6), 2.0, (2, 2), (2, 2))
    broken: list[Layer] = [
        NormForgotten(*dense),
        conv(NormOnce),
        CentreQuartered(*dense),
        NoiseForgotten(*dense),
        conv(NoiseInCurvatureForgotten),
        Unrounded(*dense),
        conv(UnroundedConv),
        ShortNorms(*dense),
        MeanSquare((2, 3), normal(2, 1), normal(2, 1)),
        RightPieceOnly(flat),
        LowerForgotten(flat, 0.1),
        CentredBox(flat),
        EndsOnly(flat),
        NeverMissed(flat, 0.1),
        ComparedAsComputed(flat, 0.1),
        CurvatureUnpaid(flat, 0.1),
        SteepestForgotten(flat, 3.0),
        StationaryForgotten(flat),
        OneStationaryPoint(flat),
        NearlyStationary(flat, 1.0, 20.0),
        WithoutThreshold(flat, 1.0, 0.5),
        LeapUnpaid(flat, 1.0, 0.5),
        LeapOfCurvatureUnpaid(flat, 1.0, 0.5),
        TangentAtTheJump(flat, 1.0, 0.5),
        SmoothUnrounded(flat),
        TaylorBothWays(flat),
        SigmoidCurvatureHalved(flat),
        TanhCurvatureHalved(flat),
        SoftplusBetaForgotten(flat, 10.0, 20.0),
        SquareForgotten(*apart),
        SquareKeptForOne(*overlapping),
        ChargedToFirst(*apart),
        OnlyTheFirst(*apart),
        OnlyAboveTheRest(*overlapping),
        WeightsAsTheyAre(*overlapping),
        WeightsAsTheyAre(*apart),
        RadiusForgotten(*norms),
        UpperEndOnly(*norms),
    ]
    found = [Mutant(layer, check_pull_back) for layer in broken]
    merges: list[Layer] = [CountForgotten(), AddNoiseForgotten(), Backwards(1), CurvatureShared(1)]
    found += [Mutant(layer, check_pull_back, ((4,),) * 3) for layer in merges]
    found += [Mutant(CentreWhole(*dense), check_centre), Mutant(CentreReversed(*dense), check_centre)]
    found += [Mutant(MissedBothWays(flat), check_exact_pieces)]
    names: dict[str, Mutant] = {}
    for mutant in found:
        name = f"{type(mutant.broken).__name__} by {mutant.contract.__name__}"
        names[name + (", apart" if name in names else "")] = mutant
    return names
