"""Layers with one thing wrong each: selections, transposed convolutions, activations, sorting, products, norms."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from contracts import layer as contracts
from contracts.interval import check_interval
from contracts.layer import Contract
from contracts.pull_back import check_pull_back
from mutants.layers import Mutant
from pertbound.forms import Duals, Form, Pulled, Region, wide
from pertbound.layers import (
    ELU,
    GELU,
    Abs,
    Clip,
    ConvTranspose,
    HardSwish,
    Layer,
    LocalResponse,
    Mish,
    Multiply,
    PReLU,
    Select,
    Shape,
    SiLU,
    Softplus,
    Sort,
    Standardize,
    TanhGELU,
    product,
    sorting,
    standardize,
)
from pertbound.layers.nonmonotone import Profile
from pertbound.layers.piecewise import Piece
from pertbound.numerics import UNIT32
from pertbound.sets import Box

Inputs = tuple[Region, ...]

# Linear maps.


class RepeatsForgotten(Select):
    """Entries that are read twice taken for an isometry."""

    @cached_property
    def norm_upper(self) -> float:
        return 1.0


class LastReaderOnly(Select):
    """An adjoint that keeps one of the outputs that read an entry."""

    def transpose(self, y: Tensor) -> Tensor:
        found = y.new_zeros(len(y), math.prod(self.input_shape))
        kept = self.index.flatten() >= 0
        found[:, self.index.flatten()[kept]] = y.reshape(len(y), -1)[:, kept]
        return found.reshape(-1, *self.input_shape)


class HolesRead(Select):
    """Padding that reads the last entry."""

    def interval(self, *boxes: Box) -> Box:
        return Select(self.input_shape, self.index % math.prod(self.input_shape)).interval(*boxes)


class CurvatureOnce(Select):
    """Curvature passed on once, also where entries are read twice."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        return Pulled((Form(found.forms[0].linear, form.curvature),), found.constant)


class TransposedKernelNorm(ConvTranspose):
    """The norm of the kernel."""

    @cached_property
    def norm_upper(self) -> float:
        return float(torch.linalg.vector_norm(self.weight.double()))


class RowsOfTheKernel(ConvTranspose):
    """Rows as if one tap met at every output: right where windows do not overlap."""

    @cached_property
    def row_norms_upper(self) -> Tensor:
        return 0.9 * super().row_norms_upper


class OutputPaddingRead(ConvTranspose):
    """The adjoint of another input size."""

    def transpose(self, y: Tensor) -> Tensor:
        found = super().transpose(y)
        return found.roll(1, -1)


# Activations: slopes and moduli.


class AbsRises(Abs):
    """Slopes 0 and 1."""

    @property
    def slopes(self) -> tuple[float, float]:
        return 0.0, 1.0


class FirstSlope(PReLU):
    """The slope of the first channel for all of them."""

    @property
    def slopes(self) -> tuple[float, float]:
        first = float(self.weight.flatten()[0])
        return min(first, 1.0), max(first, 1.0)


class SlopesUpToOne(GELU):
    """1-Lipschitz, as if it lay between 0 and the identity's slope."""

    @property
    def slopes(self) -> tuple[float, float]:
        return self.profile.slopes[0], 1.0


class NeverFalls(SiLU):
    """No negative slopes."""

    @property
    def slopes(self) -> tuple[float, float]:
        return 0.0, self.profile.slopes[1]


class MishCurvatureHalved(Mish):
    """Half the curvature."""

    @property
    def curvature(self) -> float:
        return super().curvature / 2


class SignedDerivative(TanhGELU):
    """g' where abs(g') is asked for."""

    def derivative_upper(self, z: Tensor) -> Tensor:
        return self.derivative(z) + 1e-5


class KinkForgotten(ELU):
    """The second derivative to the left, as if there were no kink."""

    @property
    def curvature(self) -> float:
        return self.left / self.width


class WidthForgotten(ELU):
    """The slope of the exponential without its width."""

    @property
    def left(self) -> float:
        return self.scale * self.alpha


class SlopesOfTheMiddle(HardSwish):
    """Slopes 0 and 1, those of the straight pieces."""

    @property
    def slopes(self) -> tuple[float, float]:
        return 0.0, 1.0


class ClipNoise(Clip):
    """Says that it rounds, and by nothing."""

    @property
    def rounds(self) -> bool:
        return True

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(inputs[0] * (1 + 1e-5))

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


# Activations: intervals.


class ValleyForgotten(GELU):
    """The smaller of both ends, also where the least value lies between them."""

    @property
    def valley(self) -> tuple[float, float] | None:
        return 50.0, 50.0


class ValleyRising(SiLU):
    """Taken for increasing."""

    @property
    def valley(self) -> tuple[float, float] | None:
        return None


class KinkBetween(Abs):
    """The ends of abs, also where zero lies between them."""

    def interval(self, *boxes: Box) -> Box:
        a, b = boxes[0].lower.abs(), boxes[0].upper.abs()
        return Box(torch.minimum(a, b), torch.maximum(a, b))


class TailUnrounded(GELU):
    """A tail whose argument is not rounded."""

    def gate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, units = super().gate(z)
        return gate, 0 * units


class UpperOpen(Clip):
    """Nothing clipped from above."""

    def interval(self, *boxes: Box) -> Box:
        return Box(super().interval(*boxes).lower, boxes[0].upper.clamp_min(self.low))


class ELUUnrounded(ELU):
    """Both ends as computed."""

    def interval(self, *boxes: Box) -> Box:
        return Box(self.forward(boxes[0].lower), self.forward(boxes[0].upper))


# Activations: relaxations.


class TopForgotten(Clip):
    """Without its upper piece, which is taken for the end of the box."""

    def pieces(self, like: Tensor) -> tuple[Piece, ...]:
        _, *rest = super().pieces(like)
        return ((1.0, 0.0, self.high, math.inf), *rest)


class OffsetForgotten(Clip):
    """Pieces through the origin."""

    def pieces(self, like: Tensor) -> tuple[Piece, ...]:
        return tuple((slope, 0.0, *ends) for slope, _, *ends in super().pieces(like))  # type: ignore[misc]


class OneSlopeForAll(PReLU):
    """The first channel's slope in the relaxation."""

    def left(self, like: Tensor) -> Tensor:
        return super().left(like).flatten()[:1]


class KinksForgotten(HardSwish):
    """Kinks are no places where a minimum can be."""

    @property
    def kinks(self) -> tuple[float, ...]:
        return ()


class KinkIsConvex(ELU):
    """SELU's kink taken for one that tangents lie below."""

    @property
    def bends(self) -> tuple[float, float]:
        return 0.0, 10.0


class BendsExchanged(Softplus):
    """Convex taken for concave."""

    @property
    def bends(self) -> tuple[float, float]:
        return -self.curvature, 0.0


class MiddleStretchForgotten(TanhGELU):
    """Stationary points of the outer stretches alone."""

    def _inverse(self, slope: Tensor, first: float, last: float) -> Tensor:
        found = super()._inverse(slope, first, last)
        return torch.full_like(found, math.nan) if last - first < 4 else found


class NearlyStationary(Mish):
    """Stationary points a little off, and taken for exact."""

    def derivative(self, z: Tensor) -> Tensor:
        return super().derivative(z - 1e-3)


class BentTooLittle(SiLU):
    """A third of the lower bend."""

    @property
    def profile(self) -> Profile:
        whole = super().profile
        return whole._replace(bends=(whole.bends[0] / 3, whole.bends[1] / 3))


# Sorting.


class SortShrinks(Sort):
    """0.9 rho."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return 0.9 * radii[0]


class UnsortedEnds(Sort):
    """Upper ends in the order of the lower ones."""

    def interval(self, *boxes: Box) -> Box:
        order = boxes[0].lower.sort(-1).indices
        return Box(super().interval(*boxes).lower, boxes[0].upper.gather(-1, order))


class OrderCertain(Sort):
    """The order at rest taken for certain."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        right = sorting._order

        def certain(region: Region) -> tuple[Tensor, Tensor]:
            order, sure = right(region)
            return order, torch.ones_like(sure)

        with patch.object(sorting, "_order", certain):
            return super().pull_back(form, inputs, output, duals)


class SortCurvatureDropped(Sort):
    """The form's curvature dropped."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        return super().pull_back(Form(form.linear), inputs, output, duals)


# Products.


class SecondOrderForgotten(Multiply):
    """The factors at rest alone."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        if at is None:
            return super().modulus(*radii)
        return at[..., 0] * radii[1] + at[..., 1] * radii[0]


class MeanFactor(Multiply):
    """The factors' mean sizes instead of the largest."""

    def local(self, *inputs: Tensor) -> Tensor | None:
        return torch.stack([v.flatten(1).abs().mean(1).to(torch.float64) for v in inputs], 1)


class BoundOfTheOther(Multiply):
    """Each bound used for the other factor."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return Multiply(self.input_shape, self.bounds[::-1]).modulus(*radii, at=at)


class EndByEnd(Multiply):
    """Lower times lower and upper times upper."""

    def interval(self, *boxes: Box) -> Box:
        low, high = boxes[0].lower * boxes[1].lower, boxes[0].upper * boxes[1].upper
        return Box(torch.minimum(low, high), torch.maximum(low, high))


class ProductUnrounded(Multiply):
    """The products of the ends as computed."""

    def interval(self, *boxes: Box) -> Box:
        ends = [a * b for a in (boxes[0].lower, boxes[0].upper) for b in (boxes[1].lower, boxes[1].upper)]
        return Box(torch.stack(ends).amin(0), torch.stack(ends).amax(0))


class ProductNoise(Multiply):
    """No rounding."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


def _without(kept: Any) -> Any:
    right = product._minimiser

    def minimiser(plane: Any, first: Any, second: Any) -> Any:
        return kept(right, plane, first, second)

    return minimiser


class CornerForgotten(Multiply):
    """Both factors rise, or both fall."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        def diagonal(right: Any, plane: Any, first: Any, second: Any) -> Any:
            c, a, b, p = plane
            costs = []
            for d, e in zip(first, second, strict=True):
                cost = c * d * e + a * d + b * e
                costs.append(cost if p is None else cost + wide(p, cost) / 2 * (d * d + e * e))
            lower = costs[0] <= costs[1]
            return torch.where(lower, first[0], first[1]), torch.where(lower, second[0], second[1]), 0 * c

        with patch.object(product, "_minimiser", _without(diagonal)):
            return super().pull_back(form, inputs, output, duals)


class StationaryPointOnly(Multiply):
    """Wherever there is curvature, the minimum is taken to be inside."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        def inside(right: Any, plane: Any, first: Any, second: Any) -> Any:
            c, a, b, p = plane
            if p is None:
                return right(plane, first, second)
            bow = wide(p, c)
            gap = (bow * bow - c * c).abs() + 1e-30
            d, e = (c * b - bow * a) / gap, (c * a - bow * b) / gap
            return d.clamp(*first), e.clamp(*second), 0 * c

        with patch.object(product, "_minimiser", _without(inside)):
            return super().pull_back(form, inputs, output, duals)


class SquareUnpaid(Multiply):
    """The form's curvature dropped."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        return super().pull_back(Form(form.linear), inputs, output, duals)


class SquareOfRest(Multiply):
    """The form's curvature by the factors at rest."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        found = super().pull_back(form, inputs, output, duals)
        q = form.curvature
        if q is None:
            return found
        own = 0.0 if duals.curvature is None else duals.curvature
        most = [r.value.flatten(1).abs().amax(1).square() for r in inputs]
        forms = (Form(f.linear, own + q * m) for f, m in zip(found.forms, most[::-1], strict=True))
        return Pulled(tuple(forms), found.constant)


# Normalisation.


class StraightChord(Standardize):
    """The Jacobian's norm at the sample, times the radius."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return super().modulus(*radii) if at is None else math.sqrt(self._n) / at * radii[0]


class MeanDeviation(Standardize):
    """The mean of the groups' deviations instead of the smallest."""

    def local(self, *inputs: Tensor) -> Tensor | None:
        return self._r(inputs[0].to(torch.float64)).reshape(len(inputs[0]), -1).mean(1)


class EpsilonSquared(Standardize):
    """1 / (4 sqrt(eps)) anywhere."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return torch.minimum(super().modulus(*radii, at=at), radii[0] / (4 * math.sqrt(self.eps)))


class CentredTwice(Standardize):
    """The box of the entries taken for that of their deviations."""

    def _centred(self, box: Box) -> tuple[Tensor, Tensor]:
        return box.lower, box.upper


class OthersStill(Standardize):
    """The other entries at the end that makes the output largest, whatever its sign."""

    def _upper(self, low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
        found = super()._upper(low, high, scale)
        return torch.where(high < 0, found - 0.3 * found.abs(), found)


class DeviationRounded(Standardize):
    """The mean taken for exact."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return super().noise(torch.zeros_like(norms[0]), unit=unit)


class FirstOrderOnly(Standardize):
    """Taylor's theorem without its second term."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        with patch.object(standardize, "BENT", 0.0):
            return super().pull_back(form, inputs, output, duals)


class DeviationAtRest(Standardize):
    """The deviation at rest for the smallest on the way."""

    def _nearby(self, region: Region) -> tuple[Tensor, Tensor, Tensor]:
        z0, r0, _ = super()._nearby(region)
        return z0, r0, r0


class MeanNotTaken(Standardize):
    """The Jacobian without the projection."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        plain = Standardize(self.input_shape, self.eps, centred=False)
        found, other = super().pull_back(form, inputs, output, duals), plain.pull_back(form, inputs, output, duals)
        return Pulled((Form(other.forms[0].linear, found.forms[0].curvature),), found.constant)


class ShareUnpaid(Standardize):
    """What does not go by Taylor's theorem is dropped."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        assert duals.slope is not None
        whole = replace(duals, slope=torch.ones_like(duals.slope))
        return super().pull_back(Form(duals.slope * form.linear, form.curvature), inputs, output, whole)


class DivisorAtRest(LocalResponse):
    """The largest D^-beta at rest, as if divisors could not fall."""

    def local(self, *inputs: Tensor) -> Tensor | None:
        return self._factor(self._sums(inputs[0].double().square())).flatten(1).amax(1)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return super().modulus(*radii) if at is None else at * radii[0]


class TenPercentShort(LocalResponse):
    """0.9 of the factor k^-beta."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return torch.minimum(super().modulus(*radii, at=at), 0.9 * self.k**-self.beta * radii[0])


class TurnForgotten(LocalResponse):
    """Taken for increasing in its own entry."""

    def _upper(self, low: Tensor, high: Tensor, small: Tensor, large: Tensor) -> Tensor:
        return torch.where(high > 0, self._value(high, small), -self._value(-high, large))


class WindowShifted(LocalResponse):
    """Even windows that reach to the other side."""

    def _sums(self, squares: Tensor) -> Tensor:
        flat = squares.flatten(2).transpose(1, 2)
        padded = functional.pad(flat, ((self.size - 1) // 2, self.size // 2))
        return padded.unfold(2, self.size, 1).sum(-1).transpose(1, 2).reshape(squares.shape)


class ResponseNoise(LocalResponse):
    """No rounding."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


class FactorAtRest(LocalResponse):
    """The divisor does not move."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        still = self._factor(self._sums(inputs[0].value.square()))
        with patch.object(LocalResponse, "_factor", lambda *_: still):
            return super().pull_back(form, inputs, output, duals)


class ResponseCurvatureDropped(LocalResponse):
    """The form's curvature dropped."""

    def pull_back(self, form: Form, inputs: Inputs, output: Region, duals: Duals) -> Pulled:
        return super().pull_back(Form(form.linear), inputs, output, duals)


def _table() -> tuple[list[tuple[Layer, Contract, tuple[Shape, ...]]], list[tuple[Layer, tuple[Shape, ...]]]]:
    """Those that one of the contracts of layers rejects, and those that the contract of relaxations does."""
    generator = torch.Generator().manual_seed(6)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    c = contracts
    flat, pair = (5,), ((4,), (4,))
    twice = ((3,), torch.tensor([0, 1, 2, 0, -1, 1]))
    transposed = ((1, 4, 4), normal(1, 2, 3, 3), normal(2), (2, 2), (1, 1), (1, 1), (1, 1), 1)
    slopes = (flat, torch.tensor([0.25, -2.0, 1.0, 0.0, 3.0]))
    selu = (flat, 1.6732632423543772, 1.0507009873554805, 1.0)
    groups, usual, even = ((2, 4), 1e-2), ((5, 2), 3, 2.0, 0.75, 0.5), ((4, 2), 4, 3.0, 1.5, 2.0)
    plain: list[tuple[Layer, Contract]] = [
        (RepeatsForgotten(*twice), c.check_linear),
        (LastReaderOnly(*twice), c.check_transpose),
        (HolesRead(*twice), check_interval),
        (TransposedKernelNorm((1, 4, 4), torch.ones(1, 1, 3, 3), None, *transposed[3:]), c.check_linear),
        (RowsOfTheKernel(*transposed), c.check_linear),
        (OutputPaddingRead(*transposed), c.check_transpose),
        (AbsRises(flat), c.check_slopes),
        (FirstSlope(*slopes), c.check_slopes),
        (FirstSlope(*slopes), c.check_modulus),
        (SlopesUpToOne(flat), c.check_slopes),
        (SlopesUpToOne(flat), c.check_modulus),
        (NeverFalls(flat), c.check_slopes),
        (MishCurvatureHalved(flat), c.check_slopes),
        (MishCurvatureHalved(flat), c.check_local_modulus),
        (SignedDerivative(flat), c.check_slopes),
        (KinkForgotten(flat, 0.2, 1.0, 1.0), c.check_local_modulus),
        (WidthForgotten(flat, 0.3, 1.0, 0.3), c.check_slopes),
        (SlopesOfTheMiddle(flat), c.check_slopes),
        (SlopesOfTheMiddle(flat), c.check_modulus),
        (ClipNoise(flat, -1.0, 1.0), c.check_noise),
        (ValleyForgotten(flat), check_interval),
        (ValleyRising(flat), check_interval),
        (KinkBetween(flat), check_interval),
        (TailUnrounded(flat), check_interval),
        (UpperOpen(flat, -1.0, 1.0), check_interval),
        (ELUUnrounded(flat, 1.0, 1.0, 1.0), check_interval),
        (SortShrinks((2, 3)), c.check_modulus),
        (UnsortedEnds((2, 3)), check_interval),
        (StraightChord(*groups), c.check_local_modulus),
        (MeanDeviation(*groups), c.check_local_modulus),
        (EpsilonSquared(*groups), c.check_modulus),
        (CentredTwice(*groups), check_interval),
        (OthersStill(*groups), check_interval),
        (DeviationRounded(*groups), c.check_noise),
        (DivisorAtRest(*usual), c.check_local_modulus),
        (TenPercentShort(*usual), c.check_modulus),
        (TurnForgotten(*usual), check_interval),
        (WindowShifted(*even), check_interval),
        (ResponseNoise(*usual), c.check_noise),
    ]
    merges: list[tuple[Layer, Contract]] = [
        (SecondOrderForgotten((4,)), c.check_product),
        (MeanFactor((4,)), c.check_product),
        (BoundOfTheOther((4,), (0.5, 3.0)), c.check_product),
        (EndByEnd((4,)), check_interval),
        (ProductUnrounded((4,)), check_interval),
        (ProductNoise((4,)), c.check_noise),
    ]
    relaxed: list[Layer] = [
        CurvatureOnce(*twice),
        TopForgotten(flat, -1.0, 1.0),
        OffsetForgotten(flat, -1.0, 1.0),
        OneSlopeForAll(*slopes),
        KinksForgotten((24,)),
        KinkIsConvex(*selu),
        BendsExchanged(flat, 1.0, 20.0),
        MiddleStretchForgotten(flat),
        NearlyStationary(flat),
        BentTooLittle(flat),
        OrderCertain((2, 3)),
        SortCurvatureDropped((2, 3)),
        FirstOrderOnly(*groups),
        DeviationAtRest(*groups),
        MeanNotTaken(*groups),
        ShareUnpaid(*groups),
        FactorAtRest(*usual),
        ResponseCurvatureDropped(*usual),
    ]
    paired: list[Layer] = [CornerForgotten((4,)), StationaryPointOnly((4,)), SquareUnpaid((4,)), SquareOfRest((4,))]
    one = [(layer, contract, ()) for layer, contract in plain] + [(layer, contract, pair) for layer, contract in merges]
    return one, [(layer, ()) for layer in relaxed] + [(layer, pair) for layer in paired]


def family_mutants() -> dict[str, Mutant]:
    """For the contracts of layers and intervals, by what is wrong."""
    return {
        f"{type(layer).__name__} by {contract.__name__}": Mutant(layer, contract, shapes)
        for layer, contract, shapes in _table()[0]
    }


def relaxed_mutants() -> dict[str, Mutant]:
    """For the contract of relaxations, by what is wrong."""
    return {type(layer).__name__: Mutant(layer, check_pull_back, shapes) for layer, shapes in _table()[1]}
