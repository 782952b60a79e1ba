"""Layers whose intervals have one thing wrong each."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from contracts.interval import check_bias_term, check_interval
from mutants.layers import Mutant
from pertbound.layers import (
    Activation,
    Add,
    AveragePool,
    Concat,
    Conv,
    Dense,
    Diagonal,
    Layer,
    LeakyReLU,
    Linear,
    LpPool,
    MaxPool,
    ReLU,
    Reshape,
    Shape,
    Sigmoid,
    Softplus,
    Tanh,
)
from pertbound.layers.base import outward, reserve
from pertbound.sets import Box


def _middle(box: Box) -> tuple[Tensor, Tensor]:
    return (box.lower + box.upper) / 2, (box.upper - box.lower) / 2


def _shifted(layer: Linear, x: Tensor) -> Tensor:
    out, bias = layer.apply(x), layer.bias_in(x.dtype)
    return out if bias is None else out + bias


class SignsKept(Dense):
    """A r for abs(A) r: radii that cancel."""

    @cached_property
    def magnitude(self) -> Linear:
        return Dense(self.input_shape, self.weight, None)


class EndsThrough(Conv):
    """A lower and A upper, right for non-negative weights only."""

    def interval(self, *boxes: Box) -> Box:
        low, high = (_shifted(self, end) for end in (boxes[0].lower, boxes[0].upper))
        tiny = torch.full_like(low, 1e-3)
        return outward(torch.minimum(low, high), torch.maximum(low, high), tiny, tiny)


class OneSide(Dense):
    """The radius added above, and not taken off below."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        return Box((found.lower + found.upper) / 2, found.upper)


class HalfRadius(Conv):
    """Half the radius."""

    def interval(self, *boxes: Box) -> Box:
        centre, radius = _middle(boxes[0])
        return super().interval(Box(centre - radius / 2, centre + radius / 2))


class BiasForgotten(Conv):
    """A x for A x + b."""

    def bias_in(self, dtype: torch.dtype) -> Tensor | None:
        return None


class BiasOnce(Diagonal):
    """The inner product with the shift as it is stored, not once for each position."""

    def bias_in(self, dtype: torch.dtype) -> Tensor | None:
        padded = torch.zeros(self.input_shape, dtype=dtype)
        padded[(slice(None), *(0,) * (padded.dim() - 1))] = self.shift.to(dtype).flatten()
        return padded


class Unrounded(Dense):
    """A c + b +- abs(A) r as computed."""

    def interval(self, *boxes: Box) -> Box:
        centre, radius = _middle(boxes[0])
        out, spread = _shifted(self, centre), self.magnitude.apply(radius)
        return Box(out - spread, out + spread)


class RadiusRounded(Dense):
    """A reserve relative to the radius, and none for the centre, whose terms cancel."""

    def interval(self, *boxes: Box) -> Box:
        centre, radius = _middle(boxes[0])
        out, spread = _shifted(self, centre), self.magnitude.apply(radius) * (1 + 1e-5)
        return outward(out, out, spread, spread)


class ResultRounded(Dense):
    """A reserve relative to the centre's result, small where its terms cancel."""

    def interval(self, *boxes: Box) -> Box:
        centre, radius = _middle(boxes[0])
        out, q = _shifted(self, centre), reserve(self.terms + 16, centre.dtype)
        spread = self.magnitude.apply(radius) * (1 + q) + q * out.abs() + torch.finfo(out.dtype).tiny
        return outward(out, out, spread, spread)


class UnderflowForgotten(Dense):
    """Roundings, but not the products that underflow."""

    def interval(self, *boxes: Box) -> Box:
        centre, radius = _middle(boxes[0])
        q = reserve(self.terms + 16, centre.dtype)
        out, spread = _shifted(self, centre), self.magnitude.apply(radius + q * (centre.abs() + radius))
        bias = self.bias_in(centre.dtype)
        spread = spread if bias is None else spread + q * bias.abs()
        return Box(out - spread, out + spread)


class Narrow(Dense):
    """Computed in float32 whatever the dtype of the boxes."""

    def interval(self, *boxes: Box) -> Box:
        dtype = boxes[0].lower.dtype
        found = super().interval(Box(boxes[0].lower.float(), boxes[0].upper.float()))
        return Box(found.lower.to(dtype), found.upper.to(dtype))


class Widened(Dense):
    """Returns float64 whatever the dtype of the boxes."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        return Box(found.lower.double(), found.upper.double())


class LargestSample(Dense):
    """The radius of the whole batch for each of its samples."""

    def interval(self, *boxes: Box) -> Box:
        middle, radius = _middle(super().interval(*boxes))
        return outward(middle, middle, radius.amax(0, keepdim=True), radius.amax(0, keepdim=True))


class InfinityIsANumber(Dense):
    """Infinite ends taken for zero, and forgotten."""

    def interval(self, *boxes: Box) -> Box:
        finite = [end.masked_fill(end.isinf(), 0.0) for end in (boxes[0].lower, boxes[0].upper)]
        return super().interval(Box(torch.minimum(*finite), torch.maximum(*finite)))


class InfinityIsLarge(AveragePool):
    """Infinite ends taken for a large number."""

    def interval(self, *boxes: Box) -> Box:
        ends = (end.nan_to_num(math.nan, 1e36, -1e36) for end in (boxes[0].lower, boxes[0].upper))
        return super().interval(Box(*ends))


class InfinityTimesZero(Conv):
    """0 * infinity left as it is."""

    def interval(self, *boxes: Box) -> Box:
        if not (boxes[0].lower.isinf() | boxes[0].upper.isinf()).any():
            return super().interval(*boxes)
        centre, radius = _middle(boxes[0])
        out, spread = _shifted(self, centre), self.magnitude.apply(radius)
        return Box(out - spread, out + spread)


class InfinityEverywhere(Conv):
    """One infinite end opens every output of the sample."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        bad = (boxes[0].lower.isinf() | boxes[0].upper.isinf()).flatten(1).any(1)
        bad = bad.reshape(-1, *(1 for _ in self.output_shape))
        return Box(found.lower.masked_fill(bad, -math.inf), found.upper.masked_fill(bad, math.inf))


class NaNIsZero(Dense):
    """NaN taken for zero."""

    def interval(self, *boxes: Box) -> Box:
        return super().interval(Box(boxes[0].lower.nan_to_num(0.0), boxes[0].upper.nan_to_num(0.0)))


class FallingForgotten(Diagonal):
    """The ends not exchanged where the scale is negative."""

    def interval(self, *boxes: Box) -> Box:
        lower, upper = (self.apply(end) + self.shift.to(end.dtype) for end in (boxes[0].lower, boxes[0].upper))
        return outward(lower, upper, 1e-3 * lower.abs(), 1e-3 * upper.abs())


class DiagonalUnrounded(Diagonal):
    """Both ends as computed."""

    def interval(self, *boxes: Box) -> Box:
        ends = [self.apply(end) + self.shift.to(end.dtype) for end in (boxes[0].lower, boxes[0].upper)]
        return Box(torch.minimum(*ends), torch.maximum(*ends))


class Transposed(Reshape):
    """The entries in another order."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        return Box(found.lower.flip(-1), found.upper.flip(-1))


class MiddleMaximum(MaxPool):
    """The maximum of the centres for the lower end."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        return Box(torch.minimum(self.forward(_middle(boxes[0])[0]), found.upper), found.upper)


class MinimumBelow(MaxPool):
    """The smallest lower end of each window: sound, and loose."""

    def interval(self, *boxes: Box) -> Box:
        return Box(-self.forward(-boxes[0].lower), super().interval(*boxes).upper)


class PaddedWithZeros(MaxPool):
    """Padding that takes part as zero."""

    def interval(self, *boxes: Box) -> Box:
        pads = [p for size in reversed(self.padding) for p in (size, size)]
        bare = MaxPool(
            self.input_shape, self.window, self.stride, (0,) * len(self.padding), self.dilation, self.ceil_mode
        )
        lower, upper = (bare.forward(functional.pad(end, pads)) for end in (boxes[0].lower, boxes[0].upper))
        return Box(lower, upper)


class SignChangeForgotten(LpPool):
    """abs of the ends, also where zero lies between them."""

    def interval(self, *boxes: Box) -> Box:
        a, b = boxes[0].lower.abs(), boxes[0].upper.abs()
        return super().interval(Box(torch.minimum(a, b), torch.maximum(a, b)))


class UpperEndOnly(LpPool):
    """abs(upper) for the largest abs(x)."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        short = super().interval(Box(boxes[0].upper, boxes[0].upper)).upper
        return Box(torch.minimum(found.lower, short), short)


class PowersOverflow(LpPool):
    """The powers as forward takes them."""

    def _norms(self, x: Tensor) -> Tensor:
        return self.forward(x)


class LpUnrounded(LpPool):
    """Both ends as computed."""

    def interval(self, *boxes: Box) -> Box:
        low, high = boxes[0].lower, boxes[0].upper
        nearest = torch.maximum(torch.maximum(low, -high), torch.zeros_like(low))
        return Box(self._norms(nearest), self._norms(torch.maximum(low.abs(), high.abs())))


class TangentAtTheMiddle(Tanh):
    """g(c) +- g'(c) r."""

    def interval(self, *boxes: Box) -> Box:
        centre, radius = _middle(boxes[0])
        reach = self.derivative_upper(centre) * radius
        found = outward(centre.tanh(), centre.tanh(), reach, reach)
        return Box(found.lower.clamp(-1, 1), found.upper.clamp(-1, 1))


class LipschitzAround(Sigmoid):
    """g(c) +- 1/4 r: sound, and loose."""

    def interval(self, *boxes: Box) -> Box:
        centre, radius = _middle(boxes[0])
        reach = 0.26 * radius + 1e-6
        return Box((centre.sigmoid() - reach).clamp(0, 1), (centre.sigmoid() + reach).clamp(0, 1))


class BeyondTheImage(Sigmoid):
    """The reserve, without the image."""

    @property
    def image(self) -> tuple[float, float]:
        return -math.inf, math.inf


class SigmoidUnrounded(Sigmoid):
    """Both ends as computed."""

    def interval(self, *boxes: Box) -> Box:
        return Box(self.forward(boxes[0].lower), self.forward(boxes[0].upper))


class Swallowed(Tanh):
    """NaN clamped into the image."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        return Box(found.lower.nan_to_num(-1.0), found.upper.nan_to_num(1.0))


class SlopeOnBothSides(LeakyReLU):
    """The slope applied to positive numbers as well."""

    def interval(self, *boxes: Box) -> Box:
        lower, upper = (self.slope * end for end in (boxes[0].lower, boxes[0].upper))
        return outward(lower, upper, 1e-3 * lower.abs(), 1e-3 * upper.abs())


class LeakyUnrounded(LeakyReLU):
    """Both ends as computed."""

    def interval(self, *boxes: Box) -> Box:
        return Box(self.forward(boxes[0].lower), self.forward(boxes[0].upper))


class UpperForgotten(ReLU):
    """A neuron whose centre is below zero taken for inactive."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        return Box(found.lower, torch.where(_middle(boxes[0])[0] < 0, found.lower, found.upper))


class ReplacedForgotten(Softplus):
    """The exact function alone, without the values that the threshold puts in its place."""

    def interval(self, *boxes: Box) -> Box:
        return Activation.interval(self, *boxes)


class ReplacedAlone(Softplus):
    """What lies beyond the threshold, and not the larger values before it."""

    def interval(self, *boxes: Box) -> Box:
        found = super().interval(*boxes)
        upper = torch.where(self.beta * boxes[0].upper > self.threshold, boxes[0].upper, found.upper)
        return Box(torch.minimum(found.lower, upper), upper)


class ArgumentUnrounded(Softplus):
    """The rounding of beta z forgotten, which exp magnifies."""

    def curve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, _ = super().curve(z)
        return value, 4 * torch.finfo(z.dtype).eps * value


class FirstOnly(Add):
    """The other inputs taken for exact."""

    def interval(self, *boxes: Box) -> Box:
        return super().interval(boxes[0], *(Box(_middle(box)[0], _middle(box)[0]) for box in boxes[1:]))


class AddUnrounded(Add):
    """Both ends as computed."""

    def interval(self, *boxes: Box) -> Box:
        return Box(self.forward(*(box.lower for box in boxes)), self.forward(*(box.upper for box in boxes)))


class AddResultRounded(Add):
    """A rounding of the result alone: the sums on the way may be larger."""

    def interval(self, *boxes: Box) -> Box:
        lower, upper = (self.forward(*ends) for ends in zip(*((box.lower, box.upper) for box in boxes), strict=True))
        return outward(lower, upper, lower * 0, upper * 0)


class Reversed(Concat):
    """The inputs in the opposite order."""

    def interval(self, *boxes: Box) -> Box:
        return super().interval(*reversed(boxes))


class LowersTwice(Concat):
    """The upper ends of the last input forgotten."""

    def interval(self, *boxes: Box) -> Box:
        return super().interval(*boxes[:-1], Box(boxes[-1].lower, boxes[-1].lower))


def interval_mutants() -> dict[str, Mutant]:
    """All of them, by what is wrong."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def conv(kind: Callable[..., Conv], weight: Tensor, bias: Tensor | None = None) -> Conv:
        return kind((weight.shape[1], 5, 5), weight, bias, (1, 1), (1, 1), (1, 1), 1)

    flat: Shape = (5,)
    windows = ((1, 6, 6), (3, 3), (2, 2), (1, 1), (1, 1), False)
    pool = ((1, 4, 6), 2.0, (2, 2), (2, 2))
    broken: list[Layer] = [
        SignsKept(flat, normal(4, 5), normal(4)),
        conv(EndsThrough, normal(2, 1, 3, 3), normal(2)),
        OneSide(flat, normal(4, 5), normal(4)),
        conv(HalfRadius, normal(2, 2, 3, 3), normal(2)),
        conv(BiasForgotten, normal(2, 1, 3, 3), normal(2)),
        Unrounded(flat, normal(4, 5), normal(4)),
        RadiusRounded(flat, normal(4, 5), normal(4)),
        ResultRounded((16,), normal(4, 16), None),
        UnderflowForgotten(flat, 1e-20 * normal(4, 5), None),
        Narrow(flat, normal(4, 5), normal(4)),
        Widened(flat, normal(4, 5), normal(4)),
        LargestSample(flat, normal(4, 5), normal(4)),
        InfinityIsANumber(flat, normal(4, 5), normal(4)),
        InfinityIsLarge((1, 6, 6), (2, 2), (2, 2), (0, 0), False, True, None),
        conv(InfinityTimesZero, normal(2, 1, 3, 3)),
        conv(InfinityEverywhere, normal(2, 1, 3, 3)),
        NaNIsZero(flat, normal(4, 5), normal(4)),
        FallingForgotten((2, 3), -normal(2, 1).abs(), normal(2, 1)),
        DiagonalUnrounded((2, 3), normal(2, 1), normal(2, 1)),
        Transposed((2, 3), (6,)),
        MiddleMaximum(*windows),
        MinimumBelow(*windows),
        PaddedWithZeros(*windows),
        SignChangeForgotten(*pool),
        UpperEndOnly(*pool),
        PowersOverflow((1, 4, 6), 4.0, (2, 2), (2, 2)),
        LpUnrounded(*pool),
        TangentAtTheMiddle(flat),
        LipschitzAround(flat),
        BeyondTheImage(flat),
        SigmoidUnrounded(flat),
        Swallowed(flat),
        SlopeOnBothSides(flat, 0.1),
        LeakyUnrounded(flat, 0.1),
        UpperForgotten(flat),
        ReplacedForgotten(flat, 1.0, 0.5),
        ReplacedAlone(flat, 1.0, 0.5),
        ArgumentUnrounded(flat, 1.3, 20.0),
    ]
    found = [Mutant(layer, check_interval) for layer in broken]
    merges: list[Layer] = [FirstOnly(), AddUnrounded(), AddResultRounded(), Reversed(1), LowersTwice(1)]
    found += [Mutant(layer, check_interval, ((4,),) * 3) for layer in merges]
    found.append(Mutant(BiasOnce((2, 4), normal(2, 1), 1 + normal(2, 1)), check_bias_term))
    found.append(Mutant(conv(BiasForgotten, normal(2, 1, 3, 3), normal(2)), check_bias_term))
    return {f"{type(m.broken).__name__} by {m.contract.__name__}": m for m in found}
