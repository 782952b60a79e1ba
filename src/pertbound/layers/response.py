"""Local response normalisation (Krizhevsky, Sutskever and Hinton 2012)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from pertbound.forms import Duals, Form, Pulled, Region, total
from pertbound.layers.base import Layer, Shape, outward, reserve
from pertbound.numerics import UNIT32, gamma, tiny
from pertbound.sets import Box


@final
@dataclass(frozen=True, eq=False)
class LocalResponse(Layer):
    """y_i = x_i D_i^-beta with D_i = k + alpha / size S_i, S_i the sum of x_j^2 over channels j in W_i.

    W_i = {i - size // 2, ..., i + (size - 1) // 2}, at the same position, as far as there are such channels;
    alpha >= 0, beta >= 0, k > 0; samples are (channels, *positions).

    Sound. With t = alpha / size and tau_i = t S_i / D_i < 1, so that D_i = k / (1 - tau_i), the Jacobian is
    diag(D_i^-beta) - M, where M_ij = 2 beta t x_i x_j D_i^(-beta-1) for j in W_i. The first part has norm at most
    k^-beta. For M, Schur's test with the weights abs(x): let m bound tau (1 - tau)^beta for all tau that can occur. The
    sum over j of abs(M_ij x_j) is 2 beta D_i^-beta tau_i abs(x_i) <= 2 beta k^-beta m abs(x_i). The sum over i of
    abs(M_ij x_i) is 2 beta abs(x_j) times the sum of D_i^-beta t x_i^2 / D_i over the i with j in W_i. These are at
    most h runs of channels that all lie in each other's windows. Over such a run T all D_i are at least
    k + t sum_T x^2 =: k / (1 - tau), and the sum is at most k^-beta (1 - tau)^beta tau <= k^-beta m. h = 1 for size 1;
    for odd sizes two runs, from j on and before j; for even ones three, because the last i, j + size / 2, is a run of
    its own. Hence norm(M) <= 2 beta sqrt(h) k^-beta m, and

        omega(rho) = k^-beta (1 + 2 beta sqrt(h) m) rho,

    everywhere with m at tau = 1 / (1 + beta), where tau (1 - tau)^beta is largest. At a known input t S_i is at most
    t (sqrt(max S_i at rest) + rho)^2 on the way, which bounds tau: for the usual alpha = 1e-4 this leaves little more
    than k^-beta rho. For size 1 the Jacobian is D_i^-beta (1 - 2 beta tau_i), at most k^-beta max(1, 2 beta m).

    Modulus: k^-beta (1 + 2 beta sqrt(h) m) rho, h <= 3, m = max tau (1 - tau)^beta
    At a known input: the same with tau bounded by what the windows hold
    Source: here, by Schur's test
    """

    input_shape: Shape
    size: int
    alpha: float
    beta: float
    k: float

    def __post_init__(self) -> None:
        assert self.size >= 1, "the frontends refuse empty windows"
        assert self.alpha >= 0, "the frontends refuse negative alpha"
        assert self.beta >= 0, "the frontends refuse negative beta"
        assert self.k > 0, "the frontends refuse k <= 0"

    @property
    def _share(self) -> float:
        return self.alpha / self.size

    @property
    def _runs(self) -> int:
        return 1 if self.size == 1 else 2 + (self.size + 1) % 2

    @property
    def _most(self) -> float:
        """k^-beta, from above."""
        return self.k**-self.beta * (1 + 1e-14)

    @property
    def _cap(self) -> float:
        """What no output exceeds: x (k + t x^2)^-beta at x*, a little above."""
        t, bent = self._share, 2 * self.beta - 1
        if bent < 0 or t == 0:
            return math.inf
        if bent == 0:
            return t**-0.5 * (1 + 1e-5)
        return math.sqrt(self.k / (bent * t)) * (self.k + self.k / bent) ** -self.beta * (1 + 1e-5)

    def forward(self, *inputs: Tensor) -> Tensor:
        """As PyTorch computes it."""
        return functional.local_response_norm(inputs[0], self.size, self.alpha, self.beta, self.k)

    @property
    def keeps_sign(self) -> bool:
        """True: entries are divided by positive numbers."""
        return True

    def _sums(self, squares: Tensor) -> Tensor:
        """Sums over each channel's window: the channels, moved by as much as the window is wide, added up."""
        channels, before, after = squares.shape[1], self.size // 2, (self.size - 1) // 2
        padded = functional.pad(squares.flatten(2), (0, 0, before, after))
        sums = padded[:, :channels].clone()
        for start in range(1, self.size):
            sums += padded[:, start : start + channels]
        return sums.reshape(squares.shape)

    def local(self, *inputs: Tensor) -> Tensor | None:
        """sqrt(max S_i) of each sample, rounded up: `size` + 1 roundings, and squares that underflow."""
        info = torch.finfo(inputs[0].dtype)
        sums = self._sums(inputs[0].square()).flatten(1).amax(1).to(torch.float64)
        return (sums * (1 + reserve(self.size + 2, inputs[0].dtype)) + self.size * info.tiny).sqrt() * (1 + 1e-12)

    def _steepest(self, largest: Tensor) -> Tensor:
        """The bound on the Jacobian's norm where sqrt(S_i) <= largest."""
        sums = self._share * largest * largest if self._share else torch.zeros_like(largest)
        tau = torch.where(torch.isinf(sums), 1.0, sums / (self.k + sums)).clamp_max(1 / (1 + self.beta))
        m = tau * (1 - tau).pow(self.beta)
        if self.size == 1:
            return self._most * (2 * self.beta * m).clamp_min(1.0) * (1 + 1e-12)
        return self._most * (1 + 2 * self.beta * math.sqrt(self._runs) * m) * (1 + 1e-12)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """The global bound, or that on the way from the sample."""
        (rho,) = radii
        everywhere = self._steepest(torch.full_like(rho, math.inf))
        if at is None:
            return everywhere * rho
        steepest = self._steepest(at + rho)
        return torch.minimum(everywhere, steepest) * rho

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """Relative errors: of D size + 8 roundings, times beta; of the power, whose rounded exponent counts with
        abs(log D^beta), below 89 units for what float32 can hold and 710 for float64; of the division. What squares
        underflow is next to nothing beside k. Where their sum overflows, zero is computed for x_i D_i^-beta with a D_i
        that is beyond t 2^100 (2^900 in float64).
        """
        (norm,) = norms
        exponents = 89 if unit == UNIT32 else 710
        relative = gamma(math.ceil((self.beta + 1) * (self.size + 16)) + 2 * exponents + 16, unit)
        relative = relative + self.beta * self.size * (1 + self.alpha) * tiny(unit) / self.k
        flushed = (4 + self._most) * math.sqrt(math.prod(self.input_shape)) + 2 * norm
        found = relative * self._most * norm + flushed * tiny(unit)
        safe, far = (2.0**60, 2.0**100) if unit == UNIT32 else (2.0**500, 2.0**900)
        beyond = (self.k + self._share * far) ** -self.beta * norm
        return torch.where(norm < safe, found, found + beyond)

    def interval(self, *boxes: Box) -> Box:
        """The extremes in the entry itself, for the least or the largest sum of the others' squares.

        For fixed other entries y_i = x (A + t x^2)^-beta, A = k + t S, S the sum of their squares; it shrinks in A.

        As a function of x >= 0 it rises to x* = sqrt(A / ((2 beta - 1) t)) and falls from there on (for beta <= 1/2 it
        only rises). So it is largest, for positive x, with A least and x as near to x* as the box allows, and, for
        negative x, with A largest at an end. Where windows hold numbers whose squares could overflow, x k^-beta and
        the largest value of all are the bounds.
        """
        (box,) = boxes
        low, high = box.lower, box.upper
        far = torch.maximum(low.abs(), high.abs())
        near = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
        limit = 2.0**60 if low.dtype == torch.float32 else 2.0**500
        huge = self._sums((~(far < limit)).to(low.dtype)) > 0
        bad = self._sums((low.isnan() | high.isnan()).to(low.dtype)) > 0
        far, near = (torch.where(part < limit, part, 0.0) for part in (far, near))
        most, least = far.square(), near.square()
        info = torch.finfo(low.dtype)
        g = reserve(self.size + 8, low.dtype)
        all_most, all_least = self._sums(most), self._sums(least)
        most = (all_most - most).clamp_min(0.0) * (1 + g) + g * all_most + info.tiny
        least = (all_least - least - g * all_least).clamp_min(0.0)
        small, large = ((self.k + self._share * sums) for sums in (least, most))
        small, large = small * (1 - g), large * (1 + g)
        upper, lower = self._upper(low, high, small, large), -self._upper(-high, -low, small, large)
        q = reserve(math.ceil((self.beta + 1) * (self.size + 32)) + 2000, low.dtype)
        found = outward(lower, upper, q * lower.abs() + 4 * info.tiny, q * upper.abs() + 4 * info.tiny)
        cap = self._cap if self._cap < info.max else math.inf
        first, last = (low * self._most).clamp(-cap, 0.0), (high * self._most).clamp(0.0, cap)
        plain = outward(first, last, 1e-5 * first.abs(), 1e-5 * last)
        lower = torch.where(huge, plain.lower, found.lower).masked_fill(bad, math.nan)
        return Box(lower, torch.where(huge, plain.upper, found.upper).masked_fill(bad, math.nan))

    def _upper(self, low: Tensor, high: Tensor, small: Tensor, large: Tensor) -> Tensor:
        """The largest x (A + t x^2)^-beta for x in [low, high] and A in [small, large]."""
        falling = torch.minimum(self._value(-low, large), self._value(-high, large))
        start = low.clamp_min(0.0)
        best = high
        if self.beta > 0.5 and self._share > 0:
            turn = (small / ((2 * self.beta - 1) * self._share)).sqrt()
            best = torch.minimum(torch.maximum(turn, start), high)
        return torch.where(high > 0, self._value(best, small), -falling)

    def _value(self, x: Tensor, offset: Tensor) -> Tensor:
        return x * (offset + self._share * x * x).pow(-self.beta)

    def undecided(self, box: Box) -> Tensor:
        """Those whose window can change the divisor by a thousandth."""
        far = torch.maximum(box.lower.abs(), box.upper.abs())
        near = torch.where((box.lower <= 0) & (box.upper >= 0), 0.0, torch.minimum(box.lower.abs(), box.upper.abs()))
        moved = self._share * self._sums(far.square() - near.square())
        return (box.upper > box.lower) & (self.beta * moved > 1e-3 * self.k)

    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """The factor D^-beta at rest."""
        del form, curvature
        return Duals(slope=self._factor(self._sums(inputs[0].value.square())))

    def _factor(self, sums: Tensor) -> Tensor:
        return (self.k + self._share * sums).pow(-self.beta)

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """Any slopes, and a box around what they leave.

        With any slopes s, y_i = s_i x_i + x_i (D_i^-beta - s_i), and the second part lies in the product of the
        boxes of both factors. norm(y - y0)^2 <= L^2 norm(x - x0)^2, L the Jacobian's bound between value and box.
        """
        (region,) = inputs
        assert duals.slope is not None
        s, a, q = duals.slope, form.linear, form.curvature
        low, high, rest = region.box.lower, region.box.upper, region.value
        with torch.no_grad():
            far = torch.maximum(low.abs(), high.abs())
            near = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
            slack = 1e-12 * (1 + self.beta)
            most = self._factor(self._sums(near.square())) * (1 + slack)
            least = self._factor(self._sums(far.square())) * (1 - slack)
        corners = [x * (w - s) for x in (low, high) for w in (least, most)]
        down = torch.stack(corners).amin(0) - (output.value - s * rest)
        up = torch.stack(corners).amax(0) - (output.value - s * rest)
        terms = torch.minimum(a * down, a * up)
        sizes = a.abs() * (far * (most + s.abs()) + output.value.abs() + (s * rest).abs())
        constant = total(terms, sizes)
        if q is None:
            return Pulled((Form(a * s),), constant)
        with torch.no_grad():
            largest = self._sums(torch.maximum(far, rest.abs()).square()).flatten(1).amax(1).sqrt() * (1 + 1e-9)
            steep = self._steepest(largest)
        if a.dtype == torch.float64:
            # a s is rounded, and so is what moves
            constant = constant - q * 1e9 * output.noise * output.noise
        return Pulled((Form(a * s, q * steep.square() * (1 + 1e-8)),), constant)
