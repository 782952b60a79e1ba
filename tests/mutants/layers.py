"""Layers with one thing wrong each.

Layers are final in the library; a mutant is their only heir, so that all but its one fault stays the original.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from contracts import layer as contracts
from contracts.layer import Contract
from pertbound.layers import (
    Add,
    AveragePool,
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
)
from pertbound.numerics import UNIT32, convolution_norm_upper, gamma


class KernelNorm(Conv):
    """Theorem 4.2 of Peck et al. (2017): the kernel's Frobenius norm."""

    @cached_property
    def norm_upper(self) -> float:
        return float(torch.linalg.vector_norm(self.weight.to(torch.float64)))


class StrideBlind(Conv):
    """The symbol of stride 1, divided by the stride: what a convolution of non-overlapping windows would have."""

    def structural_norm_upper(self) -> float:
        padded = [n + 2 * p for n, p in zip(self.input_shape[1:], self.padding, strict=True)]
        dense = convolution_norm_upper(self.weight, padded, (1,) * len(self.stride), self.dilation, self.groups)
        return dense / math.prod(self.stride)


class UnpaddedSize(Conv):
    """The circular convolution at the size of the input without its padding, which wraps the kernel around."""

    def structural_norm_upper(self) -> float:
        return convolution_norm_upper(self.weight, self.input_shape[1:], self.stride, self.dilation, self.groups)


class OneFrequency(Conv):
    """The symbol at frequency zero alone: exact for kernels of one sign, too small for others."""

    def structural_norm_upper(self) -> float:
        return float(torch.linalg.matrix_norm(self.weight.to(torch.float64).flatten(2).sum(2), 2))


class RowsShort(Conv):
    """90 % of the row norms."""

    @cached_property
    def row_norms_upper(self) -> Tensor:
        return super().row_norms_upper * 0.9


class PositionBlind(Conv):
    """The bias counted once instead of at every position."""

    @cached_property
    def bias_norm_upper(self) -> float:
        return float(torch.linalg.vector_norm(self.bias)) if self.bias is not None else 0.0


class ChannelsReversed(Conv):
    """Scaled with the output channels in the wrong order."""

    def scaled(self, scale: Tensor) -> Conv | None:
        found = super().scaled(scale)
        return None if found is None else found._with(found.weight.flip(0))


class FromBelow(Dense):
    """Two steps of power iteration, which approaches the norm from below."""

    @cached_property
    def norm_upper(self) -> float:
        w = self.weight.to(torch.float64)
        v = torch.ones(w.shape[1], dtype=torch.float64)
        for _ in range(2):
            v = w.T @ (w @ v)
            v = v / torch.linalg.vector_norm(v)
        return float(torch.linalg.vector_norm(w @ v))


class OnePercentShort(Dense):
    """99 % of the norm."""

    @cached_property
    def norm_upper(self) -> float:
        return super().norm_upper * 0.99


class SignsKept(Dense):
    """absolute() without the absolute values: sums that cancel look small."""

    def absolute(self) -> Dense:
        return Dense(self.input_shape, self.weight, None)


class WrongSide(Dense):
    """Scaled on the side of the inputs."""

    def scaled(self, scale: Tensor) -> Dense | None:
        found = super().scaled(scale)
        if found is None or self.weight.shape[0] != self.weight.shape[1]:
            return found
        per_column = scale.to(torch.float64).expand(self.weight.shape[0])
        return Dense(self.input_shape, self.weight.to(torch.float64) * per_column[None, :], None)


class NoiseDropped(Dense):
    """Computed results taken for exact."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


class NoiseHalved(Dense):
    """Half the rounding.

    Caught only where few numbers are added and the search meets bad mantissas: of three roundings that the bound
    counts for one product and one bias, two happen. In longer sums roundings cancel, and no input that a search
    finds comes near half the worst case: there a halved noise claims too much in principle alone.
    """

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return super().noise(*norms, unit=unit) / 2


class BiasUnrounded(Dense):
    """The addition of the bias taken for exact."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return gamma(self.terms, unit) * self.absolute_norm_upper * norms[0]


class CancellationBlind(Dense):
    """Rounding relative to the result's norm instead of that of the absolute values."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return 2 * unit * (self.norm_upper * norms[0] * 0.05)


class ConvNoiseDropped(Conv):
    """Computed results taken for exact."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


class LpNoiseDropped(LpPool):
    """Computed results taken for exact."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


class UnderflowForgotten(LpPool):
    """Rounding, but not the powers that underflow."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return gamma(math.prod(self.window) + 400, unit) * self.modulus(norms[0])


class JumpForgotten(Softplus):
    """The modulus of softplus without a threshold."""

    def jump(self, rho: Tensor, at: Tensor | None) -> Tensor:
        return torch.zeros_like(rho)


class JumpNotReached(Softplus):
    """Entries taken to be twice as far from the threshold as they are."""

    def local(self, *inputs: Tensor) -> Tensor | None:
        found = super().local(*inputs)
        return None if found is None else found * torch.tensor([1.0, 2.0], dtype=torch.float64)


class OneEntryJumps(Softplus):
    """The jump of a single entry."""

    def jump(self, rho: Tensor, at: Tensor | None) -> Tensor:
        return super().jump(rho, at) / math.sqrt(math.prod(self.input_shape))


class ThresholdForgotten(Softplus):
    """Comparisons with the threshold taken to be those of float64."""

    def local(self, *inputs: Tensor) -> Tensor | None:
        return super().local(*(part.to(torch.float64) for part in inputs))


class ActivationNoiseDropped(Tanh):
    """Computed results taken for exact."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


class NeverRounds(Sigmoid):
    """Says that it computes exactly."""

    @property
    def rounds(self) -> bool:
        return False


class AddNoiseDropped(Add):
    """Computed results taken for exact."""

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        return torch.zeros_like(norms[0])


class NoOverlap(MaxPool):
    """Windows taken not to overlap."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return radii[0]


class DilationForgotten(MaxPool):
    """Overlap counted as ceil(window / stride), without the dilation."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        count = math.prod(-(-q // s) for q, s in zip(self.window, self.stride, strict=True))
        return math.sqrt(count) * radii[0]


class OverlapRoundedDown(MaxPool):
    """Overlap counted as floor(window / stride)."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        count = math.prod(max(1, q // s) for q, s in zip(self.window, self.stride, strict=True))
        return math.sqrt(count) * radii[0]


class OneOverRoot(AveragePool):
    """1 / sqrt(entries), right only without overlap."""

    @cached_property
    def norm_upper(self) -> float:
        return 1 / math.sqrt(math.prod(self.window))


class PaddingCounted(AveragePool):
    """Every entry weighs 1 / window, also where padding is not counted."""

    @cached_property
    def row_norms_upper(self) -> Tensor:
        n = math.prod(self.window)
        return torch.full(self.output_shape, 1 / math.sqrt(n), dtype=torch.float64)


class NoHoelder(LpPool):
    """Without the factor for p < 2."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        overlap = math.prod(-(-q // s) for q, s in zip(self.window, self.stride, strict=True))
        return math.sqrt(overlap) * radii[0]


class LpNoOverlap(LpPool):
    """Windows taken not to overlap."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return max(1.0, math.prod(self.window) ** (1 / self.p - 0.5)) * radii[0]


class ReLUTenPercent(ReLU):
    """0.9 rho."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return 0.9 * radii[0]


class ReLUJacobian(ReLU):
    """Theorem 4.1 with ReLU's Jacobian at the sample and no second derivative, as the paper applies it."""

    def local(self, *inputs: Tensor) -> Tensor | None:
        return (inputs[0] > 0).flatten(1).any(1).to(torch.float64)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return radii[0] if at is None else at * radii[0]


class LeakyAtMostSlope(LeakyReLU):
    """The negative side's slope for the largest one."""

    @property
    def slopes(self) -> tuple[float, float]:
        return 0.0, self.slope


class LeakyAtMostOne(LeakyReLU):
    """1 for the largest slope, also where the other side is steeper."""

    @property
    def slopes(self) -> tuple[float, float]:
        return min(self.slope, 1.0), 1.0


class SigmoidCurvatureHalved(Sigmoid):
    """Half the curvature."""

    @property
    def curvature(self) -> float:
        return super().curvature / 2


class TanhCurvatureHalved(Tanh):
    """Half the curvature."""

    @property
    def curvature(self) -> float:
        return super().curvature / 2


class SoftplusCurvatureHalved(Softplus):
    """Half the curvature."""

    @property
    def curvature(self) -> float:
        return super().curvature / 2


class SoftplusBetaForgotten(Softplus):
    """The curvature of beta = 1."""

    @property
    def curvature(self) -> float:
        return 0.25


class SigmoidDerivativeCut(Sigmoid):
    """90 % of the derivative."""

    def derivative_upper(self, z: Tensor) -> Tensor:
        return 0.9 * super().derivative_upper(z)


class TanhDerivativeCut(Tanh):
    """90 % of the derivative."""

    def derivative_upper(self, z: Tensor) -> Tensor:
        return 0.9 * super().derivative_upper(z)


class SoftplusDerivativeCut(Softplus):
    """90 % of the derivative."""

    def derivative_upper(self, z: Tensor) -> Tensor:
        return 0.9 * super().derivative_upper(z)


class TanhCancels(Tanh):
    """1 - tanh(z)^2, which cancels to zero in the tails."""

    def derivative_upper(self, z: Tensor) -> Tensor:
        return (1 - z.tanh().square()).clamp(0, 1)


class MeanSteepness(Tanh):
    """The mean of the derivatives instead of their maximum."""

    def local(self, *inputs: Tensor) -> Tensor | None:
        return self.derivative_upper(inputs[0]).flatten(1).mean(1).to(torch.float64)


class NoSecondOrder(Tanh):
    """The Jacobian at the sample alone."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return radii[0] if at is None else at * radii[0]


class AddMaximum(Add):
    """The largest radius instead of their sum."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*radii)).amax(0)


class AddPythagoras(Add):
    """The root of the sum of squares, as if the branches moved at right angles."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return torch.linalg.vector_norm(torch.stack(torch.broadcast_tensors(*radii)), dim=0)


class ConcatMaximum(Concat):
    """The largest radius instead of the root of the sum of squares."""

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*radii)).amax(0)


class ScaleForgotten(Diagonal):
    """Batch normalisation taken for an isometry."""

    @cached_property
    def norm_upper(self) -> float:
        return 1.0


class MeanScale(Diagonal):
    """The mean scale instead of the largest."""

    @cached_property
    def norm_upper(self) -> float:
        return float(self.scale.abs().to(torch.float64).mean())


class ShiftOnce(Diagonal):
    """The shift of a channel counted once instead of at every position."""

    @cached_property
    def bias_norm_upper(self) -> float:
        return float(torch.linalg.vector_norm(self.shift.to(torch.float64)))


@dataclass(frozen=True)
class Mutant:
    """A broken layer, the original on the same tensors, and the contract that tells them apart."""

    broken: Layer
    contract: Contract
    shapes: tuple[Shape, ...] = ()

    @property
    def sound(self) -> Layer:
        """The original."""
        (original,) = (base for base in type(self.broken).__bases__ if issubclass(base, Layer))
        return original(**{f.name: getattr(self.broken, f.name) for f in fields(self.broken)})


def _conv(
    kind: type[Conv],
    shape: Shape,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Conv:
    return kind(shape, weight, bias, (stride, stride), (padding, padding), (1, 1), groups)


def mutants() -> dict[str, Mutant]:
    """All of them, by what is wrong."""
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    ones = torch.ones(1, 1, 5, 5)
    edge = torch.tensor([1.0, -1.0]).reshape(1, 1, 1, 2) * torch.tensor([1.0, -1.0]).reshape(1, 1, 2, 1)
    flat: Shape = (5,)
    overlapping = ((1, 7, 7), (3, 3), (2, 2), (0, 0), (1, 1), False)
    c = contracts
    table: list[tuple[Layer, Contract]] = [
        (_conv(KernelNorm, (1, 9, 9), ones), c.check_linear),
        (_conv(KernelNorm, (1, 9, 9), ones), c.check_modulus),
        (_conv(StrideBlind, (2, 8, 8), normal(3, 2, 3, 3), stride=2, padding=1), c.check_linear),
        (_conv(UnpaddedSize, (1, 3, 3), edge, padding=1), c.check_linear),
        (_conv(OneFrequency, (1, 6, 6), edge), c.check_linear),
        (_conv(RowsShort, (1, 6, 6), normal(2, 1, 3, 3)), c.check_linear),
        (_conv(PositionBlind, (1, 5, 5), normal(2, 1, 3, 3), bias=normal(2)), c.check_linear),
        (_conv(ChannelsReversed, (4, 5, 5), normal(4, 2, 3, 3), groups=2), c.check_scaled),
        (_conv(ConvNoiseDropped, (1, 5, 5), normal(2, 1, 3, 3)), c.check_noise),
        (FromBelow(flat, normal(5, 5), None), c.check_linear),
        (OnePercentShort(flat, normal(5, 5), None), c.check_linear),
        (OnePercentShort(flat, normal(5, 5), None), c.check_modulus),
        (SignsKept(flat, normal(5, 5), None), c.check_absolute),
        (WrongSide(flat, normal(5, 5), None), c.check_scaled),
        (NoiseDropped(flat, normal(5, 5), normal(5)), c.check_noise),
        (NoiseHalved((1,), torch.tensor([[1.3577025]]), torch.tensor([0.04977262])), c.check_noise),
        (BiasUnrounded(flat, normal(5, 5), 1e3 * normal(5)), c.check_noise),
        (CancellationBlind((64,), normal(3, 64), None), c.check_noise),
        (LpNoiseDropped((1, 6), 2.0, (2,), (2,)), c.check_noise),
        (UnderflowForgotten((1, 6), 4.0, (2,), (2,)), c.check_noise),
        (ThresholdForgotten(flat, 1.3, 5.0), c.check_noise),
        (ActivationNoiseDropped(flat), c.check_noise),
        (NeverRounds(flat), c.check_noise),
        (NoOverlap(*overlapping), c.check_modulus),
        (OverlapRoundedDown(*overlapping), c.check_modulus),
        (DilationForgotten((1, 14), (3,), (2,), (0,), (2,), False), c.check_modulus),
        (OneOverRoot((1, 7, 7), (3, 3), (2, 2), (0, 0), False, True, None), c.check_linear),
        (OneOverRoot((1, 7, 7), (3, 3), (2, 2), (0, 0), False, True, None), c.check_modulus),
        (PaddingCounted((1, 6, 6), (3, 3), (1, 1), (1, 1), False, False, None), c.check_linear),
        (NoHoelder((1, 4, 6), 1.5, (2, 2), (2, 2)), c.check_modulus),
        (LpNoOverlap((1, 7, 7), 2.0, (3, 3), (2, 2)), c.check_modulus),
        (ReLUTenPercent(flat), c.check_modulus),
        (ReLUJacobian(flat), c.check_local_modulus),
        (LeakyAtMostSlope(flat, 0.01), c.check_modulus),
        (LeakyAtMostSlope(flat, 0.01), c.check_slopes),
        (LeakyAtMostOne(flat, 3.0), c.check_modulus),
        (SigmoidCurvatureHalved(flat), c.check_slopes),
        (SigmoidCurvatureHalved(flat), c.check_local_modulus),
        (TanhCurvatureHalved(flat), c.check_slopes),
        (TanhCurvatureHalved(flat), c.check_local_modulus),
        (JumpForgotten(flat, 1.0, 0.5), c.check_modulus),
        (JumpForgotten(flat, 1.0, 0.5), c.check_local_modulus),
        (JumpNotReached(flat, 1.0, 0.5), c.check_local_modulus),
        (OneEntryJumps(flat, 1.0, 0.5), c.check_modulus),
        (SoftplusCurvatureHalved(flat, 1.0, 20.0), c.check_slopes),
        (SoftplusCurvatureHalved(flat, 1.0, 20.0), c.check_local_modulus),
        (SoftplusBetaForgotten(flat, 10.0, 20.0), c.check_local_modulus),
        (SigmoidDerivativeCut(flat), c.check_slopes),
        (SigmoidDerivativeCut(flat), c.check_local_modulus),
        (TanhDerivativeCut(flat), c.check_slopes),
        (TanhDerivativeCut(flat), c.check_local_modulus),
        (SoftplusDerivativeCut(flat, 1.0, 20.0), c.check_slopes),
        (SoftplusDerivativeCut(flat, 1.0, 20.0), c.check_local_modulus),
        (TanhCancels(flat), c.check_slopes),
        (MeanSteepness(flat), c.check_local_modulus),
        (NoSecondOrder(flat), c.check_local_modulus),
        (ScaleForgotten((3, 4), 1.5 + normal(3, 1).abs(), normal(3, 1)), c.check_linear),
        (ScaleForgotten((3, 4), 1.5 + normal(3, 1).abs(), normal(3, 1)), c.check_modulus),
        (MeanScale((4,), normal(4), normal(4)), c.check_linear),
        (ShiftOnce((2, 4), normal(2, 1), 1 + normal(2, 1)), c.check_linear),
    ]
    found = {_name(broken, contract): Mutant(broken, contract) for broken, contract in table}
    merges: list[tuple[Layer, Contract]] = [
        (AddMaximum(), c.check_merge),
        (AddPythagoras(), c.check_merge),
        (AddNoiseDropped(), c.check_noise),
        (ConcatMaximum(1), c.check_merge),
    ]
    return found | {_name(broken, check): Mutant(broken, check, ((4,), (4,))) for broken, check in merges}


def _name(broken: Layer, contract: Contract) -> str:
    return f"{type(broken).__name__} by {contract.__name__}"
