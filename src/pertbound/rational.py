"""Constants of layers, computed exactly and rounded once, to the nearest float64.

Some numbers of a graph are not stored in the model: a batch normalisation's scale, the inverse of a divisor, the sum of
two biases. Each is computed in rational arithmetic here, or by a single float64 operation elsewhere, so that a layer's
float64 constant is within one rounding of the exact one, however much cancelled on the way. `Diagonal` and the biases
of `Dense` take that rounding off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

BITS, MORE = 128, 1200
"""Bits of an inverse square root, and where these cancel: more than any difference of float64 numbers can cancel."""


def nearest(value: Fraction) -> float:
    """The float64 next to a rational number; infinity beyond all of them."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def batch_norm_constants(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """weight / sqrt(variance + eps) and bias - mean weight / sqrt(variance + eps), float64 of the shape of `mean`.

    Infinite or NaN where the mean is, or where variance + eps is not positive; 0 and `bias` for an infinite variance.
    """
    rows = [part.detach().flatten().tolist() for part in (mean, variance)]
    rows.append([1.0] * mean.numel() if weight is None else weight.detach().flatten().tolist())
    rows.append([0.0] * mean.numel() if bias is None else bias.detach().flatten().tolist())
    pairs = [_of_channel(m, v, w, b, eps) for m, v, w, b in zip(*rows, strict=True)]
    found = torch.tensor(pairs, dtype=torch.float64, device=mean.device).reshape(-1, 2)
    return found[:, 0].reshape(mean.shape), found[:, 1].reshape(mean.shape)


def _of_channel(mean: float, variance: float, weight: float, bias: float, eps: float) -> tuple[float, float]:
    if not all(math.isfinite(v) for v in (mean, weight, bias, eps)) or math.isnan(variance):
        return math.nan, math.nan
    if variance == math.inf:
        return 0.0, bias  # 1 / sqrt(inf) = 0: a channel that is switched off
    total = Fraction(variance) + Fraction(eps)
    if total <= 0:
        return math.inf, math.nan
    scale = Fraction(weight) * _inverse_root(total, BITS)
    moved = Fraction(mean) * scale
    shift = Fraction(bias) - moved
    if abs(shift) * 2**60 < abs(moved):
        shift = Fraction(bias) - Fraction(mean) * Fraction(weight) * _inverse_root(total, MORE)
    return nearest(scale), nearest(shift)


def _inverse_root(value: Fraction, bits: int) -> Fraction:
    """1 / sqrt(p / q) = sqrt(p q) / p, to so many bits; exact where that is rational."""
    p, q = value.numerator, value.denominator
    shift = max(0, bits - (p * q).bit_length() // 2)
    return Fraction(math.isqrt(p * q << 2 * shift), p << shift)


def affine_constants(weight: Tensor, vector: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """weight @ vector + the sum of `biases`, (outputs,) float64, each entry rounded once."""
    x = vector.detach().to(torch.float64).tolist()
    used = [i for i, v in enumerate(x) if v != 0.0]
    sums = [[Fraction(v) for v in bias.detach().to(torch.float64).tolist()] for bias in biases]
    found: list[float] = []
    for number, row in enumerate(weight[:, used].detach().to(torch.float64).tolist()):
        total = sum((Fraction(w) * Fraction(x[i]) for w, i in zip(row, used, strict=True)), Fraction(0))
        found.append(nearest(total + sum((part[number] for part in sums), Fraction(0))))
    return torch.tensor(found, dtype=torch.float64, device=weight.device)
