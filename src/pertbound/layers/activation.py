"""Activations: one increasing function applied to every entry."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.layers.base import Layer, Shape, unless_overflow
from pertbound.numerics import TINY32, UNIT32


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

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Eight roundings of an output of norm at most high * norm(z) + abs(g(0)) sqrt(entries)."""
        if not self.rounds:
            return torch.zeros_like(norms[0])
        entries = math.prod(self.input_shape)
        size = self.slopes[1] * norms[0] + abs(self.at_zero) * math.sqrt(entries)
        return unless_overflow(8 * unit * size + 8 * TINY32 * math.sqrt(entries), size, unit)


@final
@dataclass(frozen=True, eq=False)
class ReLU(Activation):
    """max(z, 0). Slopes 0 and 1; no second derivative, so no curvature bound holds.

    Published: Theorem 4.1 with the Jacobian at x. Unsound: at x = -1, h(x) = ReLU(x) has Jacobian 0, hence an
    infinite "bound", and r = 1 + kappa moves the output by kappa.
    """

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    def forward(self, *inputs: Tensor) -> Tensor:
        """max(z, 0)."""
        return inputs[0].relu()

    @property
    def rounds(self) -> bool:
        """Exact."""
        return False


@final
@dataclass(frozen=True, eq=False)
class LeakyReLU(Activation):
    """z for z >= 0, slope * z otherwise, with slope >= 0."""

    slope: float

    def __post_init__(self) -> None:
        assert self.slope >= 0.0, "the frontends refuse leaky ReLUs that decrease"

    @property
    def slopes(self) -> tuple[float, float]:
        """The two slopes in increasing order."""
        return min(self.slope, 1.0), max(self.slope, 1.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Max of z and slope * z where slope <= 1."""
        return functional.leaky_relu(inputs[0], self.slope)


@final
@dataclass(frozen=True, eq=False)
class Sigmoid(Activation):
    """s(z) = 1 / (1 + exp(-z)). s' = s (1 - s) in (0, 1/4]; abs(s'') <= 1 / (6 sqrt(3)), at s = (3 +- sqrt 3) / 6."""

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1/4."""
        return 0.0, 0.25

    @property
    def curvature(self) -> float:
        """1 / (6 sqrt(3)) = 0.0962."""
        return 1 / (6 * math.sqrt(3)) * (1 + 1e-12)

    @property
    def at_zero(self) -> float:
        """1/2."""
        return 0.5

    def forward(self, *inputs: Tensor) -> Tensor:
        """s(z)."""
        return inputs[0].sigmoid()

    def derivative_upper(self, z: Tensor) -> Tensor:
        """s(z) s(-z), which does not cancel; a few roundings added."""
        return (z.sigmoid() * (-z).sigmoid() * (1 + 1e-5) + 1e-30).clamp_max(0.25)


@final
@dataclass(frozen=True, eq=False)
class Tanh(Activation):
    """tanh(z). Slopes in (0, 1]; abs(tanh'') = 2 abs(t) (1 - t^2) <= 4 / (3 sqrt(3)), at t^2 = 1/3."""

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    @property
    def curvature(self) -> float:
        """4 / (3 sqrt(3)) = 0.7698."""
        return 4 / (3 * math.sqrt(3)) * (1 + 1e-12)

    def forward(self, *inputs: Tensor) -> Tensor:
        """tanh(z)."""
        return inputs[0].tanh()

    def derivative_upper(self, z: Tensor) -> Tensor:
        """1 - tanh(z)^2 = 4 s(2z) s(-2z) with the logistic s, which does not cancel."""
        return (4 * (2 * z).sigmoid() * (-2 * z).sigmoid() * (1 + 1e-5) + 1e-30).clamp_max(1.0)


@final
@dataclass(frozen=True, eq=False)
class Softplus(Activation):
    """log(1 + exp(beta z)) / beta, replaced by z where beta z > threshold, as PyTorch does.

    The exact function without the threshold is what is bounded: slopes in (0, 1), abs(g'') <= beta / 4. The
    replacement changes it by at most exp(-threshold) / beta, which `noise` counts with the rounding.
    """

    beta: float
    threshold: float

    def __post_init__(self) -> None:
        assert self.beta > 0.0, "the frontends refuse softplus with beta <= 0"

    @property
    def slopes(self) -> tuple[float, float]:
        """0 and 1."""
        return 0.0, 1.0

    @property
    def curvature(self) -> float:
        """beta / 4."""
        return self.beta / 4

    @property
    def at_zero(self) -> float:
        """log(2) / beta."""
        return math.log(2) / self.beta

    def forward(self, *inputs: Tensor) -> Tensor:
        """The softplus as PyTorch computes it."""
        return functional.softplus(inputs[0], self.beta, self.threshold)

    def derivative_upper(self, z: Tensor) -> Tensor:
        """The logistic function of beta z, with a few roundings added (beta z itself is rounded)."""
        scaled = self.beta * z
        return ((scaled + scaled.abs() * 1e-6).sigmoid() * (1 + 1e-5) + 1e-30).clamp_max(1.0)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Rounding, and what the threshold leaves out, for each entry."""
        replaced = math.exp(min(-self.threshold, 700.0)) / self.beta * math.sqrt(math.prod(self.input_shape))
        return super().noise(*norms, unit=unit) + replaced
