"""Smooth activations that fall before they rise: GELU, its approximation, SiLU, Mish.

All have one profile: the derivative falls from 0 to a minimum, rises to a maximum, and falls to 1. Where these are, and
how large the second derivative becomes, are numbers (`Hump.profile`) that were computed to forty digits and are rounded
outwards at the twelfth here; tests/layers/test_nonmonotone.py proves them by interval arithmetic.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.environment import known_state
from pertbound.layers.smooth import SLACK, Smooth, unit_of
from pertbound.numerics import TINY32, UNIT32
from pertbound.sets import Box

NODES = 256
"""Points of each stretch between which an inverse of the derivative is sought."""
NEWTON = {torch.float32: 1, torch.float64: 4}
"""Newton's steps from there; more would find more digits, but whatever is found is sound."""


class Profile(NamedTuple):
    """Numbers about a hump, each on the side that is sound."""

    turn: tuple[float, float]
    """Around the z at which g is least."""
    least: float
    """Below g there."""
    stretches: tuple[float, float]
    """Where g' is least, and largest; to a rounding."""
    slopes: tuple[float, float]
    """Below the least g', above the largest."""
    bends: tuple[float, float]
    """Below inf g'', above sup g''."""
    reach: float
    """From where on g' is 0 and 1 but for underflow and rounding."""


@dataclass(frozen=True, eq=False)
class Hump(Smooth):
    """A g whose derivative falls, rises and falls; g - z and g vanish at the two ends."""

    @property
    @abstractmethod
    def profile(self) -> Profile:
        """The numbers."""

    @abstractmethod
    def gate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """h with g(z) = z h(z), 0 <= h <= 1, and its relative error in units of the largest relative rounding."""

    @abstractmethod
    def bend(self, z: Tensor) -> Tensor:
        """g''(z), to find places with; nothing is proved with it."""

    @property
    def slopes(self) -> tuple[float, float]:
        """Those of the profile."""
        return self.profile.slopes

    @property
    def bends(self) -> tuple[float, float]:
        """Those of the profile."""
        return self.profile.bends

    @property
    def curvature(self) -> float:
        """The larger of both."""
        return max(-self.profile.bends[0], self.profile.bends[1])

    @property
    def image(self) -> tuple[float, float]:
        """From the least value on."""
        return self.profile.least, math.inf

    @property
    def valley(self) -> tuple[float, float]:
        """Around the least value."""
        return self.profile.turn

    def enclose(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z h(z): no difference of larger numbers, hence a relative error, and what underflows."""
        info = torch.finfo(z.dtype)
        gate, units = self.gate(z)
        value = torch.where(gate == 0, 0.0, z * gate)
        error = info.eps * (4 + units) * value.abs() + 2 * info.tiny * (1 + z.abs().clamp_max(1e4))
        return value, error.masked_fill(z == math.inf, 0.0)

    def derivative_error(self, slope: Tensor) -> Tensor:
        """Absolute: g' is a sum of terms of either sign, none of them above 2."""
        return torch.full_like(slope, 128 * unit_of(slope))

    def derivative_upper(self, z: Tensor) -> Tensor:
        """abs(g'(z)), with its error."""
        slope = self.derivative(z).abs()
        return (slope * (1 + 1e-6) + self.derivative_error(slope)).clamp_max(self.steepest * (1 + 1e-6))

    def line(self, box: Box, falling: Tensor) -> Tensor:
        """Above, the chord over the box; below, the derivative at its middle: g is convex where it bends most."""
        return torch.where(falling, super().line(box, falling), self.derivative((box.lower + box.upper) / 2))

    @final
    def flat(self, slope: Tensor) -> tuple[Tensor, ...]:
        """On each stretch, by bisection of a table and Newton's method within what is left."""
        low, high = self.profile.stretches
        ends = ((-self.profile.reach, low), (low, high), (high, self.profile.reach))
        return tuple(self._inverse(slope, first, last) for first, last in ends)

    @property
    def parameters(self) -> tuple[float, ...]:
        """What the layer is made of beside its shape."""
        return ()

    def _inverse(self, slope: Tensor, first: float, last: float) -> Tensor:
        places, slopes = _table(type(self), self.parameters, first, last)
        room = 2 * SLACK * self.steepest
        none = (slope < float(slopes[0]) - room) | (slope > float(slopes[-1]) + room)
        places, slopes = places.to(slope), slopes.to(slope)
        sought = torch.nan_to_num(slope, nan=0.0, posinf=2.0, neginf=-2.0).contiguous()
        k = torch.searchsorted(slopes, sought).clamp(1, NODES - 1)
        a, b = places[k - 1], places[k]
        left, right = torch.minimum(a, b), torch.maximum(a, b)
        share = ((sought - slopes[k - 1]) / (slopes[k] - slopes[k - 1]).clamp_min(1e-30)).clamp(0.0, 1.0)
        z = a + share * (b - a)
        for _ in range(NEWTON.get(slope.dtype, 1)):
            bend = self.bend(z)
            z = z - (self.derivative(z) - sought) / torch.where(bend == 0, 1.0, bend)
            z = torch.minimum(torch.maximum(z, left), right)
        return z.masked_fill(none, math.nan)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """As for all activations; far to the left PyTorch may lose values that are normal numbers of float32."""
        return super().noise(*norms, unit=unit) + 128 * TINY32 * math.sqrt(math.prod(self.input_shape))


@lru_cache(maxsize=32)
@known_state()
def _table(
    kind: Callable[..., Hump], parameters: tuple[float, ...], first: float, last: float
) -> tuple[Tensor, Tensor]:
    """Points of a stretch, denser at its ends, and the derivative there, in the order in which that increases."""
    t = torch.linspace(0, math.pi, NODES, dtype=torch.float64)
    places = first + (last - first) * (1 - t.cos()) / 2
    slopes = kind((1,), *parameters).derivative(places)
    if float(slopes[-1]) < float(slopes[0]):
        places, slopes = places.flip(0), slopes.flip(0)
    return places, slopes.cummax(0).values


_ROOT = math.sqrt(0.5)
_EXACT = Profile(
    turn=(-0.751791524694, -0.751791524693),
    least=-0.169971207480,
    stretches=(-math.sqrt(2), math.sqrt(2)),
    slopes=(-0.128904145186, 1.128904145186),
    bends=(-0.107981933027, 0.797884560803),
    reach=38.0,
)
"""Of GELU."""


@final
@dataclass(frozen=True, eq=False)
class GELU(Hump):
    """z Phi(z), Phi the normal distribution (Hendrycks and Gimpel 2016). g' = Phi + z phi, g'' = phi (2 - z^2).

    So g' turns at +-sqrt(2), and g'' is largest at 0 and least at +-2. Slopes from -0.129 to 1.129:
    omega(rho) = 1.129 rho.

    Files that write it out as z (1 + erf(factor z)) / 2 have a rounded factor for sqrt(1/2). With k = sqrt(2) factor
    that is z Phi(k z) = GELU(k z) / k: the same slopes, k times the second derivative, places and values divided by k.

    Modulus: 1.129 rho, averaged between linear maps
    At a known input: max abs(g'(z)) rho + 0.399 rho^2, and with the Jacobian of g(W x + b)
    Source: here, in closed form; docs/theory.md
    """

    factor: float = _ROOT

    def __post_init__(self) -> None:
        assert 0.999 < self.factor / _ROOT < 1.001, "the frontends read nothing else as GELU"

    @property
    def parameters(self) -> tuple[float, ...]:
        """The factor."""
        return (self.factor,)

    @property
    def profile(self) -> Profile:
        """Of the exact GELU, or of one with another factor; k is off by a few roundings."""
        if self.factor == _ROOT:
            return _EXACT
        k = self.factor * math.sqrt(2)
        return Profile(
            turn=(_EXACT.turn[0] / k * (1 + 1e-14), _EXACT.turn[1] / k * (1 - 1e-14)),
            least=_EXACT.least / k * (1 + 1e-14),
            stretches=(_EXACT.stretches[0] / k, _EXACT.stretches[1] / k),
            slopes=_EXACT.slopes,
            bends=(_EXACT.bends[0] * k * (1 + 1e-14), _EXACT.bends[1] * k * (1 + 1e-14)),
            reach=_EXACT.reach / k,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """z Phi(z), or as it is written out."""
        (z,) = inputs
        return functional.gelu(z) if self.factor == _ROOT else z * (torch.erf(z * self.factor) + 1) / 2

    def gate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Phi(k z) = erfc(-factor z) / 2; a rounding of the argument costs z^2 relatively where z < 0."""
        return torch.erfc(-z * self.factor) / 2, 4 + 4 * z.clamp(-64, 0).square()

    def derivative(self, z: Tensor) -> Tensor:
        """Phi(k z) + k z phi(k z)."""
        scaled = z * (self.factor / _ROOT)
        return torch.erfc(-z * self.factor) / 2 + scaled.clamp(-64, 64) * self._density(scaled)

    def bend(self, z: Tensor) -> Tensor:
        """k phi(k z) (2 - k^2 z^2)."""
        scaled = z * (self.factor / _ROOT)
        return (self.factor / _ROOT) * self._density(scaled) * (2 - scaled.square())

    def _density(self, z: Tensor) -> Tensor:
        return (z.clamp(-64, 64).square() / -2).exp() / math.sqrt(2 * math.pi)


_SLOPE, _CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


@final
@dataclass(frozen=True, eq=False)
class TanhGELU(Hump):
    """z s(w(z)) with s the logistic function and w(z) = 2 sqrt(2 / pi) (z + 0.044715 z^3): GELU's usual approximation,
    z (1 + tanh(w / 2)) / 2. g' = s + z s' w', g'' = 2 s' w' + z (s'' w'^2 + s' w'').

    Modulus: 1.129 rho, averaged between linear maps
    At a known input: max abs(g'(z)) rho + 0.399 rho^2, and with the Jacobian of g(W x + b)
    Source: here, by interval arithmetic; docs/theory.md
    """

    @property
    def profile(self) -> Profile:
        """Of the approximation."""
        return Profile(
            turn=(-0.752461422072, -0.752461422071),
            least=-0.170040750572,
            stretches=(-1.4185040087908284, 1.4185040087908284),
            slopes=(-0.128993068659, 1.128993068659),
            bends=(-0.107913515891, 0.797884560803),
            reach=22.0,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """As PyTorch computes it."""
        return functional.gelu(inputs[0], approximate="tanh")

    def gate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """s(w); roundings of w cost abs(w) where w < 0."""
        w = self._inner(z)
        return w.sigmoid(), 4 + 8 * w.clamp(-1000, 0).abs()

    def _inner(self, z: Tensor) -> Tensor:
        z = z.clamp(-1000, 1000)
        return _SLOPE * (z + _CUBE * z * z * z)

    def derivative(self, z: Tensor) -> Tensor:
        """s + z s' w'."""
        w, z = self._inner(z), z.clamp(-1000, 1000)
        return w.sigmoid() + z * (_SLOPE * (1 + 3 * _CUBE * z * z)) * w.sigmoid() * (-w).sigmoid()

    def bend(self, z: Tensor) -> Tensor:
        """2 s' w' + z (s'' w'^2 + s' w'')."""
        w, z = self._inner(z), z.clamp(-1000, 1000)
        first, second = _SLOPE * (1 + 3 * _CUBE * z * z), 6 * _SLOPE * _CUBE * z
        s = w.sigmoid()
        steep = s * (-w).sigmoid()
        return 2 * steep * first + z * steep * ((1 - 2 * s) * first * first + second)


@final
@dataclass(frozen=True, eq=False)
class SiLU(Hump):
    """z s(z), s the logistic function; also called swish. g' = s (1 + z (1 - s)), g'' = s (1 - s) (2 - z tanh(z / 2)).

    So g' turns where z tanh(z / 2) = 2. Slopes from -0.0999 to 1.0999: omega(rho) = 1.0999 rho.

    Modulus: 1.0999 rho, averaged between linear maps
    At a known input: max abs(g'(z)) rho + 0.25 rho^2, and with the Jacobian of g(W x + b)
    Source: here, by interval arithmetic; docs/theory.md
    """

    @property
    def profile(self) -> Profile:
        """Of z s(z)."""
        return Profile(
            turn=(-1.278464542762, -1.278464542761),
            least=-0.278464542762,
            stretches=(-2.3993572805154677, 2.3993572805154677),
            slopes=(-0.099839320129, 1.099839320129),
            bends=(-0.036914373200, 0.500000000001),
            reach=740.0,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """z s(z)."""
        return functional.silu(inputs[0])

    def gate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """s(z)."""
        return z.sigmoid(), torch.full_like(z, 4.0)

    def derivative(self, z: Tensor) -> Tensor:
        """s(z) + z s(z) s(-z)."""
        s = z.sigmoid()
        return s + z.clamp(-1000, 1000) * s * (-z).sigmoid()

    def bend(self, z: Tensor) -> Tensor:
        """s(z) s(-z) (2 - z tanh(z / 2))."""
        return z.sigmoid() * (-z).sigmoid() * (2 - z.clamp(-1000, 1000) * (z / 2).tanh())


@final
@dataclass(frozen=True, eq=False)
class Mish(Hump):
    """z tanh(log(1 + exp(z))) (Misra 2019) = z T(e^z) with T(e) = e (e + 2) / (e^2 + 2 e + 2).

    With D the denominator and T', T'' the derivatives of T(e^z) by z: T' = 4 e (1 + e) / D^2,
    T'' = 4 e (2 + 2 e - 3 e^2 - 2 e^3) / D^3; g' = T + z T', g'' = 2 T' + z T''.

    Modulus: 1.0885 rho, averaged between linear maps
    At a known input: max abs(g'(z)) rho + 0.322 rho^2, and with the Jacobian of g(W x + b)
    Source: here, by interval arithmetic; docs/theory.md
    """

    @property
    def profile(self) -> Profile:
        """Of Mish."""
        return Profile(
            turn=(-1.192431214516, -1.192431214515),
            least=-0.308843413018,
            stretches=(-2.2563763963607931, 1.4905711794854285),
            slopes=(-0.112526122390, 1.088498161252),
            bends=(-0.059033356954, 0.644204637237),
            reach=740.0,
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """As PyTorch computes it."""
        return functional.mish(inputs[0])

    def gate(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """T, from e or 1 / e, whichever is below 1."""
        e, rising = self._small(z)
        below, above = e * (e + 2) / (e * e + 2 * e + 2), (1 + 2 * e) / (1 + 2 * e + 2 * e * e)
        return torch.where(rising, above, below), torch.full_like(z, 8.0)

    def _small(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return (-z.abs()).exp(), z > 0

    def derivative(self, z: Tensor) -> Tensor:
        """T + z T'."""
        e, rising = self._small(z)
        low, high = e * e + 2 * e + 2, 1 + 2 * e + 2 * e * e
        steep = torch.where(rising, 4 * e * e * (1 + e) / high.square(), 4 * e * (1 + e) / low.square())
        return self.gate(z)[0] + z.clamp(-1000, 1000) * steep

    def bend(self, z: Tensor) -> Tensor:
        """2 T' + z T''."""
        e, rising = self._small(z)
        low, high = e * e + 2 * e + 2, 1 + 2 * e + 2 * e * e
        steep = torch.where(rising, 4 * e * e * (1 + e) / high.square(), 4 * e * (1 + e) / low.square())
        falls = 4 * e * e * (2 * e**3 + 2 * e * e - 3 * e - 2) / high**3
        rises = 4 * e * (2 + 2 * e - 3 * e * e - 2 * e**3) / low**3
        return 2 * steep + z.clamp(-1000, 1000) * torch.where(rising, falls, rises)
