"""Normalisation by the sample's own mean and deviation: what layer, group, instance and RMS normalisation share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pertbound.forms import Duals, Form, Pulled, Region, norms, total, wide
from pertbound.layers.base import Layer, Shape, reserve
from pertbound.numerics import UNIT32, gamma, tiny
from pertbound.sets import Box

BENT = 2 / math.sqrt(3) * (1 + 1e-15)
"""sup of norm(D^2 (w / norm(w)) [v, v]) over unit vectors w and v."""


@final
@dataclass(frozen=True, eq=False)
class Standardize(Layer):
    """sqrt(n) z / r, r = sqrt(norm(z)^2 + n eps), for each group of n entries along the last dimension.

    z is the group less its mean where `centred`, else the group itself. Scale and shift are a `Diagonal` of their own.

    Sound. z = P x with a projection P, so that norm(z - z0) <= norm(x - x0). With w = (z, sqrt(n eps)), a vector with
    one more entry, which is constant, norm(w) = r, and the layer is sqrt(n) times the first entries of w / norm(w).

    Anywhere: the Jacobian sqrt(n) (I / r - z z^T / r^3) has norm at most sqrt(n) / r <= 1 / sqrt(eps), so
    omega(rho) = rho / sqrt(eps).
    At a known input with r0 = R: for norm(w - w0) <= rho < R the angle between w and w0 is at most arcsin(rho / R), and
    unit vectors at an angle t are 2 sin(t / 2) apart. With s = rho / R,

        omega(rho) = sqrt(n) s sqrt(2 / (1 + sqrt(1 - s^2))).

    This grows faster than rho, so for several groups, whose movements add in squares, the smallest R serves for all.

    To second order (`pull_back`): with w = r e, v = norm(v) (cos t e + sin t f) for orthonormal e and f,
    D^2 (w / norm(w)) [v, v] = -norm(v)^2 / r^2 (sin^2 t e + sin 2t f), whose norm is norm(v)^2 / r^2 times
    sin t sqrt(4 - 3 sin^2 t) <= 2 / sqrt(3), at sin^2 t = 2/3.

    Modulus: rho / sqrt(eps)
    At a known input: sqrt(n) s sqrt(2 / (1 + sqrt(1 - s^2))) with s = rho / R
    Source: here
    """

    input_shape: Shape
    eps: float
    centred: bool = True

    def __post_init__(self) -> None:
        assert self.eps > 0.0, "the frontends refuse eps = 0, where a constant group has no bound"

    @property
    def _n(self) -> int:
        return self.input_shape[-1]

    def _z(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def forward(self, *inputs: Tensor) -> Tensor:
        """The normalised groups."""
        z = self._z(inputs[0])
        return z * (z.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    def local(self, *inputs: Tensor) -> Tensor | None:
        """The smallest r of a sample's groups, rounded down."""
        return self._r(inputs[0].to(torch.float64)).reshape(len(inputs[0]), -1).amin(1)

    def _r(self, x: Tensor) -> Tensor:
        """r of each group, from below, for x in float64."""
        length = self._z(x).square().sum(-1).sqrt()
        lost = gamma(2 * self._n + 16) * (length + 2 * x.square().sum(-1).sqrt())
        return ((length - lost).clamp_min(0.0).square() + self._n * self.eps).sqrt() * (1 - 1e-14)

    def modulus(self, *radii: Tensor, at: Tensor | None = None) -> Tensor:
        """The smaller of both; a little above."""
        (rho,) = radii
        steepest = torch.full_like(rho, 1 / math.sqrt(self.eps))
        if at is not None:
            s = rho / at
            inside = s < 1
            s = torch.where(inside, s, 0.0)
            chord = math.sqrt(self._n) / at * (2 / (1 + (1 - s * s).sqrt())).sqrt()
            steepest = torch.where(inside, torch.minimum(steepest, chord), steepest)
            steepest = torch.where(at.isnan(), at, steepest)
        return steepest * rho * (1 + 1e-14)

    def noise(self, *norms: Tensor, unit: float = UNIT32) -> Tensor:
        """z is off by at most gamma(2 n + 8) norm(x), which the layer magnifies by at most 1 / sqrt(eps).

        From there on n + 16 roundings of an output of at most sqrt(n) for each group, and what squares underflow.
        Flushing of entries, means and differences loses at most 2 n + 4 of the smallest normal number t for each entry
        of z, magnified likewise, and t for each output.
        Where squares could overflow, the output is at most sqrt(n) for each group, and so is what is computed.
        """
        (size,) = norms
        outputs = math.sqrt(math.prod(self.input_shape))
        relative = gamma(self._n + 16, unit) + 4 * tiny(unit) / self.eps
        found = gamma(2 * self._n + 8, unit) * size / math.sqrt(self.eps) + relative * outputs
        found = found + (1 + (2 * self._n + 4) / math.sqrt(self.eps)) * tiny(unit) * outputs
        most = torch.where(size < math.inf, 3 * outputs, torch.inf)
        return torch.where(size < (2.0**60 if unit == UNIT32 else 2.0**500), found, most)

    def interval(self, *boxes: Box) -> Box:
        """The ends in z itself, for the least or the largest sum of the others' squares.

        Each output increases in its own z, and its size decreases in the others' sizes:
        y_i = sqrt(n) z_i / sqrt(z_i^2 + S + n eps), S the sum of the other squares, which by centring is at least
        z_i^2 / (n - 1) (Cauchy and Schwarz). For a positive end S is as small as can be, for a negative one as large.
        z's own box comes of the sums of ends. Groups are scaled by their largest end, so that no square overflows, and
        no output exceeds sqrt(n - 1), or sqrt(n) where not centred. Groups with an infinite end are bounded by that.
        """
        (box,) = boxes
        low, high = self._centred(box)
        largest = torch.maximum(low.abs(), high.abs()).amax(-1, keepdim=True)
        bad = (box.lower.isnan() | box.upper.isnan()).any(-1, keepdim=True)
        wild = ~bad & ~(largest < torch.finfo(low.dtype).max / 8)
        scale = torch.where(wild | bad, 1.0, largest.clamp_min(1.0))
        low, high = (torch.where(wild | bad, 0.0, end) / scale for end in (low, high))
        upper, lower = self._upper(low, high, scale), -self._upper(-high, -low, scale)
        cap = math.sqrt(max(self._n - 1, 1) if self.centred else self._n) * (1 + 1e-6)
        if self.centred and self._n == 1:
            cap = 0.0  # a single entry is its own mean
        lower = torch.where(wild, -cap, lower.clamp(-cap, cap)).masked_fill(bad, math.nan)
        upper = torch.where(wild, cap, upper.clamp(-cap, cap)).masked_fill(bad, math.nan)
        return Box(lower, upper)

    def _centred(self, box: Box) -> tuple[Tensor, Tensor]:
        """A box around z, for finite ends; NaN or infinite otherwise."""
        if not self.centred:
            return box.lower, box.upper
        n, a, b = self._n, box.lower, box.upper
        q = reserve(2 * n + 16, a.dtype)
        size = torch.maximum(a.abs(), b.abs())
        room = 2 * q * (size + size.mean(-1, keepdim=True)) + torch.finfo(a.dtype).tiny
        sums_a, sums_b = a.sum(-1, keepdim=True), b.sum(-1, keepdim=True)
        return a - (sums_b - b + a) / n - room, b - (sums_a - a + b) / n + room

    def _upper(self, low: Tensor, high: Tensor, scale: Tensor) -> Tensor:
        """An upper end of the outputs, for z in [low, high], both divided by `scale`."""
        n, dtype = self._n, low.dtype
        q, info = reserve(2 * n + 64, dtype), torch.finfo(dtype)
        far = torch.maximum(low.square(), high.square())
        near = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.square(), high.square()))
        all_far, all_near = far.sum(-1, keepdim=True), near.sum(-1, keepdim=True)
        least = (all_near - near - q * all_near).clamp_min(0.0)
        most = (all_far - far).clamp_min(0.0) + q * all_far
        if self.centred and n > 1:
            least = torch.maximum(least, high.square() / (n - 1) * (1 - q))
        offset = n * self.eps / scale.square()
        # where high >= 0 the root from below, else from above
        sums = high.square() + torch.where(high >= 0, least, most) + offset
        value = math.sqrt(n) * high / sums.sqrt().clamp_min(info.tiny)
        room = 4 * q * value.abs() + 4 * info.tiny * (1 + scale) * (1 + 1 / math.sqrt(self.eps))
        return torch.nextafter(value + room, value.new_tensor(math.inf))

    def undecided(self, box: Box) -> Tensor:
        """Those that can move by more than a thousandth of the group's least deviation."""
        low, high = self._centred(box)
        near = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.square(), high.square()))
        r = (near.sum(-1, keepdim=True) + self._n * self.eps).sqrt()
        return (box.upper - box.lower) * math.sqrt(self._n) > 1e-3 * r

    def start(self, inputs: tuple[Region, ...], form: Form, *, curvature: Tensor | None) -> Duals:
        """The share of each output that goes by Taylor's theorem: all with curvature, else where it loses less."""
        (region,) = inputs
        share = torch.ones_like(form.linear)
        if curvature is not None:
            return Duals(slope=share, curvature=curvature)
        box = self.interval(region.box)
        wide_box = (form.linear.abs() * (box.upper - box.lower)).sum(-1, keepdim=True)
        _, _, r = self._nearby(region)
        bent = math.sqrt(self._n) * BENT / r.square() * self._reach(region).square()
        taylor = torch.linalg.vector_norm(form.linear, dim=-1, keepdim=True) * bent
        return Duals(slope=share * (taylor < wide_box).to(share.dtype))

    def pull_back(self, form: Form, inputs: tuple[Region, ...], output: Region, duals: Duals) -> Pulled:
        """A share t of each output by Taylor's theorem, the rest by the output's box; any t is sound.

        With b = t a, J the Jacobian at rest and D the output's displacement, for each group

            <b, D> >= <J^T b, d> - norm(b) C / 2 norm(d)^2 - norm(b) noise,  C = sqrt(n) 2 / sqrt(3) / r^2,

        r the least on the way from the value into the box. J^T b = sqrt(n) P (b / r0 - z0 <z0, b> / r0^3). Of
        max over groups of norm(b) C as much as `curvature` says is passed on as curvature, the rest is paid for with
        the group's radius. norm(D)^2 <= (1 + h) L^2 norm(d)^2 + (1 + 1/h) noise^2 with L = sqrt(n) / r, h = 1e-9.
        """
        (region,) = inputs
        assert duals.slope is not None
        a, q, own = form.linear, form.curvature, duals.curvature
        n, proof = self._n, a.dtype == torch.float64
        b = duals.slope * a
        z0, r0, r = self._nearby(region)
        back = b / r0 - z0 * ((z0 * b).sum(-1, keepdim=True) / r0**3)
        back = math.sqrt(n) * (self._z(back))
        length = torch.linalg.vector_norm(b.detach(), dim=-1, keepdim=True)
        length = torch.where(
            length > 0, torch.linalg.vector_norm(torch.where(length > 0, b, 1.0), dim=-1, keepdim=True), 0
        )
        bent = math.sqrt(n) * BENT / r.square() * (1 + 1e-9)
        charged, reach = (length * bent).flatten(1), self._reach(region).flatten(1)
        if own is not None:
            charged = (charged - own[:, None]).clamp_min(0.0)
        constant = -(charged / 2 * reach.square()).sum(1)
        rest = a - b
        down, up = output.box.lower - output.value, output.box.upper - output.value
        terms = torch.minimum(rest * down, rest * up)
        sizes = rest.abs() * (output.value.abs() + down.abs() + up.abs())
        constant = constant + total(terms, sizes)
        curvature = own
        if q is not None:
            steep = (math.sqrt(n) / r).flatten(1).amax(1)
            curvature = q * steep.square() * (1 + 1e-8)
            curvature = curvature if own is None else own + curvature
        if proof:
            # z0 is off by gamma(2 n + 8) norm(x0), which changes J by `bent` times that; J^T b has 4 n + 64 roundings
            off = gamma(2 * n + 8) * torch.linalg.vector_norm(region.value, dim=-1, keepdim=True) * bent
            off = (length * (2 * off + gamma(4 * n + 64) * 2 * math.sqrt(n) / r0)).flatten(1)
            constant = constant - (off * reach).sum(1) * (1 + 1e-9) - norms(b) * (1 + 1e-9) * output.noise
            constant = constant - 1e-13 * (charged * reach.square()).sum(1) - b[0].numel() * 2.0**-500
            if q is not None:
                constant = constant - q * 1e9 * output.noise * output.noise
        return Pulled((Form(back, curvature),), constant)

    def _nearby(self, region: Region) -> tuple[Tensor, Tensor, Tensor]:
        """z at rest, r there, and a number below r anywhere from there to the box and within the radius; keepdim."""
        with torch.no_grad():
            x = region.value
            z0 = self._z(x)
            offset = self._n * self.eps
            r0 = (z0.square().sum(-1, keepdim=True) + offset).sqrt()
            hull = Box(torch.minimum(x, region.box.lower), torch.maximum(x, region.box.upper))
            low, high = self._centred(hull)
            near = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.square(), high.square()))
            length = torch.linalg.vector_norm(z0, dim=-1, keepdim=True)
            lost = gamma(4 * self._n + 32) * (length + 2 * torch.linalg.vector_norm(x, dim=-1, keepdim=True))
            inner = (length - lost - wide(region.radius, length) * (1 + 1e-9)).clamp_min(0.0).square()
            squares = torch.maximum(near.sum(-1, keepdim=True), torch.nan_to_num(inner, nan=0.0))
            return z0, r0, ((squares * (1 - 1e-9)) + offset).sqrt() * (1 - 1e-12)

    def _reach(self, region: Region) -> Tensor:
        """How far each group can be from its value: the radius, or the box's farthest corner; keepdim."""
        far = torch.maximum((region.box.upper - region.value).abs(), (region.value - region.box.lower).abs())
        corner = torch.linalg.vector_norm(far, dim=-1, keepdim=True) * (1 + 1e-12)
        return torch.minimum(corner, wide(region.radius, corner))
